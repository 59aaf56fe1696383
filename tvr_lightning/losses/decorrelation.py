"""Channels of texts and videos that should agree, each channel saying something else (DRL, Wang et al. 2022)."""

from __future__ import annotations

from torch import Tensor

SMALLEST_VARIANCE = 1e-12  # a channel that is the same in all rows correlates with nothing, and its gradient is finite


def channel_correlation(one: Tensor, other: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Correlation of the channels of matching rows, C = sum_r weight_r one_r^T other_r.

    Both sides are first standardised per channel over the N rows that exist, by the unbiased variance.

    Args:
        one: (..., D).
        other: (..., D), row by row.
        mask: (...) bool, which rows exist.
        weights: (...) of the rows, 0 where the mask is False; 1 / N each when None.

    Returns:
        C (D, D), rows of `one`, columns of `other`.

    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.0, 1.0]])
    >>> channel_correlation(x, x, torch.ones(3).bool()).diagonal()  # (N - 1) / N
    tensor([0.6667, 0.6667])
    """
    exists = mask.flatten()[:, None].to(one.dtype)  # (N, 1)
    count = exists.sum().clamp(min=1)

    def standardised(x: Tensor) -> Tensor:
        x = x.flatten(0, -2)
        centred = (x - (x * exists).sum(0) / count) * exists
        variance = centred.square().sum(0) / (count - 1).clamp(min=1)
        return centred / variance.clamp(min=SMALLEST_VARIANCE).sqrt()

    rows = exists / count if weights is None else weights.flatten()[:, None]
    return (standardised(one) * rows).T @ standardised(other)


def channel_decorrelation(correlation: Tensor, diagonal: float, off_diagonal: float) -> Tensor:
    """CDCR: diagonal * sum (C_kk - 1)^2 + off_diagonal * sum of the squares of all other entries.

    Args:
        correlation: C (D, D).
        diagonal: weight of the first term.
        off_diagonal: weight of the second.

    Returns:
        A scalar.

    >>> import torch
    >>> channel_decorrelation(torch.tensor([[1.0, 0.5], [0.5, 0.0]]), diagonal=1.0, off_diagonal=2.0)
    tensor(2.)
    """
    same = correlation.diagonal()
    rest = correlation.square().sum() - same.square().sum()
    return diagonal * (same - 1).square().sum() + off_diagonal * rest
