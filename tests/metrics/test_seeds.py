"""The range of one further seed, and intervals over seeds and videos, against slow and obvious ways to get them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean

import pytest
import torch
from torch import Tensor

from tvr_lightning.metrics import (
    Ranks,
    bootstrap_intervals,
    interval_of_means,
    interval_over_runs,
    metrics_of,
    one_more_run,
    query_ranks,
)
from tvr_lightning.metrics.bootstrap import MEANS
from tvr_lightning.metrics.seeds import student_quantile


def ranks_of(quality: float, seed: int, videos: int = 40) -> Ranks:
    noise = torch.randn(videos * 2, videos, generator=torch.Generator().manual_seed(seed))
    caption_video = torch.arange(videos).repeat_interleave(2)
    noise[torch.arange(videos * 2), caption_video] += quality
    return query_ranks(noise, caption_video)


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 9, 10, 11, 30, 200])
def test_quantiles_are_those_of_students_density(freedom: int) -> None:
    """Its integral from 0 to the quantile, by Simpson's rule, is 0.475."""
    quantile, steps = student_quantile(freedom), 20_000
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    step = quantile / steps
    density = [
        math.exp(log_scale - (freedom + 1) / 2 * math.log1p((i * step) ** 2 / freedom)) for i in range(steps + 1)
    ]
    area = step / 3 * (density[0] + density[-1] + 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2]))
    assert area == pytest.approx(0.475, abs=2e-5)


def test_quantiles_need_freedom() -> None:
    with pytest.raises(ValueError, match="at least 1 degree of freedom, got 0"):
        student_quantile(0)


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_a_further_seed_lies_in_its_range_as_often_as_it_should(runs: int) -> None:
    draw, inside, times = random.Random(0), 0, 4000
    for _ in range(times):
        low, high = one_more_run([draw.gauss(47.0, 0.4) for _ in range(runs)]) or (0.0, 0.0)
        inside += low <= draw.gauss(47.0, 0.4) <= high
    assert inside / times == pytest.approx(0.95, abs=0.012)


def test_one_run_says_nothing_of_seeds() -> None:
    assert one_more_run([47.0]) is None
    assert one_more_run([47.0, 47.0, 47.0]) == (47.0, 47.0)


def test_every_mean_is_resampled_as_the_metric_that_it_is() -> None:
    """Seeds that agree in each query: what is left is the choice of videos, which the loop draws."""
    ranks = ranks_of(2.0, 0, videos=25)
    intervals, metrics = interval_over_runs([ranks, ranks]), metrics_of(ranks)
    assert tuple(intervals) == MEANS
    rows = {d: [(getattr(ranks, d).video == v).nonzero()[:, 0] for v in range(25)] for d in ("t2v", "v2t")}
    generator = torch.Generator().manual_seed(1)
    drawn: dict[str, list[float]] = {name: [] for name in MEANS}
    for _ in range(1500):
        chosen = torch.randint(25, (25,), generator=generator).tolist()
        sample = Ranks(*(getattr(ranks, d)[torch.cat([rows[d][v] for v in chosen])] for d in ("t2v", "v2t")))
        for name, value in metrics_of(sample).items():
            if name in drawn:
                drawn[name].append(value)
    for name, (low, high) in intervals.items():
        expected = torch.tensor(drawn[name]).quantile(torch.tensor([0.025, 0.975])).tolist()
        spread = expected[1] - expected[0]
        assert low - 1e-9 <= metrics[name] <= high + 1e-9, name
        assert (low, high) == pytest.approx(expected, abs=0.15 * spread + 1e-9), name


def both_drawn(values: Tensor, seed: int, times: int) -> Sequence[float]:
    """Means of runs and queries that are drawn anew, one after the other."""
    draw, means = random.Random(seed), []
    runs, queries = values.shape
    for _ in range(times):
        videos = [draw.randrange(queries) for _ in range(queries)]
        means.append(fmean(float(values[draw.randrange(runs), videos].mean()) for _ in range(runs)))
    return sorted(means)


def test_seeds_that_differ_widen_the_interval() -> None:
    values = torch.stack([torch.linspace(0, 10, 30).flip(0) + 20 * seed for seed in range(3)])
    low, high = interval_of_means(values, torch.arange(30))
    means = both_drawn(values, 0, 4000)
    assert (low, high) == pytest.approx((means[100], means[3900]), abs=2.0)
    narrow = interval_of_means(values[1:2], torch.arange(30))
    assert high - low > 3 * (narrow[1] - narrow[0])
    different = interval_over_runs([ranks_of(q, 7) for q in (0.5, 2.0, 4.0)], ("SumR",))["SumR"]
    alike = interval_over_runs([ranks_of(2.0, 7)] * 3, ("SumR",))["SumR"]
    assert different[1] - different[0] > 1.5 * (alike[1] - alike[0])


def test_of_one_run_it_is_the_interval_of_its_videos() -> None:
    ranks = ranks_of(2.0, 3)
    for name, interval in bootstrap_intervals(ranks, resamples=2000).items():
        assert interval_over_runs([ranks], (name,))[name] == pytest.approx(interval, rel=0.1, abs=1.0)


def test_queries_that_no_run_answers_are_left_out() -> None:
    values = torch.tensor([[50.0, float("nan"), 50.0], [50.0, float("nan"), 50.0]])
    assert interval_of_means(values, torch.tensor([0, 1, 2])) == (50.0, 50.0)
    with pytest.raises(ValueError, match="no query has a value"):
        interval_of_means(values[:, 1:2], torch.tensor([1]))
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        interval_of_means(values, torch.tensor([0, 1, 2]), resamples=0)


def test_a_median_is_no_mean() -> None:
    with pytest.raises(ValueError, match="no bootstrap of 't2v/MdR', only of t2v/R@1"):
        interval_over_runs([ranks_of(1.0, 0)], ("t2v/MdR",))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_bounds_no_further_run(value: float) -> None:
    bounds = one_more_run([46.8, value, 47.4])
    assert bounds is not None
    assert all(math.isnan(bound) for bound in bounds)
