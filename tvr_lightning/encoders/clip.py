"""CLIP through open_clip: sentences, words and frames in one space (Radford et al. 2021), SigLIP and others too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.data.text import CLIP_VOCABULARY
from tvr_lightning.encoders.base import DualEncoder, Patches
from tvr_lightning.encoders.clip_config import (
    CLIP_CONTEXT,
    PRESETS,
    CLIPSize,
    build_clip,
    check_context,
    check_pictures,
    hugging_face_config,
    named_config,
    reads_padding,
    sized_config,
)
from tvr_lightning.encoders.clip_patches import PatchTower
from tvr_lightning.encoders.clip_towers import (
    batch_norms,
    checkpoint_blocks,
    describe_text,
    encode_text,
    freeze_first,
    resize_image_positions,
    set_image_size,
    text_of,
)
from tvr_lightning.encoders.clip_weights import (
    CLIPWeights,
    image_size_hint,
    picture_settings,
    pretrained_tags,
    read_clip_weights,
    read_pictures,
    resolve_weights,
    trained_with_quick_gelu,
)
from tvr_lightning.encoders.kept import are_of_released_code, building, finish, kept_computation
from tvr_lightning.encoders.weights import Fingerprint, differences, fetch_weights, weight_mismatch
from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.patches.hooks import UNCHANGED, TokenHook

_TEXT_ROOTS = (
    "positional_embedding", "text_projection", "token_embedding.", "transformer.", "ln_final.", "cls_emb", "proj."
)  # fmt: skip


class CLIPEncoder(DualEncoder):
    """CLIP's two towers with word features; nothing is normalised.

    Any model of open_clip, SigLIP and models with a Hugging Face text tower among them; `data.tokenizer` has to be the
    model's own, see `OpenCLIPTokenizer`. Random initialisation draws from torch's global generator only. A frame's or
    caption's features depend on that frame or caption alone: batch norms of convolutional image towers keep their
    stored statistics. Text towers of Hugging Face drop out in training mode, as when they were trained.

    Args:
        model: a model name of open_clip; a preset (`tiny`); `hf-hub:` and a repository, or `local-dir:` and a folder,
            both with an `open_clip_config.json` and weights, which are loaded. Not used when `size` is given.
        from_pretrained: None for random weights; a tag of the model, which open_clip downloads (`openai`,
            `laion2b_s34b_b79k`); a local file or folder in open_clip's, OpenAI's or Hugging Face's format; or a run,
            whose encoder is taken (see `encoders.of_runs`). A tag takes precedence over a folder of the same name.
        size: any other size, instead of a named one.
        context_length: m, the longest caption in tokens. The encoder has all positions of its weights, of which
            captions take the first; a text tower that is not causal wants captions of its own length.
        image_size: height and width of frames, where another one than the model's is wanted: image positions of the
            weights are interpolated to it.
        quick_gelu: True for QuickGELU, as OpenAI's models have, False for GELU; needed where a weight file does not
            say. None for what tag, format or name say.
        text_model: a local folder with the `config.json` of a Hugging Face text tower, in place of the repository
            that the model names.
        freeze_layers: freezes embeddings and the first blocks of both towers; final norms and projections still learn,
            as in CLIP4Clip (Luo et al. 2021). A tower with fewer blocks has all of them frozen.
        freeze_image: freezes the image tower and keeps its evaluation mode: locked-image tuning (Zhai et al. 2022).
            What it makes of the frames is then computed once and kept, so steps take a fraction of the time.
        freeze: freezes everything and keeps evaluation mode.
        gradient_checkpointing: computes the blocks' activations again in the backward pass instead of keeping them.

    Attributes:
        name: the model that was built: `ViT-B-32-quickgelu` of ViT-B-32 with OpenAI's weights, `ViT-B-32@384` of frames
            of another size.
        embed_dim: D.
        image_size: height and width in pixels that `encode_frames` takes.
        context_length: m.
        text_heads: attention heads of the text tower's blocks.
        pretrained: whether weights were loaded.
        logit_scale_init: the factor that pretraining ended with, else 1 / 0.07 or the model's own.
        logit_bias_init: the bias that pretraining ended with, for SigLIP; else 0 or the model's own.

    Raises:
        ConfigError: an unknown name or tag, a model that is not supported, an activation that nothing says, or sizes
            that do not fit.
        CheckpointError: weights that cannot be fetched or read, or that belong to another model.
    """

    smallest: ClassVar = {
        **{"model": "tiny", "size": None, "from_pretrained": None},
        **{"image_size": None, "quick_gelu": None, "text_model": None},
    }
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        model: str = "ViT-B-32",
        from_pretrained: str | None = None,
        *,
        size: CLIPSize | None = None,
        context_length: int = 32,
        image_size: int | None = None,
        quick_gelu: bool | None = None,
        text_model: str | None = None,
        freeze_layers: int = 0,
        freeze_image: bool = False,
        freeze: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        size = size or PRESETS.get(model)
        self.from_pretrained = from_pretrained
        asked = {"size": size and asdict(size), "image_size": image_size, "quick_gelu": quick_gelu}
        kept = kept_computation(self, asked | {"model": None if size else model})
        weights: CLIPWeights | None = None
        if kept is None:
            kept, weights = self._describe(model, size, context_length, image_size, quick_gelu, text_model)
        else:
            check_pictures(kept)
        self.computation = kept
        self.name = _built_name(model if size is None or size == PRESETS.get(model) else "CLIPSize", kept)
        with building(self):
            config, text_config = kept["config"], kept["text_config"]
            check_context(self.name, config, text_config, context_length)
            self.clip: Any = build_clip(config, text_config)
        text = config["text_cfg"]
        self.embed_dim, self.image_size, self.resize = int(config["embed_dim"]), kept["image_size"], kept["resize"]
        self.context_length, self.vocabulary_size = context_length, describe_text(self.clip).vocabulary_size
        self.tokenizer = str(text.get("hf_tokenizer_name") or CLIP_VOCABULARY)
        self.freeze, self.freeze_image = freeze, freeze_image
        self.pretrained = self.from_pretrained is not None
        self.text_heads = int((text_config or {}).get("num_attention_heads", text.get("heads", 8)))
        self.logit_scale_init = math.exp(config.get("init_logit_scale", math.log(1 / 0.07)))
        self.logit_bias_init = config.get("init_logit_bias") or 0.0
        if weights is not None:
            self._load(weights, image_size)
        if self.image_size != _image_size(config):
            set_image_size(self.clip, self.image_size, self.name)
        finish(self)
        if self.origin is not None and self.origin.logit_scale is not None:
            self.logit_scale_init = self.origin.logit_scale
        # statistics of pixels in 0..255
        for name in ("mean", "std"):
            statistic = 255 * torch.tensor(kept[name]).view(3, 1, 1)
            self.register_buffer(f"pixel_{name}", statistic, persistent=False)
        self._fingerprint = Fingerprint()
        self._patches: PatchTower | None = None

        freeze_first(self.clip, freeze_layers, self.name)
        if freeze:
            self.requires_grad_(False)
        elif freeze_image:
            self.clip.visual.requires_grad_(False)
        if gradient_checkpointing:
            checkpoint_blocks(self.clip, self.name)
        self.train()

    def _describe(
        self,
        model: str,
        size: CLIPSize | None,
        context_length: int,
        image_size: int | None,
        quick_gelu: bool | None,
        text_model: str | None,
    ) -> tuple[dict[str, Any], CLIPWeights | None]:
        """All that the towers are built of, in plain values, and the weights that they get."""
        named = None if size else named_config(model)
        config = sized_config(size) if size else cast(Any, named).config
        tags = {} if named is None else pretrained_tags(model)
        source = None if named is None else named.source
        weights: CLIPWeights | None
        if are_of_released_code():
            if quick_gelu is False:
                raise ConfigError("quick_gelu is false, but the methods' released code has OpenAI's CLIP: leave it out")
            weights, tag, quick_gelu = None, tags.get("openai"), True
            self.from_pretrained = self.from_pretrained or (model if source else None)
        elif source is None:
            name = "CLIPSize" if size and size != PRESETS.get(model) else model
            weights, tag = resolve_weights(name, self.from_pretrained, tags)
        elif self.from_pretrained is not None:
            raise ConfigError(f"{model} includes its weights: leave from_pretrained={self.from_pretrained} out")
        else:
            weights, tag = read_clip_weights(source if isinstance(source, Path) else fetch_weights(source)), None
            self.from_pretrained = model
        if weights is not None:
            said = None if named is None else bool(config.get("quick_gelu", False))
            config["quick_gelu"] = trained_with_quick_gelu(weights, tag, tags, said, quick_gelu)
        elif quick_gelu is not None:
            config["quick_gelu"] = quick_gelu
        text_config = hugging_face_config(config["text_cfg"], text_model)
        own = int(config["text_cfg"].get("context_length", CLIP_CONTEXT))
        if text_config is None and not reads_padding(config["text_cfg"]):
            table = None if weights is None else weights.state.get("positional_embedding")
            own = max(own, context_length) if table is None else len(table)
        config["text_cfg"]["context_length"] = own
        native = _image_size(config)
        if image_size is not None and "timm_model_name" not in config["vision_cfg"]:
            _check_patches(config["vision_cfg"], image_size)
            config["vision_cfg"]["image_size"] = image_size
        prepared = read_pictures(named.preprocess, model) if named else None
        pictures = picture_settings(weights, tag, tags, prepared)
        return {
            "model": None if size else model,
            "size": size and asdict(size),
            "image_size": image_size or native,
            "native_image_size": native,
            "quick_gelu": bool(config.get("quick_gelu", False)),
            "config": config,
            "text_config": text_config,
            **pictures._asdict(),
        }, weights

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes captions.

        Args:
            tokens: (T, m) token ids of the model's tokeniser, m at most `context_length`.
            token_mask: (T, m) bool, True from start to end token.

        Returns:
            Sentences (T, D), what the text tower pools (CLIP's: the end-of-text feature) after the last norm and the
            text projection, and words (T, m, D), every token's feature after both, zeros where the mask is False.
            `encoders.clip_towers` says what words are in other towers than CLIP's.

        Raises:
            ValueError: shapes that do not fit.
        """
        self.check_tokens(tokens, token_mask)
        return encode_text(self.clip, tokens, token_mask)

    def encode_padded_text(self, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sentences, and `context_length` words of which those behind a caption's end are of token 0."""
        self.check_tokens(tokens, token_mask)
        missing = self.context_length - tokens.shape[1]
        tokens, token_mask = (F.pad(x, (0, missing)) for x in (tokens.masked_fill(~token_mask, 0), token_mask))
        return encode_text(self.clip, tokens, token_mask, masked=False)

    def encode_padding(self) -> Tensor:
        """The feature (D,) of a picture that is zero after normalisation."""
        return cast(Tensor, self.clip.visual(self.pixel_mean.new_zeros(1, 3, self.image_size, self.image_size))[0])

    def encode_frames(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Encodes frames one by one, to what the image tower pools (CLIP: the class token) after the projection."""
        self.check_frames(frames, frame_mask)
        features = self.clip.visual(self._normalised(frames.flatten(0, 1)))
        features = features.unflatten(0, frame_mask.shape)  # (V, n, D)
        return cast(Tensor, features.masked_fill(~frame_mask.unsqueeze(-1), 0.0))

    def _normalised(self, frames: Tensor) -> Tensor:
        return (frames.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std

    def show_patches(self, at_least: int = 1) -> None:
        """Prepares for `encode_patches`.

        Raises:
            ConfigError: the image tower has no blocks, class token or patches of open_clip's own kind, or too few.
        """
        self._patches = PatchTower(self.clip.visual, self.name, at_least)

    def encode_patches(
        self, frames: Tensor, frame_mask: Tensor, hook: TokenHook = UNCHANGED, attended: bool = False
    ) -> Patches:
        """Encodes frames and patches: tokens after the last norm and the projection that the class token goes through.

        Gradient checkpointing, frozen layers and `optimizer.compile_encoders` work as for `encode_frames`.
        """
        self.check_frames(frames, frame_mask)
        if self._patches is None:
            raise ValueError("call show_patches() when the method is built")
        pixels = self._normalised(frames)
        if attended:
            pixels = pixels.masked_fill(~frame_mask[..., None, None, None], 0.0)
        tokens, mask = self._patches(pixels, torch.ones_like(frame_mask) if attended else frame_mask, hook)
        if not attended:
            tokens = tokens.masked_fill(~mask[..., None, None], 0.0)
        return Patches(tokens[:, :, 0], tokens[:, :, 1:], mask)

    @property
    def towers(self) -> Sequence[nn.Module]:
        """The image tower, or what walks through it for patches, and the text tower's blocks."""
        return self._patches or self.clip.visual, text_of(self.clip).transformer

    @property
    def frames_frozen(self) -> bool:
        """Whether nothing trains what `encode_frames` computes."""
        return self.freeze or self.freeze_image

    def fingerprint(self) -> str:
        """Names what is frozen, or the image tower: equal names, equal features."""
        config = self.computation["config"]
        frozen = [config[name] for name in ("vision_cfg", *(["text_cfg"] if self.freeze else []))]
        others = [self.computation[name] for name in ("quick_gelu", "image_size", "mean", "std")]
        return self._fingerprint.of(self.clip if self.freeze else self.clip.visual, ("pooled", *frozen, *others))

    @property
    def text_blocks(self) -> tuple[nn.Module, ...]:
        """The text tower's pre-norm attention blocks, batch first; the encoder's own, so copy before changing."""
        return describe_text(self.clip).blocks

    @property
    def text_positions(self) -> Tensor:
        """The text tower's position embeddings, (positions of the weights, text_width)."""
        return describe_text(self.clip).positions

    @property
    def text_width(self) -> int:
        """Channels of the text tower."""
        return describe_text(self.clip).width

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; what is frozen and the batch norms of an image tower stay in evaluation mode."""
        super().train(mode and not self.freeze)
        if self.freeze_image:
            self.clip.visual.eval()
        for module in batch_norms(self.modules()):
            module.eval()
        return self

    def _load(self, weights: CLIPWeights, image_size: int | None) -> None:
        state = dict(weights.state)
        if text_of(self.clip) is not self.clip:
            state = {f"text.{k}" if k.startswith(_TEXT_ROOTS) else k: v for k, v in state.items()}
            # a buffer of older files
            state.pop("text.transformer.embeddings.position_ids", None)
        expected = self.clip.state_dict()
        if image_size is not None:
            resize_image_positions(state, expected)
        problems = differences(expected, state)
        image_heads = _image_heads(self.computation["config"]["vision_cfg"])
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
        self.logit_scale_init, self.logit_bias_init = cast(float, weights.logit_scale), weights.logit_bias


def _built_name(model: str, computation: Mapping[str, Any]) -> str:
    """What was built, whatever the experiment calls it."""
    if computation["quick_gelu"] and not model.endswith("-quickgelu"):
        model += "-quickgelu"
    return (
        model
        if computation["image_size"] == computation["native_image_size"]
        else f"{model}@{computation['image_size']}"
    )


def _image_size(config: Mapping[str, Any]) -> int:
    size = config["vision_cfg"].get("image_size", 224)
    return int(size if isinstance(size, int) else size[0])


def _check_patches(vision: Mapping[str, Any], size: int) -> None:
    # a ModifiedResNet halves five times
    patch = 32 if isinstance(vision.get("layers"), list) else int(vision.get("patch_size") or 16)
    if size < patch or size % patch:
        raise ConfigError(f"image_size={size} is not a multiple of {patch}, the size of the model's patches")


def _image_heads(vision: Mapping[str, Any]) -> int | None:
    if "timm_model_name" in vision or not isinstance(vision.get("layers"), int):
        return None
    return int(vision["width"]) // int(vision.get("head_width", 64))
