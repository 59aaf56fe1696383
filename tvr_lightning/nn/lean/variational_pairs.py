"""LEAN's variational inference and readout for all pairs of texts and videos at once.

What `HypergraphGaussian`, `RefreshedHyperedges` and `Readout` give on each pair's hypergraph. All visual nodes are in
the same hyperedges, so that all have one row of the Laplacian: W + 1 rows instead of W + n. Shapes as in
`hypergraph_pairs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.nn.lean.hypergraph import SLOPE, Kind, RefreshedHyperedges
from tvr_lightning.nn.lean.hypergraph_pairs import WHOLE, PairHyperedges, PairNodes, member_means, node_sum
from tvr_lightning.nn.lean.variational import (
    Gaussian,
    HypergraphGaussian,
    Readout,
    gaussian_divergence,
    standard_normal,
)
from tvr_lightning.nn.masked import masked_softmax


class PairStates(NamedTuple):
    """States that a readout reads, one group of them.

    Attributes:
        states: (t, v, X, D), or one row where all X are alike.
        mask: (t or 1, v or 1, X) bool.

    >>> PairStates(Gaussian(torch.zeros(3, 2, 5, 8), None), torch.ones(3, 1, 5).bool()).states.mean.shape
    torch.Size([3, 2, 5, 8])
    """

    states: Gaussian
    mask: Tensor


class _Factors(NamedTuple):
    """B = D_v^-1/2 H W^1/2 D_e^-1/2: D_v^-1/2 of words and visual nodes, W D_e^-1 of each kind; (t, v, 1) or less."""

    word: Tensor
    visual: Tensor
    edges: dict[Kind, Tensor]

    def of(self, kind: Kind) -> Tensor:
        """W D_e^-1 of a kind, zero where the hypergraphs have none of it."""
        return self.edges.get(kind, self.word.new_zeros(()))


def _factors(layer: HypergraphGaussian, x: PairNodes) -> _Factors:
    num_words, num_visual = x.counts()
    weights = layer.kind_weights()
    none = num_words.new_zeros(())
    in_global, in_text, in_visual, in_cross = (weights.get(k, none) for k in ("global", "text", "visual", "cross"))
    visual_degree = in_global + in_visual + in_cross * num_words
    sizes: dict[Kind, Tensor] = {
        "global": num_words + num_visual,
        "text": num_words.clamp(min=1),
        "visual": num_visual,
        "cross": num_visual + 1,
    }
    # zero for a node in no hyperedge
    return _Factors(
        (in_global + in_text + in_cross).rsqrt() if {"global", "text", "cross"} & set(weights) else none,
        torch.where(visual_degree > 0, visual_degree.clamp(min=1e-12).rsqrt(), 0.0),
        {kind: weight / sizes[kind] for kind, weight in weights.items()},
    )


def node_states(layer: HypergraphGaussian, x: PairNodes, with_sigma: bool) -> list[PairStates]:
    """States of words, and of visual nodes, which all have the same.

    Args:
        layer: the Laplacian's weights and the heads.
        x: nodes.
        with_sigma: whether their spread is needed.
    """
    num_words, num_visual = x.counts()
    b = _factors(layer, x)
    # rows of A: what a word gets of itself, of any word, of any visual node; what a visual node gets of both
    own = b.word * b.of("cross") * b.word  # each (t, v, 1) or broadcastable
    word_word = b.word * (b.of("global") + b.of("text")) * b.word
    word_visual = b.word * (b.of("global") + b.of("cross")) * b.visual
    visual_visual = b.visual * (b.of("global") + b.of("visual") + b.of("cross") * num_words) * b.visual

    def laplacian(words: Tensor, word_sum: Tensor, visual_sum: Tensor) -> tuple[Tensor, Tensor]:
        around = word_word * word_sum + word_visual * visual_sum
        spread = own[..., None] * words + around[..., None, :]
        return spread, word_visual * word_sum + visual_visual * visual_sum

    words = layer.shared(x.words)
    spread, visual = laplacian(words, node_sum(words, x.word_mask), layer.shared(node_sum(x.visual, x.visual_mask)))
    words, visual = F.relu(spread), F.relu(visual)
    spread, visual = laplacian(words, node_sum(words, x.word_mask), num_visual * visual)
    return [
        PairStates(layer.nodes(spread, with_sigma), x.word_mask),  # Eq. 15
        PairStates(layer.nodes(visual[:, :, None], with_sigma), x.visual_mask),  # Eq. 15
    ]


def refresh_pairs(layer: RefreshedHyperedges, x: PairNodes, kinds: Sequence[Kind]) -> PairHyperedges:
    """Hyperedges of nodes; the product with W comes before the means, whose parts hyperedges share."""
    words = layer.weight(layer.damp(x.words))  # (t, v, W, D)
    visual_sum = layer.weight(node_sum(layer.damp(x.visual), x.visual_mask))  # (t, v, D)
    size = len(x.word_mask), x.visual_mask.shape[1]
    whole = [kind for kind in WHOLE if kind in kinds]
    means = [m.expand(*size, -1) for m in member_means(whole, x, node_sum(words, x.word_mask), visual_sum)]
    rows = torch.stack(means, dim=2) if means else words.new_empty(*size, 0, words.shape[-1])
    cross = None
    if "cross" in kinds:
        mean = (words + visual_sum[..., None, :]) / (x.counts()[1][..., None] + 1)  # members as in Eq. 7
        cross = F.leaky_relu(mean, SLOPE)  # Eq. 13
    return PairHyperedges(tuple(whole), F.leaky_relu(rows, SLOPE), cross)  # Eq. 13


def hyperedge_states(
    layer: HypergraphGaussian, x: PairNodes, edges: PairHyperedges, with_sigma: bool
) -> list[PairStates]:
    """States of hyperedges: those of all words or all visual nodes, and those of single words.

    Args:
        layer: the Laplacian's weights and the heads.
        x: nodes, of which the counts are taken.
        edges: refreshed hyperedges.
        with_sigma: whether their spread is needed.
    """
    assert layer.hyperedges is not None
    num_words, num_visual = x.counts()
    b = _factors(layer, x)
    roots = {kind: factor.sqrt() for kind, factor in b.edges.items()}
    word, visual = b.word.square(), b.visual.square()

    def laplacian(whole: Tensor, cross: Tensor | None) -> tuple[Tensor, Tensor | None]:
        to_words = to_visual = whole.new_zeros(*whole.shape[:2], whole.shape[-1])
        for kind, row in zip(edges.kinds, whole.unbind(2), strict=True):
            if kind != "visual":
                to_words = to_words + roots[kind] * row
            if kind != "text":
                to_visual = to_visual + roots[kind] * row
        of_words = num_words * to_words
        if cross is not None:
            total = roots["cross"] * node_sum(cross, x.word_mask)
            of_words, to_visual = of_words + total, to_visual + total
        of_words, of_visual = word * of_words, visual * num_visual * to_visual
        members = {"global": of_words + of_visual, "text": of_words, "visual": of_visual}
        rows = [(roots[kind] * members[kind]).expand(whole[:, :, 0].shape) for kind in edges.kinds]
        whole = torch.stack(rows, dim=2) if rows else whole
        if cross is None:
            return whole, None
        root = roots["cross"][..., None]
        return whole, root * (word * (root * cross + to_words[..., None, :]) + of_visual[..., None, :])

    hidden, of_word = laplacian(layer.shared(edges.whole), None if edges.cross is None else layer.shared(edges.cross))
    hidden, of_word = laplacian(F.relu(hidden), None if of_word is None else F.relu(of_word))
    some = x.word_mask.any(-1, keepdim=True)  # a textual hyperedge needs a word
    groups = []
    if edges.kinds:
        here = [some if kind == "text" else torch.ones_like(some) for kind in edges.kinds]
        groups.append(PairStates(layer.hyperedges(hidden, with_sigma), torch.cat(here, dim=-1)))  # Eq. 15
    if of_word is not None:
        groups.append(PairStates(layer.hyperedges(of_word, with_sigma), x.word_mask))  # Eq. 15
    return groups


def read_pairs(readout: Readout, groups: Sequence[PairStates], sample: bool) -> Tensor:
    """Scores (t, v) from states, drawn or their means."""
    means = [group.states.mean for group in groups]
    size, width = means[0].shape[:2], means[0].shape[-1]
    lengths = [group.mask.shape[-1] for group in groups]
    parts = means  # one row stands for all that are alike
    if sample and groups[0].states.log_sigma is not None:
        noise = standard_normal(means[0], *size, sum(lengths), width).split(lengths, dim=2)
        parts = [group.states.draw(part) for group, part in zip(groups, noise, strict=True)]  # Eq. 14
    logits = [
        readout.attention(part)[..., 0].expand(*size, length) for part, length in zip(parts, lengths, strict=True)
    ]
    mask = torch.cat([group.mask.expand(*size, -1) for group in groups], dim=-1)
    weights = masked_softmax(torch.cat(logits, dim=-1), mask).to(parts[0].dtype)
    pooled = parts[0].new_zeros(*size, width)
    for part, weight in zip(parts, weights.split(lengths, dim=-1), strict=True):
        if part.shape[2] != weight.shape[2]:
            weight = weight.sum(-1, keepdim=True)
        pooled = pooled + (weight[:, :, None] @ part)[:, :, 0]
    return readout.scores(pooled)  # Eq. 16


def pair_divergence(groups: Sequence[PairStates]) -> tuple[Tensor, Tensor] | None:
    """Sum over a pair's states of their divergence, itself a mean over dimensions, and their number, (t, v) each.

    None where states have no spread.
    """
    total, count = [], []
    for (mean, log_sigma), mask in groups:
        if log_sigma is None:
            return None
        each = gaussian_divergence(mean, log_sigma)
        each = each.expand(*each.shape[:2], mask.shape[-1]).masked_fill(~mask, 0)
        total.append(each.sum(-1))
        count.append(mask.sum(-1, dtype=each.dtype))
    return torch.stack(total).sum(0), sum(count[1:], count[0]).expand(total[0].shape)
