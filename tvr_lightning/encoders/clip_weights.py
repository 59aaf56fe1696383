"""CLIP's weights in the formats that exist: open_clip's tags and files, OpenAI's, Hugging Face's."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tvr_lightning.data.stores.hub import before_fetching, read_json
from tvr_lightning.encoders.weights import SUFFIXES, find_weight_file, read_state_dict, shipped_weights
from tvr_lightning.errors import CheckpointError, ConfigError

log = logging.getLogger(__name__)

RGB = tuple[float, float, float]
Tags = dict[str, dict[str, Any]]


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
        mean: pixel mean per channel in [0, 1]; None where the format does not say.
        std: pixel deviation per channel; None where the format does not say.
    """

    source: Path
    state: dict[str, Tensor]
    logit_scale: float | None
    quick_gelu: bool | None = None
    openai_precision: bool = False
    image_heads: int | None = None
    text_heads: int | None = None
    mean: RGB | None = None
    std: RGB | None = None


def read_clip_weights(path: Path) -> CLIPWeights:
    """Reads a CLIP from open_clip's, OpenAI's or Hugging Face's format: a file, or the folder that holds it.

    Raises:
        CheckpointError: the file cannot be read, or a Hugging Face file lacks its `config.json`.
    """
    file = find_weight_file(path)
    state = read_state_dict(file)
    if any(name.startswith(("vision_model.", "text_model.")) for name in state):
        return _from_hugging_face(file, state)
    state = {name.removeprefix("text."): value for name, value in state.items()}
    rows = state.pop("token_embedding.rows", None)  # of files in which most tokens share one row
    if rows is not None:
        table = state["token_embedding.weight"]
        if rows.numel() and not 0 <= rows.min() <= rows.max() < len(table):
            raise CheckpointError(f"{file}: token_embedding.rows names rows that the table of {len(table)} has not.")
        state["token_embedding.weight"] = table[rows.long()]
    # an archive's buffers: OpenAI's sizes mark the format, the causal mask is rebuilt
    sizes = [state.pop(name, None) for name in ("input_resolution", "context_length", "vocab_size")]
    state.pop("attn_mask", None)
    openai = any(size is not None for size in sizes)
    config = read_json(file.parent / "open_clip_config.json") if file.name.startswith("open_clip") else {}
    mean, std = _statistics(config.get("preprocess_cfg", {}), "mean", "std")
    return CLIPWeights(
        source=file,
        logit_scale=_pop_logit_scale(state),
        state=state,
        quick_gelu=True if openai else config["model_cfg"].get("quick_gelu", False) if "model_cfg" in config else None,
        openai_precision=_dtype(state, "text_projection") == torch.float16
        and _dtype(state, "ln_final.weight") == torch.float32,
        image_heads=_openai_heads(state, "visual.class_embedding") if openai else None,
        text_heads=_openai_heads(state, "ln_final.weight") if openai else None,
        mean=mean,
        std=std,
    )


def _dtype(state: Mapping[str, Tensor], name: str) -> torch.dtype | None:
    return state[name].dtype if name in state else None


def _openai_heads(state: Mapping[str, Tensor], name: str) -> int | None:
    # OpenAI's transformers have 64 channels per head; its ResNets have no class embedding
    return state[name].shape[0] // 64 if name in state else None


def _pop_logit_scale(state: dict[str, Tensor]) -> float | None:
    state.pop("logit_bias", None)
    scale = state.pop("logit_scale", None)
    return None if scale is None else math.exp(float(scale.reshape(())))


def _statistics(config: Mapping[str, Any], mean: str, std: str) -> tuple[RGB, RGB] | tuple[None, None]:
    if not (config.get(mean) and config.get(std)):
        return None, None
    return tuple(config[mean]), tuple(config[std])


_HF_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
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


def _from_hugging_face(file: Path, state: dict[str, Tensor]) -> CLIPWeights:
    raw = read_json(file.parent / "config.json")
    if not raw:
        raise CheckpointError(
            f"{file} is a Hugging Face CLIPModel without its 'config.json', which names the activation and the number "
            "of heads. Put the model's config.json into the same folder."
        )
    from transformers import CLIPConfig

    config: Any = CLIPConfig.from_dict(raw)
    text, vision = config.text_config, config.vision_config
    activations = {text.hidden_act, vision.hidden_act}
    if len(activations) != 1 or not activations <= {"gelu", "quick_gelu"}:
        raise CheckpointError(f"{file}: unsupported activation {sorted(activations)}; supported: gelu or quick_gelu.")
    if {text.layer_norm_eps, vision.layer_norm_eps} != {1e-5}:
        raise CheckpointError(f"{file}: layer_norm_eps differs from CLIP's 1e-5, which is the only one supported.")
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith("position_ids"):
            continue
        match = _HF_LAYER.fullmatch(name)
        if match is None:
            renamed[_HF_NAMES.get(name, name)] = value.T if name.endswith("_projection.weight") else value
            continue
        tower, layer, part, kind = match.groups()
        block = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{layer}."
        if part == "self_attn.q_proj":
            parts = [state.get(name.replace("q_proj", f"{p}_proj")) for p in "qkv"]
            renamed[f"{block}attn.in_proj_{kind}"] = torch.cat([p for p in parts if p is not None])
        elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
            renamed[f"{block}{_HF_BLOCK.get(part, part)}.{kind}"] = value
    mean, std = _statistics(read_json(file.parent / "preprocessor_config.json"), "image_mean", "image_std")
    return CLIPWeights(
        source=file,
        logit_scale=_pop_logit_scale(renamed),
        state=renamed,
        quick_gelu=activations == {"quick_gelu"},
        image_heads=vision.num_attention_heads,
        text_heads=text.num_attention_heads,
        mean=mean,
        std=std,
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
    weights: CLIPWeights, tag: dict[str, Any] | None, tags: Iterable[str], unnamed_size: bool, model_says: bool
) -> bool:
    """The activation that the weights were trained with: the tag's record, else the format, else the model's name."""
    if tag is not None:
        return bool(tag.get("quick_gelu", False))
    if weights.quick_gelu is not None:
        return weights.quick_gelu
    if weights.openai_precision and (unnamed_size or "openai" in tags):
        return True
    log.info("%s does not name its activation: taking the model's (quick_gelu=%s).", weights.source, model_says)
    return model_says


def pixel_statistics(
    weights: CLIPWeights | None, tag: dict[str, Any] | None, tags: Tags, default: tuple[RGB, RGB]
) -> tuple[RGB, RGB]:
    """Pixel statistics: the tag's, else the file's, else those that all tags of the model agree on."""
    if tag is not None and tag.get("mean"):
        return tag["mean"], tag["std"]
    if weights is not None and weights.mean is not None and weights.std is not None:
        return weights.mean, weights.std
    agreed = {(tuple(t["mean"]), tuple(t["std"])) for t in tags.values() if t.get("mean")}
    return cast(tuple[RGB, RGB], agreed.pop()) if len(agreed) == 1 else default


def image_size_hint(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """Returns a sentence about the image sizes of model and weights, empty where they agree or are unknown."""
    grid, patch = "visual.positional_embedding", "visual.conv1.weight"
    if not all(name in state for name in (grid, patch) for state in (expected, found)):
        return ""
    sizes = [math.isqrt(len(state[grid]) - 1) * state[patch].shape[-1] for state in (expected, found)]
    if sizes[0] == sizes[1]:
        return ""
    return f"The weights take {sizes[1]} px images, the model {sizes[0]} px; image positions are not resized. "
