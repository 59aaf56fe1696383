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
from tvr_lightning.visible import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 60  # letters of a name in a picture
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
        raise ValueError(f"{name} is not a list of shares")
    return values


def names_of_codes(runs: Sequence[Run]) -> list[str]:
    """Runs with their code lengths, and what each is measured on where that is not the same for all; no two alike."""
    shared = len({(run.test_set, *map(str, database_of(run))) for run in runs}) == 1
    names = [f"{run.content['experiment']}/{run.path.name}" for run in runs]
    found = []
    for run, name in zip(runs, names, strict=True):
        facts = run.content["hashing"]
        where = "" if shared else f", {run.test_set}, database {facts['database']}"
        marks = f" ({'; '.join(run.marks)})" if run.marks else ""
        own = short(name) if names.count(name) == 1 else short(str(run.path))
        found.append(f"{own}, {facts['bits']} bits{where}{marks}")
    return found


def short(name: str) -> str:
    """A name that fits a picture: its end, which is what runs differ in.

    >>> short("x" * 100)[:3], len(short("x" * 100))
    ('…xx', 60)
    """
    shown = visible(name)
    return shown if len(shown) <= LONGEST else f"…{shown[-(LONGEST - 1) :]}"


def draw_pr_curves(comparison: Comparison) -> Figure:
    """Precision over recall within a growing Hamming radius, a line a run, a panel a direction.

    Raises:
        NothingToDraw: no run kept a curve.
    """
    from matplotlib.figure import Figure

    kept = [(run, curves) for run in comparison.runs if (curves := read_pr_curve(run)) and run.content.get("hashing")]
    if not kept:
        raise NothingToDraw("no run has curves of codes: the methods make none, or the dataset has no class labels")
    names = names_of_codes([run for run, _ in kept])
    shared = len({(run.test_set, *map(str, database_of(run))) for run, _ in kept}) == 1
    figure = Figure(figsize=(10.0, 4.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (direction, title) in zip(panels, DIRECTIONS.items(), strict=True):
        for number, ((_, curves), name) in enumerate(zip(kept, names, strict=True)):
            recall, precision = zip(*curves[direction], strict=True)
            style = ("-", "--", ":", "-.")[number // 10 % 4]  # there are ten colours
            axes.plot(recall, precision, style, marker="o", markersize=2.5, label=name)
        axes.set(xlabel="recall", title=title, xlim=(0, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("precision")
    panels[0].set_ylim(0, None)  # of both, once both are drawn
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    if shared:
        first = kept[0][0]
        figure.suptitle(f"{first.test_set}; database {first.content['hashing']['database']}", fontsize=9)
    return figure
