from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from tvr_lightning.losses.contrastive import (
    Pairs,
    directional_cross_entropy,
    similarity_decorrelation,
    symmetric_cross_entropy,
)
from tvr_lightning.nn.lean.variational import gaussian_divergence


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


def test_the_two_directions_average_to_the_symmetric_loss() -> None:
    scores = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    video = torch.tensor([0, 1, 0, 3, 4])
    by_text, by_video = directional_cross_entropy(scores, video)
    assert float((by_text + by_video) / 2) == float(symmetric_cross_entropy(scores, video))
    assert by_text != by_video
    torch.testing.assert_close(directional_cross_entropy(scores.T, video)[1], by_text)


def test_divergence_is_that_of_normal_distributions() -> None:
    generator = torch.Generator().manual_seed(3)
    mean, log_sigma = (torch.randn(2, 3, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    expected = kl_divergence(Normal(mean, log_sigma.exp()), Normal(0.0, 1.0)).mean(-1)
    torch.testing.assert_close(gaussian_divergence(mean, log_sigma), expected)
    assert float(gaussian_divergence(torch.zeros(4), torch.zeros(4))) == 0
    low = gaussian_divergence(mean.bfloat16(), log_sigma.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), expected, rtol=0.05, atol=0.05)


def test_divergence_pulls_towards_the_prior() -> None:
    mean, log_sigma = torch.tensor([2.0, -1.0], requires_grad=True), torch.tensor([1.0, -1.0], requires_grad=True)
    gaussian_divergence(mean, log_sigma).backward()
    assert (mean.grad.sign() == mean.sign()).all()
    assert (log_sigma.grad.sign() == log_sigma.sign()).all()


@pytest.mark.parametrize("pairs", ["positive", "negative", "all"])
@pytest.mark.parametrize("video", [None, [0, 1, 0, 2]])
def test_contrasts_differ_by_their_variance_over_the_pairs_that_are_meant(
    pairs: Pairs, video: list[int] | None
) -> None:
    scores = torch.randn(4, 4, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    owner = video or [0, 1, 2, 3]
    meant = {
        "positive": lambda i, j: i == j,
        "negative": lambda i, j: owner[i] != owner[j],  # the caption's own video is no negative
        "all": lambda i, j: True,
    }[pairs]
    found = [scores[i, j].var().item() for i in range(4) for j in range(4) if meant(i, j)]
    given = None if video is None else torch.tensor(video)
    assert similarity_decorrelation(scores, pairs, given).item() == pytest.approx(sum(found) / len(found))


def test_a_batch_without_negatives_gives_nothing() -> None:
    assert similarity_decorrelation(torch.randn(3, 3, 2), "negative", torch.zeros(3, dtype=torch.int64)) == 0
