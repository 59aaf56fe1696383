"""Loss terms as free functions, each named as its paper names it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def directional_cross_entropy(scores: Tensor, video_index: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a batch's score matrix, of texts over videos and of videos over texts.

    Args:
        scores: (B, B) scaled scores; row = text, column = video, the diagonal holds the pairs.
        video_index: (B,) int64, the video of each pair. Two captions of one video in a batch are not negatives of
            each other's video: those places are left out of both sums. CLIP4Clip's original code counts them.

    Returns:
        Two scalars.

    >>> directional_cross_entropy(torch.zeros(2, 2))  # chance: log 2
    (tensor(0.6931), tensor(0.6931))
    >>> directional_cross_entropy(torch.zeros(2, 2), torch.tensor([7, 7]))  # two captions of one video
    (tensor(0.), tensor(0.))
    """
    if video_index is not None:
        same = video_index[:, None] == video_index[None, :]
        same.fill_diagonal_(False)
        scores = scores.masked_fill(same, -torch.inf)
    target = torch.arange(len(scores), device=scores.device)
    by_text = F.cross_entropy(scores, target)  # LEAN Eq. 18, GHAN Eq. 10, TC-MGC Eq. 33
    by_video = F.cross_entropy(scores.T, target)  # LEAN Eq. 17, GHAN Eq. 11, TC-MGC Eq. 34
    return by_text, by_video


def symmetric_cross_entropy(scores: Tensor, video_index: Tensor | None = None) -> Tensor:
    """Cross-entropy of both directions, averaged.

    TC-MGC prints the sum, its released code takes the mean. Arguments as of `directional_cross_entropy`; returns a
    scalar.
    """
    by_text, by_video = directional_cross_entropy(scores, video_index)
    return (by_text + by_video) / 2  # GHAN Eq. 12, TC-MGC Eq. 35


Pairs = Literal["positive", "negative", "all"]


def similarity_decorrelation(scores: Tensor, pairs: Pairs = "positive", video_index: Tensor | None = None) -> Tensor:
    """SDR: how much the contrasts' scores of a pair differ (TC-MGC, Jing et al. 2025).

    Args:
        scores: (B, B, C) scaled scores of C >= 2 contrasts; the diagonal holds the matching pairs.
        pairs: those that are averaged over: the paper's `positive`, or the others of its Table A.1.
        video_index: (B,) int64, the video of each pair; a caption and its own video are nowhere a negative.

    Returns:
        The unbiased variance over contrasts, averaged over pairs: a scalar; 0 where there is no such pair.

    >>> scores = torch.tensor([[[1.0, 3.0], [0.0, 0.0]], [[1.0, 5.0], [2.0, 2.0]]])
    >>> [float(similarity_decorrelation(scores, pairs)) for pairs in ("positive", "negative", "all")]
    [1.0, 4.0, 2.5]
    """
    if pairs == "positive":
        return scores.diagonal(dim1=0, dim2=1).var(0).mean()  # TC-MGC Eq. 36
    variances = scores.var(-1)
    if pairs == "all":
        return variances.mean()
    video_index = torch.arange(len(scores), device=scores.device) if video_index is None else video_index
    negative = video_index[:, None] != video_index
    return (variances * negative).sum() / negative.sum().clamp(min=1)
