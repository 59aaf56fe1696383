"""What `tvr compare` says: which runs are one row, which rows may be ranked together, what differs for sure.

Runs of one experiment with equal settings and other seeds are a group: one row. Rows over one test set are a block.
Inside it, rows whose figures are not plain (selected on test, subset, leaky, ...) stand apart: they are neither called
best nor compared with the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from tvr_lightning.errors import ConfigError, RunError, nearest
from tvr_lightning.report.reported import REPORTED, Reported, load_reported, reported_for
from tvr_lightning.run.results import (
    LOWER_IS_BETTER,
    Run,
    StoredRanks,
    find_runs,
    hashing_line,
    leaky_prefix,
    read_ranks,
)

if TYPE_CHECKING:
    from rich.table import Table

    from tvr_lightning.metrics.bootstrap import PairedDifference
    from tvr_lightning.metrics.ranking import Ranks

SHORT = ("R@1", "R@5", "R@10", "MdR")
LONG = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "RSum", "mAP")
# what two seeds of one experiment differ in, and what says where a run lies
NOT_SETTINGS = ("seed_everything", "run_id", "runs_dir", "ckpt_path", "tracker", "resume", "checkpoint_every")
COSTS = {
    "train_time_s": ("train", "min", 1 / 60),
    "peak_memory_mib": ("mem", "GiB", 1 / 1024),
    "parameters": ("params", "M", 1e-6),
}


@dataclass(frozen=True)
class Column:
    """A column: a metric below `test/`, or one of `COSTS`.

    Attributes:
        key: the metric, or the field of `metrics.json`.
        over: first line of the header.
        title: its second line.
        digits: after the point.
    """

    key: str
    over: str
    title: str
    digits: int = 1

    @property
    def is_cost(self) -> bool:
        """Whether it says what a run took, not how good it is."""
        return self.key in COSTS

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is, 0 where neither."""
        name = self.key.rpartition("/")[2]
        return 0 if self.is_cost or name.startswith("n_") else -1 if name in LOWER_IS_BETTER else 1


@dataclass(frozen=True)
class Group:
    """One row's runs: one, or several that differ in their seed alone."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """`experiment/run`, or the experiment's name and how many runs."""
        first = self.runs[0]
        experiment = str(first.content["experiment"])
        return f"{experiment}/{first.path.name}" if len(self.runs) == 1 else f"{experiment} x{len(self.runs)}"

    @property
    def seeds(self) -> list[int]:
        """In ascending order."""
        return sorted(run.content["seed"] for run in self.runs)

    @property
    def marks(self) -> list[str]:
        """Why its figures must not be ranked with plain ones; runs of a group share them."""
        return self.runs[0].marks

    @property
    def test_set(self) -> tuple[str, str, int, int]:
        """Dataset, split, captions and videos."""
        c = self.runs[0].content
        return c["dataset"], c["split"], c["data"]["captions"], c["data"]["videos"]

    def values(self, key: str) -> list[float]:
        """One figure a run, empty where not all runs have it; `COSTS` in their unit."""
        values = [figure(run, key) for run in self.runs]
        return [v for v in values if v is not None] if None not in values else []

    def interval(self, key: str) -> tuple[float, float] | None:
        """95 % bootstrap interval: a run's own; over seeds that of their mean, where every run kept its ranks."""
        if len(self.runs) == 1:
            low_high = self.runs[0].content["intervals"].get(leaky_prefix(self.runs[0].content) + key)
            return None if low_high is None else (low_high[0], low_high[1])
        return self._mean_intervals.get(key)

    @cached_property
    def _mean_intervals(self) -> Mapping[str, tuple[float, float]]:
        from tvr_lightning.metrics.bootstrap import bootstrap_intervals

        try:
            return bootstrap_intervals(stacked(self.stored, len(self.runs)))
        except RunError:
            return {}

    @cached_property
    def stored(self) -> list[StoredRanks]:
        """Each run's ranks.

        Raises:
            RunError: a run has none, or its queries are not the first one's.
        """
        ranks = [read_ranks(run.path) for run in self.runs]
        if any(r.queries != ranks[0].queries for r in ranks):
            raise RunError(f"the runs of {self.name} have different queries")
        return ranks


def figure(run: Run, key: str) -> float | None:
    """A run's metric below `test/`, or one of `COSTS`; a leaky run's is the one below `leaky/`."""
    if key in COSTS:
        value = run.content.get(key)
        return value * COSTS[key][2] if value else None  # 0 s: tested only
    metrics = run.content["metrics"]
    found = metrics.get(f"test/{key}", metrics.get(f"test/leaky/{key}"))
    return None if found is None else float(found)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Puts runs of one experiment with equal settings and other seeds together, in the order given.

    A seed that comes twice begins a further group; a run without `config.yaml` stays alone.
    """
    groups: list[tuple[Any, list[Run]]] = []
    for run in runs:
        key = _settings(run)
        for known, members in groups:
            if known == key and run.content["seed"] not in {m.content["seed"] for m in members}:
                members.append(run)
                break
        else:
            groups.append((key, [run]))
    return [Group(tuple(members)) for _, members in groups]


def _settings(run: Run) -> Any:
    c = run.content
    if not run.config:
        return run.path
    data = {k: c["data"][k] for k in ("videos", "captions")}
    facts = {k: c.get(k) for k in ("experiment", "method", "encoder", "dataset", "split", "precision", "devices")}
    selection = c.get("trained", {}).get("selection", c.get("selection"))
    config = {k: v for k, v in run.config.items() if k not in NOT_SETTINGS}
    return config, facts, data, selection, run.marks


def stacked(stored: Sequence[StoredRanks], count: int) -> Ranks:
    """`count` runs' ranks below each other, in turn from `stored`: metrics of these are means over the runs.

    All rows of a video belong together when videos are resampled.
    """
    from tvr_lightning.metrics.ranking import DirectionRanks, Ranks

    chosen = [stored[i % len(stored)].ranks for i in range(count)]
    return Ranks(DirectionRanks.cat([r.t2v for r in chosen]), DirectionRanks.cat([r.v2t for r in chosen]))


def difference(group: Group, baseline: Group) -> dict[str, PairedDifference]:
    """Paired bootstrap of the groups' means over the same queries, `group` minus `baseline`.

    Raises:
        RunError: ranks are missing, or the queries differ.
    """
    from tvr_lightning.metrics.bootstrap import paired_bootstrap

    if group.stored[0].queries != baseline.stored[0].queries:
        raise RunError("other queries than the baseline's")
    count = math.lcm(len(group.runs), len(baseline.runs))
    return paired_bootstrap(stacked(group.stored, count), stacked(baseline.stored, count))


@dataclass(frozen=True)
class Entry:
    """A row.

    Attributes:
        group: its runs.
        notes: what to read with it.
        differences: from the baseline, by metric; empty without one, or where it cannot be told.
        reported: what papers report for the same.
    """

    group: Group
    notes: tuple[str, ...] = ()
    differences: Mapping[str, PairedDifference] = field(default_factory=dict)
    reported: tuple[Reported, ...] = ()


@dataclass(frozen=True)
class Block:
    """Rows over one test set.

    Attributes:
        title: dataset, split and size.
        ranked: rows with plain figures.
        apart: the others.
        best: by column key the best mean among `ranked`, where there are two or more.
    """

    title: str
    ranked: tuple[Entry, ...]
    apart: tuple[Entry, ...]
    best: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """The whole table.

    Attributes:
        columns: of every block.
        blocks: in the order of their first runs.
        baseline: the name of the row that others were tested against.
        full: whether differences are spelt out.
    """

    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    baseline: str | None
    full: bool


def compare(
    runs: Sequence[Run],
    baseline: str | None = None,
    metrics: Sequence[str] = (),
    full: bool = False,
    reported: Sequence[Reported] = (),
) -> Comparison:
    """Arranges runs into a table.

    Args:
        runs: see `find_runs`.
        baseline: a run (folder, or `experiment/run`) or an experiment among them: differences from it are tested.
        metrics: the columns, named as below `test/`; the usual ones when empty.
        full: all usual columns.
        reported: the papers' figures.

    Raises:
        ConfigError: a metric that no run has.
        RunError: no such baseline, or one whose own figures are not plain.
    """
    groups = group_runs(runs)
    base = _find_baseline(groups, baseline) if baseline is not None else None
    columns = _columns(groups, metrics, full)
    entries = [_entry(group, base, reported) for group in groups]
    ranked: dict[tuple[str, str, int, int], list[Entry]] = {}
    apart: dict[tuple[str, str, int, int], list[Entry]] = {}
    for entry in entries:
        if not entry.group.marks:
            ranked.setdefault(entry.group.test_set, []).append(entry)
    for entry in entries:
        if entry.group.marks:
            test_set = entry.group.test_set
            # a subset stands below the rows over the whole of the same split
            near = (known for known in ranked if known[:2] == test_set[:2])
            apart.setdefault(test_set if test_set in ranked else next(near, test_set), []).append(entry)
    blocks = [
        Block(
            "{} {}, test: {:,} captions x {:,} videos".format(*key),
            tuple(ranked.get(key, ())),
            tuple(apart.get(key, ())),
            _best(ranked.get(key, ()), columns),
        )
        for key in dict.fromkeys([*ranked, *apart])
    ]
    return Comparison(columns, tuple(blocks), None if base is None else base.name, full)


def _find_baseline(groups: Sequence[Group], wanted: str) -> Group:
    named = wanted.rstrip("/")
    for group in groups:
        for run in group.runs:
            if named in (str(run.path), f"{run.content['experiment']}/{run.path.name}", run.path.name):
                return _plain_baseline(group, wanted)
            if Path(wanted).resolve() == run.path.resolve():
                return _plain_baseline(group, wanted)
    of_experiment = [g for g in groups if g.runs[0].content["experiment"] == Path(named).name]
    plain = [g for g in of_experiment if not g.marks]
    if len(plain) > 1:
        raise RunError(f"baseline '{wanted}' means {len(plain)} rows: {', '.join(g.name for g in plain)}; name one run")
    if of_experiment:
        return _plain_baseline((plain or of_experiment)[0], wanted)
    known = {n for g in groups for n in (str(g.runs[0].content["experiment"]), g.name)}
    raise RunError(f"no run or experiment '{wanted}' among those compared; {nearest(wanted, known)}")


def _plain_baseline(group: Group, wanted: str) -> Group:
    if group.marks:
        raise RunError(f"'{wanted}' is no baseline, its figures are not plain: {'; '.join(group.marks)}")
    return group


def _entry(group: Group, base: Group | None, reported: Sequence[Reported]) -> Entry:
    notes = list(group.marks)
    for split in group.runs[0].content["data"].get("splits", ()):
        if split["split"] != "test" and (left_out := split["missing"] + split["undecodable"]):
            notes.append(f"{left_out} {split['split']} videos left out")
    if line := hashing_line(group.runs[0].content):
        notes.append(line)
    if len(group.runs) > 1:
        notes.append("runs " + ", ".join(run.path.name for run in group.runs))
    differences: Mapping[str, PairedDifference] = {}
    if group is base:
        notes.append("baseline")
    elif base is not None and not group.marks:
        try:
            if group.test_set != base.test_set:
                raise RunError("another test set than the baseline's")
            differences = difference(group, base)
        except RunError as error:
            notes.append(f"not compared: {error}")
    return Entry(group, tuple(notes), differences, tuple(reported_for(group.runs, reported)))


def _columns(groups: Sequence[Group], metrics: Sequence[str], full: bool) -> tuple[Column, ...]:
    # what runs share is found by name; the runs of a group share all they have
    names = [n.removeprefix("test/").removeprefix("leaky/") for g in groups for n in g.runs[0].content["metrics"]]
    known = dict.fromkeys(names)
    for name in metrics:
        if name not in known:
            raise ConfigError(f"--metrics: no run has '{name}'; {nearest(name, known)}")
    keys = list(metrics)
    if not keys:
        wanted = LONG if full else SHORT
        keys = [f"{d}/{n}" for d in ("t2v", "v2t") for n in wanted] + ["SumR"]
        keys += [n for n in ("hash/t2v/mAP", "hash/v2t/mAP") if n in known]
        keys += sorted(n for n in known if n.startswith("probe/"))
        keys += [n for n in known if full and n not in keys]
    columns = []
    for key in (k for k in keys if k in known):
        over, _, title = key.rpartition("/")
        largest = max((abs(v) for g in groups for v in g.values(key)), default=0.0)
        fraction = 0 < largest <= 1 and over not in ("t2v", "v2t", "probe")
        columns.append(Column(key, over, title, 3 if fraction else 1))
    costs = [Column(key, over, title) for key, (over, title, _) in COSTS.items()]
    return (*columns, *(c for c in costs if any(g.values(c.key) for g in groups)))


def _best(ranked: Sequence[Entry], columns: Sequence[Column]) -> dict[str, float]:
    best = {}
    # a training set and a test set are no equally hard databases
    databases = {tuple(found) for e in ranked if (found := _database(e.group))}
    for column in (c for c in columns if c.sign and (len(databases) < 2 or not c.key.startswith("hash/"))):
        means = [fmean(values) for e in ranked if (values := e.group.values(column.key))]
        if len(means) > 1:
            best[column.key] = column.sign * max(column.sign * m for m in means)
    return best


def _database(group: Group) -> list[Any]:
    """What hashing metrics are over; empty where there are none."""
    facts = group.runs[0].content.get("hashing") or {}
    return [facts[k] for k in ("database", "texts", "videos", "normalise")] if facts else []


def cell(group: Group, column: Column) -> tuple[float, float | None] | None:
    """Mean and standard deviation over seeds (None of one run); None where not all runs have the figure."""
    values = group.values(column.key)
    if not values:
        return None
    return fmean(values), stdev(values) if len(values) > 1 else None


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


def compare_table(runs: Sequence[Run], baseline: str | None = None, reported: Path = REPORTED) -> Table:
    """The short table over runs, for a terminal of 160 columns; the papers' figures where `reported` exists.

    Raises:
        TVRError: see `compare` and `load_reported`.
    """
    from tvr_lightning.report.comparison_text import to_table

    return to_table(compare(runs, baseline, reported=load_reported(reported) if reported.is_file() else ()))
