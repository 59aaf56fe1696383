"""LEAN's layers for all pairs of texts and videos at once: what `LEANConv` gives on each pair's hypergraph.

A pair's hypergraph has a fixed structure, so that no index is needed:

    neighbourhoods    words see alike: all words but themselves, and the visual nodes; so do visual nodes. A sum over
                      neighbours is a sum of all words and one of all visual nodes, less the node itself.
    first iteration   up to its first nonlinearity everything belongs to the text or to the video alone: tensors
                      (T, 1, W, D) and (1, V, n, D), added per pair.
    hyperedges        means of the same two sums; those of words look at the visual nodes by one batched product.
    attention         w . LeakyReLU(a + b) is linear in a and b but for |a + b|: differences of L1 distances, which need
                      no D numbers for a member of a hyperedge.

Shapes: t texts and v videos of a chunk; W words, n visual nodes (the video node is one of them), D width. A leading
dimension of 1 stands for what texts, or videos, share. What follows the network: `variational_pairs`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.device import has_kernels
from tvr_lightning.nn.lean.hypergraph import SLOPE, Kind, LEANConv
from tvr_lightning.nn.masked import all_valid, masked_softmax

WHOLE: tuple[Kind, ...] = ("text", "global", "visual")  # words and visual nodes each belong to neighbours in this row


class PairNodes(NamedTuple):
    """Nodes of pairs; what masked places hold is finite and never read.

    Attributes:
        words: (t, 1 or v, W, D), or one row where all words of a pair are alike.
        visual: (1 or t, v, n, D), the video node first, or one row likewise.
        word_mask: (t, 1, W) bool.
        visual_mask: (1, v, n) bool.

    >>> words, visual = torch.randn(3, 1, 5, 8), torch.randn(1, 2, 4, 8)
    >>> masks = torch.ones(3, 1, 5).bool(), torch.ones(1, 2, 4).bool()
    >>> [count.shape for count in PairNodes(words, visual, *masks).counts()]
    [torch.Size([3, 1, 1]), torch.Size([1, 2, 1])]
    """

    words: Tensor
    visual: Tensor
    word_mask: Tensor
    visual_mask: Tensor

    def counts(self) -> tuple[Tensor, Tensor]:
        """How many words (t, 1, 1) and visual nodes (1, v, 1) there are."""
        dtype = self.words.dtype
        return self.word_mask.sum(-1, keepdim=True, dtype=dtype), self.visual_mask.sum(-1, keepdim=True, dtype=dtype)


class PairHyperedges(NamedTuple):
    """Hyperedges of pairs.

    Attributes:
        kinds: those of the hyperedges in `whole`, in order.
        whole: (t, v, number of kinds, D), without the cross hyperedges.
        cross: (t, v, W, D), one for each word; None where there are none.

    >>> PairHyperedges(("global", "text"), torch.randn(3, 2, 2, 8), cross=None).whole.shape
    torch.Size([3, 2, 2, 8])
    """

    kinds: tuple[Kind, ...]
    whole: Tensor
    cross: Tensor | None


class Projected(NamedTuple):
    """Nodes after the two products of Eq. 8, W_x x and W_N x.

    >>> project(LEANConv(8), torch.randn(3, 5, 8)).neighbour.shape
    torch.Size([3, 5, 8])
    """

    own: Tensor
    neighbour: Tensor


def project(conv: LEANConv, x: Tensor) -> Projected:
    """What Eq. 8 needs of nodes before it meets a pair: (..., D)."""
    return Projected(conv.own(x), conv.neighbour(x))


class _Shares(NamedTuple):
    """1 / |N(j)| of Eq. 8 by who sends to whom, zero where those are not neighbours: (t or 1, v or 1, 1) each."""

    word_to_word: Tensor
    visual_to_word: Tensor
    word_to_visual: Tensor
    visual_to_visual: Tensor


def first_encoding(
    conv: LEANConv, words: Projected, visual: Projected, word_mask: Tensor, visual_mask: Tensor
) -> PairNodes:
    """Eq. 8 on nodes that know nothing of the other side yet.

    Args:
        conv: the layer.
        words: (t, 1, W, D) each, projected by this layer.
        visual: (1, v, n, D) each.
        word_mask: (t, 1, W) bool.
        visual_mask: (1, v, n) bool.
    """
    shares = _shares(conv.kinds, word_mask, visual_mask, words.own.dtype)
    word_sum, visual_sum = node_sum(words.neighbour, word_mask), node_sum(visual.neighbour, visual_mask)
    to_words = words.own - shares.word_to_word[..., None] * words.neighbour
    to_visual = visual.own - shares.visual_to_visual[..., None] * visual.neighbour
    return _encoded(shares, to_words, to_visual, word_sum, visual_sum, word_mask, visual_mask)


def next_encoding(conv: LEANConv, x: PairNodes) -> PairNodes:
    """Eq. 8 on nodes of pairs (t, v, ...)."""
    shares = _shares(conv.kinds, x.word_mask, x.visual_mask, x.words.dtype)
    word_sum = conv.neighbour(node_sum(x.words, x.word_mask))
    visual_sum = conv.neighbour(node_sum(x.visual, x.visual_mask))
    to_words = _less_itself(conv, x.words, shares.word_to_word)
    to_visual = _less_itself(conv, x.visual, shares.visual_to_visual)
    return _encoded(shares, to_words, to_visual, word_sum, visual_sum, x.word_mask, x.visual_mask)


def _encoded(
    shares: _Shares,
    to_words: Tensor,
    to_visual: Tensor,
    word_sum: Tensor,
    visual_sum: Tensor,
    word_mask: Tensor,
    visual_mask: Tensor,
) -> PairNodes:
    """Adds the sums over all words and over all visual nodes, which hold the receiving node too, to W_x x less that."""
    around_words = shares.word_to_word * word_sum + shares.visual_to_word * visual_sum
    around_visual = shares.visual_to_visual * visual_sum + shares.word_to_visual * word_sum
    parts = (to_words, around_words), (to_visual, around_visual)
    words, visual = (F.leaky_relu(own + around[..., None, :], SLOPE) for own, around in parts)  # Eq. 8
    return PairNodes(words, visual, word_mask, visual_mask)


def _shares(kinds: Sequence[Kind], word_mask: Tensor, visual_mask: Tensor, dtype: torch.dtype) -> _Shares:
    num_words = word_mask.sum(-1, keepdim=True, dtype=dtype)  # (t, 1, 1)
    num_visual = visual_mask.sum(-1, keepdim=True, dtype=dtype)  # (1, v, 1)
    among_words, across, among_visual = neighbourhoods(kinds, num_words)
    word_degree = (among_words * (num_words - 1) + across * num_visual).clamp(min=1)
    visual_degree = (among_visual * (num_visual - 1) + across * num_words).clamp(min=1)
    return _Shares(
        among_words / word_degree, across / visual_degree, across / word_degree, among_visual / visual_degree
    )


def neighbourhoods(kinds: Sequence[Kind], num_words: Tensor) -> tuple[bool, bool, Tensor]:
    """Who are neighbours: words, words and visual nodes, and visual nodes, the last as 0 or 1 for each text.

    Shapes: num_words (t, 1, 1), and so is what is returned.
    """
    among_visual = torch.ones_like(num_words)
    if "global" not in kinds and "visual" not in kinds:
        among_visual = (num_words > 0).to(num_words.dtype) * ("cross" in kinds)  # it takes a word to join them
    return "global" in kinds or "text" in kinds, "global" in kinds or "cross" in kinds, among_visual


def _less_itself(conv: LEANConv, x: Tensor, share: Tensor) -> Tensor:
    """W_x x - share W_N x for (t, v, X, D): one product where shares do not differ, or by text only.

    Whether they differ is not asked of a GPU while training: a step must not wait for it.
    """
    if share.device.type != "cpu" and torch.is_grad_enabled():
        return torch.addcmul(conv.own(x), share[..., None], conv.neighbour(x), value=-1)
    if bool((share != share[:, :1]).any()):
        return conv.own(x) - share[..., None] * conv.neighbour(x)
    if bool((share == share[:1]).all()):
        return F.linear(x, conv.own.weight - share[0, 0] * conv.neighbour.weight)
    factors = F.pad(-share[:, 0], (1, 0), value=1.0)  # (t, 2)
    # as a product, because its backward pass is one, too
    weights = factors @ torch.stack([conv.own.weight, conv.neighbour.weight]).flatten(1)
    weights = weights.unflatten(1, conv.own.weight.shape)  # (t, D, D)
    less: Tensor = (x.flatten(1, 2) @ weights.mT).unflatten(1, x.shape[1:3])
    return less


def conv_pairs(conv: LEANConv, x: PairNodes) -> PairNodes:
    """What follows Eq. 8 in an iteration, over all pairs of t texts and v videos."""
    return _attend(conv, x, _hyperedges(conv, x))


def _hyperedges(conv: LEANConv, x: PairNodes) -> PairHyperedges:
    """Hyperedges from encoded nodes."""
    kinds = tuple(kind for kind in WHOLE if kind in conv.kinds)
    whole = x.words.new_empty(*x.words.shape[:2], 0, conv.width)
    if kinds:
        means = member_means(kinds, x, node_sum(x.words, x.word_mask), node_sum(x.visual, x.visual_mask))
        whole = torch.stack([conv.encode[kind](mean) for kind, mean in zip(kinds, means, strict=True)], dim=2)
        whole = F.leaky_relu(whole, SLOPE)  # Eq. 9
    if conv.norm is None:
        return PairHyperedges(kinds, whole, None)
    logits = x.words @ (x.visual / math.sqrt(conv.width)).mT  # (t, v, W, n)
    weight = masked_softmax(logits, x.visual_mask[:, :, None])
    return PairHyperedges(kinds, whole, conv.norm(weight.to(x.visual.dtype) @ x.visual))  # Eq. 10


def _attend(conv: LEANConv, x: PairNodes, edges: PairHyperedges) -> PairNodes:
    """Nodes after attention over their hyperedges."""
    kinds = edges.kinds
    first, count = int("text" in kinds), len(kinds)  # visual nodes are in all but the first, words in all but the last
    shared = count - ("visual" in kinds)
    every = edges.whole if edges.cross is None else torch.cat([edges.whole, edges.cross], dim=2)
    of_words, own, of_visual = _logits(conv, x.words, x.visual, every, shared, first, count)

    words = x.words
    if edges.cross is not None:
        share = torch.cat([of_words, own[..., None]], dim=-1).softmax(-1)  # Eq. 11
        words = (
            _plus_product(words, share[..., :shared], edges.whole[:, :, :shared]) + share[..., shared:] * edges.cross
        )
    elif shared:
        words = _plus_product(words, of_words.softmax(-1), edges.whole[:, :, :shared])  # Eq. 11, Eq. 12

    visual = x.visual
    if edges.cross is not None:  # a word's hyperedge exists where the word does
        present = F.pad(x.word_mask[:, :, None], (count - first, 0), value=True)
        visual = _plus_product(visual, masked_softmax(of_visual, present), every[:, :, first:])  # Eq. 11, Eq. 12
    elif count > first:
        visual = _plus_product(visual, of_visual.softmax(-1), every[:, :, first:])  # Eq. 11, Eq. 12
    return x._replace(words=words, visual=visual)


def _plus_product(x: Tensor, weights: Tensor, others: Tensor) -> Tensor:
    """Adds weights @ others to x, (t, v, ...) each: Eq. 12; on a GPU the sum is part of the product."""
    if x.is_cuda:
        return torch.baddbmm(*(y.flatten(0, 1) for y in (x, weights, others))).view_as(x)
    return x + weights @ others


def _logits(
    conv: LEANConv, words: Tensor, visual: Tensor, edges: Tensor, shared: int, first: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The MLP of Eq. 11 for all memberships: w . LeakyReLU(a + b) with a of the node and b of the hyperedge.

    LeakyReLU(z) = (1 + s) / 2 z + (1 - s) / 2 |z|, and a sum of |a + b| over hidden units is the L1 distance of a from
    -b once |w| is in both; units of positive and of negative weight have a distance each.

    Args:
        conv: the layer.
        words: (t, v, W, D).
        visual: (t, v, n, D).
        edges: (t, v, count + W, D), or (t, v, count, D) without cross hyperedges.
        shared: words belong to the hyperedges before this place,
        first: visual nodes to those from this place on.
        count: hyperedges before those of words.

    Returns:
        Of words with the hyperedges they share (t, v, W, shared), with their own (t, v, W), and of visual nodes
        (t, v, n, count + W - first).
    """
    if has_kernels(words, edges):
        from tvr_lightning.nn.kernels.bent import MAX_MEMBERS

        if max(words.shape[2], visual.shape[2], edges.shape[2]) <= MAX_MEMBERS:
            return _fused_logits(conv, words, visual, edges, shared, first, count)
    of_words, own, of_visual = (words.new_zeros(()) for _ in range(3))
    for units, scale, sign in _units(conv.logit.weight[0]):
        node = (conv.node_part.weight[units] * scale[:, None], conv.node_part.bias[units] * scale)
        minus_edge = conv.edge_part.weight[units] * -scale[:, None]
        b = F.linear(edges, minus_edge).to(scale.dtype)
        a = F.linear(words, *node).to(scale.dtype)
        of_words = of_words + sign * _bent(a, b[:, :, :shared])
        if edges.shape[2] > count:
            own = own + sign * _bent(a[..., None, :], b[:, :, count:, None])[..., 0, 0]
        a = F.linear(visual, *node).to(scale.dtype)
        of_visual = of_visual + sign * _bent(a, b[:, :, first:])
    return of_words, own, of_visual


def _fused_logits(
    conv: LEANConv, words: Tensor, visual: Tensor, edges: Tensor, shared: int, first: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`_logits` by a kernel that takes units of either sign."""
    from tvr_lightning.nn.kernels.bent import bent_sums

    pairs, weight = edges.shape[:2], conv.logit.weight[0]

    def sums(a: Tensor, b: Tensor) -> Tensor:
        if not a.shape[1] or not b.shape[1]:
            return a.new_zeros(len(a), a.shape[1], b.shape[1])
        return bent_sums(a, b, weight, SLOPE)

    b = conv.edge_part(edges).flatten(0, 1)  # (t v, K, U)
    of_word, of_visual = (conv.node_part(x.expand(*pairs, -1, -1)).flatten(0, 1) for x in (words, visual))
    own = words.new_zeros(())
    if edges.shape[2] > count:
        own = sums(of_word.flatten(0, 1)[:, None], b[:, count:].flatten(0, 1)[:, None]).view(*pairs, -1)
    of_words, of_visual_nodes = sums(of_word, b[:, :shared]), sums(of_visual, b[:, first:])
    return of_words.unflatten(0, pairs), own, of_visual_nodes.unflatten(0, pairs)


def _units(weight: Tensor) -> list[tuple[Tensor | slice, Tensor, float]]:
    """Hidden units of positive weight and those of negative weight, each with their |w| and sign.

    A GPU, which would have to be waited for, takes all units twice, with the others' weights at zero.
    """
    if weight.device.type == "cpu":
        above, below = (weight > 0).nonzero()[:, 0], (weight <= 0).nonzero()[:, 0]
        return [(above, weight[above], 1.0), (below, -weight[below], -1.0)]
    return [(slice(None), weight.clamp(min=0), 1.0), (slice(None), (-weight).clamp(min=0), -1.0)]


def _bent(a: Tensor, b: Tensor) -> Tensor:
    """Sums of LeakyReLU(a - b) over hidden units: (..., X, U), (..., K, U) -> (..., X, K)."""
    linear = a.sum(-1)[..., None] - b.sum(-1)[..., None, :]
    return (1 + SLOPE) / 2 * linear + (1 - SLOPE) / 2 * torch.cdist(a, b, p=1)


def member_means(kinds: Sequence[Kind], x: PairNodes, word_sum: Tensor, visual_sum: Tensor) -> list[Tensor]:
    """Means over members from sums (t, v, D) over words and over visual nodes; zeros where there is no member."""
    num_words, num_visual = x.counts()
    means = {
        "global": lambda: (word_sum + visual_sum) / (num_words + num_visual),  # members as in Eq. 4
        "text": lambda: word_sum / num_words.clamp(min=1),  # Eq. 5
        "visual": lambda: visual_sum / num_visual,  # Eq. 6
    }
    return [means[kind]() for kind in kinds]


def node_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum over the second-last dimension where the mask is True; (..., 1, D) stands for rows that are alike."""
    if x.shape[-2] != mask.shape[-1]:
        return x[..., 0, :] * mask.sum(-1, keepdim=True, dtype=x.dtype)
    if all_valid(mask):
        return x.sum(-2)
    if has_kernels(x):
        from tvr_lightning.nn.kernels.sums import masked_sum

        return masked_sum(x, mask)
    return x.masked_fill(~mask[..., None], 0).sum(-2)
