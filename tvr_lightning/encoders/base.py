"""What an encoder offers: methods are typed to these classes, so that any subclass of theirs can be plugged in.

`FrameEncoder` takes frames, `TextEncoder` tokens, `DualEncoder` both into one space, as CLIP does. A subclass calls
`super().__init__()`, sets the attributes that its bases list and writes their abstract methods; an experiment then
names it by its `class_path`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.data.frozen import Frozen
from tvr_lightning.data.text import Tokenizer
from tvr_lightning.data.video.sampling import Resize
from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.patches.hooks import UNCHANGED, TokenHook
from tvr_lightning.types import Padding, VideoInput


@dataclass(frozen=True)
class Origin:
    """The run that an encoder's weights are taken from.

    Attributes:
        file: its checkpoint.
        place: the encoder's, in the run's method.
        said: what its weights were trained on and how, as results keep it.
        vocabulary: what its tokeniser had learnt; None where that learns nothing.
        logit_scale: what the run's method multiplied cosines by; None where it had no such factor.
        seen: (N,) int64, the videos that the weights were trained on (`data.sanity.marks`); None where unknown.
    """

    file: Path
    place: str
    said: Mapping[str, Any]
    vocabulary: Mapping[str, Any] | None
    logit_scale: float | None
    seen: Tensor | None = None


class Encoder(nn.Module, ABC):
    """A part of a method that may come with pretrained weights.

    Attributes:
        smallest: constructor arguments of the smallest encoder with random weights, which trial runs build instead of
            an experiment's own.
        name: the model's name in results; the class's unless set.
        embed_dim: D, of the features.
        freeze: whether nothing is trained.
        pretrained: whether weights were loaded.
        from_pretrained: what the experiment calls them.
        origin: the run that they are of; None where they are of none.
        computation: what features depend on besides the weights, as plain values: what a checkpoint keeps, and what is
            compared when one is loaded. An encoder that reads it from files looks into `kept.kept_computation` first.
    """

    smallest: ClassVar[Mapping[str, object]] = {}
    embed_dim: int

    def __init__(self) -> None:
        super().__init__()
        self.name, self.freeze, self.pretrained = type(self).__name__, False, False
        self.from_pretrained: str | None = None
        self.origin: Origin | None = None
        self.computation: Mapping[str, Any] = {}

    @abstractmethod
    def fingerprint(self) -> str:
        """Names weights and computation of what is frozen: equal names, equal features."""

    @property
    def towers(self) -> Sequence[nn.Module]:
        """The modules that it calls and whose forward pass is its work; `optimizer.compile_encoders` compiles them."""
        return list(self.children())

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.freeze)


class Patches(NamedTuple):
    """Frames with the patches that they are made of.

    Attributes:
        frames: (V, n, D), as `encode_frames` gives them where no hook changes them.
        patches: (V, n, p, D), in the same space.
        frame_mask: (V, n) bool, True = the frame exists; a hook may have made fewer of them.
    """

    frames: Tensor
    patches: Tensor
    frame_mask: Tensor


class FrameEncoder(Encoder):
    """Frames to features.

    Attributes:
        image_size: height and width in pixels of the frames that it takes.
        resize: how frames come to that size; see `data.video.pixels.Resizer`.
    """

    image_size: int
    resize: Resize = "crop"

    @property
    def frames_frozen(self) -> bool:
        """Whether nothing trains what `encode_frames` computes."""
        return self.freeze

    @abstractmethod
    def encode_frames(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Encodes frames.

        Args:
            frames: (V, n, 3, S, S) uint8, S the image size.
            frame_mask: (V, n) bool, True = the frame exists.

        Returns:
            (V, n, D), zeros where the mask is False.

        Raises:
            ValueError: frames of another size or type, or a mask that does not fit.
        """

    def encode_padding(self) -> Tensor:
        """What takes the place of a frame that does not exist under `padding: attended`, (D,).

        It is the feature of a picture that is zero after normalisation, as released code pads videos with.

        Raises:
            NotImplementedError: unless the class says what it is; `check_padding` asks before.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encode_padding")

    def check_frames(self, frames: Tensor, frame_mask: Tensor) -> None:
        """Raises ValueError for frames of another size or type, or a mask that does not fit."""
        if frames.ndim != 5 or frames.shape[2:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"{self.name} takes frames (V, n, 3, {self.image_size}, {self.image_size}), got {tuple(frames.shape)}; "
                f"set the data's frame size to {self.image_size}"
            )
        if frames.dtype != torch.uint8:
            raise ValueError(f"frames must be uint8 in 0..255, got {frames.dtype}; the encoder normalises them itself")
        if frame_mask.shape != frames.shape[:2]:
            raise ValueError(f"frame_mask {tuple(frame_mask.shape)} does not match frames {tuple(frames.shape)}")

    def show_patches(self, at_least: int = 1) -> None:
        """Prepares for `encode_patches`; a method that calls that calls this when it is built.

        Args:
            at_least: patches of a frame that the method needs.

        Raises:
            ConfigError: the encoder cannot, or has fewer.
        """
        raise ConfigError(
            f"{self.name} does not return the patches of its frames: use CLIPEncoder with a model whose frame is the "
            "class token of a vision transformer, such as ViT-B-32"
        )

    def encode_patches(
        self, frames: Tensor, frame_mask: Tensor, hook: TokenHook = UNCHANGED, attended: bool = False
    ) -> Patches:
        """Encodes frames, and each of their patches; a hook may let them see each other.

        Args:
            frames: as `encode_frames` takes them.
            frame_mask: likewise.
            hook: what happens to the tokens inside.
            attended: frames that do not exist are encoded too, as pictures that are zero after normalisation, and the
                hook takes them for frames like others: the released code of several methods.

        Returns:
            Zeros where the mask is False, unless `attended`.

        Raises:
            ValueError: as `encode_frames`, or `show_patches` has not been called.
        """
        raise NotImplementedError


class TextEncoder(Encoder):
    """Tokens to features.

    Attributes:
        context_length: m, the longest caption in tokens; as a constructor's argument it is `data.max_words`.
        vocabulary_size: tokens that have an embedding.
        tokenizer: the `name` of the tokeniser that its weights were trained with; None where any may be.
    """

    context_length: int
    vocabulary_size: int
    tokenizer: str | None = None

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raises ConfigError for a tokeniser or vocabulary other than the weights', or too many tokens."""
        if self.pretrained and self.tokenizer not in (None, tokenizer.name):
            raise ConfigError(
                f"{self.name} was trained with the tokeniser {self.tokenizer}, data.tokenizer is {tokenizer.name}: set "
                "data.tokenizer to the encoder's own, for models of open_clip {class_path: "
                "tvr_lightning.data.open_clip.OpenCLIPTokenizer, init_args: {model: the encoder's}}"
            )
        known = None if self.origin is None else self.origin.said.get("vocabulary")
        if self.origin is not None and known not in (None, tokenizer.vocabulary_fingerprint()):
            raise ConfigError(
                f"{self.name} was trained with another vocabulary than data.tokenizer ({tokenizer.name}) has here: set "
                f"data.tokenizer as the run of {self.origin.file} has it, vocabulary: null where it learnt its own"
            )
        if self.vocabulary_size < tokenizer.vocabulary_size:
            raise ConfigError(
                f"the tokeniser has {tokenizer.vocabulary_size} tokens, the text encoder knows {self.vocabulary_size}: "
                "set data.tokenizer and the text encoder to the same vocabulary"
            )

    @abstractmethod
    def encode_tokens(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Encodes captions token by token.

        Args:
            tokens: (T, m) of the data's tokeniser.
            token_mask: (T, m) bool, True from the first to the last token.

        Returns:
            (T, m, D), zeros where the mask is False.

        Raises:
            ValueError: captions that are too long, or a mask that does not fit.
        """

    def check_tokens(self, tokens: Tensor, token_mask: Tensor) -> None:
        """Raises ValueError for captions that are too long, or a mask that does not fit."""
        if tokens.shape[1] > self.context_length:
            raise ValueError(
                f"captions of {tokens.shape[1]} tokens exceed context_length={self.context_length}; give the encoder "
                "and the tokeniser the same context_length"
            )
        if token_mask.shape != tokens.shape:
            raise ValueError(f"token_mask {tuple(token_mask.shape)} does not match tokens {tuple(tokens.shape)}")


class DualEncoder(FrameEncoder, TextEncoder):
    """Frames, sentences and words to one space, as CLIP.

    Attributes:
        logit_scale_init: the factor on cosines that pretraining ended with, else 1 / 0.07.
        logit_bias_init: what pretraining ended with adding to them, 0 where it added nothing. It is one number for all
            pairs: neither a softmax over a batch nor a ranking sees it, so no method here adds it or learns one (its
            gradient would be zero); a loss that looks at each pair alone, such as SigLIP's sigmoid, starts from it.
    """

    logit_scale_init: float = 1 / 0.07
    logit_bias_init: float = 0.0

    @abstractmethod
    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sentences (T, D), and words as `encode_tokens` returns them."""

    def encode_tokens(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Words (T, m, D)."""
        return self.encode_text(tokens, token_mask)[1]

    def encode_padded_text(self, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sentences (T, D) and `context_length` words (T, m, D) for `padding: attended`.

        Places behind a caption's end hold what the encoder makes of token 0 there, as released code pads captions with.

        Raises:
            NotImplementedError: unless the class says what they are; `check_padding` asks before.
            ValueError: as `encode_text`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encode_padded_text")

    @property
    def text_blocks(self) -> tuple[nn.Module, ...]:
        """The text tower's attention blocks, as which temporal layers start; none unless built like CLIP's."""
        return ()

    @property
    def text_positions(self) -> Tensor:
        """The text tower's position embeddings (context_length, width), likewise."""
        return torch.empty(0, 0)


def encoders_in(module: nn.Module) -> list[tuple[nn.Module, str, Encoder]]:
    """Every encoder inside a module, with the module that holds it and its name there.

    What an encoder is itself made of is not looked into.
    """
    found: list[tuple[nn.Module, str, Encoder]] = []
    for name, child in module.named_children():
        found += [(module, name, child)] if isinstance(child, Encoder) else encoders_in(child)
    return found


def frozen_frames(encoder: FrameEncoder) -> Frozen[VideoInput] | None:
    """Frame features of a frozen encoder, None where it trains."""
    if not encoder.frames_frozen:
        return None
    return Frozen(encoder, lambda video: encoder.encode_frames(video.frames, video.frame_mask), encoder.fingerprint())


def with_places(video: VideoInput, count: int) -> VideoInput:
    """Videos of `count` places, for code to which places without a frame are frames; ValueError for more frames.

    >>> one = VideoInput(torch.zeros(1, 2, 3, 4, 4).byte(), torch.ones(1, 2).bool(), torch.zeros(1).long())
    >>> with_places(one, 5).frame_mask
    tensor([[ True,  True, False, False, False]])
    """
    missing = count - video.frame_mask.shape[1]
    if missing < 0:
        raise ValueError(f"{count - missing} frames, but the model was built for {count}: raise max_frames")
    frames = F.pad(video.frames, (0, 0, 0, 0, 0, 0, 0, missing))
    features = F.pad(video.features, (0, 0, 0, missing))
    return VideoInput(frames, F.pad(video.frame_mask, (0, missing)), video.index, features)


def frozen_patches(encoder: FrameEncoder, hook: TokenHook = UNCHANGED) -> Frozen[VideoInput] | None:
    """The same with patches, which stand behind their frame: (V, n, (1 + p) D). The hook keeps the number of frames."""
    if not encoder.frames_frozen:
        return None

    def encode(video: VideoInput) -> Tensor:
        found = encoder.encode_patches(video.frames, video.frame_mask, hook)
        return torch.cat([found.frames[:, :, None], found.patches], dim=2).flatten(2)

    return Frozen(encoder, encode, f"{encoder.fingerprint()} patches {hook}")


def patch_features(
    encoder: FrameEncoder, video: VideoInput, hook: TokenHook = UNCHANGED, attended: bool = False
) -> Patches:
    """Frames and patches: those of `frozen_patches` that the loader brought along, else of the pixels."""
    if not video.has_features:
        return encoder.encode_patches(video.frames, video.frame_mask, hook, attended)
    tokens = video.features.unflatten(-1, (-1, encoder.embed_dim))  # (V, n, 1 + p, D)
    return Patches(tokens[:, :, 0], tokens[:, :, 1:], video.frame_mask)


def frame_features(encoder: FrameEncoder, video: VideoInput) -> Tensor:
    """Frame features (V, n, D): those that the loader brought along, else of the pixels."""
    return video.features if video.has_features else encoder.encode_frames(video.frames, video.frame_mask)


def filled_frames(encoder: FrameEncoder, frames: Tensor, frame_mask: Tensor, count: int) -> Tensor:
    """Frame features in which places without a frame hold `FrameEncoder.encode_padding`, up to `count` of them.

    Shapes: frames (V, n, D); frame_mask (V, n) bool; returns (V, max(n, count), D).
    """
    missing = max(0, count - frames.shape[1])
    padding = encoder.encode_padding().to(frames.dtype)
    filled = torch.where(frame_mask[..., None], frames, padding)
    return torch.cat([filled, padding.expand(len(frames), missing, -1)], dim=1)


def check_padding(encoder: DualEncoder, padding: Padding) -> None:
    """Refuses `padding: attended` of an encoder that has no features of places that do not exist.

    Raises:
        ConfigError: names what its class lacks.
    """
    wanted = ("encode_padding", FrameEncoder), ("encode_padded_text", DualEncoder)
    lacks = [name for name, base in wanted if getattr(type(encoder), name) is getattr(base, name)]
    if padding == "attended" and lacks:
        raise ConfigError(
            f"model.padding is attended, but {encoder.name} has no features of words and frames that do not exist: "
            f"leave it at masked, or write {' and '.join(lacks)} in {type(encoder).__name__}"
        )
