"""CLIP's weights in the formats that exist: open_clip's tags and files, OpenAI's, Hugging Face's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tvr_lightning.data.stores.hub import before_fetching, read_json
from tvr_lightning.data.video.sampling import Resize
from tvr_lightning.encoders.weights import SUFFIXES, distinct, find_weight_file, read_state_dict, shipped_weights
from tvr_lightning.errors import CheckpointError, ConfigError, short

FARTHEST_LOG = 20.0  # of a logit scale: methods bring it to log 100 at most
RGB = tuple[float, float, float]
Tags = dict[str, dict[str, Any]]


class Pictures(NamedTuple):
    """How a model's pictures are prepared.

    Attributes:
        mean: per channel in [0, 1].
        std: deviation per channel.
        resize: how they come to the model's size.
    """

    mean: RGB
    std: RGB
    resize: Resize = "crop"


_RESIZES: dict[str, Resize] = {"shortest": "crop", "squash": "squash"}  # open_clip's names


@dataclass(frozen=True)
class CLIPWeights:
    """A CLIP's weights under open_clip's names, with what its format says beyond the tensors.

    Attributes:
        source: the file, for messages.
        state: tensors under the names of `open_clip.CLIP`, without the logit scale.
        logit_scale: the factor itself, not its logarithm; None where the file has none.
        quick_gelu: whether the weights were trained with QuickGELU; None where the format does not say.
        openai_precision: half-precision matrices beside float32 norms, as OpenAI's models are kept on a GPU.
        image_heads: attention heads of the image tower; None where the format does not say.
        text_heads: attention heads of the text tower; None where the format does not say.
        pictures: how pictures are prepared; None where the format does not say.
        logit_bias: what is added to scaled cosines; 0 where the file has none.
    """

    source: Path
    state: dict[str, Tensor]
    logit_scale: float | None
    quick_gelu: bool | None = None
    openai_precision: bool = False
    image_heads: int | None = None
    text_heads: int | None = None
    pictures: Pictures | None = None
    logit_bias: float = 0.0


def read_clip_weights(path: Path) -> CLIPWeights:
    """Reads a CLIP from open_clip's, OpenAI's or Hugging Face's format: a file, or the folder that holds it.

    Raises:
        CheckpointError: the file cannot be read, or a Hugging Face file lacks its `config.json`.
    """
    file = find_weight_file(path)
    state = read_state_dict(file)
    if is_hugging_face(state):
        return _from_hugging_face(file, state)
    state = distinct(((name, name.removeprefix("text."), value) for name, value in state.items()), file)
    rows = state.pop("token_embedding.rows", None)  # of stand-ins, in which most tokens share one row
    if rows is not None:
        table = state["token_embedding.weight"]
        if rows.numel() and not 0 <= rows.min() <= rows.max() < len(table):
            raise CheckpointError(
                f"{file}: token_embedding.rows names rows that the table of {len(table)} does not have."
            )
        state["token_embedding.weight"] = table[rows.long()]
    # an archive's buffers: OpenAI's sizes mark the format, the causal mask is rebuilt
    sizes = [state.pop(name, None) for name in ("input_resolution", "context_length", "vocab_size")]
    state.pop("attn_mask", None)
    openai = any(size is not None for size in sizes)
    config = read_json(file.parent / "open_clip_config.json") if file.name.startswith("open_clip") else {}
    quick_gelu = config["model_cfg"].get("quick_gelu", False) if isinstance(config.get("model_cfg"), dict) else None
    if openai or rows is not None:
        quick_gelu = openai  # stand-ins have GELU
    bias = state.pop("logit_bias", None)
    state = {name: value for name, value in state.items() if not name.startswith("text_decoder.")}  # CoCa's
    return CLIPWeights(
        source=file,
        logit_scale=_pop_logit_scale(state, file),
        logit_bias=0.0 if bias is None else float(bias.reshape(())),
        state=state,
        quick_gelu=quick_gelu,
        openai_precision=_dtype(state, "text_projection") == torch.float16
        and _dtype(state, "ln_final.weight") == torch.float32,
        image_heads=_openai_heads(state, "visual.class_embedding") if openai else None,
        text_heads=_openai_heads(state, "ln_final.weight") if openai else None,
        pictures=read_pictures(config.get("preprocess_cfg", {}), str(file)),
    )


def _dtype(state: Mapping[str, Tensor], name: str) -> torch.dtype | None:
    return state[name].dtype if name in state else None


def _openai_heads(state: Mapping[str, Tensor], name: str) -> int | None:
    # OpenAI's transformers have 64 channels per head; its ResNets have no class embedding
    return state[name].shape[0] // 64 if name in state else None


def _pop_logit_scale(state: dict[str, Tensor], source: Path) -> float | None:
    scale = state.pop("logit_scale", None)
    if scale is None:
        return None
    if scale.numel() != 1 or not abs(log := float(scale.reshape(()))) <= FARTHEST_LOG:
        raise CheckpointError(f"{source}: logit_scale is not a logarithm of a factor on cosines: {short(str(scale))}")
    return math.exp(log)


def read_pictures(config: Mapping[str, Any], source: str) -> Pictures | None:
    """Reads a tag's record or a `preprocess_cfg`; None where it does not say.

    Raises:
        CheckpointError: a way to resize that there is not, or numbers that are not statistics.
    """
    if not (config.get("mean") and config.get("std")):
        return None
    mean, std, resize = tuple(config["mean"]), tuple(config["std"]), config.get("resize_mode", "shortest")
    if resize not in _RESIZES:
        raise CheckpointError(f"{source}: pictures are resized by '{resize}'; supported: {', '.join(_RESIZES)}")
    if not all(len(numbers) == 3 and all(isinstance(x, int | float) for x in numbers) for numbers in (mean, std)):
        raise CheckpointError(f"{source}: mean {mean} and std {std} are not three numbers each")
    return Pictures(mean, std, _RESIZES[resize])


_HF_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_HF_JOINED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # one matrix there, in this order
_HF_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
}
_HF_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def openai_names(state: Mapping[str, Tensor], source: Path | str) -> dict[str, Tensor]:
    """A CLIPModel of Hugging Face's transformers under OpenAI's names; names that it does not know stay as they are.

    Args:
        state: the tensors.
        source: their file, for messages.

    Raises:
        CheckpointError: two tensors are of one place, under names of either kind.
    """
    return distinct(_openai(state), source)


def _openai(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    """Each tensor's name, its name in OpenAI's models, and the tensor as it is there."""
    for name, value in state.items():
        if name.endswith("position_ids"):
            continue
        match = _HF_LAYER.fullmatch(name)
        if match is None:
            matrix = name.endswith("_projection.weight") and value.ndim == 2
            yield name, _HF_NAMES.get(name, name), value.T if matrix else value
            continue
        tower, layer, part, kind = match.groups()
        block = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{layer}."
        if part in _HF_JOINED:
            parts = [state.get(name.replace(part, joined)) for joined in _HF_JOINED]
            there = [p for p in parts if p is not None and p.ndim and p.shape == value.shape]
            if len(there) < len(parts):
                yield name, name, value  # not all three: it is none of the model's
            elif part == _HF_JOINED[0]:
                yield name, f"{block}attn.in_proj_{kind}", torch.cat(there)
        else:
            yield name, f"{block}{_HF_BLOCK.get(part, part)}.{kind}", value


def is_hugging_face(names: Iterable[str]) -> bool:
    """Whether these are names of transformers' CLIPModel.

    >>> is_hugging_face(["logit_scale", "vision_model.post_layernorm.bias"]), is_hugging_face(["ln_final.bias"])
    (True, False)
    """
    return any(name.startswith(("vision_model.", "text_model.")) for name in names)


def _from_hugging_face(file: Path, state: dict[str, Tensor]) -> CLIPWeights:
    raw = read_json(file.parent / "config.json")
    if not raw:
        raise CheckpointError(
            f"{file} is a Hugging Face CLIPModel without its 'config.json', which names the activation and the number "
            "of heads. Put the model's config.json into the same folder."
        )
    from transformers import CLIPConfig

    if raw.get("model_type", "clip") != "clip":
        raise CheckpointError(
            f"{file} is a {raw['model_type']} of transformers, of which only CLIPModel is read. Use the model's files "
            "in open_clip's format, with an open_clip_config.json."
        )
    config: Any = CLIPConfig.from_dict(raw)
    text, vision = config.text_config, config.vision_config
    activations = {text.hidden_act, vision.hidden_act}
    if len(activations) != 1 or not activations <= {"gelu", "quick_gelu"}:
        raise CheckpointError(f"{file}: unsupported activation {sorted(activations)}; supported: gelu or quick_gelu.")
    if {text.layer_norm_eps, vision.layer_norm_eps} != {1e-5}:
        raise CheckpointError(f"{file}: layer_norm_eps differs from CLIP's 1e-5, the only one supported.")
    renamed = openai_names(state, file)
    prepared = read_json(file.parent / "preprocessor_config.json")
    statistics = {"mean": prepared.get("image_mean"), "std": prepared.get("image_std")}
    return CLIPWeights(
        source=file,
        logit_scale=_pop_logit_scale(renamed, file),
        state=renamed,
        quick_gelu=activations == {"quick_gelu"},
        image_heads=vision.num_attention_heads,
        text_heads=text.num_attention_heads,
        pictures=read_pictures(statistics, str(file)),
    )


def pretrained_tags(model: str) -> Tags:
    """Returns what open_clip records about each pretrained tag of a model."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    return {tag: get_pretrained_cfg(model, tag) for tag in list_pretrained_tags_by_model(model)}


def resolve_weights(model: str, source: str | None, tags: Tags) -> tuple[CLIPWeights | None, dict[str, Any] | None]:
    """Returns the weights and, where `source` is a tag, what open_clip records about it.

    Raises:
        ConfigError: `source` is neither a tag of the model nor a path.
        CheckpointError: the weights cannot be fetched or read.
    """
    if source is None:
        return None, None
    tag = tags.get(source.lower().replace("-", "_"))
    if tag is not None:
        return read_clip_weights(_download(model, source, tag)), tag
    shipped = shipped_weights("clip", model)
    if source in shipped:
        return read_clip_weights(shipped[source]), None
    path = Path(source).expanduser()
    if path.exists():
        return read_clip_weights(path), None
    known = ", ".join([*shipped, *tags]) or "none, give a file or folder"
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        raise CheckpointError(f"No weights at {path}. Check from_pretrained, or name a tag: {known}.")
    raise ConfigError(f"{model} has no pretrained tag '{source}' and no such path exists. Tags of {model}: {known}.")


def _download(model: str, source: str, tag: dict[str, Any]) -> Path:
    from open_clip.pretrained import download_pretrained

    before_fetching(f"{model} {source}")
    try:
        return Path(download_pretrained(tag))
    except Exception as error:
        where = tag.get("hf_hub") or tag.get("url")
        raise CheckpointError(
            f"The weights '{source}' of {model} could not be downloaded from {where} ({type(error).__name__}). Without "
            "a network, fetch them elsewhere and set from_pretrained to the local file or folder."
        ) from error


def trained_with_quick_gelu(
    weights: CLIPWeights,
    tag: dict[str, Any] | None,
    tags: Tags,
    model_says: bool | None,
    asked: bool | None,
) -> bool:
    """The activation that the weights were trained with: the tag's record, else the format's, else the setting's.

    A file that does not say may be OpenAI's, whose models have the same sizes as others and another activation. It is
    the model's own where all weights that open_clip knows of the model have that one, else it has to be said.

    Args:
        weights: the file's.
        tag: open_clip's record, where they were named by a tag.
        tags: all of the model's.
        model_says: the model's own; None for a size without a name.
        asked: the setting `quick_gelu`.

    Raises:
        ConfigError: nothing says it, or the setting contradicts what does.
    """
    said = weights.quick_gelu if tag is None else bool(tag.get("quick_gelu", False))
    if said is None and weights.openai_precision and (model_says is None or "openai" in tags):
        said = True
    known = {model_says, *(bool(record.get("quick_gelu", False)) for record in tags.values())}
    if said is None and asked is None and len(known) == 1:
        said = model_says
    if said is None and asked is None:
        raise ConfigError(
            f"{weights.source} does not say whether it was trained with QuickGELU, as OpenAI's models, or with GELU, "
            "as most others: set quick_gelu to true or false. Features of the wrong one look right but are not"
        )
    if None not in (said, asked) and said != asked:
        raise ConfigError(f"quick_gelu={asked}, but {weights.source} was trained with quick_gelu={said}: leave it out")
    return bool(asked if said is None else said)


def picture_settings(
    weights: CLIPWeights | None, tag: dict[str, Any] | None, tags: Tags, named: Pictures | None
) -> Pictures:
    """How pictures are prepared: the tag's way, else the file's, the name's, that of all tags of the model, or CLIP's.

    Raises:
        CheckpointError: a way that there is not.
    """
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    found = read_pictures(tag or {}, "the tag") or (weights and weights.pictures) or named
    if found:
        return found
    agreed = {read_pictures(record, name) for name, record in tags.items()} - {None}
    only = agreed.pop() if len(agreed) == 1 else None
    return only or Pictures(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)


def image_size_hint(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """Returns a sentence about the image sizes of model and weights, empty where they agree or are unknown."""
    grid, patch = "visual.positional_embedding", "visual.conv1.weight"
    if not all(name in state for name in (grid, patch) for state in (expected, found)):
        return ""
    sizes = [math.isqrt(len(state[grid]) - 1) * state[patch].shape[-1] for state in (expected, found)]
    if sizes[0] == sizes[1]:
        return ""
    return (
        f"The weights take {sizes[1]} px images, the model {sizes[0]} px: set image_size={sizes[0]} to have their "
        "positions interpolated. "
    )
