from __future__ import annotations

import math

import pytest
import torch

from tvr_lightning.losses import symmetric_cross_entropy


def obvious(scores: torch.Tensor, video: list[int]) -> float:
    total, size = 0.0, len(video)
    for direction in (scores, scores.T):
        for i in range(size):
            rivals = [j for j in range(size) if j == i or video[j] != video[i]]
            total -= math.log(math.exp(direction[i, i]) / sum(math.exp(direction[i, j]) for j in rivals))
    return total / (2 * size)


@pytest.mark.parametrize("video", [[0, 1, 2, 3], [0, 1, 0, 3], [5, 5, 5, 5]])
def test_against_a_loop(video: list[int]) -> None:
    scores = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(symmetric_cross_entropy(scores, torch.tensor(video))) == pytest.approx(obvious(scores, video))


def test_without_videos_every_other_column_is_a_negative() -> None:
    scores = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert float(symmetric_cross_entropy(scores)) == pytest.approx(obvious(scores, list(range(5))))


def test_equal_scores_cost_log_of_the_batch() -> None:
    assert float(symmetric_cross_entropy(torch.zeros(8, 8))) == pytest.approx(math.log(8))


def test_gradient_is_finite_where_captions_share_a_video() -> None:
    scores = torch.zeros(3, 3, requires_grad=True)
    symmetric_cross_entropy(scores, torch.tensor([1, 1, 2])).backward()
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, 1] == 0
