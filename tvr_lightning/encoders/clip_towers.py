"""CLIP's towers, whichever open_clip builds: what captions become, which layers there are, sizes of frames.

A caption's words are the text tower's last layer, token by token, after the norm and the projection that the sentence
goes through. For CLIP's own causal tower the sentence is one of them, so that words lie in the space of sentences and
frames. Elsewhere training never looked at single words there: SigLIP's, CLIPA's and MobileCLIP's sentence is one token
too, but every word has seen the whole caption; CoCa's sentence is a class token behind the words; Hugging Face towers
pool before they project (mean pooling: the sentence is the mean of the words where the projection is linear).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tvr_lightning.errors import ConfigError

Layers = list[list[nn.Parameter]]


class Text(NamedTuple):
    """A text tower's numbers.

    Attributes:
        vocabulary_size: tokens that have an embedding.
        width: channels.
        blocks: its own attention blocks; none for a Hugging Face tower.
        positions: their position embeddings (context, width), likewise.
    """

    vocabulary_size: int
    width: int
    blocks: tuple[nn.Module, ...]
    positions: Tensor


def text_of(clip: Any) -> Any:
    """The module that holds the text tower: CLIP itself in open_clip's first layout."""
    return getattr(clip, "text", clip)


def _is_hugging_face(text: Any) -> bool:
    from open_clip.hf_model import HFTextEncoder

    return isinstance(text, HFTextEncoder)


def describe_text(clip: Any) -> Text:
    """Looks at the text tower of a CLIP."""
    text = text_of(clip)
    if _is_hugging_face(text):
        table = text.transformer.get_input_embeddings()
        return Text(table.num_embeddings, table.embedding_dim, (), torch.empty(0, 0))
    own = text.transformer
    return Text(text.token_embedding.num_embeddings, own.width, tuple(own.resblocks), text.positional_embedding)


def encode_text(clip: Any, tokens: Tensor, token_mask: Tensor, masked: bool = True) -> tuple[Tensor, Tensor]:
    """Sentences (T, D) and words (T, m, D); see the module's text for what words are.

    Words are zeros where the mask is False, unless `masked` is.
    """
    text = text_of(clip)
    if _is_hugging_face(text):
        sentence, words = _hugging_face(text, tokens, token_mask)
    elif text.attn_mask is None or getattr(text, "cls_emb", None) is not None:
        sentence, words = _whole_context(clip, text, tokens)
    else:
        sentence, words = _causal(text, tokens, token_mask)
    return sentence, words.masked_fill(~token_mask.unsqueeze(-1), 0.0) if masked else words


def _project(text: Any, x: Tensor) -> Tensor:
    projection = text.text_projection
    if projection is None:
        return x
    return cast(Tensor, projection(x) if isinstance(projection, nn.Linear) else x @ projection)


def _causal(text: Any, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
    length = tokens.shape[1]
    x = text.token_embedding(tokens) + text.positional_embedding[:length]
    x = _project(text, text.ln_final(text.transformer(x, attn_mask=text.attn_mask[:length, :length])))
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax"))
    # the end token has the largest id of CLIP's vocabulary, and another in others
    end = tokens.argmax(dim=1) if pool == "argmax" else token_mask.sum(1) - 1
    return x[torch.arange(len(x), device=x.device), end], x


def _whole_context(clip: Any, text: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    # padding is seen: nothing may be cut off
    if tokens.shape[1] != (context := int(text.context_length)):
        raise ValueError(f"this text tower also reads the padding: captions of {context} tokens, got {tokens.shape[1]}")
    found = clip.forward_intermediates(
        text=tokens, text_indices=1, normalize=False, normalize_intermediates=True, text_output_fmt="NLC"
    )
    return found["text_features"], _project(text, found["text_intermediates"][-1])


def _hugging_face(text: Any, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
    pad = text.config.pad_token_id or 0  # RoBERTa's positions count what is not padding
    seen = token_mask.long()
    found = text.transformer(input_ids=tokens.masked_fill(~token_mask, pad), attention_mask=seen)
    return text.proj(text.pooler(found, seen)), text.proj(found.last_hidden_state)


def freeze_first(clip: nn.Module, count: int, name: str) -> None:
    """Freezes embeddings and the first blocks of both towers; a tower with fewer blocks has all of them frozen.

    Raises:
        ConfigError: neither tower has so many blocks.
    """
    if count == 0:
        return
    towers = _image_layers(clip.visual, name), _text_layers(text_of(clip))
    deepest = max(map(len, towers)) - 1
    if not 0 < count <= deepest:
        raise ConfigError(f"freeze_layers={count} does not fit {name}: set 0 to {deepest}.")
    for layers in towers:
        for parameter in (p for layer in layers[: count + 1] for p in layer):
            parameter.requires_grad_(False)


def _parameters(*parts: Any) -> list[nn.Parameter]:
    """The parameters of modules, of parameters and of what is absent."""
    found: list[nn.Parameter] = []
    for part in parts:
        found += [part] if isinstance(part, nn.Parameter) else part.parameters() if isinstance(part, nn.Module) else []
    return found


def _image_layers(visual: Any, name: str) -> Layers:
    """Embeddings, then block after block; not what comes behind them."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, VisionTransformer):
        stem = _parameters(visual.conv1, visual.ln_pre, visual.class_embedding, visual.positional_embedding)
        return [stem, *(_parameters(block) for block in visual.transformer.resblocks)]
    if isinstance(visual, ModifiedResNet):
        stem = [getattr(visual, f"{kind}{i}") for kind in ("conv", "bn") for i in (1, 2, 3)]
        return [_parameters(*stem), *(_parameters(block) for block in _bottlenecks(visual))]
    if isinstance(visual, TimmModel) and isinstance(matcher := visual.trunk.group_matcher(coarse=False), Mapping):
        return _timm_layers(visual.trunk, matcher)
    raise ConfigError(f"freeze_layers: the image tower of {name} does not say what its blocks are. Leave it out.")


def _timm_layers(trunk: Any, matcher: Mapping[str, Any]) -> Layers:
    from timm.models import group_parameters
    from timm.models._manipulate import MATCH_PREV_GROUP

    rules: list[tuple[str, Any]] = []
    for rule in matcher.values():
        rules += [(rule, None)] if isinstance(rule, str) else [tuple(each) for each in rule or ()]

    def is_behind(parameter: str) -> bool:
        """Whether it is the last norm or of the head: what no rule names, or what timm counts with the last block."""
        suffixes = [suffix for pattern, suffix in rules if re.match(pattern, parameter)]
        return not suffixes or suffixes[0] == MATCH_PREV_GROUP

    groups = group_parameters(trunk, matcher)
    layers = [[n for n in groups[i] if not is_behind(n)] for i in sorted(groups)]
    return [[trunk.get_parameter(n) for n in layer] for layer in layers if layer]


def _bottlenecks(visual: Any) -> list[nn.Module]:
    return [block for i in (1, 2, 3, 4) for block in getattr(visual, f"layer{i}")]


def _text_layers(text: Any) -> Layers:
    if not _is_hugging_face(text):
        stem = _parameters(text.token_embedding, text.positional_embedding, getattr(text, "cls_emb", None))
        return [stem, *(_parameters(block) for block in text.transformer.resblocks)]
    model = text.transformer
    encoder = getattr(model, "encoder", model)
    blocks = next(getattr(encoder, name) for name in ("layer", "layers", "block") if hasattr(encoder, name))
    stem = _parameters(getattr(model, "embeddings", None) or model.get_input_embeddings())
    return [stem, *(_parameters(block) for block in blocks)]


def checkpoint_blocks(clip: nn.Module, name: str, image: bool = True) -> None:
    """Lets blocks of both towers be computed again in the backward pass.

    Args:
        clip: of open_clip.
        name: the model's, for messages.
        image: False where the image tower makes no gradient.

    Raises:
        ConfigError: the image tower cannot.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel

    text, visual = text_of(clip), clip.visual
    if _is_hugging_face(text):
        # newer releases of transformers warn about the old name
        enable = getattr(text.transformer, "activation_checkpointing_enable", None)
        (enable or text.transformer.gradient_checkpointing_enable)({"use_reentrant": False})
    else:
        text.transformer.grad_checkpointing = True
    if not image:
        return
    if isinstance(visual, ModifiedResNet):
        for block in _bottlenecks(visual):
            block.forward = partial(_again, block.forward)
    elif isinstance(visual, TimmModel):
        try:
            visual.trunk.set_grad_checkpointing(True)
        except Exception as error:  # timm asserts, in several ways
            raise ConfigError(f"gradient_checkpointing: the image tower of {name} cannot. Leave it out.") from error
    else:
        cast(Any, visual).set_grad_checkpointing(True)


def _again(compute: Any, x: Tensor) -> Tensor:
    return cast(Tensor, checkpoint(compute, x, use_reentrant=False))


def resize_grid(table: Tensor, count: int) -> Tensor:
    """Position embeddings of a square grid of patches, bicubically interpolated; the first row is the class token's.

    Shapes: table (1 + g * g, W), count = 1 + h * h; returns (count, W).

    >>> resize_grid(torch.randn(1 + 4, 8), 1 + 9).shape
    torch.Size([10, 8])
    """
    old, new = math.isqrt(len(table) - 1), math.isqrt(count - 1)
    grid = table[1:].float().T.unflatten(1, (old, old))[None]  # (1, W, g, g)
    grid = F.interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:1], grid[0].flatten(1).T.to(table.dtype)])


def resize_image_positions(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Interpolates the image positions of a state dict, of open_clip's own towers, to those that a model has."""
    for name in ("visual.positional_embedding", "visual.attnpool.positional_embedding"):
        if name in state and name in expected and state[name].shape[1:] == expected[name].shape[1:]:
            state[name] = resize_grid(state[name], len(expected[name]))


def set_image_size(clip: Any, size: int, name: str) -> None:
    """Lets an image tower of timm take frames of another size; positions of the weights that it has are interpolated.

    Raises:
        ConfigError: it cannot.
    """
    trunk = clip.visual.trunk
    try:
        if hasattr(trunk, "set_input_size"):
            trunk.set_input_size(img_size=(size, size))
        clip.visual.image_size = (size, size)
        mode = trunk.training
        with torch.no_grad():  # convolutions take any size, what stands behind them not always
            clip.visual.eval()(torch.zeros(1, 3, size, size))
        clip.visual.train(mode)
    except Exception as error:  # timm asserts, in several ways
        why = next(iter(str(error).splitlines()), type(error).__name__)[:120]
        raise ConfigError(f"image_size={size} does not fit {name} ({why}). Leave it out or set another.") from error


def batch_norms(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those modules that would mix the items of a batch."""
    return [module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]
