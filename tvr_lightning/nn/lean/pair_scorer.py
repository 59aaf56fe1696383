"""Scores of text-video pairs from their hypergraphs: LEAN's network, variational inference and readout as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tvr_lightning.device import Graphs, graphed, sizes
from tvr_lightning.nn.lean.graph_network_pairs import replaced_pairs
from tvr_lightning.nn.lean.graph_networks import ReplacementNetwork
from tvr_lightning.nn.lean.hypergraph import (
    KINDS,
    Hypergraphs,
    Kind,
    LEANConv,
    RefreshedHyperedges,
    check_kinds,
    clique_expansion,
    visual_nodes,
)
from tvr_lightning.nn.lean.hypergraph_pairs import (
    PairNodes,
    Projected,
    conv_pairs,
    first_encoding,
    next_encoding,
    project,
)
from tvr_lightning.nn.lean.variational import (
    Activation,
    Gaussian,
    HypergraphGaussian,
    Readout,
    gaussian_divergence,
    standard_normal,
)
from tvr_lightning.nn.lean.variational_pairs import (
    hyperedge_states,
    node_states,
    pair_divergence,
    read_pairs,
    refresh_pairs,
)

Network = Literal["lean", "none", "hgnn", "uncertain_gcn", "gcn", "gat"]
NETWORKS: tuple[Network, ...] = get_args(Network)
Read = Literal["nodes", "nodes_and_hyperedges"]
Reduction = Literal["mean", "sum"]
MAX_STORED_PAIRS = 1024  # pairs, those of a batch of 32, whose activations may wait for the backward pass


class PairScores(NamedTuple):
    """What pairs give.

    Attributes:
        scores: (T, V).
        divergence: (T, V), each hypergraph's mean over its nodes and dimensions; None where it was not asked for or
            states have no spread.

    >>> words, frames = torch.randn(3, 5, 8), torch.randn(2, 4, 8)
    >>> HypergraphScorer(8)(words, torch.ones(3, 5).bool(), frames, torch.ones(2, 4).bool(), True).divergence.shape
    torch.Size([3, 2])
    """

    scores: Tensor
    divergence: Tensor | None


class HypergraphScorer(nn.Module):
    """A score for each text-video pair from the hypergraph of its words and frames: Readout(Gaussian(LEANConv^L(x))).

    `forward` gives all pairs of texts and videos, chunk by chunk, `score_graphs` those of any batch of hypergraphs in
    index form; both have the same parameters and give the same numbers.

    Args:
        width: D.
        iterations: of the network.
        network: `lean`; `none` leaves nodes as they are; others see `ReplacementNetwork`. After each of them states
            and readout are the same, and so is the Laplacian of Eq. 15, the hypergraph's.
        kinds: which hyperedges there are.
        spread: whether states have a variance (Eq. 14); without, they are their means.
        read: whose states the readout takes: nodes', or also those of the hyperedges that Eq. 13 makes of them.
        activation: of the readout.
        reduction: whether a divergence is the mean over a pair's states and their dimensions, or the sum.

    Raises:
        ValueError: kinds that do not exist, or no iteration.

    >>> words, frames = torch.randn(3, 5, 8), torch.randn(2, 4, 8)
    >>> HypergraphScorer(8)(words, torch.ones(3, 5).bool(), frames, torch.ones(2, 4).bool()).scores.shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        width: int,
        iterations: int = 2,
        network: Network = "lean",
        kinds: Sequence[Kind] = KINDS,
        spread: bool = True,
        read: Read = "nodes",
        activation: Activation = "tanh",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"{iterations} iterations; at least 1")
        self.kinds = check_kinds(kinds)
        self.convs = nn.ModuleList()
        self.replacement: ReplacementNetwork | None = None
        if network == "lean":
            self.convs.extend(LEANConv(width, self.kinds) for _ in range(iterations))
        elif network != "none":
            self.replacement = ReplacementNetwork(network, width, iterations)
        self._graphs = Graphs()
        self.refresh = RefreshedHyperedges(width) if read == "nodes_and_hyperedges" else None
        self.states = HypergraphGaussian(width, self.kinds, spread, hyperedges=self.refresh is not None)
        self.readout = Readout(width, activation)
        self.reduction = reduction

    @property
    def _convs(self) -> list[LEANConv]:
        return [conv for conv in self.convs if isinstance(conv, LEANConv)]

    def states_of(self, graphs: Hypergraphs, with_sigma: bool = True) -> tuple[Gaussian, Tensor]:
        """What the readout reads of hypergraphs: states (X, D) of nodes, then of hyperedges, and whose each is (X,)."""
        x, index, kind = graphs.x, graphs.hyperedge_index, graphs.hyperedge_kind
        if self.replacement is not None:
            x = self.replacement(graphs)
        shared = clique_expansion(index, len(x)) if len(self.convs) else None
        for conv in self._convs:
            x, _ = conv(x, index, kind, graphs.textual, shared)
        states = self.states(x, index, kind, with_sigma)
        if self.refresh is None:
            return states, graphs.graph
        e = self.refresh(x, index, len(kind))
        others = self.states.of_hyperedges(e, len(x), index, kind, with_sigma)
        log_sigma = None
        if states.log_sigma is not None and others.log_sigma is not None:
            log_sigma = torch.cat([states.log_sigma, others.log_sigma])
        every = Gaussian(torch.cat([states.mean, others.mean]), log_sigma)
        return every, torch.cat([graphs.graph, graphs.hyperedge_graph])

    def score_graphs(self, graphs: Hypergraphs, with_divergence: bool = True) -> tuple[Tensor, Tensor | None]:
        """Scores (P,) and divergences (P,) of hypergraphs; states are drawn while training."""
        states, graph = self.states_of(graphs, with_divergence or self.training)
        sample = self.training and states.log_sigma is not None
        h = states.draw(standard_normal(states.mean, *states.mean.shape)) if sample else states.mean
        scores = self.readout(h, graph, graphs.size)
        if states.log_sigma is None or not with_divergence:
            return scores, None
        each = gaussian_divergence(states.mean, states.log_sigma)
        total = each.new_zeros(graphs.size).index_add(0, graph, each)
        return scores, self._reduced(total, torch.bincount(graph, minlength=graphs.size))

    def _reduced(self, total: Tensor, count: Tensor) -> Tensor:
        """A pair's divergence from the sum over its states, each a mean over dimensions, and their number."""
        return total / count if self.reduction == "mean" else total * self.states.shared.out_features  # Eq. 19

    def forward(
        self,
        words: Tensor,
        word_mask: Tensor,
        frames: Tensor,
        frame_mask: Tensor,
        with_divergence: bool = False,
        chunk: int | None = None,
    ) -> PairScores:
        """Scores of all pairs; states are drawn while training, for each pair anew.

        Args:
            words: (T, W, D).
            word_mask: (T, W) bool.
            frames: (V, n, D).
            frame_mask: (V, n) bool.
            with_divergence: whether divergences are wanted.
            chunk: pairs computed at a time, which sets the peak memory: with gradients, chunks are computed again in
                the backward pass instead of being kept. When None it is what suits the device, and up to
                `MAX_STORED_PAIRS` pairs are kept.
        """
        words = words.masked_fill(~word_mask[..., None], 0).to(self.readout.score.weight.dtype)
        visual, visual_mask = visual_nodes(frames.masked_fill(~frame_mask[..., None], 0).to(words.dtype), frame_mask)
        of_texts, of_videos = Projected(words, words), Projected(visual, visual)
        for conv in self._convs[:1]:
            of_texts, of_videos = project(conv, words), project(conv, visual)
        num_texts, num_videos = len(words), len(visual)
        kept = chunk or MAX_STORED_PAIRS
        learning = torch.is_grad_enabled()
        chunk = chunk or min(sizes(words.device).lean_pairs, MAX_STORED_PAIRS if learning else num_texts * num_videos)
        again = learning and num_texts * num_videos > kept
        columns = min(num_videos, chunk)
        rows = max(1, chunk // columns)

        lines = []
        for t in range(0, num_texts, rows):
            part = slice(t, t + rows)
            texts = [x[part, None] for x in (*of_texts, word_mask)]
            line = []
            for v in range(0, num_videos, columns):
                videos = [x[None, v : v + columns] for x in (*of_videos, visual_mask)]
                if again:
                    line.append(checkpoint(self._chunk, with_divergence, *texts, *videos, use_reentrant=False))
                else:
                    line.append(self._chunk(with_divergence, *texts, *videos))
            lines.append(torch.cat(line, dim=2))
        joined = torch.cat(lines, dim=1)
        return PairScores(joined[0], joined[1] if len(joined) > 1 else None)

    def learn(
        self,
        words: Tensor,
        word_mask: Tensor,
        frames: Tensor,
        frame_mask: Tensor,
        with_divergence: bool,
        chunk: int | None = None,
    ) -> PairScores:
        """`forward` of a training batch; on a GPU as one recorded graph where all its activations are kept."""
        inputs = (words, word_mask, frames, frame_mask)
        if len(words) * len(frames) > (chunk or MAX_STORED_PAIRS):
            return self(*inputs, with_divergence, chunk)

        def parts(*x: Tensor) -> tuple[Tensor, ...]:
            return tuple(part for part in self(*x, with_divergence) if part is not None)

        scores, *divergence = graphed(self._graphs, parts, inputs, [self], with_divergence)
        return PairScores(scores, divergence[0] if divergence else None)

    def _chunk(
        self,
        with_divergence: bool,
        own_words: Tensor,
        words: Tensor,
        word_mask: Tensor,
        own_visual: Tensor,
        visual: Tensor,
        visual_mask: Tensor,
    ) -> Tensor:
        """Scores, and divergences where asked for: (1 or 2, t, v).

        Shapes: words (t, 1, W, D), word_mask (t, 1, W), visual (1, v, n, D), visual_mask (1, v, n); words and visual
        nodes come in the two projections of the first layer's Eq. 8, or twice as they are where there is none.
        """
        nodes = PairNodes(words, visual, word_mask, visual_mask)
        for i, conv in enumerate(self._convs):
            if i == 0:
                of_texts, of_videos = Projected(own_words, words), Projected(own_visual, visual)
                nodes = first_encoding(conv, of_texts, of_videos, word_mask, visual_mask)
            else:
                nodes = next_encoding(conv, nodes)
            nodes = conv_pairs(conv, nodes)
        if self.replacement is not None:
            nodes = replaced_pairs(self.replacement, nodes, self.kinds)
        with_sigma = self.training or with_divergence
        groups = node_states(self.states, nodes, with_sigma)
        if self.refresh is not None:
            edges = refresh_pairs(self.refresh, nodes, self.kinds)
            groups += hyperedge_states(self.states, nodes, edges, with_sigma)
        scores = read_pairs(self.readout, groups, self.training)
        divergence = pair_divergence(groups) if with_divergence else None
        return scores[None] if divergence is None else torch.stack([scores, self._reduced(*divergence)])
