import dataclasses

import numpy as np
import pytest
import torch

from tvr_lightning.metrics import (
    BOOTSTRAPPED,
    DirectionRanks,
    Ranks,
    bootstrap,
    bootstrap_intervals,
    holm,
    metrics_of,
    paired_bootstrap,
    paired_means,
    query_ranks,
)


def ranks_of(quality, videos=80, per_video=3, seed=0):
    """Scores that hold the truth to a degree; noise depends on the seed alone."""
    noise = torch.randn(videos * per_video, videos, generator=torch.Generator().manual_seed(seed))
    caption_video = torch.arange(videos).repeat_interleave(per_video)
    noise[torch.arange(videos * per_video), caption_video] += quality
    return query_ranks(noise, caption_video)


def test_intervals_hold_the_metric_and_depend_on_the_seed_alone():
    ranks = ranks_of(2.0)
    intervals, metrics = bootstrap_intervals(ranks, seed=3), metrics_of(ranks)
    assert tuple(intervals) == BOOTSTRAPPED
    for name, (low, high) in intervals.items():
        assert low < metrics[name] < high, name
    assert bootstrap_intervals(ranks, seed=3) == intervals
    assert bootstrap_intervals(ranks, seed=4) != intervals


def test_resamples_agree_with_metrics_of_resampled_queries():
    """The loop draws videos, puts all their queries into new ranks and measures these."""
    ranks, resamples = ranks_of(2.0, videos=25), 1500
    generator, draws = torch.Generator().manual_seed(1), {name: [] for name in BOOTSTRAPPED}
    rows = {d: [(getattr(ranks, d).video == v).nonzero()[:, 0] for v in range(25)] for d in ("t2v", "v2t")}
    for _ in range(resamples):
        drawn = torch.randint(25, (25,), generator=generator).tolist()
        sample = Ranks(*(getattr(ranks, d)[torch.cat([rows[d][v] for v in drawn])] for d in ("t2v", "v2t")))
        metrics = metrics_of(sample)
        for name, values in draws.items():
            values.append(metrics[name])
    for name, interval in bootstrap_intervals(ranks, resamples=resamples).items():
        expected = torch.tensor(draws[name]).quantile(torch.tensor([0.025, 0.975]))
        spread = float(expected[1] - expected[0])
        assert interval == pytest.approx(expected.tolist(), abs=0.1 * spread), name


def test_captions_of_a_video_are_resampled_together():
    """Copies of a caption add no information: the interval stays; resampling captions would shrink it."""
    single = ranks_of(1.5, per_video=1)
    copied = Ranks(single.t2v[torch.arange(80).repeat_interleave(9)], single.v2t)
    assert bootstrap_intervals(copied)["t2v/R@1"] == pytest.approx(bootstrap_intervals(single)["t2v/R@1"])


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    truth, covered, generator = 40.0, 0, torch.Generator().manual_seed(0)
    for seed in range(100):
        hits = torch.rand(150, generator=generator) < truth / 100
        zero, place = torch.zeros(150, dtype=torch.long), torch.arange(150)
        direction = DirectionRanks((~hits).long(), zero, zero + 1, 1 / (2.0 - hits.double()), place, place)
        low, high = bootstrap_intervals(Ranks(direction, direction), seed=seed, resamples=200)["t2v/R@1"]
        covered += low <= truth <= high
    assert 88 <= covered <= 100


def test_weights_of_captions_not_of_videos():
    """Video 0 has nine captions that hit, video 1 one that misses: R@1 is 90, not 50."""
    zero, video = torch.zeros(10, dtype=torch.long), torch.tensor([0] * 9 + [1])
    hits = (video == 0).double()
    t2v = DirectionRanks(video, zero, zero + 1, 1 / (1 + video.double()), video, torch.arange(10))
    pair = torch.tensor([0, 1])
    v2t = DirectionRanks(pair * 0, pair * 0, pair * 0 + 1, torch.ones(2).double(), pair, pair)
    ranks = Ranks(t2v, v2t)
    assert metrics_of(ranks)["t2v/R@1"] == pytest.approx(100 * float(hits.mean()))
    # a resample holds video 0 twice, once or never: 100, 90 or 0
    samples = {round(v, 6) for s in range(30) for v in bootstrap_intervals(ranks, s, resamples=1)["t2v/R@1"]}
    assert samples == {0.0, 90.0, 100.0}


def test_identical_runs_do_not_differ():
    for found in paired_bootstrap([ranks_of(2.0)], [ranks_of(2.0)]).values():
        assert (found.difference, found.low, found.high, found.significant) == (0.0, 0.0, 0.0, False)


def test_a_clear_difference_is_significant_and_antisymmetric():
    good, bad = ranks_of(3.0), ranks_of(1.5)
    there, back = paired_bootstrap([good], [bad]), paired_bootstrap([bad], [good])
    for name in BOOTSTRAPPED:
        expected = metrics_of(good)[name] - metrics_of(bad)[name]
        assert there[name].difference == pytest.approx(expected)
        assert 0 < there[name].low < expected < there[name].high
        assert there[name].significant
        assert back[name].significant
        assert (back[name].low, back[name].high) == pytest.approx((-there[name].high, -there[name].low))


def test_noise_alone_is_rarely_significant():
    found = [
        paired_bootstrap([ranks_of(2.0, seed=2 * s)], [ranks_of(2.0, seed=2 * s + 1)], ["SumR"]) for s in range(20)
    ]
    assert sum(f["SumR"].significant for f in found) <= 3


def test_pairing_is_sharper_than_two_intervals():
    base = ranks_of(2.0)
    # the first of each three captions gets one rank worse: a small, regular loss
    worse = Ranks(dataclasses.replace(base.t2v, greater=base.t2v.greater + (base.t2v.query % 3 == 0)), base.v2t)
    found = paired_bootstrap([base], [worse], ["t2v/R@1"])["t2v/R@1"]
    low, high = bootstrap_intervals(base)["t2v/R@1"]
    assert found.significant
    assert found.high - found.low < high - low


def test_runs_that_cannot_be_compared():
    ranks = ranks_of(2.0)
    with pytest.raises(ValueError, match="t2v queries"):
        paired_bootstrap([ranks], [ranks_of(2.0, per_video=2)])
    other_grouping = Ranks(dataclasses.replace(ranks.t2v, video=ranks.t2v.video.flip(0)), ranks.v2t)
    with pytest.raises(ValueError, match="t2v queries"):
        paired_bootstrap([ranks], [other_grouping])
    with pytest.raises(ValueError, match="v2t queries"):
        paired_bootstrap([ranks], [Ranks(ranks.t2v, ranks.v2t[:40])])
    with pytest.raises(ValueError, match="R@2"):
        paired_bootstrap([ranks], [ranks], ["t2v/R@2"])
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_intervals(ranks, resamples=0)
    with pytest.raises(ValueError, match="different videos"):
        bootstrap_intervals(Ranks(ranks.t2v, ranks.v2t[:40]))


def test_paired_means_are_those_of_ranks_where_both_can_be_taken():
    a, b = ranks_of(2.0, seed=1), ranks_of(1.0, seed=1)
    by_ranks = paired_bootstrap([a], [b], ["t2v/R@1"])["t2v/R@1"]
    by_values = paired_means(100 * a.t2v.hit(1)[None], 100 * b.t2v.hit(1)[None], a.t2v.video)
    assert by_values.difference == pytest.approx(by_ranks.difference)
    assert (by_values.low, by_values.high) == pytest.approx((by_ranks.low, by_ranks.high), abs=0.3)
    assert by_values.significant == by_ranks.significant is True
    same = paired_means(a.t2v.hit(1)[None], a.t2v.hit(1)[None], a.t2v.video)
    assert (same.difference, same.low, same.high, same.significant) == (0, 0, 0, False)


def test_paired_means_leave_out_what_both_leave_out():
    a, b = torch.rand(2, 1, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    holes = torch.arange(50) % 7 == 0
    known, video = ~holes, torch.arange(50) // 2
    whole = paired_means(a.masked_fill(holes, torch.nan), b.masked_fill(holes, torch.nan), video)
    assert whole.difference == pytest.approx(float((a - b)[:, known].mean()))
    assert whole == paired_means(a[:, known], b[:, known], video[known])
    with pytest.raises(ValueError, match="different queries"):
        paired_means(a.masked_fill(holes, torch.nan), b, video)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        paired_means(a, b, video, resamples=0)
    with pytest.raises(ValueError, match="no query has a value"):
        paired_means(a * torch.nan, b * torch.nan, video)


def test_intervals_are_those_of_an_obvious_loop():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(3, 30, generator=generator), torch.randn(2, 30, generator=generator)
    video = torch.arange(30) // 3
    found = paired_means(a, b, video, resamples=20_000)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(video.numpy() == v) for v in rng.integers(0, 10, 10)])
        runs = [x[rng.integers(0, len(x), len(x))].numpy() for x in (a, b)]
        drawn.append(runs[0][:, rows].mean() - runs[1][:, rows].mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.05)
    assert found.p == pytest.approx(2 * min(np.mean(np.array(drawn) <= 0), np.mean(np.array(drawn) >= 0)), abs=0.05)


def test_seeds_that_differ_widen_the_interval():
    queries = torch.full((1, 100), 50.0)
    alike = paired_means(queries + torch.zeros(4, 1), queries.expand(4, -1) - 1, torch.arange(100))
    apart = paired_means(
        queries + torch.tensor([[-6.0], [-2.0], [2.0], [6.0]]), queries.expand(4, -1) - 1, torch.arange(100)
    )
    assert (alike.difference, apart.difference) == pytest.approx((1.0, 1.0))
    assert alike.significant
    assert not apart.significant
    assert apart.high - apart.low > 5


def test_holm_leaves_noise_alone_and_keeps_what_is_clear():
    noise = [{f"m{k}": paired_means(*torch.randn(2, 1, 60, generator=torch.Generator().manual_seed(20 * s + k)),
              torch.arange(60), resamples=1000) for k in range(10)} for s in range(40)]  # fmt: skip
    plain = sum(any(d.significant for d in row.values()) for row in noise)
    corrected = sum(any(d.significant for d in holm(row).values()) for row in noise)
    assert plain > 8  # of 40 rows without any difference
    assert corrected <= 5
    clear = paired_means(torch.ones(1, 60) + torch.randn(1, 60) / 10, torch.zeros(1, 60), torch.arange(60))
    assert holm(noise[0] | {"clear": clear})["clear"].significant
    assert list(holm(noise[0])) == list(noise[0])


def test_draws_that_are_kept_are_those_that_would_be_drawn() -> None:
    """A second table is as the first one, and as if nothing had been kept."""

    def draws() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        return [bootstrap._draw(5, 4, generator), bootstrap._draw(5, 4, generator), bootstrap._draw(5, 2, generator)]

    bootstrap._drawn.cache_clear()
    first = draws()
    assert bootstrap._drawn.cache_info().misses == 3
    assert not torch.equal(first[0], first[1])  # the generator goes on
    second = draws()
    assert bootstrap._drawn.cache_info().hits == 3
    generator = torch.Generator().manual_seed(3)
    for mine, kept, videos in zip(first, second, (4, 4, 2), strict=True):
        drawn = torch.randint(videos, (5, videos), generator=generator)
        assert torch.equal(mine, torch.stack([row.bincount(minlength=videos) for row in drawn]).double())
        assert torch.equal(mine, kept)


def test_draws_in_several_chunks_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CHUNK", 20)
    bootstrap._drawn.cache_clear()
    full = bootstrap._draw(2, 7, torch.Generator().manual_seed(3))  # as many as a chunk takes: more will follow
    assert bootstrap._drawn.cache_info().currsize == 0
    monkeypatch.setattr(bootstrap, "CHUNK", 21)
    assert torch.equal(bootstrap._draw(2, 7, torch.Generator().manual_seed(3)), full)
    assert bootstrap._drawn.cache_info().currsize == 1
