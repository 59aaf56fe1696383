"""How sure a metric is: bootstrap intervals, and the paired comparison of two runs.

What is resampled is a video with all its captions: captions of one video are not independent, and resampling them
alone would give intervals that are too narrow. With one caption a video this is the bootstrap over queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from tvr_lightning.metrics.matrix import CHUNK, chunks
from tvr_lightning.metrics.ranking import CUTOFFS, SUMMED_CUTOFFS, DirectionRanks, Ranks

BOOTSTRAPPED = ("t2v/R@1", "v2t/R@1", "SumR", "t2v/mAP", "v2t/mAP")
LEVEL = 0.05  # chance of a mistake that a difference called significant may have
TAILS = 0.025, 0.975  # what a 95 % interval leaves out at either end
# metrics of ranks that are means over queries; MdR, a median, is none
MEANS = (
    *(f"{d}/{name}" for d in ("t2v", "v2t") for name in (*(f"R@{k}" for k in CUTOFFS), "RSum", "MnR", "mAP")),
    "SumR",
)


@dataclass(frozen=True)
class PairedDifference:
    """How one metric of two runs, or of two groups of runs over seeds, differs: first minus second.

    Attributes:
        difference: in the metric's unit (percentage points; SumR: their sum).
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided: the smallest level at which the bootstrap distribution leaves 0 out, at least 1 / (resamples + 1).
        significant: whether `p` is below `LEVEL`; after `holm` whether it is below the level that is left to it.
    """

    difference: float
    low: float
    high: float
    p: float
    significant: bool


def holm(differences: Mapping[str, PairedDifference]) -> dict[str, PairedDifference]:
    """Corrects the significance of several differences for their number (Holm 1979).

    The smallest p is held against `LEVEL` over their number, the next against `LEVEL` over one less, until one fails:
    the chance that any of them is called significant by mistake is then at most `LEVEL`.

    >>> found = {name: PairedDifference(1.0, 0.1, 1.9, p, p < LEVEL) for name, p in (("a", 0.03), ("b", 0.01))}
    >>> [d.significant for d in holm(found | {"c": PairedDifference(0.0, -1.0, 1.0, 0.9, False)}).values()]
    [False, True, False]
    """
    corrected, held = {}, True
    for place, (name, d) in enumerate(sorted(differences.items(), key=lambda item: item[1].p)):
        held = held and d.p < LEVEL / (len(differences) - place)
        corrected[name] = replace(d, significant=held)
    return {name: corrected[name] for name in differences}


def bootstrap_intervals(ranks: Ranks, seed: int = 0, resamples: int = 1000) -> dict[str, tuple[float, float]]:
    """Percentile 95 % intervals of the `BOOTSTRAPPED` metrics.

    Args:
        ranks: of a test.
        seed: of the resampling; the same for equal results.
        resamples: how many times as many videos are drawn, with replacement, as there are.

    Returns:
        (low, high) by metric.

    Raises:
        ValueError: fewer than one resample, or directions that do not cover the same videos.
    """
    values = [_per_query(ranks, metric) for metric in BOOTSTRAPPED]
    low, high = _interval(ranks, values, seed, resamples)
    return {metric: (low[i], high[i]) for i, metric in enumerate(BOOTSTRAPPED)}


def paired_bootstrap(
    runs_a: Sequence[Ranks],
    runs_b: Sequence[Ranks],
    metrics: Sequence[str] = BOOTSTRAPPED,
    seed: int = 0,
    resamples: int = 10_000,
) -> dict[str, PairedDifference]:
    """Compares two runs, or two groups of runs that differ in their seed, over the same queries.

    Both are measured on the same resampled videos. Where a group has several runs, these are resampled too, so that the
    interval holds what another choice of seeds would have changed; of very few seeds it holds too little of it.

    Args:
        runs_a: ranks of each run of the first group.
        runs_b: of the second, the same queries in the same order.
        metrics: which of `MEANS`.
        seed: of the resampling.
        resamples: how many.

    Returns:
        The difference of the means over runs, first minus second, by metric.

    Raises:
        ValueError: the runs differ in their queries or in how these belong to videos, an unknown metric, fewer than
            one resample, or directions that do not cover the same videos.
    """
    first = runs_a[0]
    for ranks in (*runs_a, *runs_b):
        for name in ("t2v", "v2t"):
            a, b = getattr(first, name), getattr(ranks, name)
            if not (torch.equal(a.query, b.query) and torch.equal(a.video, b.video)):
                raise ValueError(
                    f"the runs cannot be compared query by query: their {name} queries ({len(a)} and {len(b)}) or the "
                    "videos these belong to differ. Compare runs on the same test split, in the same order."
                )
    units = _units(first)
    found = {}
    for metric in metrics:
        of_runs = [[_per_query(ranks, metric) for ranks in runs] for runs in (runs_a, runs_b)]
        a, b = (
            [(torch.stack([run[name] for run in runs]), units[name]) for name in runs[0]] for runs in of_runs
        )  # fmt: skip
        found[metric] = _paired(a, b, seed, resamples)
    return found


def paired_means(a: Tensor, b: Tensor, video: Tensor, seed: int = 0, resamples: int = 10_000) -> PairedDifference:
    """Compares two means over the same queries, of runs or of groups of runs; see `paired_bootstrap`.

    Args:
        a: (S, Q) what each query adds to the mean of each of the first runs, NaN for queries that are left out of all.
        b: (S', Q) the same for the second.
        video: (Q,) int64, the video that each query is or describes.
        seed: of the resampling.
        resamples: how many.

    Returns:
        The difference, first minus second.

    Raises:
        ValueError: one leaves out queries that another has, fewer than one resample, or no value.

    >>> paired_means(torch.ones(1, 40), torch.zeros(1, 40), torch.arange(40)).difference
    1.0
    """
    unknown = a[0].isnan()
    if any(not torch.equal(unknown, row.isnan()) for row in (*a, *b)):
        raise ValueError("the two leave out different queries: they cannot be compared query by query")
    if bool(unknown.all()):
        raise ValueError("no query has a value: there is nothing to compare")
    unit = video[~unknown].unique(return_inverse=True)[1]
    return _paired([(a[:, ~unknown], unit)], [(b[:, ~unknown], unit)], seed, resamples)


def interval_over_runs(
    runs: Sequence[Ranks], metrics: Sequence[str] = MEANS, seed: int = 0, resamples: int = 2000
) -> dict[str, tuple[float, float]]:
    """Percentile 95 % intervals of the mean over runs that differ in their seed: seeds and videos are drawn anew.

    Of one run it holds the choice of videos alone, of two or three too little of the choice of seeds.

    Args:
        runs: ranks of each run, the same queries in the same order.
        metrics: which of `MEANS`.
        seed: of the resampling.
        resamples: how many.

    Returns:
        (low, high) by metric.

    Raises:
        ValueError: an unknown metric, fewer than one resample, or directions that do not cover the same videos.
    """
    units = _units(runs[0])
    found = {}
    for metric in metrics:
        of_runs = [_per_query(ranks, metric) for ranks in runs]
        parts = [(torch.stack([run[name] for run in of_runs]), units[name]) for name in of_runs[0]]
        found[metric] = _interval_of_parts(parts, seed, resamples)
    return found


def interval_of_means(values: Tensor, video: Tensor, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """The same of a metric whose values are at hand query by query; of one run it holds the choice of videos alone.

    Args:
        values: (S, Q) what each query adds to the mean of each run, NaN for queries that are left out of all.
        video: (Q,) int64, the video that each query is or describes.
        seed: of the resampling.
        resamples: how many.

    Raises:
        ValueError: fewer than one resample, or no value.

    >>> interval_of_means(torch.tensor([[50.0] * 40, [50.0] * 40]), torch.arange(40))
    (50.0, 50.0)
    """
    known = ~values[0].isnan()
    if not bool(known.any()):
        raise ValueError("no query has a value: there is no interval")
    unit = video[known].unique(return_inverse=True)[1]
    return _interval_of_parts([(values[:, known], unit)], seed, resamples)


_Part = tuple[Tensor, Tensor]  # (S, Q) values of S runs, and (Q,) which of the resampled videos each belongs to


def _paired(a: Sequence[_Part], b: Sequence[_Part], seed: int, resamples: int) -> PairedDifference:
    """Compares two metrics, each the sum over parts of means over queries; parts share their videos."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    videos = 1 + max(int(unit.max()) for _, unit in a)
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for part in chunks(resamples, videos, CHUNK):
        counts = _draw(part.stop - part.start, videos, generator)
        drawn.append(_resampled(a, counts, generator) - _resampled(b, counts, generator))
    samples = torch.cat(drawn)
    low, high = samples.quantile(torch.tensor(TAILS, dtype=torch.float64)).tolist()
    difference = sum(float(x.double().mean()) for x, _ in a) - sum(float(x.double().mean()) for x, _ in b)
    beyond = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    p = min(1.0, (1 + 2 * beyond) / (resamples + 1))
    return PairedDifference(difference, low, high, p, p < LEVEL)


def _interval_of_parts(parts: Sequence[_Part], seed: int, resamples: int) -> tuple[float, float]:
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    videos = 1 + max(int(unit.max()) for _, unit in parts)
    generator = torch.Generator().manual_seed(seed)
    samples = torch.cat([
        _resampled(parts, _draw(part.stop - part.start, videos, generator), generator)
        for part in chunks(resamples, videos, CHUNK)
    ])  # fmt: skip
    low, high = samples.quantile(torch.tensor(TAILS, dtype=torch.float64)).tolist()
    return low, high


def _resampled(parts: Sequence[_Part], counts: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) the metric on resamples (B, V) of videos, and on as many runs as there are, drawn anew each time."""
    runs = len(parts[0][0])
    weights = _draw(len(counts), runs, generator) / runs
    total = torch.zeros(len(counts), dtype=torch.float64)
    for values, unit in parts:
        sums = torch.zeros(counts.shape[1], runs, dtype=torch.float64).index_add_(0, unit, values.T.double())
        sizes = torch.bincount(unit, minlength=counts.shape[1]).double()
        total += ((counts @ sums) / (counts @ sizes)[:, None] * weights).sum(1)
    return total


def _per_query(ranks: Ranks, metric: str) -> dict[str, Tensor]:
    """Per-query values whose means over each direction, added up, are the metric."""
    directions: dict[str, DirectionRanks] = {"t2v": ranks.t2v, "v2t": ranks.v2t}
    if metric not in MEANS:
        raise ValueError(f"no bootstrap of {metric!r}, only of {', '.join(MEANS)}")
    if metric == "SumR":
        return {name: _summed(direction) for name, direction in directions.items()}
    name, kind = metric.split("/")
    direction = directions[name]
    match kind:
        case "RSum":
            return {name: _summed(direction)}
        case "MnR":
            return {name: direction.expected_rank}
        case "mAP":
            return {name: 100.0 * direction.average_precision}
        case _:
            return {name: 100.0 * direction.hit(int(kind.removeprefix("R@")))}


def _summed(direction: DirectionRanks) -> Tensor:
    return 100.0 * torch.stack([direction.hit(k) for k in SUMMED_CUTOFFS]).sum(0)


def _interval(
    ranks: Ranks, values: Sequence[dict[str, Tensor]], seed: int, resamples: int
) -> tuple[list[float], list[float]]:
    """Percentiles of each of M metrics, given as per-query values by direction."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    units = _units(ranks)
    count = 1 + int(units["t2v"].max())

    def per_video(name: str, value: Tensor) -> Tensor:
        return torch.zeros(count, dtype=torch.float64).index_add_(0, units[name], value.double())

    queries = {name: per_video(name, torch.ones(len(units[name]))) for name in units}
    sums = [{name: per_video(name, value) for name, value in metric.items()} for metric in values]
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for part in chunks(resamples, count, CHUNK):
        counts = _draw(part.stop - part.start, count, generator)
        drawn = {name: counts @ number for name, number in queries.items()}
        means = [torch.stack([counts @ s / drawn[name] for name, s in metric.items()]) for metric in sums]
        samples.append(torch.stack([mean.sum(0) for mean in means], dim=1))
    low, high = torch.cat(samples).quantile(torch.tensor(TAILS, dtype=torch.float64), dim=0).tolist()
    return low, high


def _units(ranks: Ranks) -> dict[str, Tensor]:
    """For each direction (Q,) int64, the number of each query's video among those that both directions cover."""
    found = {name: getattr(ranks, name).video.unique(return_inverse=True) for name in ("t2v", "v2t")}
    if not torch.equal(found["t2v"][0], found["v2t"][0]):
        covered = [len(videos) for videos, _ in found.values()]
        raise ValueError(f"t2v and v2t cover different videos ({covered[0]} and {covered[1]} of them)")
    return {name: unit for name, (_, unit) in found.items()}


def _draw(resamples: int, videos: int, generator: torch.Generator) -> Tensor:
    """How often each video occurs in each resample, (resamples, videos) float64: multinomial counts, not to be changed.

    All metrics of all rows of a table begin with the same seed: what a generator in one state gives is kept, unless it
    is one of several chunks, which would push each other out.
    """
    kept = (resamples + 1) * videos <= CHUNK
    draw = _drawn if kept else _drawn.__wrapped__
    counts, state = draw(resamples, videos, generator.get_state().numpy().tobytes())
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return counts


@lru_cache(maxsize=4)
def _drawn(resamples: int, videos: int, state: bytes) -> tuple[Tensor, bytes]:
    """The counts, and the generator's state after them."""
    generator = torch.Generator()
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    drawn = torch.randint(videos, (resamples, videos), generator=generator)
    counts = torch.zeros(resamples, videos, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones(1, 1, dtype=torch.float64).expand(resamples, videos))
    return counts, generator.get_state().numpy().tobytes()
