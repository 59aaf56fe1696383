"""Topics of texts and concepts of videos, solved for in turn (STMH); rows are items."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tvr_lightning.nn.hashing.factorisation import ridge, start_values

BLOCK = 512  # items whose (K, K) systems are held at a time
SMALLEST_ERROR = 1e-8  # an item without an error is not weighted without end


class TopicWeights(NamedTuple):
    """Of the objective's terms.

    Attributes:
        video_share: r.
        agreement: l.
        norm: g.

    >>> weights = TopicWeights(video_share=0.5, agreement=0.5, norm=1e-4)
    >>> topics_of(torch.tensor([[1.0]]), torch.tensor([[1.0], [9.0]]), torch.zeros(1, 2), weights)  # the nearer of two
    tensor([[1., 0.]])
    """

    video_share: float
    agreement: float
    norm: float


class TopicFactors(NamedTuple):
    """What is solved for.

    Attributes:
        concepts: F_v (K, F).
        topics: F_t (K, F').
        transform: R (K, K).
        of_videos: G_v (N, K).
        of_texts: G_t (N, K), 0 or 1.

    >>> weights = TopicWeights(video_share=0.5, agreement=0.5, norm=1e-4)
    >>> topic_factors(torch.randn(3, 5), torch.randn(3, 6), 4, weights, rounds=2, seed=0).of_texts.sum(1)
    tensor([2., 2., 2.])
    """

    concepts: Tensor
    topics: Tensor
    transform: Tensor
    of_videos: Tensor
    of_texts: Tensor


def distances(features: Tensor, centres: Tensor) -> Tensor:
    """Squared distances: (N, F), (K, F) -> (N, K).

    >>> distances(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    tensor([[0., 5.]])
    """
    return features.square().sum(1, keepdim=True) - 2 * features @ centres.T + centres.square().sum(1)


def above_middle(values: Tensor) -> Tensor:
    """Values less what lies halfway between the two halves of their row: positive for the greater half; (N, K).

    >>> above_middle(torch.tensor([[4.0, 1.0, 2.0, 8.0]]))
    tensor([[ 1., -2., -1.,  5.]])
    """
    ordered = values.sort(dim=1).values
    half = values.shape[1] - values.shape[1] // 2  # of an odd number the lower part has one more
    return values - (ordered[:, half - 1 : half] + ordered[:, half : half + 1]) / 2


def concepts_of(features: Tensor, concepts: Tensor, weights: TopicWeights) -> Tensor:
    """G_v of items by their features alone: argmin_G |X - G F_v|^2 + g / r |G|^2; (N, F), (K, F) -> (N, K)."""
    damping = weights.norm / max(weights.video_share, SMALLEST_ERROR)
    return ridge(concepts.T.double(), features.T.double(), damping).T.to(features)


def topics_of(features: Tensor, topics: Tensor, wanted: Tensor, weights: TopicWeights) -> Tensor:
    """G_t (N, K): of K topics the K / 2 that cost an item least, (1 - r) |x - f_k|^2 - 2 l wanted_k.

    Args:
        features: (N, F').
        topics: (K, F').
        wanted: (N, K), G_v R.
        weights: of the objective.
    """
    costs = (1 - weights.video_share) * distances(features, topics) - 2 * weights.agreement * wanted
    chosen = costs.topk(len(topics) // 2, dim=1, largest=False).indices
    return torch.zeros_like(costs).scatter_(1, chosen, 1)


def topic_factors(
    video: Tensor, text: Tensor, bits: int, weights: TopicWeights, rounds: int, seed: int
) -> TopicFactors:
    """Solves for F_v, F_t, R, G_v and G_t in turn; d_i weighs item i by its error in the round before.

    F_v = argmin sum_i d_i |x_i - g_i F|^2 + g / r |F|^2      F_t = argmin |X_t - G_t F|^2 + g / r |F|^2
    R   = argmin |G_t - G_v R|^2 + g / l |R|^2
    g_i = argmin r d_i |x_i - g F_v|^2 + l |g_i^t - g R|^2 + g |g|^2, then G_t by `topics_of`, d_i = r / (2 |error|)

    Args:
        video: X^v (N, F).
        text: X^t (N, F').
        bits: K.
        weights: r, l and g.
        rounds: how often.
        seed: of G_v and G_t in the beginning.
    """
    share, agreement, norm = weights
    damping = norm / max(share, SMALLEST_ERROR)
    of_videos = start_values(len(video), bits, seed, video)
    chosen = start_values(len(video), bits, seed + 1, video).topk(bits // 2, dim=1).indices
    of_texts = torch.zeros_like(of_videos).scatter_(1, chosen, 1)
    certainty = video.new_ones(len(video), 1)
    identity = torch.eye(bits, dtype=video.dtype, device=video.device)
    concepts = topics = transform = identity
    for _ in range(rounds):
        root = certainty.sqrt()
        concepts = ridge(root * of_videos, root * video, damping)
        topics = ridge(of_texts, text, damping)
        transform = ridge(of_videos, of_texts, norm / agreement)
        same = agreement * transform @ transform.T + norm * identity
        own, wanted = share * certainty, agreement * of_texts @ transform.T
        parts = zip(own.split(BLOCK), (own * (video @ concepts.T) + wanted).split(BLOCK), strict=True)
        gram = concepts @ concepts.T
        solved = [torch.linalg.solve(d[:, :, None] * gram + same, right[..., None])[..., 0] for d, right in parts]
        of_videos = torch.cat(solved)
        of_texts = topics_of(text, topics, of_videos @ transform, weights)
        errors = (video - of_videos @ concepts).square().sum(1, keepdim=True).sqrt()
        certainty = share / (2 * errors).clamp(min=SMALLEST_ERROR)
    return TopicFactors(concepts, topics, transform, of_videos, of_texts)
