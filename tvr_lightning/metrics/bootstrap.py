"""How sure a metric is: bootstrap intervals, and the paired comparison of two runs.

What is resampled is a video with all its captions: captions of one video are not independent, and resampling them
alone would give intervals that are too narrow. With one caption a video this is the bootstrap over queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tvr_lightning.metrics.matrix import CHUNK, chunks
from tvr_lightning.metrics.ranking import SUMMED_CUTOFFS, DirectionRanks, Ranks

BOOTSTRAPPED = ("t2v/R@1", "v2t/R@1", "SumR", "t2v/mAP", "v2t/mAP")
TAILS = 0.025, 0.975  # what a 95 % interval leaves out at either end


@dataclass(frozen=True)
class PairedDifference:
    """How one metric of two runs differs, first minus second.

    Attributes:
        difference: in the metric's unit (percentage points; SumR: their sum).
        low: lower end of its 95 % interval.
        high: upper end.
        significant: whether the interval excludes 0.
    """

    difference: float
    low: float
    high: float
    significant: bool


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
    ranks_a: Ranks,
    ranks_b: Ranks,
    metrics: Sequence[str] = BOOTSTRAPPED,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, PairedDifference]:
    """Compares two runs over the same queries, both measured on the same resamples.

    Args:
        ranks_a: of the first run.
        ranks_b: of the second run, the same queries in the same order.
        metrics: which of `BOOTSTRAPPED`.
        seed: of the resampling.
        resamples: how many.

    Returns:
        The difference, first minus second, by metric.

    Raises:
        ValueError: the runs differ in their queries or in how these belong to videos, an unknown metric, fewer than
            one resample, or directions that do not cover the same videos.
    """
    for name in ("t2v", "v2t"):
        a, b = getattr(ranks_a, name), getattr(ranks_b, name)
        if not (torch.equal(a.query, b.query) and torch.equal(a.video, b.video)):
            raise ValueError(
                f"the runs cannot be compared query by query: their {name} queries ({len(a)} and {len(b)}) or the "
                "videos these belong to differ. Compare runs on the same test split, in the same order."
            )
    values = []
    for metric in metrics:
        a, b = _per_query(ranks_a, metric), _per_query(ranks_b, metric)
        values.append({direction: a[direction] - b[direction] for direction in a})
    low, high = _interval(ranks_a, values, seed, resamples)
    return {
        metric: PairedDifference(
            sum(float(v.mean()) for v in values[i].values()), low[i], high[i], low[i] > 0 or high[i] < 0
        )
        for i, metric in enumerate(metrics)
    }


def mean_interval(values: Tensor, video: Tensor, seed: int = 0, resamples: int = 1000) -> tuple[float, float]:
    """Percentile 95 % bootstrap interval of a mean over queries, a video with all its queries resampled together.

    Args:
        values: (Q,), NaN for queries that are left out.
        video: (Q,) int64, the video that each query is or describes.
        seed: of the resampling.
        resamples: how many.

    Raises:
        ValueError: fewer than one resample, or no value.
    """
    known = ~values.isnan()
    if resamples < 1 or not bool(known.any()):
        raise ValueError(f"a bootstrap needs resamples and values, got {resamples} and {int(known.sum())}")
    number, unit = video[known].unique(return_inverse=True)
    sums = torch.zeros(len(number), dtype=torch.float64).index_add_(0, unit, values[known].double())
    sizes = torch.bincount(unit, minlength=len(number)).double()
    generator = torch.Generator().manual_seed(seed)
    means = []
    for part in chunks(resamples, len(number), CHUNK):
        drawn = torch.randint(len(number), (part.stop - part.start, len(number)), generator=generator)
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    low, high = torch.cat(means).quantile(torch.tensor(TAILS, dtype=torch.float64)).tolist()
    return low, high


def paired_means(a: Tensor, b: Tensor, video: Tensor, seed: int = 0, resamples: int = 1000) -> PairedDifference:
    """Compares two means over the same queries, both measured on the same resamples of videos.

    Args:
        a: (Q,) what each query adds to the first mean, NaN for queries that are left out of both.
        b: (Q,) the same for the second.
        video: (Q,) int64, the video that each query is or describes.
        seed: of the resampling.
        resamples: how many.

    Returns:
        The difference, first minus second.

    Raises:
        ValueError: one leaves out queries that the other has, fewer than one resample, or no value.

    >>> paired_means(torch.ones(40), torch.zeros(40), torch.arange(40))
    PairedDifference(difference=1.0, low=1.0, high=1.0, significant=True)
    """
    if not torch.equal(a.isnan(), b.isnan()):
        raise ValueError("the two leave out different queries: they cannot be compared query by query")
    values = a.double() - b.double()
    low, high = mean_interval(values, video, seed, resamples)
    return PairedDifference(float(values.nanmean()), low, high, low > 0 or high < 0)


def _per_query(ranks: Ranks, metric: str) -> dict[str, Tensor]:
    """Per-query values whose means over each direction, added up, are the metric."""
    directions: dict[str, DirectionRanks] = {"t2v": ranks.t2v, "v2t": ranks.v2t}
    if metric not in BOOTSTRAPPED:
        raise ValueError(f"no bootstrap of {metric!r}, only of {', '.join(BOOTSTRAPPED)}")
    if metric == "SumR":
        return {n: 100.0 * torch.stack([r.hit(k) for k in SUMMED_CUTOFFS]).sum(0) for n, r in directions.items()}
    name, kind = metric.split("/")
    return {name: 100.0 * (directions[name].hit(1) if kind == "R@1" else directions[name].average_precision)}


def _interval(
    ranks: Ranks, values: Sequence[dict[str, Tensor]], seed: int, resamples: int
) -> tuple[list[float], list[float]]:
    """Percentiles of each of M metrics, given as per-query values by direction."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    units = {name: getattr(ranks, name).video.unique(return_inverse=True) for name in ("t2v", "v2t")}
    videos = units["t2v"][0]
    if not torch.equal(videos, units["v2t"][0]):
        raise ValueError(f"t2v and v2t cover different videos ({len(videos)} and {len(units['v2t'][0])} of them)")

    def per_video(name: str, value: Tensor) -> Tensor:
        return torch.zeros(len(videos), dtype=torch.float64).index_add_(0, units[name][1], value.double())

    queries = {name: per_video(name, torch.ones(len(units[name][1]))) for name in units}
    sums = [{name: per_video(name, value) for name, value in metric.items()} for metric in values]
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for part in chunks(resamples, len(videos), CHUNK):
        counts = _draw(part.stop - part.start, len(videos), generator)
        drawn = {name: counts @ number for name, number in queries.items()}
        means = [torch.stack([counts @ s / drawn[name] for name, s in metric.items()]) for metric in sums]
        samples.append(torch.stack([mean.sum(0) for mean in means], dim=1))
    low, high = torch.cat(samples).quantile(torch.tensor(TAILS, dtype=torch.float64), dim=0).tolist()
    return low, high


def _draw(resamples: int, videos: int, generator: torch.Generator) -> Tensor:
    """How often each video occurs in each resample, (resamples, videos) float64: multinomial counts."""
    drawn = torch.randint(videos, (resamples, videos), generator=generator)
    counts = torch.zeros(resamples, videos, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones(1, 1, dtype=torch.float64).expand(resamples, videos))
