"""CLIP through open_clip: sentences, words and frames in one space (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from tvr_lightning.encoders.base import DualEncoder
from tvr_lightning.encoders.clip_weights import (
    CLIPWeights,
    image_size_hint,
    pixel_statistics,
    pretrained_tags,
    resolve_weights,
    trained_with_quick_gelu,
)
from tvr_lightning.encoders.weights import Fingerprint, differences, weight_mismatch
from tvr_lightning.errors import ConfigError, nearest

_VOCABULARY = 49408
_TEXT_ROOTS = ("positional_embedding", "text_projection", "token_embedding.", "transformer.", "ln_final.")


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


class CLIPEncoder(DualEncoder):
    """CLIP's two towers with word features; nothing is normalised.

    Random initialisation draws from torch's global generator only. A frame's or caption's features depend on that
    frame or caption alone: batch norms of convolutional image towers keep their stored statistics.

    Args:
        model: a model name of open_clip with CLIP's own tokeniser, or a preset (`tiny`); not used when `size` is given.
        from_pretrained: None for random weights; a tag of the model, which open_clip downloads (`openai`,
            `laion2b_s34b_b79k`); or a local file or folder in open_clip's, OpenAI's or Hugging Face's format. A tag
            goes before a folder of the same name.
        size: any other size, instead of a named one.
        context_length: m, the longest caption in tokens; loaded position embeddings are cut to it, which is exact for
            a causal text tower.
        freeze_layers: freezes embeddings and the first blocks of both towers; final norms and projections still learn,
            as in CLIP4Clip (Luo et al. 2021). A tower with fewer blocks has all of them frozen.
        freeze_image: freezes the image tower and keeps its evaluation mode: locked-image tuning (Zhai et al. 2022).
            What it makes of the frames is then computed once and kept, so steps take a fraction of the time.
        freeze: freezes everything and keeps evaluation mode.
        gradient_checkpointing: computes the blocks' activations again in the backward pass instead of keeping them.

    Attributes:
        embed_dim: D.
        image_size: height and width in pixels that `encode_frames` takes.
        context_length: m.
        text_heads: attention heads of the text tower's blocks.
        pretrained: whether weights were loaded.
        logit_scale_init: the factor that pretraining ended with, else 1 / 0.07.

    Raises:
        ConfigError: an unknown name or tag, a model without CLIP's text tower, or sizes that do not fit.
        CheckpointError: weights that cannot be fetched or read, or that belong to another model.
    """

    smallest: ClassVar = {"model": "tiny", "size": None, "from_pretrained": None}
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        model: str = "ViT-B-32",
        from_pretrained: str | None = None,
        *,
        size: CLIPSize | None = None,
        context_length: int = 32,
        freeze_layers: int = 0,
        freeze_image: bool = False,
        freeze: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
        from open_clip.model import CLIP, CustomTextCLIP

        size = size or PRESETS.get(model)
        self.name = model if size is None or size == PRESETS.get(model) else "CLIPSize"
        config = _named_config(model) if size is None else _sized_config(size)
        tags = {} if size is not None else pretrained_tags(model)
        weights, tag = resolve_weights(self.name, from_pretrained, tags)
        if weights is not None:
            config["quick_gelu"] = trained_with_quick_gelu(
                weights, tag, tags, size is not None, config.get("quick_gelu", False)
            )
        config["text_cfg"]["context_length"] = context_length
        custom_text = config.pop("custom_text", False)
        self.clip = (CustomTextCLIP if custom_text else CLIP)(**config)
        # a method owns its logit scale: left here it would be a parameter without gradient
        del self.clip.logit_scale

        self.embed_dim = int(config["embed_dim"])
        self.image_size = int(config["vision_cfg"].get("image_size", 224))
        self.context_length, self.vocabulary_size = context_length, _VOCABULARY
        self.freeze, self.freeze_image = freeze, freeze_image
        self.pretrained = weights is not None
        self.text_heads = int(config["text_cfg"].get("heads", 8))
        if weights is not None:
            self._load(weights, _image_heads(config["vision_cfg"]))
        mean, std = pixel_statistics(weights, tag, tags, (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
        # statistics of pixels in 0..255
        self.register_buffer("pixel_mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)
        self._fingerprint = Fingerprint()
        frozen = [config[name] for name in ("vision_cfg", *(["text_cfg"] if freeze else []))]
        self._computation = ("pooled and projected", *frozen, config.get("quick_gelu", False), mean, std)

        self._freeze_layers(freeze_layers)
        if freeze:
            self.requires_grad_(False)
        elif freeze_image:
            self.clip.visual.requires_grad_(False)
        if gradient_checkpointing:
            self._image_transformer("gradient_checkpointing")
            self.clip.set_grad_checkpointing(True)
        self.train()

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes captions.

        Args:
            tokens: (T, m) token ids of `CLIPTokenizer`, m at most `context_length`.
            token_mask: (T, m) bool, True from start to end token.

        Returns:
            Sentences (T, D), the end-of-text feature after the last norm and the text projection, and words (T, m, D),
            every token's feature after both, zeros where the mask is False.

        Raises:
            ValueError: shapes that do not fit.
        """
        self.check_tokens(tokens, token_mask)
        length = tokens.shape[1]
        x = self._text.token_embedding(tokens) + self._text.positional_embedding[:length]
        x = self._text.ln_final(self._text.transformer(x, attn_mask=self._text.attn_mask[:length, :length]))
        projection = self._text.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection
        # the end token has the largest id of the vocabulary
        sentence = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=1)]
        return sentence, x.masked_fill(~token_mask.unsqueeze(-1), 0.0)

    def encode_frames(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Encodes frames one by one, to the image tower's pooled feature after the projection."""
        self.check_frames(frames, frame_mask)
        pixels = frames.flatten(0, 1).to(self.pixel_mean.dtype)  # (V * n, 3, H, W)
        features = self.clip.visual((pixels - self.pixel_mean) / self.pixel_std)
        features = features.unflatten(0, frame_mask.shape)  # (V, n, D)
        return cast(Tensor, features.masked_fill(~frame_mask.unsqueeze(-1), 0.0))

    @property
    def towers(self) -> Sequence[nn.Module]:
        """The image tower and the text tower's blocks."""
        return self.clip.visual, self._text.transformer

    @property
    def frames_frozen(self) -> bool:
        """Whether nothing trains what `encode_frames` computes."""
        return self.freeze or self.freeze_image

    def fingerprint(self) -> str:
        """Names what is frozen, or the image tower: equal names, equal features."""
        return self._fingerprint.of(self.clip if self.freeze else self.clip.visual, self._computation)

    @property
    def text_blocks(self) -> tuple[nn.Module, ...]:
        """The text tower's pre-norm attention blocks, batch first; the encoder's own, so copy before changing."""
        return tuple(self._text.transformer.resblocks)

    @property
    def text_positions(self) -> nn.Parameter:
        """The text tower's position embeddings, (context_length, text_width)."""
        return cast(nn.Parameter, self._text.positional_embedding)

    @property
    def text_width(self) -> int:
        """Channels of the text tower."""
        return int(self._text.transformer.width)

    @property
    def _text(self) -> Any:
        # a property: a second attribute would put the modules into the state dict twice
        return getattr(self.clip, "text", self.clip)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; what is frozen and the batch norms of an image tower stay in evaluation mode."""
        super().train(mode and not self.freeze)
        if self.freeze_image:
            self.clip.visual.eval()
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def _image_transformer(self, option: str) -> nn.Module:
        from open_clip.transformer import VisionTransformer

        visual = self.clip.visual
        if not isinstance(visual, VisionTransformer):
            raise ConfigError(
                f"{option} needs open_clip's own vision transformer; {self.name} has a {type(visual).__name__}. "
                f"Leave {option} out or choose a model such as ViT-B-32."
            )
        return cast(nn.Module, visual)

    def _freeze_layers(self, count: int) -> None:
        if count == 0:
            return
        visual: Any = self._image_transformer("freeze_layers")
        image, text = visual.transformer.resblocks, self._text.transformer.resblocks
        deepest = max(len(image), len(text))
        if not 0 < count <= deepest:
            raise ConfigError(f"freeze_layers={count} does not fit {self.name}: set 0 to {deepest}.")
        stem = (visual.conv1, visual.ln_pre, self._text.token_embedding, *image[:count], *text[:count])
        for module in stem:
            module.requires_grad_(False)
        for parameter in (visual.class_embedding, visual.positional_embedding, self._text.positional_embedding):
            parameter.requires_grad_(False)

    def _load(self, weights: CLIPWeights, image_heads: int | None) -> None:
        state = dict(weights.state)
        positions = state.get("positional_embedding")
        if positions is not None:
            if len(positions) < self.context_length:
                raise ConfigError(
                    f"context_length={self.context_length} exceeds the {len(positions)} text positions of "
                    f"{weights.source}. Set at most {len(positions)}."
                )
            state["positional_embedding"] = positions[: self.context_length]
        if self._text is not self.clip:
            state = {f"text.{k}" if k.startswith(_TEXT_ROOTS) else k: v for k, v in state.items()}
        expected = self.clip.state_dict()
        problems = differences(expected, state)
        for tower, found, own in (
            ("image", weights.image_heads, image_heads),
            ("text", weights.text_heads, self.text_heads),
        ):
            if found is not None and own is not None and found != own:
                problems.append(f"{tower} attention heads: expected {own}, found {found}")
        if weights.logit_scale is None:
            problems.append("logit_scale: missing")
        if problems:
            raise weight_mismatch(weights.source, self.name, problems, image_size_hint(expected, state))
        self.clip.load_state_dict(state)
        self.logit_scale_init = cast(float, weights.logit_scale)


def _named_config(model: str) -> dict[str, Any]:
    """Returns open_clip's configuration of a model whose text tower gives CLIP's token features."""
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        known = (*open_clip.list_models(), *PRESETS)
        raise ConfigError(f"Unknown CLIP model '{model}': {nearest(model, known)}")
    text = config["text_cfg"]
    unsupported = {
        "a Hugging Face text tower": "hf_model_name" in text,
        "another tokeniser than CLIP's": bool(text.get("hf_tokenizer_name"))
        or text.get("vocab_size", _VOCABULARY) != _VOCABULARY,
        "a class token at the end of the text": text.get("embed_cls", False),
        "a text tower that is not causal": text.get("no_causal_mask", False),
        "a caption decoder": "multimodal_cfg" in config,
    }
    reasons = [reason for reason, holds in unsupported.items() if holds]
    if reasons:
        raise ConfigError(
            f"{model} has {' and '.join(reasons)}, which this encoder does not support: its word features would be "
            "wrong. Choose a model with CLIP's own text tower, such as ViT-B-32 or ViT-B-16."
        )
    return config


def _sized_config(size: CLIPSize) -> dict[str, Any]:
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
            "vocab_size": _VOCABULARY,
            "width": size.text_width,
            "heads": size.text_heads,
            "layers": size.text_layers,
        },
    }


def _image_heads(vision: dict[str, Any]) -> int | None:
    if "timm_model_name" in vision or not isinstance(vision.get("layers"), int):
        return None
    return int(vision["width"]) // int(vision.get("head_width", 64))
