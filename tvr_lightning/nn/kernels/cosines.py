"""TC-MGC's cosines of all pairs in one pass, forward and backward: `LanguageVideoAttention.cosines` on a GPU.

A program takes one video and one text. From the products of frames with queries and with others it computes softmax,
the three quadratic forms and the cosines without writing anything between; the formulas open
`nn.tc_mgc.language_video_attention`. Sentences are a column of their own beside the words, so that tiles of words have
the sizes that captions have.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_FRAMES, MAX_WORDS = 30, 64  # above, a pair's tiles do not fit a program's registers
FORWARD_TILE, BACKWARD_TILE = 512, 256  # numbers of a tile for each warp


def pair_cosines(
    logits: tuple[Tensor, Tensor],
    products: tuple[Tensor, Tensor],
    frame_mask: Tensor,
    grams: tuple[Tensor, Tensor, Tensor],
    eps: tuple[float, float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cosines from products, with gradients: what `PairCosines` holds, in its order.

    Args:
        logits: of sentences (V, n, T) and of words (V, n, T, m) with frames, before the softmax.
        products: of `VideoBasis.vectors` with unit sentences (V, n + 2, T) and with unit words (V, n + 2, T, m).
        frame_mask: (V, n) bool, at least one frame each.
        grams: those of `VideoBasis`, with one head.
        eps: of the second and the third layer norm.
    """
    found: tuple[Tensor, Tensor, Tensor, Tensor] = _PairCosines.apply(  # type: ignore[no-untyped-call]
        *logits, *products, frame_mask, *grams, *eps
    )
    return found


def _tile(count: int) -> int:
    return max(16, triton.next_power_of_2(count))


class _PairCosines(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, ls: Tensor, lw: Tensor, ps: Tensor, pw: Tensor, mask: Tensor, g0: Tensor, g1: Tensor, g2: Tensor,
        eps2: float, eps3: float,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        inputs = [x.contiguous() for x in (ls, lw, ps, pw, mask.view(torch.uint8), g0, g1, g2)]
        videos, frames, texts, words = lw.shape
        outputs = (
            ls.new_empty(videos, texts), ls.new_empty(videos, texts, words), ls.new_empty(videos, texts, words),
            ls.new_empty(videos, texts, words, words),
        )  # fmt: skip
        rows, columns = _tile(frames + 2), _tile(words)
        _forward[(texts, videos)](
            *inputs, *outputs, texts, frames, words, eps2, eps3, torch.finfo(ls.dtype).tiny,
            N=rows, M=columns, num_warps=max(1, rows * columns // FORWARD_TILE),
        )  # fmt: skip
        ctx.save_for_backward(*inputs)
        ctx.eps = eps2, eps3
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        ls, lw, ps, pw = inputs[:4]
        videos, frames, texts, words = lw.shape
        rows, columns = _tile(frames + 2), _tile(words)
        step = max(1, min(texts, videos * texts // 2048))
        chunks = triton.cdiv(texts, step)
        found = [torch.empty_like(x) for x in (ls, lw, ps, pw)]
        gram_grads = ls.new_empty(3, chunks, videos, rows, rows)
        _backward[(chunks, videos)](
            *inputs, *(g.contiguous() for g in grads), *found, *gram_grads, texts, frames, words, *ctx.eps,
            torch.finfo(ls.dtype).tiny, step, N=rows, M=columns, num_warps=max(1, rows * columns // BACKWARD_TILE),
        )  # fmt: skip
        sums = gram_grads.sum(1)
        of_grams = [sums[i, :, : frames + i, : frames + i] for i in range(3)]
        return (*found, None, *of_grams, None, None)


@triton.jit
def _times(gram, a, WIDE: tl.constexpr):
    """G a: (N, N), (N, C) -> (N, C); tiles that are too narrow for `tl.dot` are summed up."""
    if WIDE:
        y = tl.dot(gram, a, input_precision="ieee")
    else:
        y = tl.sum(gram[:, :, None] * a[None, :, :], axis=1)
    return y


@triton.jit
def _outer(x, a, WIDE: tl.constexpr):
    """X A^T: (N, C), (N, C) -> (N, N)."""
    if WIDE:
        y = tl.dot(x, tl.trans(a), input_precision="ieee")
    else:
        y = tl.sum(x[:, None, :] * a[None, :, :], axis=2)
    return y


@triton.jit
def _attention(logits, valid):
    """Masked softmax over frames; zeros where there is no frame."""
    e = tl.where(valid[:, None], tl.exp(logits - tl.max(logits, axis=0)[None, :]), 0.0)
    return e / tl.maximum(tl.sum(e, axis=0), 1e-30)[None, :]


@triton.jit
def _coefficients(a, g0, g1, g2, f, n, eps2, eps3, tiny, WIDE: tl.constexpr):
    """Attention weights to coefficients of z / |z|, with all that the way back needs."""
    y0 = _times(g0, a, WIDE)
    s2 = tl.sqrt(tl.maximum(tl.sum(y0 * a, axis=0), 0.0) + eps2)
    a1 = tl.where((f == n)[:, None], s2[None, :], a)
    y1 = _times(g1, a1, WIDE)
    variance = tl.sum(y1 * a1, axis=0)
    s3 = tl.sqrt(tl.maximum(variance, 0.0) + eps3 * s2 * s2)
    a2 = tl.where((f == n + 1)[:, None], s3[None, :], a1)
    y2 = _times(g2, a2, WIDE)
    square = tl.sum(y2 * a2, axis=0)
    length = tl.sqrt(tl.maximum(square, tiny))
    return y0, s2, a1, y1, variance, s3, a2, y2, square, length, a2 / length[None, :]


@triton.jit
def _gram(pointer, v, f, size, N: tl.constexpr):
    """A video's Gram matrix, zeros around it."""
    inside = (f < size)[:, None] & (f < size)[None, :]
    return tl.load(pointer + v * size * size + f[:, None] * size + f[None, :], mask=inside, other=0.0)


@triton.jit
def _forward(
    ls, lw, ps, pw, mask, g0, g1, g2, out_ss, out_sw, out_ws, out_ww, T, n, m, eps2, eps3, tiny,
    N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    t, v = tl.program_id(0), tl.program_id(1).to(tl.int64)
    f, w, one = tl.arange(0, N), tl.arange(0, M), tl.arange(0, 1)
    valid = tl.load(mask + v * n + f, mask=f < n, other=0) != 0
    spoken = (w < m)[None, :]
    pair = v * T + t
    at_frame, at_vector = (v * n + f) * T + t, (v * (n + 2) + f) * T + t
    a = tl.load(lw + at_frame[:, None] * m + w[None, :], mask=valid[:, None] & spoken, other=-3e38)
    a_s = tl.load(ls + at_frame[:, None] + one[None, :], mask=valid[:, None], other=-3e38)
    a, a_s = _attention(a, valid), _attention(a_s, valid)
    gram0, gram1, gram2 = _gram(g0, v, f, n, N), _gram(g1, v, f, n + 1, N), _gram(g2, v, f, n + 2, N)
    y0, s2, a1, y1, variance, s3, a2, y2, square, length, c = _coefficients(
        a, gram0, gram1, gram2, f, n, eps2, eps3, tiny, True
    )
    y0, s2, a1, y1, variance, s3, a2, y2, square, length, c_s = _coefficients(
        a_s, gram0, gram1, gram2, f, n, eps2, eps3, tiny, False
    )
    there = (f < n + 2)[:, None]
    p = tl.load(pw + at_vector[:, None] * m + w[None, :], mask=there & spoken, other=0.0)
    p_s = tl.load(ps + at_vector[:, None] + one[None, :], mask=there, other=0.0)
    ww = tl.dot(tl.trans(c), p, input_precision="ieee")
    tl.store(out_ww + (pair * m + w[:, None]) * m + w[None, :], ww, mask=(w < m)[:, None] & spoken)
    tl.store(out_ws + pair * m + w, tl.sum(c * p_s, axis=0), mask=w < m)
    tl.store(out_sw + pair * m + w, tl.sum(c_s * p, axis=0), mask=w < m)
    tl.store(out_ss + pair + one, tl.sum(c_s * p_s, axis=0))


@triton.jit
def _back_to_logits(
    dc, a, gram0, gram1, gram2, f, n, eps2, eps3, tiny, d0, d1, d2,
    WIDE: tl.constexpr,
):  # fmt: skip
    """From the gradient of the coefficients to that of the logits; adds those of the Gram matrices to d0, d1, d2."""
    y0, s2, a1, y1, variance, s3, a2, y2, square, length, c = _coefficients(
        a, gram0, gram1, gram2, f, n, eps2, eps3, tiny, WIDE
    )
    along = -tl.sum(dc * c, axis=0) / length
    d_square = tl.where(square > tiny, along / (2 * length), 0.0)
    da = dc / length[None, :] + 2 * y2 * d_square[None, :]
    d2 += _outer(a2 * d_square[None, :], a2, WIDE)
    d_s3 = tl.sum(tl.where((f == n + 1)[:, None], da, 0.0), axis=0)
    d_variance = tl.where(variance >= 0, d_s3 / (2 * s3), 0.0)
    da = tl.where((f <= n)[:, None], da, 0.0) + 2 * y1 * d_variance[None, :]
    d1 += _outer(a1 * d_variance[None, :], a1, WIDE)
    d_s2 = d_s3 * eps3 * s2 / s3 + tl.sum(tl.where((f == n)[:, None], da, 0.0), axis=0)
    d_form = d_s2 / (2 * s2)
    da = tl.where((f < n)[:, None], da, 0.0) + 2 * y0 * d_form[None, :]
    d0 += _outer(a * d_form[None, :], a, WIDE)
    return a * (da - tl.sum(a * da, axis=0)[None, :]), d0, d1, d2


@triton.jit
def _backward(
    ls, lw, ps, pw, mask, g0, g1, g2, d_ss, d_sw, d_ws, d_ww, d_ls, d_lw, d_ps, d_pw, d_g0, d_g1, d_g2,
    T, n, m, eps2, eps3, tiny, step, N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    chunk, v = tl.program_id(0), tl.program_id(1).to(tl.int64)
    f, w, one = tl.arange(0, N), tl.arange(0, M), tl.arange(0, 1)
    valid = tl.load(mask + v * n + f, mask=f < n, other=0) != 0
    spoken, there = (w < m)[None, :], (f < n + 2)[:, None]
    gram0, gram1, gram2 = _gram(g0, v, f, n, N), _gram(g1, v, f, n + 1, N), _gram(g2, v, f, n + 2, N)
    d0, d1, d2 = tl.zeros((N, N), tl.float32), tl.zeros((N, N), tl.float32), tl.zeros((N, N), tl.float32)
    for t in range(chunk * step, tl.minimum(chunk * step + step, T)):
        pair = v * T + t
        at_frame, at_vector = (v * n + f) * T + t, (v * (n + 2) + f) * T + t
        a = tl.load(lw + at_frame[:, None] * m + w[None, :], mask=valid[:, None] & spoken, other=-3e38)
        a_s = tl.load(ls + at_frame[:, None] + one[None, :], mask=valid[:, None], other=-3e38)
        a, a_s = _attention(a, valid), _attention(a_s, valid)
        p = tl.load(pw + at_vector[:, None] * m + w[None, :], mask=there & spoken, other=0.0)
        p_s = tl.load(ps + at_vector[:, None] + one[None, :], mask=there, other=0.0)
        ww = tl.load(d_ww + (pair * m + w[:, None]) * m + w[None, :], mask=(w < m)[:, None] & spoken, other=0.0)
        ws = tl.load(d_ws + pair * m + w, mask=w < m, other=0.0)
        sw = tl.load(d_sw + pair * m + w, mask=w < m, other=0.0)
        ss = tl.load(d_ss + pair + one)
        # what the products are due needs the coefficients, which `_back_to_logits` computes too
        y0, s2, a1, y1, variance, s3, a2, y2, square, length, c = _coefficients(
            a, gram0, gram1, gram2, f, n, eps2, eps3, tiny, True
        )
        y0, s2, a1, y1, variance, s3, a2, y2, square, length, c_s = _coefficients(
            a_s, gram0, gram1, gram2, f, n, eps2, eps3, tiny, False
        )
        dp = tl.dot(c, ww, input_precision="ieee") + c_s * sw[None, :]
        dp_s = tl.sum(c * ws[None, :], axis=1)[:, None] + c_s * ss[None, :]
        tl.store(d_pw + at_vector[:, None] * m + w[None, :], dp, mask=there & spoken)
        tl.store(d_ps + at_vector[:, None] + one[None, :], dp_s, mask=there)
        dc = tl.dot(p, tl.trans(ww), input_precision="ieee") + p_s * ws[None, :]
        dc_s = tl.sum(p * sw[None, :], axis=1)[:, None] + p_s * ss[None, :]
        dl, d0, d1, d2 = _back_to_logits(dc, a, gram0, gram1, gram2, f, n, eps2, eps3, tiny, d0, d1, d2, True)
        dl_s, d0, d1, d2 = _back_to_logits(dc_s, a_s, gram0, gram1, gram2, f, n, eps2, eps3, tiny, d0, d1, d2, False)
        tl.store(d_lw + at_frame[:, None] * m + w[None, :], dl, mask=(f < n)[:, None] & spoken)
        tl.store(d_ls + at_frame[:, None] + one[None, :], dl_s, mask=(f < n)[:, None])
    to = (chunk * tl.num_programs(1) + v) * N * N + f[:, None] * N + f[None, :]
    tl.store(d_g0 + to, d0)
    tl.store(d_g1 + to, d1)
    tl.store(d_g2 + to, d2)
