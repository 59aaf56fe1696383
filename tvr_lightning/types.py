"""The nouns of the suite, and the shape legend that every docstring uses.

T texts, V videos, P pairs, m words, n frames, N nodes, E hyperedges, D width, H heads, K code bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor
from torch.utils.data import default_collate

Padding = Literal["masked", "attended"]
"""Whether places that do not exist are left out, or take part as in code that a paper's authors released."""


@dataclass(frozen=True)
class Record:
    """One video of a split with everything its dataset says about it.

    Attributes:
        video_id: the dataset's own id.
        video_path: where the file lies (or would lie; see `VideoTextDataModule` for missing files).
        captions: the texts of this split; in paragraph datasets one joined text.
        labels: class labels, empty where the dataset has none.
        start: first second that belongs to the record, None for the file's beginning.
        end: last second that belongs to the record, None for the file's end.
        source: the longer video that this was cut from, as far as the dataset says; None where it does not.
        frame_rate: of a folder of pictures, how many there are a second; None for a video file.
    """

    video_id: str
    video_path: Path
    captions: tuple[str, ...]
    labels: tuple[int, ...] = ()
    start: float | None = None
    end: float | None = None
    source: str | None = None
    frame_rate: float | None = None


@dataclass(frozen=True)
class Probe:
    """A minimal pair: two videos of a split that differ in one respect, told apart by their captions.

    Attributes:
        kind: what differs, e.g. `order`.
        videos: the two video ids.
    """

    kind: str
    videos: tuple[str, str]


class TensorRows:
    """Base of frozen dataclasses whose fields are tensors that share their first dimension.

    Gives length, indexing, concatenation and device moves to batches and features alike, so that no method
    writes its own.
    """

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Returns a copy with `function` applied to every tensor."""
        return type(self)(**{f.name: function(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]

    def tensors(self) -> dict[str, Tensor]:
        """Returns the fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def __len__(self) -> int:
        """Number of rows."""
        return next(iter(self.tensors().values())).shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Selects rows by slice, index tensor or mask; the dimension stays."""
        return self.map(lambda x: x[rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Moves every tensor to `device`."""
        return self.map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Pins every tensor; the data loader calls this."""
        return self.map(lambda x: x.pin_memory())

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Joins parts along the first dimension."""
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})  # type: ignore[arg-type]

    @classmethod
    def of_rows(cls, rows: Sequence[Self]) -> Self:
        """Joins parts of one row each; a loader's worker writes them where the main process reads them.

        >>> ItemIndex.of_rows([ItemIndex(torch.tensor([7])), ItemIndex(torch.tensor([8]))]).index
        tensor([7, 8])
        """
        return cls(**{f.name: default_collate([getattr(r, f.name)[0] for r in rows]) for f in fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class VideoInput(TensorRows):
    """Videos, as pixels or as what a frozen encoder made of them.

    Attributes:
        frames: (V, n, 3, H, W) uint8, zeros where the mask is False; H = W = 0 where `features` are given instead.
        frame_mask: (V, n) bool, True = the frame exists.
        index: (V,) int64, position in the split's list of videos.
        features: (V, n, F) of a frozen encoder, zeros where the mask is False; F = 0 where frames are given.
    """

    frames: Tensor
    frame_mask: Tensor
    index: Tensor
    features: Tensor = None  # type: ignore[assignment]  # set below: a row of tensors has no empty fields

    def __post_init__(self) -> None:
        if self.features is None:
            object.__setattr__(self, "features", self.frames.new_empty(*self.frame_mask.shape, 0, dtype=torch.float32))

    @property
    def has_features(self) -> bool:
        """Whether features are given instead of frames."""
        return self.features.shape[-1] > 0


@dataclass(frozen=True)
class TextInput(TensorRows):
    """Tokenised captions.

    Attributes:
        tokens: (T, m) int64.
        token_mask: (T, m) bool, True from start to end token.
        index: (T,) int64, position in the split's list of captions.
        video_index: (T,) int64, position of the caption's video in the split's list of videos.
        word: (T, m) int64, which of the caption's textual nodes a token is a piece of; -1 for none.
        features: (T, w, F) that a frozen encoder made of the captions; F = 0 where they are not kept.
    """

    tokens: Tensor
    token_mask: Tensor
    index: Tensor
    video_index: Tensor
    word: Tensor = None  # type: ignore[assignment]
    features: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.word is None:
            object.__setattr__(self, "word", torch.full_like(self.tokens, -1))
        if self.features is None:
            object.__setattr__(self, "features", self.tokens.new_empty(len(self.tokens), 0, 0, dtype=torch.float32))

    @property
    def has_features(self) -> bool:
        """Whether features are given besides the tokens."""
        return self.features.shape[-1] > 0


@dataclass(frozen=True)
class VideoTextBatch:
    """A training batch: row i of `text` describes row i of `video`.

    Attributes:
        text: B captions.
        video: their B videos.
        augmented: another, augmented view of the same pairs, where the data module makes one.
    """

    text: TextInput
    video: VideoInput
    augmented: VideoTextBatch | None = None

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.text)

    def map(self, function: Callable[[Tensor], Tensor]) -> VideoTextBatch:
        """Returns a copy with `function` applied to every tensor."""
        second = None if self.augmented is None else self.augmented.map(function)
        return VideoTextBatch(self.text.map(function), self.video.map(function), second)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> VideoTextBatch:
        """Moves every part to `device`."""
        return self.map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> VideoTextBatch:
        """Pins every part; the data loader calls this."""
        return self.map(lambda x: x.pin_memory())

    @classmethod
    def of_rows(cls, rows: Sequence[VideoTextBatch]) -> VideoTextBatch:
        """Joins batches of one pair each; see `TensorRows.of_rows`.

        Raises ValueError where some have a second view and others none: the views would no longer be of the same pairs.
        """
        second = [p.augmented for p in rows if p.augmented is not None]
        if len(second) not in (0, len(rows)):
            raise ValueError(f"{len(second)} of {len(rows)} pairs have a second view; all must have one, or none")
        return cls(
            TextInput.of_rows([p.text for p in rows]),
            VideoInput.of_rows([p.video for p in rows]),
            cls.of_rows(second) if second else None,
        )


@dataclass(frozen=True)
class TextFeatures(TensorRows):
    """Features of captions for methods that look at words.

    Attributes:
        sentence: (T, D).
        words: (T, m, D), one row per token.
        word_mask: (T, m) bool.
    """

    sentence: Tensor
    words: Tensor
    word_mask: Tensor


@dataclass(frozen=True)
class SentenceFeatures(TensorRows):
    """One vector a caption.

    Attributes:
        sentence: (T, D).
    """

    sentence: Tensor


@dataclass(frozen=True)
class VideoFeatures(TensorRows):
    """Features of videos for methods that look at frames.

    Attributes:
        frames: (V, n, D), zeros where the mask is False.
        frame_mask: (V, n) bool.
    """

    frames: Tensor
    frame_mask: Tensor


@dataclass(frozen=True)
class StillFeatures(VideoFeatures):
    """Features of videos with frames that know nothing of each other beside those that do.

    Attributes:
        still: (V, n, D) of the encoder, before the temporal encoder.
    """

    still: Tensor


@dataclass(frozen=True)
class ItemIndex(TensorRows):
    """(N,) int64, which items of a split the rows of features are."""

    index: Tensor


@dataclass(frozen=True)
class CodeFeatures(TensorRows):
    """Binary codes of texts or of videos; methods that give them are measured by hashing metrics too.

    Attributes:
        real: (N, K) relaxed codes.
        source: (N, F) the frozen features that the codes were made from; baselines hash the same.
    """

    real: Tensor
    source: Tensor

    @property
    def codes(self) -> Tensor:
        """(N, K) int8 in -1, +1; zero counts as +1."""
        return torch.where(self.real >= 0, 1, -1).to(torch.int8)
