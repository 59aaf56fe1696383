"""Sums over the places that exist, in one pass over a tensor of many pairs."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum over the second-last dimension where the mask is True, with gradients: (t, v, X, D) -> (t, v, D).

    Args:
        x: (t, v, X, D), any of t and v at least 1.
        mask: (t or 1, v or 1, X) bool.
    """
    total: Tensor = _MaskedSum.apply(x, mask)  # type: ignore[no-untyped-call]
    return total


class _MaskedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        x, mask = x.contiguous(), mask.contiguous()
        texts, videos, count, width = x.shape
        out = x.new_empty(texts, videos, width)
        steps = [0 if size == 1 else step for size, step in zip(mask.shape[:2], mask.stride()[:2], strict=True)]
        block = min(triton.next_power_of_2(width), 1024)
        _sum[(texts * videos, triton.cdiv(width, block))](
            x, mask.view(torch.uint8), out, videos, count, width, *steps, B=block, num_warps=4
        )
        ctx.save_for_backward(mask)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grads[0][:, :, None] * mask[..., None], None


@triton.jit
def _sum(x, mask, out, videos, count, width, text_step, video_step, B: tl.constexpr):
    pair = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * B + tl.arange(0, B)
    own = mask + pair // videos * text_step + pair % videos * video_step
    total = tl.zeros((B,), tl.float32)
    for i in range(count):
        row = tl.load(x + (pair * count + i) * width + column, mask=column < width, other=0.0)
        total += tl.where(tl.load(own + i) != 0, row, 0.0)
    tl.store(out + pair * width + column, total, mask=column < width)
