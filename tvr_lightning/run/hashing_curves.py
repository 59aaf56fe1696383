"""Precision over recall and over radius of a run's codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tvr_lightning.run.results import DIRECTIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tvr_lightning.metrics.hashing import PrecisionRecall

PR_CURVE, PR_FIGURE = "pr_curve.json", "pr_curve.png"


def curve_points(curves: Mapping[str, PrecisionRecall]) -> dict[str, dict[str, list[float]]]:
    """Curves as plain numbers, by direction: what `pr_curve.json` holds."""
    fields = ("radius", "precision", "recall", "retrieving")
    return {d: {name: getattr(curve, name).tolist() for name in fields} for d, curve in curves.items()}


def draw_precision_recall(points: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """Precision over recall, and precision over Hamming radius with the share of queries that retrieve something."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for (direction, curve), colour in zip(points.items(), ("tab:blue", "tab:orange"), strict=False):
        name = DIRECTIONS[direction]
        left.plot(curve["recall"], curve["precision"], "o-", markersize=2.5, color=colour, label=name)
        right.plot(curve["radius"], curve["precision"], "-", color=colour, label=f"{name}, precision")
        right.plot(curve["radius"], curve["retrieving"], ":", color=colour, label=f"{name}, queries with a result")
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, None))
    right.set(xlabel="Hamming radius", ylim=(0, 1.02))
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure
