"""What LEAN weighs in one text-video pair: hyperedges by each node, and nodes by the readout."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tvr_lightning.nn.lean.hypergraph import KINDS, LEANConv, pair_hypergraphs, visual_nodes
from tvr_lightning.nn.lean.pair_scorer import HypergraphScorer
from tvr_lightning.nn.lean.variational import Readout


class PairWeights(NamedTuple):
    """Weights in the hypergraph of W words and n frames: W + 1 + n nodes, the video's own between words and frames.

    Attributes:
        kinds: of the E hyperedges, in their order; those of words follow each other in the words' order.
        attention: (iterations, N, E), Eq. 11's, not a number where a node is not a member; without LEAN's network there
            is no iteration.
        readout: (N,) or, where hyperedges are read too, (N + E,): Eq. 16's.

    >>> found = pair_weights(HypergraphScorer(8), torch.randn(2, 8), torch.randn(3, 8))
    >>> float(found.readout.detach().sum().round(decimals=4))
    1.0
    """

    kinds: tuple[str, ...]
    attention: Tensor
    readout: Tensor


def pair_weights(scorer: HypergraphScorer, words: Tensor, frames: Tensor) -> PairWeights:
    """Scores one pair and gives the weights that its score is made with.

    Shapes: words (W, D) and frames (n, D), those that exist.

    >>> found = pair_weights(HypergraphScorer(8), torch.randn(2, 8), torch.randn(3, 8))
    >>> found.kinds, found.attention.shape
    (('global', 'text', 'visual', 'cross', 'cross'), torch.Size([2, 6, 5]))
    """
    visual, visual_mask = visual_nodes(frames[None], torch.ones_like(frames[None, :, 0], dtype=torch.bool))
    word_mask = torch.ones_like(words[None, :, 0], dtype=torch.bool)
    graphs, _ = pair_hypergraphs(words[None], word_mask, visual, visual_mask, scorer.kinds)
    node, edge = graphs.hyperedge_index
    attention: list[Tensor] = []
    readout: list[Tensor] = []

    # what the layers were given says what they weigh, whatever the scorer does between them
    def seen(layer: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(layer, LEANConv):
            weights = words.new_full((len(graphs.x), len(graphs.hyperedge_kind)), torch.nan)
            attention.append(weights.index_put((node, edge), layer.attend(*given)[2]))
        elif isinstance(layer, Readout):
            readout.append(layer.weights(*given))

    hooks = [layer.register_forward_pre_hook(seen) for layer in scorer.modules()]
    try:
        scorer.score_graphs(graphs, with_divergence=False)
    finally:
        for hook in hooks:
            hook.remove()
    kinds = tuple(KINDS[kind] for kind in graphs.hyperedge_kind.tolist())
    empty = words.new_zeros(0, len(graphs.x), len(kinds))
    return PairWeights(kinds, torch.stack(attention) if attention else empty, readout[0])
