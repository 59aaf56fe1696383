"""GHAN's pairs from prepared roots and leaves to what the readout takes, in one pass: `MPAA.read_pairs` on a GPU.

A program takes a root and an item's leaves and holds all their hidden numbers. It has no backward pass: while training,
blocks are small and `read_pairs` computes as it is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_HIDDEN = 32768  # nodes x width of a pair, padded to powers of 2
TILE = 1024  # of these numbers for each warp


def takes(leaves: int, width: int) -> bool:
    """Whether a program can hold so many leaves of so many hidden numbers."""
    return triton.next_power_of_2(leaves) * triton.next_power_of_2(width) <= MAX_HIDDEN


def read_hidden(
    root_weights: Tensor,
    shares: Tensor,
    roots: tuple[Tensor, Tensor],
    leaves: tuple[Tensor, Tensor, Tensor],
    mask: Tensor,
    vectors: tuple[Tensor, Tensor],
    slope: float,
) -> tuple[Tensor, Tensor]:
    """The hidden vector of every pair's root, and the pair's hidden vectors summed up by the attention of Eq. 9.

    Args:
        root_weights: alpha of the edges into the root, the root itself first: (L, H, R, N + 1).
        shares: alpha of the root's edge into each leaf, (L, R, N, H).
        roots: W_a h and W_c h of the roots, (R, H C) each.
        leaves: of the leaves W_a h, M and M + W_c h, (L, N, H C) each.
        mask: (L, N) bool.
        vectors: what a source and a target add to a logit of Eq. 9, (H C) each.
        slope: of the LeakyReLU.

    Returns:
        Two of (L, R, H C).
    """
    items, count, width = leaves[0].shape
    num_roots, heads = len(roots[0]), root_weights.shape[1]
    hidden, pooled = (roots[0].new_empty(items, num_roots, width) for _ in range(2))
    nodes = triton.next_power_of_2(count)
    columns = triton.next_power_of_2(width)
    _read[(num_roots, items)](
        root_weights.contiguous(), shares.contiguous(), *(x.contiguous() for x in (*roots, *leaves)),
        mask.contiguous().view(torch.uint8), *vectors, hidden, pooled, num_roots, count, width, width // heads, heads,
        slope, N=nodes, W=columns, num_warps=max(1, min(16, nodes * columns // TILE)),
    )  # fmt: skip
    return hidden, pooled


@triton.jit
def _elu(x):
    return tl.where(x > 0, x, tl.exp(tl.minimum(x, 0.0)) - 1.0)


@triton.jit
def _leaky(x, slope):
    return tl.where(x > 0, x, slope * x)


@triton.jit
def _read(
    root_weights, shares, value, skip, leaf_value, alone, base, mask, of_source, of_target, out_root, out_pooled,
    R, n, width, head_width, H, slope, N: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    r, item = tl.program_id(0), tl.program_id(1).to(tl.int64)
    node, c = tl.arange(0, N), tl.arange(0, W)
    inside = c < width
    head = c // head_width
    both = (node < n)[:, None] & inside[None, :]
    leaf = (item * n + node[:, None]) * width + c[None, :]
    own = tl.load(value + r * width + c, mask=inside, other=0.0)

    # at the root, GHAN Eq. 6, GHAN Eq. 8
    weight = root_weights + ((item * H + head) * R + r) * (n + 1)
    root = tl.load(weight, mask=inside, other=0.0) * own + tl.load(skip + r * width + c, mask=inside, other=0.0)
    to_root = tl.load(weight[None, :] + 1 + node[:, None], mask=both, other=0.0)
    root += tl.sum(to_root * tl.load(leaf_value + leaf, mask=both, other=0.0), axis=0)
    root = _elu(root)

    # at the leaves
    share = tl.load(shares + ((item * R + r) * n + node[:, None]) * H + head[None, :], mask=both, other=0.0)
    apart = own[None, :] - tl.load(alone + leaf, mask=both, other=0.0)
    hidden = _elu(apart * share + tl.load(base + leaf, mask=both, other=0.0))
    hidden = tl.where(both, hidden, 0.0)

    # the attention of GHAN Eq. 9
    source = tl.load(of_source + c, mask=inside, other=0.0)
    into = tl.sum(root * tl.load(of_target + c, mask=inside, other=0.0), axis=0)
    to_itself = _leaky(into + tl.sum(root * source, axis=0), slope)
    exists = tl.load(mask + item * n + node, mask=node < n, other=0) != 0
    logits = tl.where(exists, _leaky(into + tl.sum(hidden * source[None, :], axis=1), slope), -3e38)
    top = tl.maximum(tl.max(logits, axis=0), to_itself)
    e, e_root = tl.where(exists, tl.exp(logits - top), 0.0), tl.exp(to_itself - top)
    total = tl.sum(e, axis=0) + e_root
    pooled = (e_root * root + tl.sum(e[:, None] * hidden, axis=0)) / total
    to = (item * R + r) * width + c
    tl.store(out_root + to, root, mask=inside)
    tl.store(out_pooled + to, pooled, mask=inside)
