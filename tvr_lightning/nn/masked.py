"""Masked reductions: once, safe for rows with nothing valid, used by everything."""

from __future__ import annotations

from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the second-last dimension where the mask is True.

    Shapes: x (..., n, D); mask (..., n) bool; returns (..., D). Rows with nothing valid give zeros.
    """
    weight = mask.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(-2) / weight.sum(-2).clamp(min=1)
