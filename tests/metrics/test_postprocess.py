import math

import pytest
import torch

from tvr_lightning.errors import ScoreError
from tvr_lightning.metrics import dual_softmax, qb_norm, ranking_metrics


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 10, 1 << 20])
@pytest.mark.parametrize("direction", ["t2v", "v2t"])
def test_dual_softmax_is_the_score_times_the_softmax_over_queries(direction, chunk):
    scores, temperature = random(6, 4), 0.3
    found = dual_softmax(scores, temperature, direction, chunk)
    for t in range(6):
        for v in range(4):
            rivals = scores[:, v] if direction == "t2v" else scores[t]
            prior = math.exp(scores[t, v] / temperature) / sum(math.exp(s / temperature) for s in rivals)
            assert float(found[t, v]) == pytest.approx(float(scores[t, v]) * prior)


def test_dual_softmax_demotes_a_video_that_every_text_likes():
    scores = torch.tensor([[0.5, 0.6], [0.1, 0.9]])
    assert ranking_metrics(scores, torch.arange(2))["t2v/R@1"] == 50
    assert ranking_metrics(dual_softmax(scores, 0.1, "t2v"), torch.arange(2))["t2v/R@1"] == 100


def test_dual_softmax_survives_large_logits_and_keeps_its_input():
    scores = 1000 * torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    assert bool(dual_softmax(scores, 0.01, "t2v").isfinite().all())
    assert torch.equal(scores, before)
    assert dual_softmax(scores.half(), 1.0, "v2t").dtype == torch.float32


def test_dual_softmax_rejects():
    with pytest.raises(ValueError, match="direction"):
        dual_softmax(torch.zeros(2, 2), 1.0, "both")
    with pytest.raises(ValueError, match="positive"):
        dual_softmax(torch.zeros(2, 2), 0.0, "t2v")
    with pytest.raises(ScoreError, match="text 0, video 1"):
        dual_softmax(torch.tensor([[0.0, math.nan]]), 1.0, "t2v")


@pytest.mark.parametrize("chunk", [1, 10, 1 << 20])
def test_qb_norm_is_the_dynamic_inverted_softmax(chunk):
    scores, bank, beta = random(30, 8), random(3, 8, seed=1), 5.0
    activated = {max(range(8), key=row.__getitem__) for row in bank.tolist()}
    found = qb_norm(scores, bank, beta, chunk)
    normalised = 0
    for row, adjusted in zip(scores.tolist(), found.tolist(), strict=True):
        if max(range(8), key=row.__getitem__) in activated:
            normalised += 1
            expected = [
                math.exp(beta * s) / sum(math.exp(beta * b[v]) for b in bank.tolist()) for v, s in enumerate(row)
            ]
            assert [math.exp(beta * s) for s in adjusted] == pytest.approx(expected)
        else:
            assert adjusted == row
    assert 0 < normalised < 30


def test_qb_norm_demotes_a_hub():
    scores = torch.tensor([[0.5, 0.6, 0.1], [0.1, 0.9, 0.1], [0.1, 0.3, 0.8]])
    bank = torch.tensor([[0.2, 0.9, 0.2], [0.1, 0.7, 0.1]])  # video 1 is everyone's favourite
    assert ranking_metrics(scores, torch.arange(3))["t2v/R@1"] == pytest.approx(200 / 3)
    assert ranking_metrics(qb_norm(scores, bank, 10.0), torch.arange(3))["t2v/R@1"] == 100


def test_qb_norm_neither_overflows_nor_makes_ties():
    scores = torch.tensor([[-900.0, -1000.0, 900.0]])
    adjusted = qb_norm(scores, torch.tensor([[0.0, 0.0, 900.0]]), 20.0)
    assert bool(adjusted.isfinite().all())
    assert adjusted[0].unique().numel() == 3


def test_qb_norm_does_not_depend_on_the_order_of_videos_when_scores_tie():
    scores = torch.randint(3, (20, 6), generator=torch.Generator().manual_seed(0)).float()
    bank = torch.randint(3, (2, 6), generator=torch.Generator().manual_seed(1)).float()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(qb_norm(scores, bank, 2.0)[:, order], qb_norm(scores[:, order], bank[:, order], 2.0))
    constant = qb_norm(torch.zeros(6, 6), torch.zeros(4, 6), 20.0)
    assert ranking_metrics(constant, torch.arange(6))["t2v/R@1"] == pytest.approx(100 / 6)


def test_qb_norm_rejects():
    with pytest.raises(ValueError, match="bank scores 4 videos, the queries 3"):
        qb_norm(torch.zeros(2, 3), torch.zeros(2, 4), 20.0)
    with pytest.raises(ValueError, match="bank_scores must be a matrix"):
        qb_norm(torch.zeros(2, 3), torch.zeros(0, 3), 20.0)
    with pytest.raises(ValueError, match="beta"):
        qb_norm(torch.zeros(2, 3), torch.zeros(2, 3), -1.0)
    with pytest.raises(ScoreError, match="bank query 1, video 2"):
        qb_norm(torch.zeros(2, 3), torch.tensor([[0.0, 0, 0], [0, 0, math.inf]]), 20.0)
