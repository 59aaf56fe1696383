"""Pictures of what a method shows of a caption and a video, whatever the method is; see `methods.views`."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tvr_lightning.errors import DecodeError
from tvr_lightning.methods.views import Frame, Label, Maps, View, Weights, Word
from tvr_lightning.types import TextInput, VideoInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tvr_lightning.data.datamodule import VideoTextDataModule
    from tvr_lightning.data.split import Split
    from tvr_lightning.methods.base import RetrievalModule

LETTER = 0.085  # inches, the width of one at most
ROW, BARS = 0.25, 1.4  # inches, heights of a row of a map, of bars or a line
LINE, TITLE, TICKS = 0.2, 0.35, 0.4  # of a line of the head, above a panel, below it
COLUMN = 0.3  # inches at least
SMALLEST, WIDEST = 0.5, 1.15  # of a frame


@dataclass(frozen=True)
class Query:
    """A caption and the video to look at.

    Attributes:
        text: the caption as written.
        tokens: tokenised, a batch of one.
        video: the video's row in the split.
    """

    text: str
    tokens: TextInput
    video: int


@dataclass(frozen=True)
class Pair:
    """A caption and a video as a method sees them.

    Attributes:
        caption: the text.
        words: its tokens as text, start and end left out.
        video_id: the video.
        frames: (n, 3, H, W) uint8, the frames that exist.
        times: (n,) seconds from the beginning of the video.
        score: the score that ranks.
        views: what the method shows.
    """

    caption: str
    words: tuple[str, ...]
    video_id: str
    frames: Tensor
    times: Tensor
    score: float
    views: tuple[View, ...]

    def spell(self, label: Label) -> str:
        """A label as text."""
        if isinstance(label, Frame):
            return f"frame {label.place + 1}"
        if isinstance(label, Word):
            # the start token comes first; what goes on ends in a dash
            pieces = [self.words[token - 1] for token in label.tokens]
            return label.prefix + "".join([*(piece.removesuffix("-") for piece in pieces[:-1]), *pieces[-1:]])
        return label

    @property
    def text(self) -> str:
        """What pictures of it write."""
        return "".join((self.caption, self.video_id, *self.words))


def own_query(split: Split, caption: int) -> Query:
    """A caption of a split with its own video."""
    tokens = split.captions.rows(torch.tensor([caption]))
    return Query(split.captions.captions[caption], tokens, int(tokens.video_index))


@torch.no_grad()
def see(model: RetrievalModule[Any, Any], data: VideoTextDataModule, split: Split, query: Query) -> Pair:
    """What a method sees of a query and its video.

    Raises:
        DecodeError: the video cannot be decoded.
    """
    video_id = split.records[query.video].video_id
    clip = split.reader.watch(query.video)
    if clip is None:
        raise DecodeError(f"video {video_id} cannot be decoded; choose another")
    text = query.tokens.to(model.device)
    video = VideoInput(clip.frames[None], clip.mask[None], torch.tensor([query.video])).to(model.device)
    features = model.encode_text(text), model.encode_video(video)
    if model.reads_ground_truth:  # it is told that the two belong together
        features = model.match(*features, torch.zeros(1, dtype=torch.int64))
    return Pair(
        query.text,
        data.tokenizer.spell(query.text, query.tokens.tokens[0]),
        video_id,
        clip.frames[clip.mask],
        clip.times[clip.mask],
        float(model.score(*features)),
        tuple(model.explain(text, video)),
    )


def wrapped(text: str, inches: float) -> str:
    """Breaks a text into lines that fit a width; letters of East Asia take two places."""
    text = " ".join(text.split())
    places = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return textwrap.fill(text, max(20, round(inches / LETTER * len(text) / max(1, places))))


def draw_maps(pair: Pair, maps: Maps) -> Figure:
    """The video's frames with their times, and below them a panel for each of the weights.

    A panel whose columns are frames stands column by column below them. A single row of weights is drawn as bars, or
    as a line where its columns are frames; light colours are high weights.
    """
    from matplotlib.figure import Figure

    count = len(pair.frames)
    frame = min(WIDEST, max(SMALLEST, 14 / count))
    sides = 1.2 + LETTER * max(len(pair.spell(row)) for panel in maps.panels for row in panel.rows)
    columns = max(len(panel.columns) for panel in maps.panels)
    width = max(6.5, sides + max(frame * count, COLUMN * columns))
    inner = width - sides
    title = wrapped(f"“{pair.caption}”", width) + f"\nvideo {pair.video_id}, score {pair.score:.2f}"
    heights = [min(inner / count, WIDEST), *(BARS if len(p.rows) == 1 else ROW * len(p.rows) for p in maps.panels)]
    around = [TICKS, *(TITLE + _labels_height(pair, panel, inner) for panel in maps.panels)]
    total = sum(heights) + sum(around) + LINE * (title.count("\n") + 1)
    figure = Figure(figsize=(width, total), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    strip, *others = figure.subplots(1 + len(maps.panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_frames(strip, pair, heights[0] * count / inner)
    for axes, panel in zip(others, maps.panels, strict=True):
        _draw_weights(figure, axes, pair, panel, inner)
    return figure


def _over_frames(panel: Weights) -> bool:
    return all(isinstance(column, Frame) for column in panel.columns)


def _columns(pair: Pair, panel: Weights, inner: float) -> tuple[list[str], bool]:
    """Labels of a panel's columns, and whether they stand upright because they would not fit."""
    if _over_frames(panel):
        return [str(column.place + 1) for column in panel.columns if isinstance(column, Frame)], False
    labels = [pair.spell(column) for column in panel.columns]
    return labels, LETTER * (max(map(len, labels)) + 1) > inner / len(labels)


def _labels_height(pair: Pair, panel: Weights, inner: float) -> float:
    labels, upright = _columns(pair, panel, inner)
    return LETTER * max(map(len, labels)) if upright else TICKS


def _draw_frames(axes: Axes, pair: Pair, size: float) -> None:
    """Frames above their columns, of which each takes a share."""
    for i, frame in enumerate(pair.frames):
        half = 0.485 * size
        axes.imshow(frame.permute(1, 2, 0).numpy(), extent=(i - half, i + half, 1, 0), aspect="auto")
    axes.set_xticks(
        range(len(pair.frames)), [f"{i + 1}\n{time:.1f} s" for i, time in enumerate(pair.times.tolist())], fontsize=8
    )
    axes.set(yticks=[], xlim=(-0.5, len(pair.frames) - 0.5), ylim=(1, 0))
    axes.spines[:].set_visible(False)


def _draw_weights(figure: Figure, axes: Axes, pair: Pair, panel: Weights, inner: float) -> None:
    import matplotlib

    values = panel.values.float().cpu().numpy()
    labels, upright = _columns(pair, panel, inner)
    places = range(len(labels))
    axes.set_title(panel.title + _remark(panel), fontsize=9, loc="left")
    axes.set_xticks(places, labels, rotation=90 if upright else 0, fontsize=8)
    if len(panel.rows) > 1:
        colours = matplotlib.colormaps["magma"].with_extremes(bad="0.85")
        image = axes.imshow(values, aspect="auto", cmap=colours, vmin=min(0.0, float(panel.values.nan_to_num().min())))
        axes.set_yticks(range(len(panel.rows)), [pair.spell(row) for row in panel.rows], fontsize=8)
        figure.colorbar(image, ax=axes, pad=0.01).set_label(panel.unit, fontsize=8)
        image.colorbar.ax.tick_params(labelsize=8)  # type: ignore[union-attr]
    else:
        if _over_frames(panel):
            axes.plot(places, values[0], marker="o")
        else:
            axes.bar(places, values[0])
        axes.set_ylabel(panel.unit, fontsize=8)
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    if _over_frames(panel):
        axes.set_xlabel("frame", fontsize=8)


def _remark(panel: Weights) -> str:
    return " (grey: not connected)" if bool(panel.values.isnan().any()) else ""


def maps_of(views: Sequence[View]) -> list[Maps]:
    """The views that are drawn of one pair alone."""
    return [view for view in views if isinstance(view, Maps)]
