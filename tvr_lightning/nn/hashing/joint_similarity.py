"""Joint similarities of a batch's items over both modalities, which codes are to repeat; one for each method."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tvr_lightning.nn.similarity import cosine_matrix


def spread_cosines(features: Tensor) -> Tensor:
    """2 cos - 1 of all pairs: (B, F) -> (B, B), from -3 to 1; of features that are never negative from -1 to 1."""
    return 2 * cosine_matrix(features, features) - 1


def djsrh_similarity(video: Tensor, text: Tensor, video_share: float, diffusion: float, scale: float) -> Tensor:
    """S of DJSRH: both modalities' similarities, and how much two items are alike in them.

    S~ = b S_v + (1 - b) S_t,    S = mu ((1 - e) S~ + e S~ S~^T / B)

    Args:
        video: X^v (B, F).
        text: X^t (B, F').
        video_share: b.
        diffusion: e.
        scale: mu.

    >>> same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> djsrh_similarity(same, same, 0.9, 0.4, 1.5)
    tensor([[1.5000, 1.5000],
            [1.5000, 1.5000]])
    """
    joint = video_share * spread_cosines(video) + (1 - video_share) * spread_cosines(text)
    return scale * ((1 - diffusion) * joint + diffusion * joint @ joint.T / len(joint))


def jdsh_similarity(video: Tensor, text: Tensor, shares: tuple[float, float, float]) -> Tensor:
    """S of JDSH before its weighting: both modalities' similarities, and that of an item's row in one and the other.

    S_high = cos(rows of S_v, rows of S_t), symmetrised,    S = a S_v + b S_t + c S_high

    Args:
        video: X^v (B, F).
        text: X^t (B, F').
        shares: a, b and c.
    """
    of_video, of_text = spread_cosines(video), spread_cosines(text)
    high = cosine_matrix(of_video, of_text)
    return shares[0] * of_video + shares[1] * of_text + shares[2] * (high + high.T) / 2


class Bounds(NamedTuple):
    """Of the similarities of pairs: below `left` they count as unlike, above `right` as alike.

    Attributes:
        left: a number.
        right: a number.
        smallest: the least of them.
        largest: the greatest.

    >>> bounds = Bounds(*torch.tensor([-0.5, 0.5, -1.0, 1.0]))
    >>> weighted_by_distribution(torch.tensor([[0.2]]), bounds, 0.1, 0.2)  # between the two: as it was
    tensor([[0.2000]])
    """

    left: Tensor
    right: Tensor
    smallest: Tensor
    largest: Tensor


def bounds_of(similarities: Tensor, left_scales: float, right_scales: float) -> Bounds:
    """Bounds from a sample of similarities (N,), whose two sides are taken for halves of Laplace distributions.

    Their common location is the median; the scale of a side is the mean distance from it there, which is what is most
    likely under such a distribution. left = location - left_scales x scale, right likewise.

    >>> bounds_of(torch.tensor([-1.0, 0.0, 2.0]), 1.0, 0.5)
    Bounds(left=tensor(-1.), right=tensor(1.), smallest=tensor(-1.), largest=tensor(2.))
    """
    location = similarities.median()
    below, above = similarities[similarities < location], similarities[similarities > location]
    left = location - left_scales * (location - below).sum() / max(1, len(below))
    right = location + right_scales * (above - location).sum() / max(1, len(above))
    return Bounds(left, right, similarities.min(), similarities.max())


def weighted_by_distribution(similarity: Tensor, bounds: Bounds, left_weight: float, right_weight: float) -> Tensor:
    """Moves what is certainly unlike or alike further away from the middle (JDSH's weighting), (B, B).

    s < left: s (1 + left_weight exp(smallest - s)),    s > right: s (1 + right_weight exp(s - largest))
    """
    unlike = 1 + left_weight * (bounds.smallest - similarity).exp()
    alike = 1 + right_weight * (similarity - bounds.largest).exp()
    factor = torch.where(similarity < bounds.left, unlike, torch.ones_like(similarity))
    return similarity * torch.where(similarity > bounds.right, alike, factor)


def agch_similarity(video: Tensor, text: Tensor, shares: tuple[float, float], radius: float) -> Tensor:
    """S of AGCH: direction and distance of features of unit length, multiplied; from -1 to 1 for shares that sum to 1.

    D_m = exp(-|x_i - x_j| / rho),    S = 2 (g_v C_v D_v + g_t C_t D_t) - 1

    Args:
        video: X^v (B, F).
        text: X^t (B, F').
        shares: g_v and g_t.
        radius: rho.

    >>> agch_similarity(torch.eye(2), torch.eye(2), (0.5, 0.5), 4.0)
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    total = torch.zeros_like(cosine_matrix(video, video))
    for features, share in ((video, shares[0]), (text, shares[1])):
        cosines = cosine_matrix(features, features)
        distances = (2 - 2 * cosines).clamp(min=0).sqrt()  # of unit vectors
        total = total + share * cosines * (-distances / radius).exp()
    return 2 * total - 1
