"""The largest few of many short rows, where `topk` sorts: `reorganise` on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_LENGTH = 256  # of a row


def largest(x: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of the last dimension in descending order, and their places; without a gradient.

    Args:
        x: (..., l), float32, l at least `count` and at most `MAX_LENGTH`.
        mask: bool, broadcasts against x; places where it is False come last, as the dtype's smallest number.
        count: how many.
    """
    lead = x.shape[:-1]
    if mask.shape != x.shape[x.ndim - mask.ndim :]:
        mask = mask.expand(x.shape)
    x, mask = x.contiguous(), mask.contiguous().view(torch.uint8)
    length, rows = x.shape[-1], x.numel() // x.shape[-1]
    values, places = x.new_empty(*lead, count), torch.empty(*lead, count, dtype=torch.int64, device=x.device)
    if not rows:
        return values, places
    width = triton.next_power_of_2(length)
    block = max(1, 4096 // width)
    _largest[(triton.cdiv(rows, block),)](
        x, mask, values, places, rows, mask.numel() // length, length, torch.finfo(x.dtype).min, count,
        R=block, L=width, num_warps=4,
    )  # fmt: skip
    return values, places


@triton.jit
def _largest(x, mask, values, places, rows, mask_rows, length, floor, count, R: tl.constexpr, L: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    column = tl.arange(0, L)
    inside = (row < rows)[:, None] & (column < length)[None, :]
    exists = tl.load(mask + (row % mask_rows)[:, None] * length + column[None, :], mask=inside, other=0) != 0
    left = tl.load(x + row[:, None] * length + column[None, :], mask=inside, other=0.0)
    left = tl.where(exists, left, floor)
    left = tl.where(inside, left, -float("inf"))
    for rank in range(count):
        best, place = tl.max(left, axis=1, return_indices=True)
        tl.store(values + row * count + rank, best, mask=row < rows)
        tl.store(places + row * count + rank, place.to(tl.int64), mask=row < rows)
        left = tl.where(column[None, :] == place[:, None], -float("inf"), left)
