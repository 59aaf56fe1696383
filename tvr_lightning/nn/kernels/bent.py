"""LEAN's Eq. 11 for all memberships, without a number for each hidden unit of a membership: `_logits` on a GPU."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_MEMBERS = 64  # nodes, and hyperedges, of a pair: a tile holds all memberships
TILE = 8192  # numbers of a program's tile


def bent_sums(a: Tensor, b: Tensor, weight: Tensor, slope: float) -> Tensor:
    """sum_u weight_u LeakyReLU(a_xu + b_ku) of all rows x of a and k of b, with gradients.

    Shapes: a (P, X, U); b (P, K, U); weight (U,); returns (P, X, K).
    """
    sums: Tensor = _BentSums.apply(a, b, weight, slope)  # type: ignore[no-untyped-call]
    return sums


class _BentSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weight: Tensor, slope: float) -> Tensor:
        a, b, weight = a.contiguous(), b.contiguous(), weight.contiguous()
        (pairs, rows, units), columns = a.shape, b.shape[1]
        out = a.new_empty(pairs, rows, columns)
        _forward[(pairs,)](a, b, weight, out, rows, columns, units, slope, **_tiles(rows, columns, units), num_warps=4)
        ctx.save_for_backward(a, b, weight)
        ctx.slope = slope
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b, weight = ctx.saved_tensors
        (pairs, rows, units), columns = a.shape, b.shape[1]
        da, db, of_weight = torch.empty_like(a), torch.empty_like(b), a.new_empty(pairs, units)
        _backward[(pairs,)](
            a, b, weight, grads[0].contiguous(), da, db, of_weight, rows, columns, units, ctx.slope,
            **_tiles(rows, columns, units), num_warps=4,
        )  # fmt: skip
        return da, db, of_weight.sum(0), None


def _tiles(rows: int, columns: int, units: int) -> dict[str, int]:
    x, k = triton.next_power_of_2(rows), triton.next_power_of_2(columns)
    return {"X": x, "K": k, "U": max(1, min(triton.next_power_of_2(units), TILE // (x * k)))}


@triton.jit
def _rows(pointer, pair, row, unit, rows, units):
    """Rows of a pair, a block of units, zeros around them."""
    inside = (row < rows)[:, None] & (unit < units)[None, :]
    return tl.load(pointer + (pair * rows + row[:, None]) * units + unit[None, :], mask=inside, other=0.0)


@triton.jit
def _forward(
    a, b, weight, out, rows, columns, units, slope, X: tl.constexpr, K: tl.constexpr, U: tl.constexpr
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    x, k = tl.arange(0, X), tl.arange(0, K)
    total = tl.zeros((X, K), tl.float32)
    for start in range(0, units, U):
        u = start + tl.arange(0, U)
        z = _rows(a, pair, x, u, rows, units)[:, None, :] + _rows(b, pair, k, u, columns, units)[None, :, :]
        w = tl.load(weight + u, mask=u < units, other=0.0)
        total += tl.sum(tl.where(z > 0, z, slope * z) * w[None, None, :], axis=2)
    inside = (x < rows)[:, None] & (k < columns)[None, :]
    tl.store(out + (pair * rows + x[:, None]) * columns + k[None, :], total, mask=inside)


@triton.jit
def _backward(
    a, b, weight, grad, da, db, of_weight, rows, columns, units, slope,
    X: tl.constexpr, K: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    x, k = tl.arange(0, X), tl.arange(0, K)
    inside = (x < rows)[:, None] & (k < columns)[None, :]
    g = tl.load(grad + (pair * rows + x[:, None]) * columns + k[None, :], mask=inside, other=0.0)
    for start in range(0, units, U):
        u = start + tl.arange(0, U)
        z = _rows(a, pair, x, u, rows, units)[:, None, :] + _rows(b, pair, k, u, columns, units)[None, :, :]
        w = tl.load(weight + u, mask=u < units, other=0.0)
        steep = tl.where(z > 0, 1.0, slope) * g[:, :, None]
        known = (u < units)[None, :]
        to_a = tl.sum(steep, axis=1) * w[None, :]
        to_b = tl.sum(steep, axis=0) * w[None, :]
        tl.store(da + (pair * rows + x[:, None]) * units + u[None, :], to_a, mask=(x < rows)[:, None] & known)
        tl.store(db + (pair * columns + k[:, None]) * units + u[None, :], to_b, mask=(k < columns)[:, None] & known)
        tl.store(of_weight + pair * units + u, tl.sum(tl.sum(steep * z, axis=1), axis=0), mask=u < units)
