"""Figures that describe a dataset: captions, words, durations and labels per video, as numbers and histograms.

This module imports no torch; `seconds_of` runs in worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from tvr_lightning.data.stores.files import is_file
from tvr_lightning.data.tools.parallel import map_in_processes
from tvr_lightning.data.video.container import OpenVideo, first_that_decodes
from tvr_lightning.data.video.packets import MAX_SECONDS, promised_seconds, scan
from tvr_lightning.errors import DecodeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tvr_lightning.data.annotations.base import Annotations

QUANTITIES = {
    "captions_per_video": "captions of a video",
    "words_per_caption": "words of a caption",
    "duration": "length of a video in seconds",
    "labels_per_video": "labels of a video",
}
_BINS = 40


@dataclass(frozen=True)
class SplitStatistics:
    """What a split holds.

    Attributes:
        name: the split.
        videos: listed videos.
        captions: their captions.
        missing: videos without a file; they have no duration.
        unreadable: videos whose file does not say how long it is.
        values: for each of `QUANTITIES` one number per video or caption; no labels where the dataset has none.
    """

    name: str
    videos: int
    captions: int
    missing: int
    unreadable: int
    values: dict[str, np.ndarray[Any, np.dtype[np.float64]]]

    def summary(self) -> dict[str, Any]:
        """The same as plain numbers: of each quantity the mean, the median, the ends and the sum."""
        counts = {k: getattr(self, k) for k in ("videos", "captions", "missing", "unreadable")}
        figures: dict[str, Any] = {"split": self.name, **counts}
        for name, values in self.values.items():
            if len(values):
                figures[name] = {
                    "mean": float(values.mean()),
                    "median": float(np.median(values)),
                    "min": float(values.min()),
                    "max": float(values.max()),
                    "sum": float(values.sum()),
                }
        return figures


def describe_dataset(annotations: Annotations, workers: int | None = None) -> list[SplitStatistics]:
    """Describes every split of a dataset.

    Args:
        annotations: the dataset's reader.
        workers: processes that open videos; None for one per core.

    Raises:
        DataError: annotation files are missing or broken.
    """
    splits = {name: annotations.load(name) for name in annotations.splits}
    paths = [record.video_path for records in splits.values() for record in records]
    files = [path for path in paths if is_file(path)]
    seconds = dict(zip(files, map_in_processes(seconds_of, files, workers, "reading", chunk=16), strict=True))
    described = []
    for name, records in splits.items():
        found = [seconds[r.video_path] for r in records if r.video_path in seconds]
        captions = [caption for record in records for caption in record.captions]
        labels = [len(record.labels) for record in records]
        values: dict[str, Sequence[float]] = {
            "captions_per_video": [len(record.captions) for record in records],
            "words_per_caption": [len(caption.split()) for caption in captions],
            "duration": [s for s in found if s is not None],
            "labels_per_video": labels if any(labels) else [],
        }
        described.append(
            SplitStatistics(
                name,
                videos=len(records),
                captions=len(captions),
                missing=len(records) - len(found),
                unreadable=found.count(None),
                values={key: np.array(numbers, dtype=np.float64) for key, numbers in values.items()},
            )
        )
    return described


def seconds_of(path: Path) -> float | None:
    """Length of a video by its header, or by its packets where that says nothing; None when it cannot be read."""

    def read(video: OpenVideo) -> float:
        stream = video.stream
        tick = float(stream.time_base or 0)
        first = max((stream.start_time or 0) * tick, 0)  # an edit list hides what comes before 0
        seconds = promised_seconds(video.container, stream, 1 / float(stream.guessed_rate or 25), first)
        if seconds is None:
            seconds = (stream.duration or 0) * tick or (video.container.duration or 0) / av.time_base
        if 0 < seconds < MAX_SECONDS:
            return seconds
        return scan(video).timeline.stop

    try:
        return first_that_decodes(path, read)
    except DecodeError:  # counted as unreadable
        return None


def draw_histograms(dataset: str, splits: Sequence[SplitStatistics]) -> dict[str, Figure]:
    """Draws a figure for each quantity that a dataset has, one panel per split over one scale."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figures = {}
    for name, label in QUANTITIES.items():
        shown = [split for split in splits if len(split.values[name])]
        if not shown:
            continue
        joined = np.concatenate([split.values[name] for split in shown])
        edges = _edges(joined, whole=name != "duration")
        figure = Figure(figsize=(7.0, 0.9 + 1.7 * len(shown)), dpi=110, layout="constrained")
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, split in zip(panels, shown, strict=True):
            values = split.values[name]
            axes.hist(values, bins=edges, color="tab:blue", edgecolor="white", linewidth=0.4)
            axes.axvline(values.mean(), color="tab:red", linewidth=1.2)
            axes.set_title(f"{split.name}: {len(values):,}, mean {values.mean():.1f}", fontsize=10, loc="left")
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.spines[["top", "right"]].set_visible(False)
        if name != "duration":
            panels[-1].xaxis.set_major_locator(MaxNLocator(12, integer=True))
        panels[-1].set_xlabel(label)
        figure.supylabel("captions" if name == "words_per_caption" else "videos", fontsize=10)
        figure.suptitle(dataset, fontsize=11)
        figures[name] = figure
    return figures


def _edges(values: np.ndarray[Any, np.dtype[np.float64]], whole: bool) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Bin edges; those of whole numbers lie between them, as many numbers in each bin."""
    low, high = float(values.min()), float(values.max())
    if whole:
        step = max(1, -(-int(high - low + 1) // _BINS))
        return np.arange(low - 0.5, high + step, step)
    return np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
