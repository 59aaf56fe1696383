from __future__ import annotations

import math

import pytest
import torch

from tvr_lightning.nn.tc_mgc.similarity_reorganisation import (
    BidirectionalAggregation,
    InteractiveAggregation,
    ScoreAggregation,
    _insert,
    kept,
    reorganise,
    reorganised_size,
)


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v - max(values)) for v in values)
    return [math.exp(v - max(values)) / total for v in values]


def obvious(values: list[float], length: int, rate: float, kind: str) -> list[float | None]:
    """One vector of valid similarities, with None for places that do not exist."""
    if kind == "none":
        return list(values)
    k = max(1, int(rate * length + 1e-9))
    ranked = sorted(values, reverse=True)
    result: list[float | None] = [*ranked[:k], *[None] * (k - len(ranked[:k]))]
    if kind == "fusion":
        rest = ranked[k:]
        result.append(sum(w * r for w, r in zip(softmax(rest), rest, strict=True)) if rest else None)
    return result


@pytest.mark.parametrize("kind", ["removal", "fusion"])
@pytest.mark.parametrize(("rate", "length"), [(0.1, 32), (0.3, 10), (0.7, 10), (1.0, 6), (0.5, 12)])
def test_reorganise_against_sorting_one_by_one(kind, rate, length):
    generator = torch.Generator().manual_seed(length)
    similarities = torch.randn(4, 3, length, generator=generator, dtype=torch.double)
    mask = torch.rand(3, length, generator=generator) < 0.6
    mask[0] = False
    mask[1] = True
    values, exists = reorganise(similarities, mask, length, rate, kind)
    assert values.shape == (4, 3, reorganised_size(length, rate, kind))
    exists = exists.expand_as(values)
    for i in range(4):
        for j in range(3):
            expected = obvious(similarities[i, j][mask[j]].tolist(), length, rate, kind)
            assert exists[i, j].tolist() == [e is not None for e in expected]
            assert values[i, j].tolist() == pytest.approx([e or 0.0 for e in expected], abs=1e-12)


def test_none_pads_cropped_vectors_and_removal_leaves_places_missing():
    similarities, mask = torch.tensor([[0.5, 0.2]]), torch.tensor([[True, False]])
    values, exists = reorganise(similarities, mask, 4, 0.5, "none")
    assert values.tolist() == [[0.5, 0.0, 0.0, 0.0]]
    assert exists.tolist() == [[True, False, False, False]]
    values, exists = reorganise(similarities, mask, 8, 0.5, "removal")
    assert values.tolist() == [[0.5, 0.0, 0.0, 0.0]]
    assert exists.tolist() == [[True, False, False, False]]


def test_share_is_cut_down_whatever_floating_point_says():
    assert [kept(32, r / 10) for r in range(1, 10)] == [3, 6, 9, 12, 16, 19, 22, 25, 28]
    assert kept(10, 0.7) == 7
    assert kept(5, 0.1) == 1


def test_parameter_counts_of_the_paper():
    """Tables 5, 6, 7 and 8: learnable parameters at 32 words."""

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    def vector(rate: float, kind: str) -> int:
        return count(InteractiveAggregation(reorganised_size(32, rate, kind), 100.0))

    def matrix(rate: float, words: str, frames: str) -> int:
        sizes = reorganised_size(32, rate, frames), reorganised_size(32, rate, words)
        return count(BidirectionalAggregation(*sizes, 100.0))

    assert [vector(0.1, kind) for kind in ("removal", "fusion", "none")] == [9, 16, 1024]
    assert [vector(0.7, kind) for kind in ("removal", "fusion")] == [484, 529]
    assert matrix(0.1, "none", "none") == 4096
    assert matrix(0.1, "removal", "removal") == 36
    assert [matrix(0.1, "removal", "none"), matrix(0.1, "fusion", "none")] == [2066, 2080]
    assert [matrix(0.1, "removal", "fusion"), matrix(0.1, "fusion", "fusion")] == [50, 64]
    assert matrix(0.9, "fusion", "removal") == 3250
    assert count(ScoreAggregation(4, "lsa")) == 16
    assert count(ScoreAggregation(4, "softmax")) == count(ScoreAggregation(4, "mean")) == 0


@pytest.mark.parametrize("linear", [True, False])
def test_interaction_by_hand(linear):
    module = InteractiveAggregation(3, 2.0, linear)
    if module.interact is not None:
        module.interact.weight.data = torch.tensor([[1.0, 0.5, -1.0], [0.0, 2.0, 0.0], [0.3, 0.0, 1.0]])
    s = [0.9, 0.1, -0.4]
    weights = softmax([2 * v for v in s])
    if linear:
        mixed = [weights[0] + 0.5 * weights[1] - weights[2], 2 * weights[1], 0.3 * weights[0] + weights[2]]
        weights = softmax([2 * v for v in mixed])
    expected = sum(w * v for w, v in zip(weights, s, strict=True))
    assert module(torch.tensor(s), torch.ones(3, dtype=torch.bool)).item() == pytest.approx(expected, rel=1e-5)


def test_missing_places_weigh_nothing():
    module = InteractiveAggregation(4, 100.0)
    s = torch.tensor([0.3, 0.2, 0.0, 0.0])
    mask = torch.tensor([True, True, False, False])
    small = InteractiveAggregation(2, 100.0)
    torch.testing.assert_close(module(s, mask), small(s[:2], mask[:2]))
    assert module(torch.zeros(4), torch.zeros(4, dtype=torch.bool)) == 0


def test_both_orders_are_averaged():
    module = BidirectionalAggregation(3, 2, 5.0, linear=False)
    s = torch.randn(3, 2, dtype=torch.double)
    ones = torch.ones(3, 2, dtype=torch.bool)
    by_word = (s * (5 * s).softmax(0)).sum(0)
    by_frame = (s * (5 * s).softmax(1)).sum(1)
    expected = ((by_word * (5 * by_word).softmax(0)).sum() + (by_frame * (5 * by_frame).softmax(0)).sum()) / 2
    torch.testing.assert_close(module(s, ones), expected)


def test_score_aggregations():
    scores = torch.tensor([[3.0, 1.0, 2.0]])
    assert ScoreAggregation(3, "mean")(scores).tolist() == [2.0]
    expected = (scores.softmax(-1) * scores).sum(-1)
    torch.testing.assert_close(ScoreAggregation(3, "softmax")(scores), expected)
    torch.testing.assert_close(ScoreAggregation(3, "lsa")(scores), expected)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_inserting_is_sorting(count):
    generator = torch.Generator().manual_seed(count)
    for length in range(count, 13):
        for x in (
            torch.randn(40, length, generator=generator),
            torch.randint(0, 3, (200, length), generator=generator).float(),  # ties stay twice
        ):
            assert torch.equal(_insert(x, count), x.topk(count, dim=-1).values)


def test_without_a_second_softmax_by_hand():
    """X-CLIP's weights: what a matrix makes of a softmax."""
    module = InteractiveAggregation(3, 2.0, again=False)
    module.interact.weight.data = torch.tensor([[1.0, 0.5, -1.0], [0.0, 2.0, 0.0], [0.3, 0.0, 1.0]])
    s = [0.9, 0.1, -0.4]
    w = softmax([2 * v for v in s])
    mixed = [w[0] + 0.5 * w[1] - w[2], 2 * w[1], 0.3 * w[0] + w[2]]
    expected = sum(x * v for x, v in zip(mixed, s, strict=True))
    assert module(torch.tensor(s), torch.ones(3, dtype=torch.bool)).item() == pytest.approx(expected, rel=1e-5)
    # what the matrix gives to places that do not exist counts nothing, whatever stands there
    mask = torch.tensor([True, True, False])
    torch.testing.assert_close(module(torch.tensor([0.9, 0.1, 7.0]), mask), module(torch.tensor(s[:2]), mask[:2]))


@pytest.mark.parametrize("again", [True, False])
def test_shorter_rows_are_padded_rows_and_longer_ones_are_refused(again):
    module = InteractiveAggregation(4, 3.0, again=again)
    module.interact.weight.data = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    s = torch.tensor([[0.3, -0.2, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(module(s[:, :2], mask[:, :2]), module(s, mask))
    with pytest.raises(ValueError, match="5 similarities in a row, but the layer was built for 4"):
        module(torch.zeros(1, 5), torch.ones(1, 5, dtype=torch.bool))
