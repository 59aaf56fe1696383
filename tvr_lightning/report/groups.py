"""Seeds of one setting: which runs are one row, their figures and intervals, and the difference between two rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, nan
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from tvr_lightning.errors import RunError
from tvr_lightning.names import RANKS
from tvr_lightning.report.columns import figure
from tvr_lightning.run.query_values import check_left_out, read_values
from tvr_lightning.run.results import Run, StoredRanks, leaky_prefix, read_ranks

if TYPE_CHECKING:
    from torch import Tensor

    from tvr_lightning.metrics.bootstrap import PairedDifference
    from tvr_lightning.metrics.ranking import Ranks


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of two values or more; NaN where one of them is no number, which `stdev` cannot take.

    >>> deviation([46.0, 48.0]) == 2**0.5, deviation([46.0, float("nan")])
    (True, nan)
    """
    return stdev(values) if all(map(isfinite, values)) else nan


Queries = tuple[tuple[str, str], ...]  # with the video of each


@dataclass(frozen=True)
class Group:
    """One row's runs: one, or several that differ in their seed alone."""

    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run that stands for what all share."""
        return self.runs[0]

    @property
    def experiment(self) -> str:
        """Its name."""
        return str(self.first.content["experiment"])

    @property
    def name(self) -> str:
        """`experiment/run`, or the experiment's name and how many runs."""
        several = len(self.runs) > 1
        return f"{self.experiment} x{len(self.runs)}" if several else f"{self.experiment}/{self.first.path.name}"

    @property
    def seeds(self) -> list[int]:
        """In ascending order."""
        return sorted(run.content["seed"] for run in self.runs)

    def values(self, key: str) -> list[float]:
        """One figure a run, empty where not all runs have it; costs in their unit."""
        values = [figure(run, key) for run in self.runs]
        return [v for v in values if v is not None] if None not in values else []

    def summary(self, key: str) -> tuple[float, float | None] | None:
        """Mean and standard deviation over seeds (None of one run); None where not all runs have the figure."""
        values = self.values(key)
        return (fmean(values), deviation(values) if len(values) > 1 else None) if values else None

    def interval(self, key: str) -> tuple[float, float] | None:
        """95 % bootstrap interval: a run's own; over seeds that of their mean, where every run kept its ranks."""
        if len(self.runs) > 1:
            return self._mean_intervals.get(key)
        low_high = self.first.content["intervals"].get(leaky_prefix(self.first.content) + key)
        return None if low_high is None else (low_high[0], low_high[1])

    @cached_property
    def _mean_intervals(self) -> Mapping[str, tuple[float, float]]:
        from tvr_lightning.metrics.bootstrap import bootstrap_intervals

        try:
            return bootstrap_intervals(stack(self.stored))
        except RunError:
            return {}

    def interval_over_seeds(self, key: str) -> tuple[float, float] | None:
        """95 % bootstrap interval of the mean over runs, for which both videos and seeds are drawn anew.

        None where a run kept nothing to draw from, and of a median.

        Raises:
            RunError: what a run kept is damaged.
        """
        from tvr_lightning.metrics.bootstrap import MEANS, interval_of_means, interval_over_runs

        if key in self.query_values:
            queries, values = self.query_values[key]
            check_left_out(f"{self.name}, {key}", values)
            return interval_of_means(values, _units([video for _, video in queries]))
        if key not in MEANS or not all((run.path / RANKS).is_file() for run in self.runs):
            return None
        return interval_over_runs([stored.ranks for stored in self.stored], (key,))[key]

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

    @cached_property
    def query_values(self) -> Mapping[str, tuple[Queries, Tensor]]:
        """Metrics that every run kept query by query: the queries, and (S, Q) values of the runs.

        Raises:
            RunError: a run's are damaged, or its queries are not the first one's.
        """
        import torch

        found = [read_values(run.path) for run in self.runs]
        kept = {}
        for name in found[0]:
            of_runs = [values[name] for values in found if name in values]
            if any(values.queries != of_runs[0].queries for values in of_runs):
                raise RunError(f"the runs of {self.name} have different queries")
            if len(of_runs) == len(self.runs):
                kept[name] = of_runs[0].queries, torch.stack([values.value for values in of_runs])
        return kept


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Puts runs that differ in their seed alone together, groups in the order given, a group's runs by their seeds.

    A seed that comes twice begins a further group; a run without `config.yaml` stays alone.
    """
    groups: list[tuple[str, list[Run]]] = []
    for run in runs:
        settings = run.settings()
        for known, members in groups:
            if known == settings and run.content["seed"] not in {m.content["seed"] for m in members}:
                members.append(run)
                break
        else:
            groups.append((settings, [run]))
    return [Group(tuple(sorted(members, key=lambda m: m.content["seed"]))) for _, members in groups]


def stack(stored: Sequence[StoredRanks]) -> Ranks:
    """Runs' ranks below each other: metrics of these are means over the runs.

    All rows of a video belong together when videos are resampled.
    """
    from tvr_lightning.metrics.ranking import DirectionRanks, Ranks

    chosen = [one.ranks for one in stored]
    return Ranks(DirectionRanks.cat([r.t2v for r in chosen]), DirectionRanks.cat([r.v2t for r in chosen]))


def difference(group: Group, baseline: Group) -> dict[str, PairedDifference]:
    """Paired bootstrap of the groups' means over the same queries and over their seeds, `group` minus `baseline`.

    Hashing metrics are left out where the two look up in different databases, and what one of the two did not keep.

    Raises:
        RunError: ranks are missing, or the queries differ.
    """
    from tvr_lightning.metrics.bootstrap import paired_bootstrap

    if group.first.test_set != baseline.first.test_set:
        raise RunError("a different test set from the baseline's")
    if group.stored[0].queries != baseline.stored[0].queries:
        raise RunError("different queries from the baseline's")
    own, others = ([stored.ranks for stored in side.stored] for side in (group, baseline))
    return paired_bootstrap(own, others) | _of_values(group, baseline)


def _of_values(group: Group, baseline: Group) -> dict[str, PairedDifference]:
    import torch

    from tvr_lightning.metrics.bootstrap import paired_means

    same_database = database_of(group.first) == database_of(baseline.first)
    found = {}
    for name, (queries, values) in group.query_values.items():
        other_queries, others = baseline.query_values.get(name, ((), None))
        if others is None or queries != other_queries or not (same_database or not name.startswith("hash/")):
            continue
        check_left_out(f"{group.name} and {baseline.name}, {name}", torch.cat([values, others]))
        found[name] = paired_means(values, others, _units([video for _, video in queries]))
    return found


def _units(videos: Sequence[str]) -> Tensor:
    import torch

    number = {video: i for i, video in enumerate(dict.fromkeys(videos))}
    return torch.tensor([number[video] for video in videos])


def database_of(run: Run) -> list[Any]:
    """What hashing metrics are over; empty where there are none."""
    facts = run.content.get("hashing") or {}
    return [facts[k] for k in ("database", "texts", "videos", "normalise")] if facts else []
