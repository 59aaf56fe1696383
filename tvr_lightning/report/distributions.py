"""Pictures of what a method shows over many matching pairs: distributions of a few numbers, clouds of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tvr_lightning.errors import NothingToDraw
from tvr_lightning.methods.views import Parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TSNE = "sklearn"
NO_TSNE = (
    "t-SNE needs scikit-learn, which is not installed: uv pip install 'tvr-lightning[reports]', or scikit-learn alone"
)
FEWEST = 5  # vectors that t-SNE can arrange
BOX = 0.8  # of the place of a part, what its boxes or bars take together


def draw_parts(video_id: str, own: Parts, runs: Sequence[tuple[str, Mapping[str, Tensor]]]) -> Figure:
    """A pair's numbers as bars, and beside them their distribution over matching pairs of one or several runs.

    Args:
        video_id: of the pair.
        own: the pair's.
        runs: each with its name and the numbers of its pairs, (pairs, C) for each series.
    """
    from matplotlib.figure import Figure

    slots = len(own.names)
    figure = Figure(figsize=(4.0 * (1 + len(runs)) + 0.5, 3.9), dpi=110, layout="constrained")
    first, *others = figure.subplots(1, 1 + len(runs), squeeze=False)[0]
    colours = {
        name: f"C{i}" for i, name in enumerate(dict.fromkeys([*own.series, *(n for _, found in runs for n in found)]))
    }
    for offset, name, values in _beside(own.series):
        step = BOX / len(own.series)
        first.bar([i + offset for i in range(slots)], values.tolist(), 0.9 * step, color=colours[name], label=name)
    first.axhline(0, color="black", linewidth=0.8)
    first.set_title(f"this pair\nvideo {video_id}", fontsize=9)
    first.set_ylabel(own.unit)
    values = torch.cat([values.flatten() for _, found in runs for values in found.values()])
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low or 1.0)
    for axes, (title, found) in zip(others, runs, strict=True):
        spreads = []
        for offset, name, sample in _beside(found):
            boxes = axes.boxplot(
                sample.numpy(), positions=[i + offset for i in range(slots)], widths=0.8 * BOX / len(found),
                patch_artist=True, showmeans=True, manage_ticks=False, flierprops={"markersize": 2},
                meanprops={"marker": "D", "markersize": 3, "markerfacecolor": "white", "markeredgecolor": "black"},
                medianprops={"color": "black"},
            )  # fmt: skip
            for box in boxes["boxes"]:
                box.set(facecolor=colours[name], alpha=0.6)
            if slots > 1:
                spreads.append(f"{name} {float(sample.var(1).mean()):.3g}")
        count = len(next(iter(found.values())))
        spread = f"\nmean variance: {', '.join(spreads)}" if spreads else ""
        axes.set_title(f"{title}, {count} matching pairs{spread}", fontsize=9)
        axes.set_ylim(low - margin, high + margin)  # runs are compared on one scale
        axes.set_ylabel(own.unit)
    for axes in (first, *others):
        axes.set_xticks(range(slots), own.names, rotation=20, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_xlim(-0.6, slots - 0.4)
    if len(own.series) > 1:
        first.legend(fontsize=8)
    return figure


def _beside(series: Mapping[str, Tensor]) -> list[tuple[float, str, Tensor]]:
    """Series that stand side by side at each part, with their offset from its place."""
    step = BOX / len(series)
    return [((i - (len(series) - 1) / 2) * step, name, values) for i, (name, values) in enumerate(series.items())]


def can_draw_clouds() -> bool:
    """Whether t-SNE is installed."""
    return find_spec(TSNE) is not None


def draw_clouds(
    title: str, clouds: Mapping[str, Sequence[Tensor]], one: str = "pair", many: str = "matching pairs"
) -> Figure:
    """Vectors of several pairs in two dimensions (t-SNE, van der Maaten and Hinton 2008), a colour a pair.

    Args:
        title: of the picture, such as the run's name.
        clouds: by what they are of, the vectors of each pair, (n, D); `FEWEST` or more of all pairs together.
        one: what has a colour.
        many: several of them.
    """
    import matplotlib
    from matplotlib.figure import Figure

    manifold = import_module(f"{TSNE}.manifold")
    figure = Figure(figsize=(5.0 * len(clouds), 5.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(clouds), squeeze=False)[0]
    for axes, (name, pairs) in zip(panels, clouds.items(), strict=True):
        vectors = torch.cat(list(pairs)).numpy()
        if not vectors.std(0).any():  # t-SNE ends the process
            raise NothingToDraw(f"{name}: all {len(vectors)} vectors are the same, there is nothing to arrange")
        whose = torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor([len(x) for x in pairs])).numpy()
        arrange = manifold.TSNE(2, perplexity=min(30.0, (len(vectors) - 1) / 3), init="pca", random_state=0)
        places = arrange.fit_transform(vectors)
        colours = matplotlib.colormaps["turbo"](torch.linspace(0, 1, len(pairs)).numpy())
        markers = ("o", "s", "^", "D")  # neighbouring colours look alike
        for number, colour in enumerate(colours):
            own = places[whose == number]
            axes.scatter(own[:, 0], own[:, 1], s=14, color=[colour], marker=markers[number % len(markers)], linewidth=0)
        text = f"{name}: {len(vectors)} vectors of {len(pairs)} {many}"
        axes.set_title(text, fontsize=10 if len(text) < 60 else 7)
        axes.set(xticks=[], yticks=[])
    figure.suptitle(f"{title}: t-SNE, a colour and mark a {one}; distances between groups have no unit", fontsize=9)
    return figure
