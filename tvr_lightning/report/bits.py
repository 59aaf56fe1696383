"""mAP by code length over runs (SPTCH, Fig. 3)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from tvr_lightning.errors import NothingToDraw
from tvr_lightning.names import HASH_BASELINES
from tvr_lightning.report.columns import figure
from tvr_lightning.report.comparison import Comparison
from tvr_lightning.report.groups import database_of, deviation
from tvr_lightning.report.pr_curves import short
from tvr_lightning.run.results import DIRECTIONS, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class BitsLine:
    """One line of mAP by code length.

    Attributes:
        name: of the runs.
        points: by code length in ascending order, the mAP of each run.
        learned: whether it is a method's, not a baseline's.
    """

    name: str
    points: Mapping[int, Sequence[float]]
    learned: bool


def bits_lines(runs: Sequence[Run], direction: str) -> list[BitsLine]:
    """Lines of runs that differ in code length and seed alone, then those of codes that nobody learned.

    Args:
        runs: those without hashing metrics are left out.
        direction: `t2v` or `v2t`.
    """
    lines: dict[tuple[bool, str], tuple[str, dict[int, list[float]]]] = {}
    several = len({run.test_set for run in runs if run.content.get("hashing")}) > 1

    for run in (r for r in runs if r.content.get("hashing")):
        bits, database = run.content["hashing"]["bits"], database_of(run)
        where = (
            f", {run.test_set}" * several
            + f", database {database[0]}"
            + (f" ({'; '.join(run.marks)})" if run.marks else "")
        )
        name = short(str(run.content["experiment"]).removesuffix(f"_{bits}"))
        found = [(True, run.settings("experiment", "code_length"), name, f"hash/{direction}/mAP")]
        for kind in HASH_BASELINES:
            found.append((False, f"{kind} {run.marks}", f"{kind}, {run.test_set}", f"hash/{kind}/{direction}/mAP"))
        for learned, same, name, key in found:
            if (value := figure(run, key)) is not None:
                line = (learned, json.dumps([run.test_set, database, same]))
                lines.setdefault(line, (name + where, {}))[1].setdefault(bits, []).append(value)
    ordered = sorted(lines.items(), key=lambda line: not line[0][0])
    return [BitsLine(name, dict(sorted(points.items())), learned) for (learned, _), (name, points) in ordered]


def bits_table(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """The mAP of methods in rows, of code lengths in columns, each direction after the other; a head before the rows.

    Returns:
        Nothing where no method has two code lengths. A figure over several seeds is their mean and deviation.
    """
    lines = {direction: bits_lines(runs, direction) for direction in DIRECTIONS}
    if all(len(line.points) < 2 for found in lines.values() for line in found if line.learned):
        return []
    lengths = sorted({bits for found in lines.values() for line in found for bits in line.points})
    heads = [f"{direction} {bits}" for direction in DIRECTIONS for bits in lengths]
    rows: dict[str, list[str]] = {}
    for direction, found in lines.items():
        for line in found:
            own = rows.setdefault(line.name, ["-"] * len(heads))
            for bits, values in line.points.items():
                spread = f" ±{deviation(values):.1f}" if len(values) > 1 else ""
                own[heads.index(f"{direction} {bits}")] = f"{fmean(values):.1f}{spread}"
    return [("hash/mAP by bits", *heads), *((name, *cells) for name, cells in rows.items())]


def draw_bits(comparison: Comparison) -> Figure:
    """The mAP of each direction by code length, mean and standard deviation over seeds; baselines dashed.

    Raises:
        NothingToDraw: no run has hashing metrics.
    """
    from matplotlib.figure import Figure

    runs = comparison.runs
    if not any(run.content.get("hashing") for run in runs):
        raise NothingToDraw("no run has hashing metrics: the methods make no codes, or the dataset has no class labels")
    figure = Figure(figsize=(10.0, 4.8), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (direction, title) in zip(panels, DIRECTIONS.items(), strict=True):
        lengths: set[int] = set()
        for line in bits_lines(runs, direction):
            means = [fmean(values) for values in line.points.values()]
            deviations = [deviation(values) if len(values) > 1 else 0.0 for values in line.points.values()]
            axes.errorbar(
                list(line.points), means, deviations, marker="o", markersize=4, capsize=2, label=line.name,
                linestyle="-" if line.learned else "--", linewidth=1.6 if line.learned else 0.9,
            )  # fmt: skip
            lengths |= set(line.points)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(lengths), [str(n) for n in sorted(lengths)])
        axes.set(xlabel="bits", title=title)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mAP, %")
    panels[0].set_ylim(0, None)  # of both, once both are drawn
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    return figure
