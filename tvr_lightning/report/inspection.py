"""Pictures of what a method looks at: attention over frames (TC-MGC, Fig. 11) and its contrasts' scores (Fig. 12)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tvr_lightning.data.annotations.base import TEST
from tvr_lightning.data.stores.files import atomic_write
from tvr_lightning.errors import ConfigError, DataError, DecodeError, nearest
from tvr_lightning.evaluation import encode_videos, score_all
from tvr_lightning.run.attention import HasFrameAttention, Pair, draw_attention, inspect_pair
from tvr_lightning.run.load import load_run
from tvr_lightning.types import TextInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tvr_lightning.data.datamodule import VideoTextDataModule
    from tvr_lightning.data.split import Split
    from tvr_lightning.methods.base import RetrievalModule

PAIRS = 200  # matching pairs of the test split that the distribution of scores shows
FOLDER = "inspect"


@dataclass(frozen=True)
class Inspected:
    """A run's trained method over its test split.

    Attributes:
        name: how figures call the run.
        model: with the weights that its result came from.
        data: with the test split set up.
    """

    name: str
    model: RetrievalModule[Any, Any]
    data: VideoTextDataModule

    @property
    def split(self) -> Split:
        """The test split."""
        return self.data.splits[TEST]


def open_run(path: Path, trust: bool = False) -> Inspected:
    """Builds a run's method and data from its folder and loads its weights.

    Args:
        path: the run's folder.
        trust: see `load_run`.

    Raises:
        RunError: no run folder. ConfigError: its method has nothing to draw. CheckpointError: no readable weights.
    """
    run = load_run(path, trust=trust)
    if not isinstance(run.model, HasFrameAttention):
        raise ConfigError(f"{path}: {type(run.model).__name__} has no attention over frames to draw")
    run.data.setup("test")
    return Inspected(f"{path.parent.name}/{path.name}", run.model, run.data)


def find_pair(run: Inspected, query: str, video_id: str | None = None) -> tuple[TextInput, int]:
    """Turns a query into a caption and the row of a video.

    Args:
        run: the run.
        query: the id of a test caption (`video7#0`; a bare video id means its first), or any text.
        video_id: the video to look at; by default the caption's own, and for other text the best of the test split.

    Raises:
        DataError: no such video, or no caption in the text.
    """
    split = run.split
    ids = [record.video_id for record in split.records]
    rows = {name: row for row, name in enumerate(ids)}
    if video_id is not None and video_id not in rows:
        raise DataError(f"{run.data.dataset} test has no video '{video_id}'; {nearest(video_id, ids)}")
    named = re.fullmatch(r"(.+?)(?:#(\d+))?", query)
    if named and named[1] in rows:
        own, place = rows[named[1]], int(named[2] or 0)
        if place >= int(split.captions.counts[own]):
            raise DataError(f"video '{named[1]}' has {int(split.captions.counts[own])} test captions, no #{place}")
        caption = split.captions.rows(split.captions.first[own][None] + place)
        return caption, own if video_id is None else rows[video_id]
    tokens = run.data.tokenizer([query])
    unlisted = torch.tensor([-1])
    caption = TextInput(tokens.tokens, tokens.mask, unlisted, unlisted)
    if video_id is not None:
        return caption, rows[video_id]
    videos = encode_videos(run.model, run.data.evaluation_loaders(split)[1])
    with torch.inference_mode():
        best = score_all(run.model, run.model.encode_text(caption), videos)[0].argmax()
    return caption, int(best)


def look(run: Inspected, caption: TextInput, video: int) -> Pair:
    """Encodes a caption and a video of the test split and takes the method's attention and scores."""
    split = run.split
    clip = split.reader.read(video)
    if clip is None:
        raise DecodeError(f"video {split.records[video].video_id} cannot be decoded; choose another")
    return inspect_pair(run.model, run.data, caption, clip, split.records[video].video_id)


def matching_scores(run: Inspected, count: int = PAIRS) -> Tensor:
    """Contrast scores of the first matching test pairs, (pairs, number of contrasts)."""
    found = []
    for video in range(min(count, len(run.split.records))):
        pair = look(run, run.split.captions.rows(run.split.captions.first[video][None]), video)
        found.append(list(pair.scores.values()))
    return torch.tensor(found)


def draw_contrasts(pair: Pair, distributions: Sequence[tuple[str, Tensor]]) -> Figure:
    """This pair's contrast scores, and their distribution over matching test pairs of one or several runs."""
    from matplotlib.figure import Figure

    names = [name.replace("_", "-") for name in pair.scores]
    figure = Figure(figsize=(5.0 + 4.0 * len(distributions), 3.6), dpi=110, layout="constrained")
    first, *others = figure.subplots(1, 1 + len(distributions), squeeze=False)[0]
    first.bar(names, list(pair.scores.values()), color="tab:blue")
    first.axhline(0, color="black", linewidth=0.8)
    first.set_title(f"this pair ({pair.video_id})", fontsize=10)
    first.set_ylabel("scaled score")
    lows, highs = zip(*((float(s.min()), float(s.max())) for _, s in distributions), strict=True)
    margin = 0.05 * (max(highs) - min(lows) or 1.0)
    for axes, (title, scores) in zip(others, distributions, strict=True):
        axes.boxplot(scores.numpy(), tick_labels=names[: scores.shape[1]], showmeans=True)
        spread = float(scores.var(1).mean()) if scores.shape[1] > 1 else 0.0
        axes.set_title(f"{title}\n{len(scores)} matching pairs, mean variance {spread:.3g}", fontsize=10)
        axes.set_ylim(min(lows) - margin, max(highs) + margin)  # runs are compared on one scale
    for axes in (first, *others):
        axes.tick_params(axis="x", rotation=20)
    return figure


def inspect_run(
    path: Path, query: str, video_id: str | None = None, against: Sequence[Path] = (), trust: bool = False
) -> list[Path]:
    """Draws what a run's method sees of a query; writes PNG files below the run's folder.

    Args:
        path: the run's folder.
        query: see `find_pair`.
        video_id: see `find_pair`.
        against: further runs whose scores stand beside, such as one without decorrelation.
        trust: see `load_run`; of all these runs.

    Returns:
        The files written.
    """
    run = open_run(path, trust)
    pair = look(run, *find_pair(run, query, video_id))
    others = [open_run(other, trust) for other in against]
    for other in others:
        if other.model.contrasts != run.model.contrasts:
            raise ConfigError(
                f"{other.name} has the contrasts {other.model.contrasts}, {run.name} {run.model.contrasts}"
            )
    distributions = [(r.name, matching_scores(r)) for r in (run, *others)]
    folder = path / FOLDER
    folder.mkdir(exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", query)[:60].strip("_.") or "query"
    written = []
    for name, figure in (("attention", draw_attention(pair)), ("contrasts", draw_contrasts(pair, distributions))):
        target = folder / f"{stem}-{name}.png"
        with atomic_write(target) as temporary:
            figure.savefig(temporary, format="png")
        written.append(target)
    return written
