"""The rows of a comparison as text: figures, marks and notes, alike in every format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tvr_lightning.names import PROBE, PROBE_CHANCE
from tvr_lightning.report.columns import Column
from tvr_lightning.report.comparison import Block, Comparison, Row
from tvr_lightning.report.reported import Reported

UP, DOWN = "▲", "▼"
TREND = {1: UP, 0: "", -1: DOWN}


@dataclass(frozen=True)
class Cell:
    """One figure as text.

    Attributes:
        value: the figure, its mark behind it.
        below: deviation, interval or difference.
        best: whether it is the block's best.
    """

    value: str = "-"
    below: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        name: of the runs, or where a reported figure stands.
        seeds: of the runs.
        cells: one a column.
        notes: what to read with it.
        kind: what it is.
    """

    name: str
    seeds: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    kind: Literal["run", "reported"]


def lines_of(row: Row, block: Block, comparison: Comparison) -> Iterator[Line]:
    """The line of a row, then those of what papers report for it."""
    seeds = ", ".join(map(str, row.group.seeds))
    seeds = f"n={len(row.group.runs)}: {seeds}" if len(row.group.runs) > 1 else seeds
    notes = list(row.notes)
    if comparison.full:
        for key in (c.key for c in comparison.columns if c.key in row.differences):
            d = row.differences[key]
            notes.append(f"Δ {key} {d.difference:+.1f} [{d.low:+.1f}, {d.high:+.1f}], p {d.p:.2g}")
    cells = [_cell(row, column, block.is_best(row, column)) for column in comparison.columns]
    yield Line(row.group.name, seeds, tuple(cells), tuple(notes), "run")
    for reported in row.reported:
        told = [reported.source] + [f"caution: {reported.caution}"] * bool(reported.caution)
        told += [reported.conditions] * comparison.full
        cells = [_reported(row, reported, column) for column in comparison.columns]
        yield Line(f"reported: {reported.name}", "", tuple(cells), tuple(told), "reported")


def lines_of_blocks(comparison: Comparison) -> Iterator[tuple[Block, list[Line], list[Line]]]:
    """Each block with the lines of its ranked rows and of those that stand apart."""
    for block in comparison.blocks:
        ranked, apart = (
            [line for row in rows for line in lines_of(row, block, comparison)] for rows in (block.ranked, block.apart)
        )
        yield block, ranked, apart


def legend(comparison: Comparison) -> list[str]:
    """How to read the table, one line each."""
    rows, baseline = comparison.rows, comparison.baseline
    lines = ["R@K, mAP and probes in percent; intervals: 95 % bootstrap over test videos"]
    if any(block.best for block in comparison.blocks):
        lines[0] += "; bold: best of its table"
    if any(column.key.startswith(PROBE) for column in comparison.columns):
        lines.append(f"probes: minimal pairs told apart; chance is {PROBE_CHANCE:g} %")
    if any(len(row.group.runs) > 1 for row in rows):
        lines.append("±: standard deviation over seeds; their intervals are of the mean over seeds")
    if baseline is not None:
        tested = [c.key for c in comparison.columns if any(c.key in row.differences for row in rows)]
        lines.append(
            f"{UP} {DOWN}: better, worse than {baseline}: paired bootstrap over videos and seeds, 5 % a row (Holm)"
        )
        single = any(len(row.group.runs) == 1 for row in rows)
        of_seed = "; for rows with one seed, the test does not cover the choice of seed" if single else ""
        lines.append(f"tested: {', '.join(tested) or 'nothing'}{of_seed}")
        if comparison.full:
            lines.append(f"Δ: difference from {baseline}, with its 95 % interval")
    if any(row.reported for row in rows):
        lines.append("reported: a paper's figure for the same settings; below it the run's figure minus the paper's")
    return lines


def _cell(row: Row, column: Column, best: bool) -> Cell:
    found = row.group.summary(column.key)
    if found is None:
        return Cell()
    mean, deviation = found
    digits = column.digits
    below = [] if deviation is None or column.is_cost else [f"±{deviation:.{digits}f}"]
    if not column.is_cost and (interval := row.group.interval(column.key)):
        below.append(f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]")
    return Cell(f"{mean:.{digits}f}{TREND[row.trend(column)]}", tuple(below), best)


def _reported(row: Row, reported: Reported, column: Column) -> Cell:
    value = reported.metrics.get(column.key)
    if value is None:
        return Cell("")
    found, digits = row.group.summary(column.key), column.digits
    return Cell(f"{value:.{digits}f}", () if found is None else (f"{found[0] - value:+.{digits}f}",))
