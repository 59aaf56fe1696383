import itertools
import math
import random
from statistics import mean, median

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tvr_lightning.errors import ScoreError
from tvr_lightning.metrics import metrics_of, query_ranks, ranking_metrics

PROTOCOLS = ("sets", "captions")
CUTOFFS = (1, 5, 10, 50)


def orderings(scores):
    """Every order of items that descending scores allow."""
    groups = [[i for i, s in enumerate(scores) if s == value] for value in sorted(set(scores), reverse=True)]
    for parts in itertools.product(*(itertools.permutations(g) for g in groups)):
        yield [i for part in parts for i in part]


def precision_of_order(order, relevant):
    ranks = [rank for rank, item in enumerate(order, 1) if item in relevant]
    return sum((i + 1) / rank for i, rank in enumerate(ranks)) / len(ranks)


def queries_of(scores, caption_video, v2t):
    """(item scores, own items) of every query, by direction."""
    rows, captions = scores.tolist(), list(enumerate(caption_video.tolist()))
    t2v = [(rows[t], {v}) for t, v in captions]
    described = sorted({v for _, v in captions})
    back = []
    for v in described:
        if v2t == "captions":
            back.append(([row[v] for row in rows], {t for t, u in captions if u == v}))
        else:
            sets = [max(rows[t][v] for t, u in captions if u == s) for s in described]
            back.append((sets, {described.index(v)}))
    return {"t2v": t2v, "v2t": back}


def metrics_without_ties(scores, caption_video, v2t="sets"):
    """The metrics of scores without ties, query by query."""
    metrics = {}
    for direction, queries in queries_of(scores, caption_video, v2t).items():
        ranks, precisions = [], []
        for items, own in queries:
            order = sorted(range(len(items)), key=lambda i: -items[i])
            ranks.append(1 + min(order.index(i) for i in own))
            precisions.append(precision_of_order(order, own))
        metrics |= {f"{direction}/R@{k}": 100 * sum(r <= k for r in ranks) / len(ranks) for k in CUTOFFS}
        metrics[f"{direction}/MdR"] = median(ranks)
        metrics[f"{direction}/MnR"] = mean(ranks)
        metrics[f"{direction}/RSum"] = sum(metrics[f"{direction}/R@{k}"] for k in (1, 5, 10))
        metrics[f"{direction}/mAP"] = 100 * mean(precisions)
    metrics["SumR"] = metrics["t2v/RSum"] + metrics["v2t/RSum"]
    return metrics


def relation(captions, videos, generator):
    """Captions of a random number per video; about a third of the videos get none."""
    described = torch.randperm(videos, generator=generator)[: max(1, videos * 2 // 3)]
    return described[torch.randint(len(described), (captions,), generator=generator)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_caption_per_video_by_hand():
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.3, 0.4, 0.7]])
    metrics = ranking_metrics(scores, torch.arange(3))
    # texts stand at 1, 3, 1; videos at 1 (0.9), 1 (0.5), 1 (0.7)
    assert metrics["t2v/R@1"] == pytest.approx(200 / 3)
    assert metrics["t2v/R@5"] == metrics["t2v/R@50"] == 100
    assert metrics["t2v/MdR"] == 1
    assert metrics["t2v/MnR"] == pytest.approx(5 / 3)
    assert metrics["t2v/mAP"] == pytest.approx(100 * (1 + 1 / 3 + 1) / 3)
    assert metrics["t2v/RSum"] == pytest.approx(200 / 3 + 200)
    assert (metrics["v2t/R@1"], metrics["v2t/MnR"], metrics["v2t/mAP"]) == (100, 1, 100)
    assert metrics["SumR"] == pytest.approx(200 / 3 + 500)


# captions 0, 1 of video 0; caption 2 of video 1; nothing describes video 2
SCORES = torch.tensor([[0.2, 0.9, 0.1], [0.8, 0.8, 0.8], [0.5, 0.3, 0.4]])
RELATION = torch.tensor([0, 0, 1])


def test_several_captions_per_video_with_ties_by_hand():
    ranks = query_ranks(SCORES, RELATION)
    assert ranks.t2v.greater.tolist() == [1, 0, 2]
    assert ranks.t2v.tied_other.tolist() == [0, 2, 0]
    assert ranks.t2v.tied_own.tolist() == [1, 1, 1]
    assert ranks.t2v.expected_rank.tolist() == [2, 2, 3]
    assert ranks.t2v.hit(1).tolist() == pytest.approx([0, 1 / 3, 0])
    assert ranks.t2v.hit(2).tolist() == pytest.approx([1, 2 / 3, 0])
    assert ranks.t2v.average_precision.tolist() == pytest.approx([1 / 2, (1 + 1 / 2 + 1 / 3) / 3, 1 / 3])
    assert ranks.t2v.video.tolist() == [0, 0, 1]
    assert ranks.t2v.query.tolist() == [0, 1, 2]
    # sets of video 0: max(0.2, 0.8) against 0.5; of video 1: own 0.3 against max(0.9, 0.8)
    assert ranks.v2t.greater.tolist() == [0, 1]
    assert ranks.v2t.expected_rank.tolist() == [1, 2]
    assert ranks.v2t.query.tolist() == ranks.v2t.video.tolist() == [0, 1]


def test_captions_protocol_by_hand():
    scores = SCORES.clone()
    scores[:, 0] = torch.tensor([0.5, 0.5, 0.5])
    ranks = query_ranks(scores, RELATION, "captions").v2t
    # video 0: both own captions tie with the other one; video 1: both others are greater
    assert ranks.greater.tolist() == [0, 2]
    assert ranks.tied_other.tolist() == [1, 0]
    assert ranks.tied_own.tolist() == [2, 1]
    assert ranks.expected_rank.tolist() == pytest.approx([4 / 3, 3])
    assert ranks.hit(1).tolist() == pytest.approx([2 / 3, 0])
    assert ranks.hit(2).tolist() == pytest.approx([1, 0])
    # own at places {1,2}, {1,3}, {2,3}, each as likely
    precision = ((1 + 1) + (1 + 2 / 3) + (1 / 2 + 2 / 3)) / 2 / 3
    assert ranks.average_precision.tolist() == pytest.approx([precision, 1 / 3])


def test_median_lies_between_two_middle_ranks():
    scores = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # ranks 1 and 1 + 1 + 1/2
    assert ranking_metrics(scores, torch.tensor([0, 1]))["t2v/MdR"] == (1 + 2.5) / 2


@pytest.mark.parametrize("v2t", PROTOCOLS)
@pytest.mark.parametrize(("texts", "videos"), [(40, 70), (90, 30), (60, 60), (1, 1), (1, 4), (7, 1)])
def test_without_ties_agrees_with_a_loop(texts, videos, v2t):
    scores = torch.randperm(texts * videos, generator=generator()).reshape(texts, videos).double()
    caption_video = relation(texts, videos, generator(1))
    assert ranking_metrics(scores, caption_video, v2t) == pytest.approx(
        metrics_without_ties(scores, caption_video, v2t)
    )


@pytest.mark.parametrize("v2t", PROTOCOLS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_ties_agree_with_every_ordering(v2t, data):
    texts, videos = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    entries = data.draw(st.lists(st.integers(0, 2), min_size=texts * videos, max_size=texts * videos))
    scores = torch.tensor(entries).reshape(texts, videos).float()
    caption_video = torch.tensor(data.draw(st.lists(st.integers(0, videos - 1), min_size=texts, max_size=texts)))
    ranks = query_ranks(scores, caption_video, v2t)
    for direction, queries in queries_of(scores, caption_video, v2t).items():
        found = getattr(ranks, direction)
        for i, (items, own) in enumerate(queries):
            orders = list(orderings(items))
            first = [1 + min(order.index(o) for o in own) for order in orders]
            assert float(found.expected_rank[i]) == pytest.approx(mean(first))
            assert float(found.average_precision[i]) == pytest.approx(
                mean(precision_of_order(order, own) for order in orders)
            )
            for cutoff in (1, 2, 3, 10):
                assert float(found.hit(cutoff)[i]) == pytest.approx(mean(rank <= cutoff for rank in first))


@pytest.mark.parametrize("v2t", PROTOCOLS)
def test_ties_agree_with_random_tie_breaking(v2t):
    scores = torch.randint(3, (24, 12), generator=generator(2)).double()
    caption_video = relation(24, 12, generator(3))
    expected, noise, repeats = ranking_metrics(scores, caption_video, v2t), generator(4), 600
    names = [n for n in expected if not n.endswith("MdR")]  # the median of expected ranks is not an expectation
    # sets tie as sets: breaking ties inside them would favour large ones, so noise goes to each set's maximum
    if v2t == "sets":
        names = [n for n in names if n.startswith("t2v")]
    draws = []
    for _ in range(repeats):
        broken = scores + 1e-3 * torch.rand(scores.shape, generator=noise, dtype=torch.float64)
        metrics = ranking_metrics(broken, caption_video, v2t)
        draws.append([metrics[n] for n in names])
    sample = torch.tensor(draws, dtype=torch.float64)
    error = sample.std(0) / math.sqrt(repeats)
    distance = (sample.mean(0) - torch.tensor([expected[n] for n in names], dtype=torch.float64)).abs()
    assert bool((distance <= 4 * error + 1e-9).all()), dict(zip(names, (distance / error).tolist(), strict=True))


def test_tied_sets_agree_with_random_tie_breaking():
    scores = torch.randint(3, (24, 12), generator=generator(2)).double()
    caption_video = relation(24, 12, generator(3))
    expected = metrics_of(query_ranks(scores, caption_video))
    noise, draws = random.Random(0), {f"v2t/{n}": [] for n in ("R@1", "R@5", "MnR", "mAP")}
    queries = queries_of(scores, caption_video, "sets")["v2t"]
    for _ in range(600):
        ranks = []
        for items, own in queries:
            broken = [s + 1e-3 * noise.random() for s in items]
            ranks.append(1 + sum(b > broken[next(iter(own))] for b in broken))
        draws["v2t/R@1"].append(100 * mean(r <= 1 for r in ranks))
        draws["v2t/R@5"].append(100 * mean(r <= 5 for r in ranks))
        draws["v2t/MnR"].append(mean(ranks))
        draws["v2t/mAP"].append(100 * mean(1 / r for r in ranks))
    for name, values in draws.items():
        error = float(torch.tensor(values).std()) / math.sqrt(len(values))
        assert abs(mean(values) - expected[name]) <= 4 * error, name


@pytest.mark.parametrize(("texts", "videos", "per_video"), [(60, 60, 1), (240, 80, 4), (60, 20, 4)])
def test_a_constant_scorer_gets_chance(texts, videos, per_video):
    described = texts // per_video
    caption_video = torch.arange(described).repeat_interleave(per_video)
    metrics = ranking_metrics(torch.full((texts, videos), 0.3), caption_video)
    for direction, items in (("t2v", videos), ("v2t", described)):
        for cutoff in (1, 5, 10, 50):
            assert metrics[f"{direction}/R@{cutoff}"] == pytest.approx(100 * min(cutoff / items, 1), rel=1e-12)
        assert metrics[f"{direction}/MdR"] == metrics[f"{direction}/MnR"] == (items + 1) / 2
        assert metrics[f"{direction}/mAP"] == pytest.approx(100 * sum(1 / r for r in range(1, items + 1)) / items)


def test_a_constant_scorer_gets_chance_among_all_captions():
    caption_video = torch.arange(20).repeat_interleave(4)
    metrics = ranking_metrics(torch.zeros(80, 20), caption_video, "captions")
    for cutoff in (1, 5, 10, 50):
        chance = 1 - math.comb(80 - cutoff, 4) / math.comb(80, 4)
        assert metrics[f"v2t/R@{cutoff}"] == pytest.approx(100 * chance)
    assert metrics["v2t/MnR"] == pytest.approx(81 / 5)


@pytest.mark.parametrize("v2t", PROTOCOLS)
@pytest.mark.parametrize("chunk", [1, 50, 333])
def test_the_chunk_size_does_not_matter(v2t, chunk):
    scores = torch.randint(6, (50, 33), generator=generator()).float()
    caption_video = relation(50, 33, generator(1))
    whole, parts = query_ranks(scores, caption_video, v2t), query_ranks(scores, caption_video, v2t, chunk)
    for direction in ("t2v", "v2t"):
        for name, tensor in getattr(whole, direction).tensors().items():
            torch.testing.assert_close(getattr(getattr(parts, direction), name), tensor, rtol=1e-13, atol=0)


@pytest.mark.parametrize("v2t", PROTOCOLS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), texts=st.integers(1, 12), videos=st.integers(1, 8))
def test_the_order_of_videos_and_captions_does_not_matter(v2t, seed, texts, videos):
    g = generator(seed)
    scores = torch.randint(4, (texts, videos), generator=g).float()
    caption_video = torch.randint(videos, (texts,), generator=g)
    new_place, order = torch.randperm(videos, generator=g), torch.randperm(texts, generator=g)
    moved = torch.empty_like(scores)
    moved[:, new_place] = scores
    assert ranking_metrics(moved[order], new_place[caption_video][order], v2t) == pytest.approx(
        ranking_metrics(scores, caption_video, v2t)
    )


def test_a_video_without_captions_only_distracts():
    scores = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.7, 0.1]])
    with_distractor = ranking_metrics(scores, torch.tensor([0, 1]))
    without = ranking_metrics(scores[:, :2], torch.tensor([0, 1]))
    assert (with_distractor["t2v/R@1"], without["t2v/R@1"]) == (50, 100)
    assert {k: v for k, v in with_distractor.items() if k.startswith("v2t")} == {
        k: v for k, v in without.items() if k.startswith("v2t")
    }


@pytest.mark.parametrize("v2t", PROTOCOLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_dtypes_and_numpy(dtype, v2t):
    whole = torch.randint(9, (12, 8), generator=generator())  # exact in every type
    caption_video = relation(12, 8, generator(1))
    expected = ranking_metrics(whole.float(), caption_video, v2t)
    assert ranking_metrics(whole.to(dtype), caption_video, v2t) == expected
    array = whole.float().numpy().astype(np.float32)
    assert ranking_metrics(array, caption_video.numpy().astype(np.int32), v2t) == expected


def test_float64_differences_are_not_ties():
    scores = torch.tensor([[1.0, 1.0 + 1e-12], [0.0, 1.0]], dtype=torch.float64)
    assert query_ranks(scores, torch.tensor([0, 1])).t2v.greater.tolist() == [1, 0]


def test_a_memory_mapped_matrix(tmp_path):
    texts, videos = 30, 20
    flat = torch.from_file(str(tmp_path / "scores"), shared=True, size=texts * videos)
    mapped = flat.view(texts, videos)
    mapped.copy_(torch.randint(7, (texts, videos), generator=generator()))
    before, caption_video = mapped.clone(), relation(texts, videos, generator(1))
    for v2t in PROTOCOLS:
        assert ranking_metrics(mapped, caption_video, v2t) == ranking_metrics(before, caption_video, v2t)
    assert torch.equal(mapped, before)


@pytest.mark.parametrize(("value", "chunk"), list(itertools.product([math.nan, math.inf, -math.inf], [1, 1 << 20])))
def test_a_score_that_is_not_finite_names_the_pair(value, chunk):
    scores = torch.zeros(6, 4)
    scores[3, 2] = scores[5, 0] = value
    with pytest.raises(ScoreError, match=r"\(text 3, video 2\).*2 of 24"):
        query_ranks(scores, torch.tensor([0, 1, 2, 3, 0, 1]), chunk=chunk)


@pytest.mark.parametrize(
    ("scores", "caption_video", "v2t", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), "sets", "matrix"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "sets", "matrix"),
        (torch.zeros(3, 0), torch.zeros(3, dtype=torch.long), "sets", "matrix"),
        (torch.zeros(3, 2, dtype=torch.complex64), torch.zeros(3, dtype=torch.long), "sets", "real"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.long), "sets", "each row"),
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.long), "sets", "each row"),
        (torch.zeros(3, 2), torch.zeros(3), "sets", "integers"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), "sets", r"0\.\.1.*got 0\.\.2"),
        (torch.zeros(3, 2), torch.tensor([0, 1, -1]), "sets", r"got -1\.\.1"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 1]), "set", "sets, captions"),
    ],
)
def test_input_that_does_not_fit(scores, caption_video, v2t, message):
    with pytest.raises(ValueError, match=message):
        query_ranks(scores, caption_video, v2t)


def slow_several(scores, right):
    """Greater, other tied and own tied items of each row, by the definition."""
    found = []
    for row, own in zip(scores.tolist(), right, strict=True):
        best = max(row[i] for i in own)
        greater = sum(x > best for x in row)
        tied_own = sum(row[i] == best for i in own)
        found.append((greater, sum(x == best for x in row) - tied_own, tied_own))
    return found


@pytest.mark.parametrize("v2t", PROTOCOLS)
@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_several_right_videos_agree_with_a_slow_loop(v2t, chunk):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (9, 7), generator=generator).float()  # ties
    video = torch.tensor([0, 0, 1, 2, 2, 2, 4, 5, 5])  # nobody describes 3 and 6
    also = torch.tensor([[0, 3], [2, 0], [2, 2], [8, 1], [3, 2]])  # the last says what is known already
    ranks = query_ranks(scores, video, v2t, chunk, also)
    right = [{int(v)} for v in video]
    for caption, column in also.tolist():
        right[caption].add(column)
    counts = list(
        zip(ranks.t2v.greater.tolist(), ranks.t2v.tied_other.tolist(), ranks.t2v.tied_own.tolist(), strict=True)
    )
    assert counts == slow_several(scores, right)
    assert ranks.t2v.video.tolist() == video.tolist()

    queries = described = sorted(set(video.tolist()))
    assert ranks.v2t.query.tolist() == queries
    if v2t == "sets":
        items = torch.stack([scores[video == v].amax(0) for v in described], 1)[queries]
        sets = [{described.index(int(video[c])) for c, own in enumerate(right) if v in own} for v in queries]
    else:
        items, sets = scores.T[queries], [{c for c, own in enumerate(right) if v in own} for v in queries]
    counts = list(
        zip(ranks.v2t.greater.tolist(), ranks.v2t.tied_other.tolist(), ranks.v2t.tied_own.tolist(), strict=True)
    )
    assert counts == slow_several(items, sets)


@pytest.mark.parametrize("v2t", PROTOCOLS)
def test_pairs_that_are_right_already_change_nothing(v2t):
    scores, video = (
        torch.randn(9, 5, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0, 1, 1, 2, 3, 3, 4, 4, 4]),
    )
    plain = metrics_of(query_ranks(scores, video, v2t))
    known = torch.stack([torch.arange(9), video], 1)
    several = metrics_of(query_ranks(scores, video, v2t, also=known))
    assert several == pytest.approx(plain)
    assert metrics_of(query_ranks(scores, video, v2t, also=known[:0])) == plain


def test_pairs_outside_of_the_matrix():
    for also in (torch.tensor([[0, 5]]), torch.tensor([[-1, 0]]), torch.tensor([0, 1]), torch.tensor([[0.0, 1.0]])):
        with pytest.raises(ValueError, match="pairs must"):
            query_ranks(torch.randn(3, 3), torch.arange(3), also=also)
