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


def all_valid(mask: Tensor) -> bool:
    """Whether passes over masked places can be saved; asked on the CPU only, a GPU would have to be waited for."""
    return mask.device.type == "cpu" and bool(mask.all())
