"""A split as it is trained on or evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tvr_lightning.data.dataset import TokenizedCaptions, VideoReader
from tvr_lightning.types import Record


@dataclass(frozen=True)
class Split:
    """A split as it will be used, with account of what is not in it.

    Attributes:
        name: `train`, `validation` or `test`.
        records: videos that take part.
        captions: their captions, tokenised.
        listed: how many videos the annotation files name.
        missing: ids of listed videos without a file.
        without_captions: ids of videos that no caption describes.
        probes: minimal pairs, as (kind, row of video a, row of video b).
        repeats: records that show what another one of the split shows.
        distractors: how many of the last records stand in the gallery and are never looked for.
        relevant: (R, 2) int64, further right videos: rows of captions and of records; see `protocol.read_relevance`.
        relevance: what names these in results; empty without.
    """

    name: str
    records: tuple[Record, ...]
    captions: TokenizedCaptions
    listed: int
    missing: tuple[str, ...] = ()
    without_captions: tuple[str, ...] = ()
    probes: tuple[tuple[str, int, int], ...] = ()
    repeats: int = 0
    distractors: int = 0
    relevant: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.int64))
    relevance: str = ""
    reader: VideoReader = field(repr=False, kw_only=True)

    @property
    def undecodable(self) -> tuple[str, ...]:
        """Ids of videos that were skipped because they cannot be decoded, so far."""
        return tuple(self.records[i].video_id for i in torch.nonzero(self.reader.failed)[:, 0].tolist())

    @property
    def caption_video(self) -> Tensor:
        """(T,) int64, the row of each caption's video."""
        return self.captions.video_index

    def summary(self) -> dict[str, Any]:
        """Sizes and everything that was left out, for `metrics.json` and the start-up table."""
        nodes = self.captions.truncated_nodes
        return {
            "split": self.name,
            "videos": len(self.records),
            "captions": len(self.captions),
            "listed": self.listed,
            "missing": len(self.missing),
            "without_captions": len(self.without_captions),
            "undecodable": len(self.undecodable),
            "repeats": self.repeats,
            **({"distractors": self.distractors} if self.distractors else {}),
            **({"relevant": len(self.relevant)} if len(self.relevant) else {}),
            "truncated_captions": self.captions.truncated,
            **({} if nodes is None else {"truncated_nodes": nodes}),
        }
