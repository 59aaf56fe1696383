"""Sinkhorn's biases against its rounds written out number by number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tvr_lightning.errors import ScoreError
from tvr_lightning.metrics import ranking_metrics, sinkhorn_biases, sinkhorn_single_query


def random(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal(bank: list[list[float]], temperature: float, rounds: int) -> list[float]:
    """One kernel, one pair of scalings, sums as they are written."""
    kernel = [[math.exp(s / temperature) for s in row] for row in bank]
    items = range(len(kernel[0]))
    b = [1 / sum(row[i] for row in kernel) for i in items]
    for _ in range(rounds):
        a = [1 / sum(row[i] * b[i] for i in items) for row in kernel]
        b = [1 / sum(row[i] * x for row, x in zip(kernel, a, strict=True)) for i in items]
    total = sum(b)
    return [temperature * math.log(x / total) for x in b]


@pytest.mark.parametrize("chunk", [1, 10, 1 << 20])
@pytest.mark.parametrize("rounds", [1, 4])
def test_biases_are_those_of_the_rounds(chunk: int, rounds: int) -> None:
    bank = random(7, 4)
    found = sinkhorn_biases(bank, 0.7, rounds, chunk)
    expected = torch.tensor(literal(bank.tolist(), 0.7, rounds), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 10, 1 << 20])
@pytest.mark.parametrize("rounds", [1, 4])
def test_a_single_query_joins_the_bank_for_itself(chunk: int, rounds: int) -> None:
    scores, bank = random(6, 4), random(7, 4, seed=1)
    found = sinkhorn_single_query(scores, bank, 0.7, rounds, chunk)
    for query, adjusted in zip(scores.tolist(), found, strict=True):
        biases = literal([*bank.tolist(), query], 0.7, rounds)
        expected = [s + b for s, b in zip(query, biases, strict=True)]
        torch.testing.assert_close(adjusted, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    # what stands beside it in the test changes nothing
    assert torch.equal(sinkhorn_single_query(scores[2:3], bank, 0.7, rounds, chunk)[0], found[2])


def test_both_demote_a_hub() -> None:
    scores = torch.tensor([[0.5, 0.6, 0.1], [0.1, 0.9, 0.1], [0.1, 0.3, 0.8]])
    bank = torch.tensor([[0.2, 0.9, 0.2], [0.1, 0.7, 0.1], [0.6, 0.7, 0.5]])  # video 1 is everyone's favourite
    assert ranking_metrics(scores, torch.arange(3))["t2v/R@1"] == pytest.approx(200 / 3)
    biases = sinkhorn_biases(bank, 0.1)
    assert int(biases.argmin()) == 1
    assert ranking_metrics(scores[:1] + biases, torch.zeros(1).long())["t2v/R@1"] == 100
    assert int(sinkhorn_single_query(scores, bank, 0.1)[0].argmax()) == 0


def test_large_logits_neither_overflow_nor_vanish() -> None:
    bank = 1000 * torch.rand(20, 5, generator=torch.Generator().manual_seed(0))
    bank[:, 3] -= 5000  # a video that nobody likes
    biases = sinkhorn_biases(bank, 1.0)
    assert bool(biases.isfinite().all())
    scores = bank[:4] + 100
    adjusted = sinkhorn_single_query(scores, bank, 1.0)
    assert adjusted.dtype == torch.float32
    assert bool(adjusted.isfinite().all())
    with pytest.raises(ScoreError, match=r"temperatures of Sinkhorn above the bank's.*the temperature of 1 is too low"):
        sinkhorn_single_query(scores + 1e4, bank, 1.0)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature of Sinkhorn must be positive"):
        sinkhorn_biases(torch.zeros(2, 2), 0.0)
    with pytest.raises(ValueError, match="1 round or more"):
        sinkhorn_biases(torch.zeros(2, 2), 1.0, rounds=0)
    with pytest.raises(ValueError, match="bank scores 4 items, the queries 3"):
        sinkhorn_single_query(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ScoreError, match="bank query 1, item 0"):
        sinkhorn_biases(torch.tensor([[0.0], [math.nan]]))
    with pytest.raises(ScoreError, match="query 0, item 1"):
        sinkhorn_single_query(torch.tensor([[0.0, math.inf]]), torch.zeros(1, 2))
