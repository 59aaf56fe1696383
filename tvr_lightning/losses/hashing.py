"""Loss terms of hashing methods as free functions; where none is named, of SPTCH (ACM MM 2024).

Squared Frobenius norms are means here, so that the terms' weights do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.nn.similarity import cosine_matrix


def semantic_reconstruction(decoded: tuple[Tensor, Tensor], features: tuple[Tensor, Tensor]) -> Tensor:
    """L_rc: mean squared error of the decoded features of videos and of texts, added.

    Args:
        decoded: (B, F) of videos and (B, F') of texts.
        features: X^v and X^t, of the same shapes.
    """
    return F.mse_loss(decoded[0], features[0]) + F.mse_loss(decoded[1], features[1])  # SPTCH Eq. 6


def neighbourhood_reconstruction(similarity: Tensor, video: Tensor, text: Tensor, joint: Tensor) -> Tensor:
    """L_sc: do cosines among each of H^v, H^t and H, all (B, K), repeat S (B, B)?"""
    return _sum(F.mse_loss(cosine_matrix(x, x), similarity) for x in (video, text, joint))  # SPTCH Eq. 7


def quantisation(codes: Tensor, relaxed: Tensor) -> Tensor:
    """L_bc: mean squared distance of relaxed codes (B, K) from binary ones (B, K)."""
    return F.mse_loss(relaxed, codes)  # SPTCH Eq. 8


def code_regression(codes: Tensor, video: Tensor, text: Tensor) -> Tensor:
    """L_bf: do both modalities' relaxed codes (B, K), after tanh, meet the learned codes (B, K)?"""
    return F.mse_loss(video, codes) + F.mse_loss(text, codes)  # SPTCH Eq. 14


def neighbourhood_preservation(similarity: Tensor, video: Tensor, text: Tensor) -> Tensor:
    """L_sf: do cosines between and inside Z^v and Z^t, both (B, K), repeat S (B, B)?"""
    pairs = ((video, text), (video, video), (text, text))
    return _sum(F.mse_loss(cosine_matrix(x, y), similarity) for x, y in pairs)  # SPTCH Eq. 15


def reconstruction(codes: Tensor, others: Tensor, similarity: Tensor) -> Tensor:
    """Do cosines between codes, both (B, K), repeat S (B, B)? The term of DJSRH, JDSH and AGCH."""
    return F.mse_loss(cosine_matrix(codes, others), similarity)


def agreement(video: Tensor, text: Tensor) -> Tensor:
    """Minus the mean cosine of each item's codes, both (B, K) (JDSH)."""
    return -F.cosine_similarity(video, text, dim=1).mean()


def instance_contrast(anchors: Tensor, others: Tensor, temperature: float, video_index: Tensor) -> Tensor:
    """-log softmax of each anchor's own partner among all partners, averaged.

    On vectors of unit length; the paper prints a bare dot product. The partner itself is in the denominator, as in
    SimCLR, whose loss the paper quotes (Eq. 10).

    Args:
        anchors: (B, K).
        others: (B, K), row by row the partners.
        temperature: tau.
        video_index: (B,) int64; rows of one video are not negatives of each other.
    """
    same = video_index[:, None] == video_index[None, :]
    same = same.fill_diagonal_(False)
    scores = (cosine_matrix(anchors, others) / temperature).masked_fill(same, -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def inter_modal_contrast(
    video: Tensor, text: Tensor, other_video: Tensor, other_text: Tensor, temperature: float, video_index: Tensor
) -> Tensor:
    """L_m^ve + L_m^te: videos find their texts and texts their videos, in each of two views.

    Args:
        video: z^v (B, K).
        text: z^t (B, K).
        other_video: z^v of the augmented view.
        other_text: z^t of the augmented view.
        temperature: tau.
        video_index: (B,) int64.
    """
    pairs = ((video, text), (other_video, other_text), (text, video), (other_text, other_video))
    return _sum(instance_contrast(a, b, temperature, video_index) for a, b in pairs)  # SPTCH Eq. 11


def intra_modal_contrast(
    video: Tensor, text: Tensor, other_video: Tensor, other_text: Tensor, temperature: float, video_index: Tensor
) -> Tensor:
    """L_m^va + L_m^ta: a video finds its augmented view, and so does a text; arguments as `inter_modal_contrast`."""
    pairs = ((video, other_video), (text, other_text))
    return _sum(instance_contrast(a, b, temperature, video_index) for a, b in pairs)  # SPTCH Eq. 12


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
