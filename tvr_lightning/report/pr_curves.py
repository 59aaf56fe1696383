"""Precision over recall of several runs' codes in one picture (SPTCH, Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tvr_lightning.errors import NothingToDraw
from tvr_lightning.report.comparison import Comparison
from tvr_lightning.report.groups import database_of
from tvr_lightning.run.hashing_curves import PR_CURVE
from tvr_lightning.run.reading import damaged, read_json
from tvr_lightning.run.results import DIRECTIONS, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Sequence[tuple[float, float]]


def read_pr_curve(run: Run) -> Mapping[str, Curve]:
    """(recall, precision) by Hamming radius, by direction; empty where the run kept none.

    Raises:
        RunError: the file is damaged.
    """
    path = run.path / PR_CURVE
    if not path.is_file():
        return {}
    content = read_json(path)
    try:
        found = {d: (_shares(content[d], "recall"), _shares(content[d], "precision")) for d in DIRECTIONS}
        return {d: [*zip(*both, strict=True)] for d, both in found.items()}
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise damaged(path, error) from None


def _shares(curve: Mapping[str, Any], name: str) -> list[float]:
    values = [float(value) for value in curve[name]]
    if not values or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"{name} is no list of shares")
    return values


def name_of_codes(run: Run, shared: bool) -> str:
    """A run with its code length, and what it is measured on where that is not shared by all."""
    facts = run.content["hashing"]
    where = "" if shared else f", {run.test_set}, database {facts['database']}"
    marks = f" ({'; '.join(run.marks)})" if run.marks else ""
    return f"{run.content['experiment']}/{run.path.name}, {facts['bits']} bits{where}{marks}"


def draw_pr_curves(comparison: Comparison) -> Figure:
    """Precision over recall within a growing Hamming radius, a line a run, a panel a direction.

    Raises:
        NothingToDraw: no run kept a curve.
    """
    from matplotlib.figure import Figure

    kept = [(run, curves) for run in comparison.runs if (curves := read_pr_curve(run)) and run.content.get("hashing")]
    if not kept:
        raise NothingToDraw("no run has curves of codes: the methods make none, or the dataset has no class labels")
    shared = len({(run.test_set, *map(str, database_of(run))) for run, _ in kept}) == 1
    figure = Figure(figsize=(10.0, 4.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (direction, title) in zip(panels, DIRECTIONS.items(), strict=True):
        for number, (run, curves) in enumerate(kept):
            recall, precision = zip(*curves[direction], strict=True)
            style = ("-", "--", ":", "-.")[number // 10 % 4]  # there are ten colours
            axes.plot(recall, precision, style, marker="o", markersize=2.5, label=name_of_codes(run, shared))
        axes.set(xlabel="recall", title=title, xlim=(0, 1.02), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("precision")
    panels[1].legend(fontsize=7)
    if shared:
        first = kept[0][0]
        figure.suptitle(f"{first.test_set}; database {first.content['hashing']['database']}", fontsize=9)
    return figure
