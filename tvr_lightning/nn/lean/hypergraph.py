"""Multi-modal hypergraphs and LEAN's attention network over them (Li et al. 2024), in index form.

Nodes of a text-video pair: its words, one node for the whole video, its frames. Hyperedges:

    global   all nodes
    text     all words
    visual   the video and all its frames, as Eq. 6 has it (the sentence below it says the top three)
    cross    one for each word: the word, the video and all its frames

This form takes any hypergraph; `hypergraph_pairs` computes the same for all pairs of texts and videos at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter, softmax

from tvr_lightning.nn.masked import masked_mean

Kind = Literal["global", "text", "visual", "cross"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CROSS = KINDS.index("cross")
SLOPE = 0.2  # of every LeakyReLU
MAX_EXPONENT = 10.0


class Hypergraphs(NamedTuple):
    """A batch of hypergraphs as one, without edges between them.

    Attributes:
        x: (N, D) nodes.
        hyperedge_index: (2, M) int64, a row for the node and one for the hyperedge of each membership.
        hyperedge_kind: (E,) int64, position in `KINDS`.
        textual: (N,) bool, which nodes are words.
        graph: (N,) int64, which hypergraph a node belongs to.
        hyperedge_graph: (E,) int64, which one a hyperedge belongs to.
        size: P, how many hypergraphs there are.

    >>> words, visual = torch.randn(2, 3, 8), torch.randn(1, 4, 8)
    >>> graphs, _ = pair_hypergraphs(words, torch.ones(2, 3).bool(), visual, torch.ones(1, 4).bool())
    >>> graphs.size, graphs.x.shape
    (2, torch.Size([14, 8]))
    """

    x: Tensor
    hyperedge_index: Tensor
    hyperedge_kind: Tensor
    textual: Tensor
    graph: Tensor
    hyperedge_graph: Tensor
    size: int


def visual_nodes(frames: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The video node, which is the mean of the frames, then the frames; it exists even without a frame.

    Shapes: frames (V, n, D), frame_mask (V, n) -> (V, n + 1, D), (V, n + 1).
    """
    nodes = torch.cat([masked_mean(frames, frame_mask)[:, None], frames], dim=1)
    return nodes, torch.cat([torch.ones_like(frame_mask[:, :1]), frame_mask], dim=1)


def pair_hypergraphs(
    words: Tensor, word_mask: Tensor, visual: Tensor, visual_mask: Tensor, kinds: Sequence[Kind] = KINDS
) -> tuple[Hypergraphs, Tensor]:
    """One hypergraph for each pair of a text and a video, pair (t, v) at t V + v.

    Args:
        words: (T, W, D).
        word_mask: (T, W) bool.
        visual: (V, n + 1, D), of `visual_nodes`.
        visual_mask: (V, n + 1) bool.
        kinds: which hyperedges there are.

    Returns:
        The hypergraphs, and (T, V, W + n + 1) bool: which words and visual nodes became their nodes, in this order.
    """
    (num_texts, num_words), (num_videos, num_visual) = words.shape[:2], visual.shape[:2]
    size = (num_texts, num_videos)
    exists = torch.cat([word_mask[:, None].expand(*size, -1), visual_mask.expand(*size, -1)], dim=2)
    nodes = torch.cat([words[:, None].expand(*size, -1, -1), visual.expand(*size, -1, -1)], dim=2)

    is_word = torch.arange(num_words + num_visual, device=words.device) < num_words
    whole = {
        "global": torch.ones_like(is_word),  # Eq. 4
        "text": is_word,  # Eq. 5
        "visual": ~is_word,  # Eq. 6
    }
    ordered = [kind for kind in check_kinds(kinds) if kind != "cross"]
    columns = [whole[kind][:, None] for kind in ordered]
    kind_of = [KINDS.index(kind) for kind in ordered]
    if "cross" in kinds:
        own = torch.eye(num_words + num_visual, num_words, dtype=torch.bool, device=words.device)
        columns.append(own | ~is_word[:, None])  # Eq. 7
        kind_of += [CROSS] * num_words
    members = exists[..., None] & torch.cat(columns, dim=1)  # Eq. 1, (T, V, N, E)
    present = members.any(2)  # a hyperedge that lacks its word is not there, although it has visual members
    if "cross" in kinds:
        present[..., len(kind_of) - num_words :] &= word_mask[:, None]
    members = (members & present[:, :, None]).flatten(0, 1)  # (P, N, E)
    exists_flat, present_flat = exists.flatten(0, 1), present.flatten(0, 1)
    node_number, edge_number = _numbers(exists_flat), _numbers(present_flat)
    pair, node, edge = members.nonzero(as_tuple=True)
    graph, position = exists_flat.nonzero(as_tuple=True)
    edge_graph, column = present_flat.nonzero(as_tuple=True)
    return Hypergraphs(
        nodes[exists],
        torch.stack([node_number[pair, node], edge_number[pair, edge]]),
        torch.tensor(kind_of, device=words.device)[column],
        is_word[position],
        graph,
        edge_graph,
        num_texts * num_videos,
    ), exists


def _numbers(mask: Tensor) -> Tensor:
    """Counts the True places of a mask in their order."""
    return mask.flatten().cumsum(0).view_as(mask) - 1


def clique_expansion(hyperedge_index: Tensor, num_nodes: int) -> Tensor:
    """Edges between different nodes that share a hyperedge, each once, in both directions: (2, M) -> (2, edges).

    >>> clique_expansion(torch.tensor([[0, 1, 1, 2], [0, 0, 1, 1]]), num_nodes=3).tolist()
    [[0, 1, 1, 2], [1, 0, 2, 1]]
    """
    node, edge = hyperedge_index[:, hyperedge_index[1].argsort(stable=True)]
    size = edge.bincount()
    first = size.cumsum(0) - size
    # each membership meets all members of its hyperedge
    partners = size[edge]
    source = node.repeat_interleave(partners)
    before = (partners.cumsum(0) - partners).repeat_interleave(partners)
    target = node[torch.arange(len(source), device=node.device) - before + first[edge].repeat_interleave(partners)]
    edges = torch.unique((source * num_nodes + target)[source != target])
    return torch.stack([edges // num_nodes, edges % num_nodes])


class LEANConv(MessagePassing):  # type: ignore[misc]  # PyG's annotations are not strict
    """One iteration of LEAN's hypergraph attention network on any hypergraph.

        x_i  <- LeakyReLU(W_N sum_{j in N(i)} x_j / |N(j)| + W_x x_i)                               Eq. 8
        e    =  LeakyReLU(W_kind mean of members)        of a global, textual or visual hyperedge   Eq. 9
        e_j  =  LayerNorm(sum_p softmax_p(x_j . x_p / sqrt(D)) x_p)       of the one of word j      Eq. 10
        a_ik =  softmax_k MLP([x_i ; e_k])                           over the hyperedges of i       Eq. 11
        x_i  <- x_i + sum_k a_ik e_k                                                                Eq. 12

    N(i) are the other nodes that share a hyperedge with i; p runs over the nodes of the hyperedge that are not words.
    The paper concatenates members in Eq. 9, which fits no varying number of them, lets the MLP compare two nodes, and
    leaves open what N, the MLP and the factors of Eq. 8 and Eq. 10 are. The MLP is D -> 1 after a hidden layer of D
    with LeakyReLU. Between two iterations nothing reads the hyperedges of Eq. 13: they are `RefreshedHyperedges`.

    Args:
        width: D.
        kinds: which hyperedges the hypergraphs have.

    >>> words, visual = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    >>> graphs, _ = pair_hypergraphs(words, torch.ones(1, 3).bool(), visual, torch.ones(1, 4).bool())
    >>> x, e = LEANConv(8)(graphs.x, graphs.hyperedge_index, graphs.hyperedge_kind, graphs.textual)
    >>> x.shape, e.shape  # 3 + 4 nodes; global, textual, visual and 3 cross hyperedges
    (torch.Size([7, 8]), torch.Size([6, 8]))
    """

    def __init__(self, width: int, kinds: Sequence[Kind] = KINDS) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.width = width
        self.kinds = check_kinds(kinds)
        self.neighbour = glorot(width, width)
        self.own = glorot(width, width)
        self.encode = nn.ModuleDict({kind: glorot(width, width) for kind in self.kinds if kind != "cross"})
        self.norm = nn.LayerNorm(width) if "cross" in self.kinds else None
        # the hidden layer of the MLP over [x ; e] is a sum of two products
        self.node_part = glorot(width, width, bias=True)
        self.edge_part = glorot(width, width)
        self.logit = glorot(width, 1)

    def forward(
        self,
        x: Tensor,
        hyperedge_index: Tensor,
        hyperedge_kind: Tensor,
        textual: Tensor,
        edge_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Updates nodes and gives hyperedges.

        Args:
            x: (N, D).
            hyperedge_index: (2, M) int64, node and hyperedge of each membership.
            hyperedge_kind: (E,) int64, position in `KINDS`.
            textual: (N,) bool, which nodes are words.
            edge_index: `clique_expansion` of the hypergraph, when several iterations share it.

        Returns:
            Nodes (N, D), and the hyperedges (E, D) that they have looked at.

        Raises:
            ValueError: a hyperedge of a kind that this layer has no weights for.
        """
        size = (len(x), len(hyperedge_kind))
        x, e, weight = self.attend(x, hyperedge_index, hyperedge_kind, textual, edge_index)
        return x + self.propagate(hyperedge_index.flip(0), x=e, weight=weight, size=size[::-1]), e  # Eq. 12

    def attend(
        self,
        x: Tensor,
        hyperedge_index: Tensor,
        hyperedge_kind: Tensor,
        textual: Tensor,
        edge_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """How much of each hyperedge its nodes take in; arguments and errors as `forward`.

        Returns:
            Encoded nodes (N, D), hyperedges (E, D), and a weight for each membership (M,), which sums to 1 over the
            hyperedges of a node.
        """
        known = torch.tensor([KINDS.index(kind) for kind in self.kinds], device=x.device)
        if not bool(torch.isin(hyperedge_kind, known).all()):
            raise ValueError(f"this layer has weights for hyperedges {', '.join(self.kinds)}; the graph has others")
        node, edge = hyperedge_index
        edge_index = clique_expansion(hyperedge_index, len(x)) if edge_index is None else edge_index
        degree = x.new_zeros(len(x)).index_add_(0, edge_index[0], torch.ones_like(edge_index[0], dtype=x.dtype))
        around = self.propagate(edge_index, x=x, weight=(1 / degree)[edge_index[0]], size=(len(x), len(x)))
        x = F.leaky_relu(self.neighbour(around) + self.own(x), SLOPE)  # Eq. 8

        members = x.new_zeros(len(hyperedge_kind)).index_add_(0, edge, torch.ones_like(edge, dtype=x.dtype))
        share = (1 / members)[edge]  # of a member in its hyperedge's mean
        e = self._hyperedges(x, hyperedge_index, hyperedge_kind, textual, share)
        hidden = F.leaky_relu(self.node_part(x)[node] + self.edge_part(e)[edge], SLOPE)
        return x, e, softmax(self.logit(hidden)[:, 0], node, num_nodes=len(x))  # Eq. 11

    def _hyperedges(self, x: Tensor, index: Tensor, kind: Tensor, textual: Tensor, share: Tensor) -> Tensor:
        """Hyperedges (E, D) of nodes (N, D)."""
        node, edge = index
        size = (len(x), len(kind))
        e = x.new_zeros(len(kind), self.width)
        mean = self.propagate(index, x=x, weight=share, size=size)
        for name, layer in self.encode.items():
            of_kind = (kind == KINDS.index(name))[:, None]
            e = torch.where(of_kind, F.leaky_relu(layer(mean), SLOPE), e)  # Eq. 9
        if self.norm is None:
            return e
        cross = kind[edge] == CROSS
        words, seen = index[:, cross & textual[node]], index[:, cross & ~textual[node]]
        query = self.propagate(words, x=x, weight=x.new_ones(words.shape[1]), size=size)
        logits = (query[seen[1]] * x[seen[0]]).sum(-1) / math.sqrt(self.width)
        weight = softmax(logits, seen[1], num_nodes=size[1])
        looked = self.norm(self.propagate(seen, x=x, weight=weight, size=size))  # Eq. 10
        return torch.where((kind == CROSS)[:, None], looked, e)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        """What a membership or an edge carries."""
        return weight[:, None] * x_j


class RefreshedHyperedges(nn.Module):
    """Hyperedges from the nodes that a network leaves, of whatever kind they are.

        e_k = LeakyReLU(W mean over members of x exp(-gamma x))                                     Eq. 13

    gamma is learned and starts at 0; the exponent is kept in [-10, 10]. The paper leaves open what gamma and the
    factor of Eq. 13 are.

    Args:
        width: D.

    >>> index = torch.tensor([[0, 1, 2], [0, 0, 1]])  # nodes 0 and 1, node 2
    >>> RefreshedHyperedges(8)(torch.randn(3, 8), index, num_hyperedges=2).shape
    torch.Size([2, 8])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = glorot(width, width)
        self.gamma = nn.Parameter(torch.zeros(()))

    def damp(self, x: Tensor) -> Tensor:
        """Damped nodes, x exp(-gamma x), elementwise."""
        return x * torch.exp((self.gamma * -x).clamp(-MAX_EXPONENT, MAX_EXPONENT))

    def forward(self, x: Tensor, hyperedge_index: Tensor, num_hyperedges: int) -> Tensor:
        """Hyperedges (E, D) of nodes (N, D); see `LEANConv` for the index form."""
        node, edge = hyperedge_index
        mean = scatter(self.damp(x)[node], edge, dim=0, dim_size=num_hyperedges, reduce="mean")
        return F.leaky_relu(self.weight(mean), SLOPE)  # Eq. 13


def check_kinds(kinds: Sequence[Kind]) -> tuple[Kind, ...]:
    """Brings kinds of hyperedges into their order.

    Raises:
        ValueError: an unknown or a repeated kind, or none.
    """
    if not kinds or len(set(kinds)) != len(kinds) or not set(kinds) <= set(KINDS):
        raise ValueError(f"hyperedges {list(kinds)}: name at least one, each once, out of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)


def glorot(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    """A linear layer with Glorot's weights; the paper does not say how its own start."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
