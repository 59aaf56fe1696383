"""The nouns of the suite, and the shape legend that every docstring uses.

T texts, V videos, P pairs, m words, n frames, N nodes, E hyperedges, D width, H heads, K code bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import torch
from torch import Tensor


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
    """

    video_id: str
    video_path: Path
    captions: tuple[str, ...]
    labels: tuple[int, ...] = ()
    start: float | None = None
    end: float | None = None


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


@dataclass(frozen=True)
class VideoInput(TensorRows):
    """Decoded videos.

    Attributes:
        frames: (V, n, 3, H, W) uint8, zeros where the mask is False.
        frame_mask: (V, n) bool, True = the frame exists.
        index: (V,) int64, position in the split's list of videos.
    """

    frames: Tensor
    frame_mask: Tensor
    index: Tensor


@dataclass(frozen=True)
class TextInput(TensorRows):
    """Tokenised captions.

    Attributes:
        tokens: (T, m) int64.
        token_mask: (T, m) bool, True from start to end token.
        index: (T,) int64, position in the split's list of captions.
        video_index: (T,) int64, position of the caption's video in the split's list of videos.
    """

    tokens: Tensor
    token_mask: Tensor
    index: Tensor
    video_index: Tensor


@dataclass(frozen=True)
class VideoTextBatch:
    """A training batch: row i of `text` describes row i of `video`."""

    text: TextInput
    video: VideoInput

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.text)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> VideoTextBatch:
        """Moves both halves to `device`."""
        return VideoTextBatch(self.text.to(device, non_blocking), self.video.to(device, non_blocking))

    def pin_memory(self) -> VideoTextBatch:
        """Pins both halves; the data loader calls this."""
        return VideoTextBatch(self.text.pin_memory(), self.video.pin_memory())


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
class VideoFeatures(TensorRows):
    """Features of videos for methods that look at frames.

    Attributes:
        frames: (V, n, D), zeros where the mask is False.
        frame_mask: (V, n) bool.
    """

    frames: Tensor
    frame_mask: Tensor
