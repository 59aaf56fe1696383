import itertools
from statistics import mean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tvr_lightning.metrics import (
    HammingCounts,
    average_precision,
    hamming_counts,
    hashing_metrics,
    interval_of_means,
    precision_recall_curve,
    query_precisions,
)


def draw(queries, items, bits, classes, seed=0, share=0.2):
    generator = torch.Generator().manual_seed(seed)
    codes = [
        torch.where(torch.rand(n, bits, generator=generator) < 0.5, -1, 1).to(torch.int8) for n in (queries, items)
    ]
    labels = [torch.rand(n, classes, generator=generator) < share for n in (queries, items)]
    return (*codes, *labels)


def precisions_of(ranked, total, ks, normalise):
    """The definitions, over one ordering: whether each place is relevant."""
    hits = [sum(ranked[: j + 1]) / (j + 1) for j in range(len(ranked)) if ranked[j]]
    found = {"mAP": sum(hits) / total}
    for k in ks:
        retrieved = sum(ranked[:k])
        divisor = min(k, total) if normalise == "relevant" else max(1, retrieved)
        found[f"mAP@{k}"] = sum(hits[:retrieved]) / divisor
        found[f"P@{k}"] = retrieved / min(k, len(ranked))
    return found


def mean_over_orders(orders, distance, relevant, ks, normalise):
    """Mean over orders of the items before they are sorted stably."""
    found = []
    for order in orders:
        ranked = [relevant[i] for i in sorted(order, key=lambda i: distance[i])]
        found.append(precisions_of(ranked, sum(relevant), ks, normalise))
    return {name: mean(f[name] for f in found) for name in found[0]}


def counts_of(distance, relevant, bits):
    """Counts of one query by a loop."""
    items, own = torch.zeros(1, bits + 1, dtype=torch.int64), torch.zeros(1, bits + 1, dtype=torch.int64)
    for d, r in zip(distance, relevant, strict=True):
        items[0, d] += 1
        own[0, d] += r
    return HammingCounts(items, own)


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=6, max_size=6),
    normalise=st.sampled_from(["relevant", "retrieved"]),
)
def test_every_ordering_of_small_cases(items, normalise):
    distance, relevant = [d for d, _ in items], [r for _, r in items]
    ks = (1, 2, 4, 6, 9)
    found = query_precisions(counts_of(distance, relevant, 2), ks, normalise)
    if not any(relevant):
        assert all(bool(v.isnan()) for v in found.values())
        return
    expected = mean_over_orders(itertools.permutations(range(6)), distance, relevant, ks, normalise)
    assert {n: float(v) for n, v in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize("normalise", ["relevant", "retrieved"])
def test_random_tie_breaking_comes_to_the_same(normalise):
    codes, base, own, known = draw(3, 120, 6, 5)
    own[:, 0] = True
    found = query_precisions(hamming_counts(codes, base, own, known), (10, 50), normalise)
    generator = torch.Generator().manual_seed(1)
    orders = [torch.randperm(120, generator=generator).tolist() for _ in range(1500)]
    for q in range(3):
        distance = [(codes[q] != x).sum().item() for x in base]
        relevant = [bool((own[q] & y).any()) for y in known]
        expected = mean_over_orders(orders, distance, relevant, (10, 50), normalise)
        for name, value in expected.items():
            assert float(found[name][q]) == pytest.approx(value, abs=0.01), name


def test_counts_are_those_of_a_loop_whatever_the_chunk():
    codes, base, own, known = draw(7, 40, 13, 6, share=0.3)
    items, relevant = torch.zeros(2, 7, 14, dtype=torch.int64)
    for q, n in itertools.product(range(7), range(40)):
        distance = int((codes[q] != base[n]).sum())
        items[q, distance] += 1
        relevant[q, distance] += bool((own[q] & known[n]).any())
    for chunk in (1, 90, 1 << 22):
        found = hamming_counts(codes, base, own, known, chunk)
        assert torch.equal(found.items, items)
        assert torch.equal(found.relevant, relevant)
    same = hamming_counts(codes.double().numpy(), base, own.numpy(), known)
    assert torch.equal(same.items, items)
    assert found.bits == 13


def test_the_whole_database_agrees_with_the_metric_over_scores():
    codes, base, own, known = draw(20, 300, 16, 8)
    found = query_precisions(hamming_counts(codes, base, own, known))["mAP"]
    expected = average_precision(codes.float() @ base.float().T, (own.float() @ known.float().T) > 0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, equal_nan=True)


def test_perfect_codes_and_codes_without_information():
    labels = torch.eye(4, dtype=torch.bool).repeat(30, 1)
    codes = torch.where(labels, 1, -1)
    perfect = hashing_metrics(codes[:8], codes, labels[:8], labels, ks=(10, 50))
    assert perfect == pytest.approx(
        {"mAP": 100.0, "mAP@10": 100.0, "P@10": 100.0, "mAP@50": 100.0, "P@50": 60.0, "n_queries_without_relevant": 0.0}
    )
    constant = torch.ones(120, 4)
    counts = hamming_counts(constant[:8], constant, labels[:8], labels)
    chance = query_precisions(hamming_counts(codes[:8], codes, labels[:8], labels).tied())
    for name, value in query_precisions(counts).items():
        torch.testing.assert_close(value, chance[name])
    assert float(chance["P@50"][0]) == pytest.approx(0.25)
    assert float(chance["mAP"][0]) == pytest.approx(sum((1 + j * 29 / 119) / (j + 1) for j in range(120)) / 120)


def test_random_codes_score_chance_on_average():
    _, _, own, known = draw(10, 200, 8, 4)
    found = [hashing_metrics(*draw(10, 200, 8, 4, seed)[:2], own, known)["mAP"] for seed in range(60)]
    counts = hamming_counts(*draw(10, 200, 8, 4)[:2], own, known)
    chance = 100 * float(query_precisions(counts.tied())["mAP"].nanmean())
    assert mean(found) == pytest.approx(chance, abs=0.4)


def test_queries_without_a_relevant_item_are_left_out_and_counted():
    codes, base, own, known = draw(6, 50, 8, 3)
    own[0] = False
    own[1], known[:, 2] = torch.tensor([False, False, True]), False
    own[2:, 0], known[3, 0] = True, True
    metrics = hashing_metrics(codes, base, own, known)
    assert metrics["n_queries_without_relevant"] == 2
    rest = hashing_metrics(codes[2:], base, own[2:], known)
    assert rest == {**metrics, "n_queries_without_relevant": 0.0}
    with pytest.raises(ValueError, match="no query shares a label"):
        hashing_metrics(codes[:2], base, own[:2], known)
    with pytest.raises(ValueError, match="recall is undefined"):
        precision_recall_curve(codes[:2], base, own[:2], known)


def test_the_curve_is_that_of_a_loop():
    codes, base, own, known = draw(9, 80, 24, 5)
    curve = precision_recall_curve(codes, base, own, known)
    distance = torch.tensor([[(q != x).sum().item() for x in base] for q in codes])
    relevant = torch.tensor([[bool((a & b).any()) for b in known] for a in own])
    queries = [q for q in range(9) if relevant[q].any()]
    assert curve.radius.tolist() == list(range(int(distance[queries].min()), 25))
    for i, radius in enumerate(curve.radius.tolist()):
        precision, recall = [], []
        for q in queries:
            within = distance[q] <= radius
            recall.append(float(relevant[q][within].sum() / relevant[q].sum()))
            if within.any():
                precision.append(float(relevant[q][within].double().mean()))
        assert float(curve.precision[i]) == pytest.approx(mean(precision))
        assert float(curve.recall[i]) == pytest.approx(mean(recall))
        assert float(curve.retrieving[i]) == pytest.approx(len(precision) / len(queries))
    assert float(curve.recall[-1]) == 1.0


def test_large_databases_stay_exact():
    """Hypergeometric chances through logarithms of factorials, far beyond what fits a float."""
    items = torch.tensor([[30, 200_000, 5]])
    relevant = torch.tensor([[10, 60_000, 2]])
    found = query_precisions(HammingCounts(items, relevant), (100,), "retrieved")
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(4000):
        first = torch.randperm(30, generator=generator) < 10
        # places in a group of 200,000 are all but independent
        ranked = torch.cat([first, torch.rand(70, generator=generator) < 0.3]).double()
        values.append(float((ranked * ranked.cumsum(0) / torch.arange(1, 101)).sum() / ranked.sum()))
    assert float(found["mAP@100"]) == pytest.approx(mean(values), abs=0.005)
    assert float(found["P@100"]) == pytest.approx((10 + 70 * 0.3) / 100)


def test_intervals_resample_videos_and_hold_the_mean():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(300, generator=generator, dtype=torch.float64)
    own = torch.arange(300)
    low, high = interval_of_means(values[None], own, resamples=4000)
    width = 2 * 1.96 * float(values.std()) / 300**0.5
    assert low < float(values.mean()) < high
    assert high - low == pytest.approx(width, rel=0.1)
    assert interval_of_means(values[None], own) == interval_of_means(values[None], own)
    # ten equal queries a video tell no more than one
    ten = interval_of_means(values.repeat_interleave(10)[None], own.repeat_interleave(10), resamples=4000)
    assert ten == pytest.approx((low, high))
    holes = torch.cat([values, torch.full((50,), torch.nan, dtype=torch.float64)])
    assert interval_of_means(holes[None], torch.arange(350), resamples=4000) == (low, high)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        interval_of_means(values[None], own, resamples=0)


def test_input_that_does_not_fit():
    codes, base, own, known = draw(4, 9, 8, 3)
    with pytest.raises(ValueError, match="8 bits, database codes 7"):
        hashing_metrics(codes, base[:, :7], own, known)
    with pytest.raises(ValueError, match=r"-1 and \+1 only"):
        hashing_metrics(codes * 0, base, own, known)
    with pytest.raises(ValueError, match=r"must be bool \(4, classes\)"):
        hashing_metrics(codes, base, own.float(), known)
    with pytest.raises(ValueError, match="3 classes, database labels 2"):
        hashing_metrics(codes, base, own, known[:, :2])
    with pytest.raises(ValueError, match="rows and columns"):
        hashing_metrics(codes[:0], base, own[:0], known)
    with pytest.raises(ValueError, match="cutoffs must be at least 1"):
        hashing_metrics(codes, base, own, known, ks=(0,))
    with pytest.raises(ValueError, match="normalise must be one of"):
        hashing_metrics(codes, base, own, known, normalise="all")
