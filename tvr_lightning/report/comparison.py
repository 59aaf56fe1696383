"""The one arrangement of runs that every table, page and report shows: rows, blocks, what is best, what differs.

Runs with equal settings and other seeds are one row. Rows over one test set are a block. Inside it, rows whose figures
are not plain (selected on test, subset, leaky, ...) stand apart: they are neither called best nor compared with the
baseline. How a `Comparison` is written is decided in `formats` (terminal, Markdown, LaTeX, CSV), `page` (HTML) and
`wandb_report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_lightning.errors import RunError, nearest
from tvr_lightning.names import PROBE, PROBE_CHANCE
from tvr_lightning.report.columns import Column, choose_columns
from tvr_lightning.report.groups import Group, database_of, difference, group_runs
from tvr_lightning.report.reported import Reported, reported_for
from tvr_lightning.run.results import Run, find_runs, hashing_line, without_synonyms

if TYPE_CHECKING:
    from tvr_lightning.metrics.bootstrap import PairedDifference


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        group: its runs.
        notes: what to read with it, first why it stands apart.
        differences: from the baseline, by metric; empty without one, or where it cannot be told. Those of the columns
            are corrected for their number (Holm).
        reported: what papers report for the same.
    """

    group: Group
    notes: tuple[str, ...] = ()
    differences: Mapping[str, PairedDifference] = field(default_factory=dict)
    reported: tuple[Reported, ...] = ()

    @property
    def marks(self) -> list[str]:
        """Why its figures must not be ranked with plain ones; the runs of a group share them."""
        return self.group.first.marks

    def trend(self, column: Column) -> int:
        """1 where it is significantly better than the baseline, -1 where worse, else 0."""
        tested = self.differences.get(column.key)
        return 0 if tested is None or not tested.significant else 1 if tested.difference * column.sign > 0 else -1


@dataclass(frozen=True)
class Block:
    """Rows over one test set.

    Attributes:
        title: dataset, split and size.
        ranked: rows with plain figures.
        apart: the others; a subset of the test set among them.
        best: by column key the best mean among `ranked`, where there are two or more; of probes where it is above
            chance.
    """

    title: str
    ranked: tuple[Row, ...]
    apart: tuple[Row, ...]
    best: Mapping[str, float]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All, the ranked ones first."""
        return (*self.ranked, *self.apart)

    def is_best(self, row: Row, column: Column) -> bool:
        """Whether no ranked row has a better figure."""
        found, best = row.group.summary(column.key), self.best.get(column.key)
        return not row.marks and found is not None and best is not None and abs(found[0] - best) < 1e-9


@dataclass(frozen=True)
class Comparison:
    """Runs, arranged.

    Attributes:
        columns: of every block.
        blocks: in the order of their first runs.
        baseline: the name of the row that others were tested against.
        full: whether differences are spelt out.
        named: whether the columns were asked for by name.
    """

    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    baseline: str | None
    full: bool
    named: bool = False

    @property
    def rows(self) -> list[Row]:
        """Of all blocks."""
        return [row for block in self.blocks for row in block.rows]

    @property
    def runs(self) -> list[Run]:
        """Of all rows."""
        return [run for row in self.rows for run in row.group.runs]


def compare(
    runs: Sequence[Run],
    baseline: str | None = None,
    metrics: Sequence[str] = (),
    full: bool = False,
    reported: Sequence[Reported] = (),
) -> Comparison:
    """Arranges runs.

    Args:
        runs: see `find_runs`.
        baseline: a run (folder, or `experiment/run`) or an experiment among them: differences from it are tested.
        metrics: the columns, named as below `test/`; the usual ones when empty.
        full: all columns.
        reported: the papers' figures.

    Raises:
        ConfigError: a metric that no run has.
        RunError: no such baseline, or one whose own figures are not plain.
    """
    groups = group_runs(runs)
    base = _find_baseline(groups, baseline) if baseline is not None else None
    columns = choose_columns(runs, metrics, full)
    ranked: dict[str, list[Row]] = {}
    apart: dict[str, list[Row]] = {}
    for row in sorted((_row(group, base, columns, reported) for group in groups), key=lambda row: bool(row.marks)):
        title = row.group.first.test_set
        if not row.marks:
            ranked.setdefault(title, []).append(row)
        else:
            # a subset stands below the rows over the whole of the same split
            whole = (t for t, rows in ranked.items() if _split(rows[0]) == _split(row))
            apart.setdefault(title if title in ranked else next(whole, title), []).append(row)
    blocks = [
        Block(title, tuple(ranked.get(title, ())), tuple(apart.get(title, ())), _best(ranked.get(title, ()), columns))
        for title in dict.fromkeys([*ranked, *apart])
    ]
    return Comparison(columns, tuple(blocks), None if base is None else base.name, full, bool(metrics))


def runs_with_baseline(paths: Sequence[Path], runs_dir: Path, baseline: str | None) -> list[Run]:
    """Reads runs, and the baseline's where it is none of them.

    Raises:
        RunError: a path holds no finished run.
    """
    runs = find_runs(paths, runs_dir)
    if baseline is not None:
        present = {run.path.resolve() for run in runs}
        folder = next((p for p in (Path(baseline), runs_dir / baseline) if p.is_dir()), None)
        if folder is not None and not any(p.is_relative_to(folder.resolve()) for p in present):
            runs += find_runs([folder], runs_dir)
    return runs


def _find_baseline(groups: Sequence[Group], wanted: str) -> Group:
    named = wanted.rstrip("/")
    of_experiment = [g for g in groups if g.experiment == Path(named).name]
    plain = [g for g in of_experiment if not g.first.marks]
    for group in groups:
        for run in group.runs:
            names = (str(run.path), f"{group.experiment}/{run.path.name}", run.path.name)
            if named in names or Path(wanted).resolve() == run.path.resolve():
                return _plain_baseline(group, wanted)
    if len(plain) > 1:
        raise RunError(f"baseline '{wanted}' means {len(plain)} rows: {', '.join(g.name for g in plain)}; name one run")
    if of_experiment:
        return _plain_baseline((plain or of_experiment)[0], wanted)
    known = {n for g in groups for n in (g.experiment, g.name)}
    raise RunError(f"no run or experiment '{wanted}' among those compared; {nearest(wanted, known)}")


def _plain_baseline(group: Group, wanted: str) -> Group:
    if marks := group.first.marks:
        raise RunError(f"'{wanted}' cannot be the baseline, because its figures are marked: {'; '.join(marks)}")
    return group


def _row(group: Group, base: Group | None, columns: Sequence[Column], reported: Sequence[Reported]) -> Row:
    content, marks = group.first.content, group.first.marks
    notes = list(marks)
    if group.first.untrained:
        notes.append("zero-shot: nothing was trained")
    notes += without_synonyms(content)
    for split in content["data"].get("splits", ()):
        if split["split"] != "test" and (left_out := split["missing"] + split["undecodable"]):
            notes.append(f"{left_out} {split['split']} videos left out")
    if line := hashing_line(content):
        notes.append(line)
    if len(group.runs) > 1:
        notes.append("runs " + ", ".join(run.path.name for run in group.runs))
    differences: Mapping[str, PairedDifference] = {}
    if group is base:
        notes.append("baseline")
    elif base is not None and not marks:
        try:
            differences = _corrected(difference(group, base), columns)
        except RunError as error:
            notes.append(f"not compared: {error}")
    return Row(group, tuple(notes), differences, tuple(reported_for(group.runs, reported)))


def _corrected(found: Mapping[str, PairedDifference], columns: Sequence[Column]) -> Mapping[str, PairedDifference]:
    from tvr_lightning.metrics.bootstrap import holm

    return {**found, **holm({c.key: found[c.key] for c in columns if c.key in found})}


def _split(row: Row) -> tuple[str, str]:
    content = row.group.first.content
    return content["dataset"], content["split"]


def _best(ranked: Sequence[Row], columns: Sequence[Column]) -> dict[str, float]:
    best = {}
    # a training set and a test set are not equally hard databases
    databases = {tuple(database) for row in ranked if (database := database_of(row.group.first))}
    for column in (c for c in columns if c.sign and (len(databases) < 2 or not c.key.startswith("hash/"))):
        summaries = (row.group.summary(column.key) for row in ranked)
        means = [found[0] for found in summaries if found and isfinite(found[0])]
        if len(means) > 1:
            value = column.sign * max(column.sign * m for m in means)
            if not column.key.startswith(PROBE) or value > PROBE_CHANCE:
                best[column.key] = value
    return best
