"""Masked reductions: once, safe for rows with nothing valid, used by everything."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the second-last dimension where the mask is True.

    Shapes: x (..., n, D); mask (..., n) bool; returns (..., D). Rows with nothing valid give zeros.

    >>> masked_mean(torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([True, True, False]))
    tensor([2.])
    """
    weight = mask.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(-2) / weight.sum(-2).clamp(min=1)


def masked_softmax(x: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Softmax over the places where the mask is True; the others get exactly 0, and so does a row with nothing valid.

    Shapes: mask broadcasts against x.

    >>> masked_softmax(torch.tensor([1.0, 1.0, 9.0]), torch.tensor([True, True, False]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    if all_valid(mask):
        return x.softmax(dim)
    # a finite floor: a row of -inf would be NaN, forward and backward
    return x.masked_fill(~mask, torch.finfo(x.dtype).min).softmax(dim) * mask


def masked_max(x: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """The largest value over the places where the mask is True, 0 in a row with nothing valid.

    Shapes: mask broadcasts against x; `dim` counts from the end.

    >>> masked_max(torch.tensor([[1.0, -2.0, 9.0], [3.0, 4.0, 5.0]]), torch.tensor([[True, True, False], [False] * 3]))
    tensor([1., 0.])
    """
    if all_valid(mask):
        return x.amax(dim)
    largest = x.masked_fill(~mask, torch.finfo(x.dtype).min).amax(dim)
    return largest.masked_fill(~mask.any(dim), 0)


def all_valid(mask: Tensor) -> bool:
    """Whether passes over masked places can be saved; asked on the CPU only, a GPU would have to be waited for."""
    return mask.device.type == "cpu" and bool(mask.all())


def filled_length(mask: Tensor) -> int:
    """How many places are left when those at the end that no row fills are cut, at least 1: (N, n) bool.

    All of them while training on a GPU, which would have to be waited for.

    >>> filled_length(torch.tensor([[True, False, False], [True, True, False]]))
    2
    """
    if torch.is_grad_enabled() and mask.device.type != "cpu":
        return mask.shape[1]
    filled = mask.any(0).nonzero()
    return int(filled[-1]) + 1 if len(filled) else 1
