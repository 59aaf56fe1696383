"""What a CLIP is built of: open_clip's configuration of a name or a size, checked, with what its weights say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from torch import nn

from tvr_lightning.data.open_clip import NamedModel, named_model
from tvr_lightning.data.stores.hub import fetch_from_hub, read_json
from tvr_lightning.data.video.sampling import Resize
from tvr_lightning.errors import CheckpointError, ConfigError

CLIP_CONTEXT = 77
LARGEST_FRAME = 4096  # pixels of a side that a checkpoint may ask for
_CLIP_TOKENS = 49408
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class CLIPSize:
    """A CLIP of any size: a vision transformer and a causal text transformer, both with MLP ratio 4.

    Attributes:
        image_size: height and width of a frame in pixels.
        patch_size: height and width of a patch in pixels.
        image_width: channels of the image tower.
        image_layers: blocks of the image tower.
        image_heads: attention heads of the image tower.
        text_width: channels of the text tower.
        text_layers: blocks of the text tower.
        text_heads: attention heads of the text tower.
        embed_dim: D, width of the shared space.
    """

    image_size: int
    patch_size: int
    image_width: int
    image_layers: int
    image_heads: int
    text_width: int
    text_layers: int
    text_heads: int
    embed_dim: int


PRESETS = {
    "tiny": CLIPSize(
        image_size=64,
        patch_size=16,
        image_width=128,
        image_layers=3,
        image_heads=2,
        text_width=128,
        text_layers=2,
        text_heads=2,
        embed_dim=128,
    )
}


def _square(size: Any) -> bool:
    return isinstance(size, int) or (isinstance(size, list | tuple) and len(set(size)) == 1)


def _known_types() -> Mapping[str, Any]:
    from open_clip.hf_configs import arch_dict

    return arch_dict


UNSUPPORTED: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], bool]] = {
    "frames that are not square": lambda vision, _: not _square(vision.get("image_size", 224)),
    "an image tower from outside of timm": lambda vision, _: ":" in str(vision.get("timm_model_name") or ""),
    "a class token behind the padding of its captions": lambda _, text: bool(text.get("tokenizer_mode")),
    "a text tower without a sentence": lambda _, text: text.get("pool_type") in ("first", "none"),
    "a text tower that is named by a path": lambda _, text: (
        _REPOSITORY.fullmatch(str(text.get("hf_model_name") or "a")) is None
    ),
    "a tokeniser that is named by a path": lambda _, text: (
        _REPOSITORY.fullmatch(str(text.get("hf_tokenizer_name") or "a")) is None
    ),
}
"""What no model may have, by `vision_cfg` and `text_cfg`: the one table of what is refused, and why."""


def why_unsupported(config: Mapping[str, Any]) -> str:
    """What of a configuration is not supported; empty where all of it is.

    >>> why_unsupported({"vision_cfg": {"image_size": [224, 336]}, "text_cfg": {}})
    'frames that are not square'
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    return " and ".join(reason for reason, holds in UNSUPPORTED.items() if holds(vision, text))


def named_config(model: str) -> NamedModel:
    """Reads and checks the configuration of a named model.

    Raises:
        ConfigError: an unknown name, or a model that is not supported.
        CheckpointError: a folder or repository without a configuration of open_clip's.
    """
    named = named_model(model, PRESETS)
    if reasons := why_unsupported(named.config):
        raise ConfigError(f"{model} has {reasons}, which this encoder does not support. Choose another model.")
    return named


def sized_config(size: CLIPSize) -> dict[str, Any]:
    """The configuration of a size.

    Raises:
        ConfigError: the numbers describe no model.
    """
    wrong = [f"{name}={value}" for name, value in asdict(size).items() if value < 1]
    for whole, part in (("image_size", "patch_size"), ("image_width", "image_heads"), ("text_width", "text_heads")):
        if not wrong and getattr(size, whole) % getattr(size, part):
            wrong.append(f"{whole}={getattr(size, whole)} is not a multiple of {part}={getattr(size, part)}")
    if wrong:
        raise ConfigError(f"CLIPSize does not describe a model: {'; '.join(wrong)}.")
    return {
        "embed_dim": size.embed_dim,
        "vision_cfg": {
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            "width": size.image_width,
            "layers": size.image_layers,
            "head_width": size.image_width // size.image_heads,
        },
        "text_cfg": {
            "vocab_size": _CLIP_TOKENS,
            "width": size.text_width,
            "heads": size.text_heads,
            "layers": size.text_layers,
        },
    }


def check_pictures(kept: Mapping[str, Any]) -> None:
    """Refuses a checkpoint's description whose frames could not be prepared, or not as it was trained.

    Raises:
        CheckpointError: names the entry.
    """
    right: dict[str, Callable[[Any], bool]] = {
        "mean": _three_numbers,
        "std": lambda x: _three_numbers(x) and min(x) > 0,
        "image_size": lambda x: type(x) is int and 0 < x <= LARGEST_FRAME,
        "native_image_size": lambda x: type(x) is int and 0 < x <= LARGEST_FRAME,
        "resize": lambda x: x in get_args(Resize),
        "quick_gelu": lambda x: type(x) is bool,
        "config": lambda x: isinstance(x, dict) and all(isinstance(x.get(k), dict) for k in ("vision_cfg", "text_cfg")),
        "text_config": lambda x: x is None or isinstance(x, dict),
    }
    for name, holds in right.items():
        if not holds(value := kept.get(name)):
            raise CheckpointError(f"the checkpoint describes an impossible encoder: {name}={value!r:.60}")


def _three_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(type(x) in (int, float) for x in value)


def reads_padding(text: Mapping[str, Any]) -> bool:
    """Whether a text tower sees what follows a caption, so that it wants captions of the whole context."""
    own = not text.get("hf_model_name")
    return own and bool(
        text.get("no_causal_mask") or text.get("embed_cls") or text.get("pool_type", "argmax") == "last"
    )


def check_context(name: str, config: Mapping[str, Any], text_config: Mapping[str, Any] | None, length: int) -> None:
    """Refuses captions that a text tower cannot take.

    Args:
        name: the model's.
        config: open_clip's.
        text_config: the Hugging Face tower's, where there is one.
        length: tokens of a caption.

    Raises:
        ConfigError: they are too long, or shorter than what a tower that reads the padding too was made for.
    """
    text = config["text_cfg"]
    positions = int(text.get("context_length", CLIP_CONTEXT))
    if text_config is not None:
        table = text_config.get("max_position_embeddings")
        # RoBERTa's count from one behind the padding token
        positions = length if table is None else int(table) - int(text_config.get("pad_token_id") or 0) - 1
    if reads_padding(text) and length != positions:
        raise ConfigError(
            f"{name} also reads the padding after a caption, and was made for {positions} tokens; got "
            f"context_length={length}. Set data.max_words={positions}"
        )
    if length > positions:
        raise ConfigError(
            f"context_length={length} exceeds the {positions} text positions of {name}. Set at most {positions}."
        )


def hugging_face_config(text: Mapping[str, Any], folder: str | None) -> dict[str, Any] | None:
    """The configuration of a Hugging Face text tower, None for a tower of open_clip's own.

    Args:
        text: `text_cfg`.
        folder: holds its `config.json`, in place of the repository that `text` names.

    Raises:
        CheckpointError: it cannot be fetched or read, or is of another kind than open_clip knows.
    """
    repository = text.get("hf_model_name")
    if not repository:
        if folder is not None:
            raise ConfigError(f"text_model={folder} is for models with a Hugging Face text tower; this one has its own")
        return None
    place = (
        fetch_from_hub(repository, (("config.json",),), "text_model") if folder is None else Path(folder).expanduser()
    )
    content = read_json(place / "config.json")
    if not content:
        raise CheckpointError(f"{place} holds no config.json of a text tower. Put that of {repository} there.")
    return _plain_tower(content, str(place))


def _plain_tower(content: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A Hugging Face configuration without what would load code, kernels or other number formats.

    Raises:
        CheckpointError: it is of another kind than open_clip knows.
    """
    if content.get("model_type") not in _known_types():
        known = ", ".join(_known_types())
        raise CheckpointError(
            f"{place}: model_type={content.get('model_type')!s:.60} is not a text tower of open_clip's: {known}"
        )
    dropped = ("auto_map", "torch_dtype", "dtype", "quantization_config", "attn_implementation", "architectures")
    return {k: v for k, v in content.items() if k not in dropped and not k.startswith("_")}


def build_clip(config: Mapping[str, Any], text_config: Mapping[str, Any] | None) -> nn.Module:
    """Builds the two towers with random weights, without CoCa's decoder and without logit scale and bias.

    Raises:
        ConfigError: the configuration describes no model.
    """
    import json

    from open_clip.model import CLIP, CustomTextCLIP

    # a checkpoint's configurations come here unchecked
    if reasons := why_unsupported(config):
        raise ConfigError(f"the model has {reasons}, which this encoder does not support")
    if text_config is None and config["text_cfg"].get("hf_model_name"):  # open_clip would fetch it
        raise ConfigError("the model has a Hugging Face text tower, whose configuration is missing")
    text_config = text_config and _plain_tower(text_config, "the text tower's configuration")
    left_out = ("custom_text", "multimodal_cfg", "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale")
    own = {name: value for name, value in config.items() if name not in left_out}
    vision = own["vision_cfg"] | {"output_tokens": False, "timm_model_pretrained": False}
    text = own["text_cfg"] | {"output_tokens": False, "hf_model_pretrained": False}
    custom = config.get("custom_text", False) or text_config is not None
    with TemporaryDirectory() as folder:
        if text_config is not None:
            Path(folder, "config.json").write_text(json.dumps(text_config), encoding="utf-8")
            text["hf_model_name"] = folder
        try:
            clip: Any = (CustomTextCLIP if custom else CLIP)(**own | {"vision_cfg": vision, "text_cfg": text})
        except (TypeError, ValueError, KeyError, RuntimeError, AssertionError, AttributeError) as error:
            why = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            raise ConfigError(f"the configuration describes no model of open_clip's ({why})") from error
    # a method owns its logit scale: left here it would be a parameter without gradient
    del clip.logit_scale
    return clip
