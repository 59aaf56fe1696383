"""Message passing attention (GHAN's MPAA, Yu, Hu, Li 2022): on any graph, and densely for all pairs.

    m_i       = sum_j alpha_ij W_a h_j                                    each head      Eq. 6
    alpha_ij  = softmax_j LeakyReLU(a . [W_a h_i ; W_a h_j])                             Eq. 7
    h'_i      = concat_heads ELU(m_i + W_c h_i)                                          Eq. 8
    r         = sigma(ELU(sum_p alpha_p W_r1 h'_p + W_r2 h'_0))           at a root      Eq. 9

`MPAA.forward` runs on graphs given by their edges and is built on `torch_geometric.nn.GATConv`. Retrieval needs one
graph for every pair: a root (a text) fully connected with the leaves of something else (a video's clips). `all_pairs`
computes these with the same parameters and without building graphs. Among leaves nothing depends on the root but one
number, since a softmax over leaves and root is the softmax over leaves alone, mixed with the root:

    alpha_n0 = beta = sigmoid(l_n0 - logsumexp_q l_nq)        m_n = beta W_a h_0 + (1 - beta) M_n
    M_n      = sum_q softmax_q(l_nq) W_a h_q                  once for each leaf, as are W_a h, W_c h and a . W_a h

Per pair and leaf remain two additions, a product and the ELU. alpha_p of Eq. 9 needs the vectors a . W_r1 only, and
sum_p alpha_p h'_p is taken before W_r1, which is then applied once per pair.

Eqs. 6, 7 and 8 can run for several time steps (the paper's t). From the second on, nodes have H C numbers that belong
to their pair, and nothing is left to share: `FurtherStep.pairs` takes two products of H C by H C for every node.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GATConv

from tvr_lightning.device import has_kernels
from tvr_lightning.nn.masked import all_valid, masked_softmax

Readout = Literal["softmax", "identity"]
SLOPE = 0.2  # of the LeakyReLU, as in GAT; GATConv's own


class Roots(NamedTuple):
    """Prepared roots; A is 1 where every root meets every set of leaves.

    Attributes:
        values: (A, R, H, C), W_a h.
        skip: (A, R, H, C), W_c h.
        source: (A, R, H), what the root adds to the logit of an edge that it starts.
        target: (A, R, H), ... of an edge that ends in it.

    >>> MPAA(width=8, heads=2, head_width=4).prepare_roots(torch.randn(1, 3, 8)).values.shape
    torch.Size([1, 3, 2, 4])
    """

    values: Tensor
    skip: Tensor
    source: Tensor
    target: Tensor


class Leaves(NamedTuple):
    """Prepared leaves of L items, N each.

    Attributes:
        values: (L, H, N, C), W_a h.
        alone: (L, 1, N, H, C), M: the message of the leaves alone.
        base: (L, 1, N, H, C), M + W_c h.
        source: (L, H, 1, N), what a leaf adds to the logit of an edge that it starts.
        target: (L, 1, N, H), ... of an edge that ends in it.
        total: (L, 1, N, H), logsumexp of the logits of the edges between leaves that end in it.
        mask: (L, N) bool.

    >>> MPAA(width=8, heads=2, head_width=4).prepare_leaves(torch.randn(5, 6, 8), torch.ones(5, 6).bool()).values.shape
    torch.Size([5, 2, 6, 4])
    """

    values: Tensor
    alone: Tensor
    base: Tensor
    source: Tensor
    target: Tensor
    total: Tensor
    mask: Tensor


def activated_readout(x: Tensor, readout: Readout) -> Tensor:
    """Eq. 9's ELU and, for `softmax`, its softmax over the width: in float32 at least, whatever the precision.

    Such probability vectors differ between pairs by a thousandth, less than what bf16 rounds off.
    """
    x = F.elu(x.to(torch.promote_types(x.dtype, torch.float32)))
    return x.softmax(-1) if readout == "softmax" else x


class FurtherStep(nn.Module):
    """A step of message passing after the first: the same equations between hidden nodes (see the module).

    Args:
        heads: H.
        head_width: C, of each head; nodes have H C before and after.
        dropout: on the attention.

    >>> step, clips = FurtherStep(heads=2, head_width=4), torch.ones(5, 6).bool()
    >>> step.pairs(torch.randn(5, 3, 6, 8), clips).shape
    torch.Size([5, 3, 6, 8])
    """

    def __init__(self, heads: int, head_width: int, dropout: float = 0.2) -> None:
        super().__init__()
        hidden = heads * head_width
        self.aggregate = GATConv(hidden, head_width, heads, dropout=dropout, add_self_loops=False, bias=False)
        self.combine = nn.Linear(hidden, hidden, bias=False)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.combine.weight)

    def forward(self, nodes: Tensor, edge_index: Tensor) -> Tensor:
        """Runs on any graph: (N, H C), (2, E) -> (N, H C)."""
        message = self.aggregate(nodes, edge_index)  # Eq. 6 with the weights of Eq. 7
        return F.elu(message + self.combine(nodes))  # Eq. 8

    def pairs(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Runs on the fully connected graphs of all pairs: (L, R, N, H C), (L, N) bool -> (L, R, N, H C).

        Where the mask is False there is no node: it sends nothing, and what stands there afterwards has no meaning.
        """
        values = self.aggregate.lin(nodes).unflatten(-1, (self.aggregate.heads, -1))  # (L, R, N, H, C)
        source, target = (x.mT for x in _edge_terms(self.aggregate, values))  # (L, R, H, N)
        logits = _activate(target[..., :, None] + source[..., None, :])  # targets first
        weights = self.dropout(masked_softmax(logits, mask[:, None, None, None])).to(values.dtype)  # Eq. 7
        message = (weights @ values.transpose(2, 3)).transpose(2, 3)  # Eq. 6, (L, R, N, H, C)
        return F.elu(message.flatten(3) + self.combine(nodes))  # Eq. 8


class MPAA(nn.Module):
    """Message passing with attention and a readout at roots; the formulas open this module.

    W_c has a block for each head, as W_a has. Dropout acts on input nodes and on both attentions. In the all-pairs form
    it is drawn once for what is computed once: a node's input and the edges between leaves share their draw over the
    pairs of a call, the edges of a root have their own in each pair. Alone, a pair sees the distribution of `forward`.

    Args:
        width: D, of nodes and readout.
        heads: H.
        head_width: C, of each head; the hidden nodes have H C.
        dropout: see above.
        readout: `softmax` over the width as Eq. 9 prints it, or `identity`.
        steps: of message passing, each with weights of its own.

    Raises:
        ValueError: fewer than one step.

    >>> layer = MPAA(width=8, heads=2, head_width=4)
    >>> texts, clips = torch.randn(3, 8), torch.randn(5, 6, 8)
    >>> layer.all_pairs(texts, clips, torch.ones(5, 6).bool()).shape
    torch.Size([5, 3, 8])
    """

    def __init__(
        self,
        width: int,
        heads: int = 8,
        head_width: int = 256,
        dropout: float = 0.2,
        readout: Readout = "softmax",
        steps: int = 1,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"{steps} steps of message passing; at least 1")
        hidden = heads * head_width
        self.heads, self.readout = heads, readout
        self.aggregate = GATConv(width, head_width, heads, dropout=dropout, add_self_loops=False, bias=False)
        self.combine = nn.Linear(width, hidden, bias=False)
        self.read = GATConv(hidden, width, 1, dropout=dropout, add_self_loops=False, bias=False)
        self.read_root = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.combine, self.read_root):
            nn.init.xavier_uniform_(layer.weight)
        self.further = nn.ModuleList(FurtherStep(heads, head_width, dropout) for _ in range(steps - 1))

    def forward(self, nodes: Tensor, edge_index: Tensor, roots: Tensor) -> Tensor:
        """Runs on any graph, or several in one.

        Args:
            nodes: (N, D).
            edge_index: (2, E) int64, sources above targets; taken as they are: self-loops are the caller's to add.
            roots: (G,) int64, the nodes to read.

        Returns:
            (G, D).
        """
        nodes = self.dropout(nodes)
        message = self.aggregate(nodes, edge_index)  # Eq. 6 with the weights of Eq. 7
        hidden = F.elu(message + self.combine(nodes))  # Eq. 8
        for step in self.further:
            hidden = step(hidden, edge_index)
        is_root = torch.zeros(len(nodes), dtype=torch.bool, device=nodes.device)
        is_root[roots] = True
        into_roots = edge_index[:, is_root[edge_index[1]]]
        read = self.read(hidden, into_roots)[roots] + self.read_root(hidden[roots])
        return activated_readout(read, self.readout)  # Eq. 9

    def prepare_roots(self, roots: Tensor) -> Roots:
        """What the pairs of a root share: (A, R, D); A = 1 for all pairs, R = 1 for row by row."""
        roots = self.dropout(roots)
        values = self.aggregate.lin(roots).unflatten(-1, (self.heads, -1))  # (A, R, H, C)
        return Roots(values, self.combine(roots).view_as(values), *_edge_terms(self.aggregate, values))

    def prepare_leaves(self, leaves: Tensor, mask: Tensor) -> Leaves:
        """What the pairs of an item's leaves share: (L, N, D), (L, N) bool, False = no such node."""
        leaves = self.dropout(leaves)
        values = self.aggregate.lin(leaves).unflatten(-1, (self.heads, -1))  # (L, N, H, C)
        source, target = _edge_terms(self.aggregate, values)  # (L, N, H)
        logits = _activate(target[:, :, :, None] + source.mT[:, None])  # (L, N, H, N), targets first
        exists = mask[:, None, None]
        weights = self.dropout(masked_softmax(logits, exists))
        if not all_valid(mask):
            logits = logits.masked_fill(~exists, torch.finfo(logits.dtype).min)
        by_head = values.transpose(1, 2).contiguous()  # (L, H, N, C)
        # Eq. 6 and Eq. 7 as far as no root is needed
        alone = (weights.transpose(1, 2) @ by_head).transpose(1, 2).contiguous()  # (L, N, H, C)
        base = alone + self.combine(leaves).view_as(alone)
        return Leaves(
            by_head, alone[:, None], base[:, None], source.mT[:, :, None], target[:, None],
            logits.logsumexp(-1)[:, None], mask,
        )  # fmt: skip

    def read_pairs(self, roots: Roots, leaves: Leaves, buffer: Tensor | None = None) -> Tensor:
        """The readout of every pair.

        Args:
            roots: R roots or, where A = L, R roots of each item.
            leaves: of L items.
            buffer: L R N H C numbers or more to compute in, without gradients: fresh memory for every block of pairs
                costs more than what is done in it.

        Returns:
            (L, R, D).
        """
        if not torch.is_grad_enabled() and len(roots.values) == 1 and has_kernels(roots.values, leaves.values):
            from tvr_lightning.nn.kernels.readout import takes

            if not self.further and takes(leaves.mask.shape[1], roots.values.shape[2:].numel()):
                return self._read_fused(roots, leaves)
        # at the root; heads before roots: the product runs over leaves
        weights = self.dropout(self._root_weights(roots, leaves)).to(roots.values.dtype)
        message = (weights[..., 1:] @ leaves.values).transpose(1, 2)  # (L, R, H, C)
        root = (weights[..., :1].transpose(1, 2) * roots.values).add_(roots.skip).add_(message)  # Eq. 6
        root = F.elu_(root).flatten(2)  # Eq. 8, (L, R, H C)

        # at the leaves
        values = roots.values[:, :, None]  # (A, R, 1, H, C)
        to_leaf = _activate(leaves.target + roots.source[:, :, None])  # (L, R, N, H)
        share = (to_leaf - leaves.total).sigmoid().to(values.dtype)[..., None]  # Eq. 7, of the root
        if self.training and self.dropout.p > 0:
            hidden = (self.dropout(share) * values).add_(leaves.base).sub_(share * leaves.alone)  # Eq. 6
        elif buffer is None:
            hidden = ((values - leaves.alone) * share).add_(leaves.base)  # Eq. 6, (L, R, N, H, C)
        else:
            shape = (*share.shape[:-1], values.shape[-1])
            hidden = torch.sub(values, leaves.alone, out=buffer[: math.prod(shape)].view(shape))
            hidden = hidden.mul_(share).add_(leaves.base)  # Eq. 6
        hidden = F.elu_(hidden).flatten(3)  # Eq. 8, (L, R, N, H C)
        for step in self.further:
            assert isinstance(step, FurtherStep)
            nodes = torch.cat([root[:, :, None], hidden], dim=2)
            nodes = step.pairs(nodes, F.pad(leaves.mask, (1, 0), value=True))
            root, hidden = nodes[:, :, 0], nodes[:, :, 1:]

        weight = self.read.lin.weight
        of_source, of_target = self.read.att_src[0, 0] @ weight, self.read.att_dst[0, 0] @ weight  # (H C)
        into = root @ of_target
        own, logits = _activate(into + root @ of_source), _activate(into[..., None] + hidden @ of_source)
        weights = self.dropout(_softmax_with_root(own[..., None], logits, leaves.mask[:, None])).to(root.dtype)
        pooled = (weights[..., :1] * root).add_((weights[..., None, 1:] @ hidden).squeeze(-2))  # (L, R, H C)
        return activated_readout(F.linear(pooled, weight) + self.read_root(root), self.readout)  # Eq. 9

    def _read_fused(self, roots: Roots, leaves: Leaves) -> Tensor:
        """`read_pairs` with one kernel for all that has H C numbers a node; without gradients and dropout."""
        from tvr_lightning.nn.kernels.readout import read_hidden

        root_weights = self._root_weights(roots, leaves)
        to_leaf = _activate(leaves.target + roots.source[:, :, None])  # (L, R, N, H)
        shares = (to_leaf - leaves.total).sigmoid()  # Eq. 7, of the root
        weight = self.read.lin.weight
        vectors = self.read.att_src[0, 0] @ weight, self.read.att_dst[0, 0] @ weight
        of_roots = roots.values[0].flatten(1), roots.skip[0].flatten(1)
        of_leaves = (
            leaves.values.transpose(1, 2).flatten(2),
            leaves.alone[:, 0].flatten(2),
            leaves.base[:, 0].flatten(2),
        )
        root, pooled = read_hidden(root_weights, shares, of_roots, of_leaves, leaves.mask, vectors, SLOPE)
        return activated_readout(F.linear(pooled, weight) + self.read_root(root), self.readout)  # Eq. 9

    def all_pairs(self, roots: Tensor, leaves: Tensor, mask: Tensor) -> Tensor:
        """Readouts of the graphs of all pairs, a root fully connected with an item's leaves, as `forward` gives them.

        Shapes: roots (R, D); leaves (L, N, D); mask (L, N) bool; returns (L, R, D). It needs N H C numbers for each
        pair: for many pairs prepare both sides and read blocks of them.
        """
        return self.read_pairs(self.prepare_roots(roots[None]), self.prepare_leaves(leaves, mask))

    def row_by_row(self, roots: Tensor, leaves: Tensor, mask: Tensor) -> Tensor:
        """Readouts of the graphs of root i with the leaves of item i: (P, D), (P, N, D), (P, N) bool -> (P, D)."""
        return self.read_pairs(self.prepare_roots(roots[:, None]), self.prepare_leaves(leaves, mask)).squeeze(1)

    def weights(self, roots: Tensor, leaves: Tensor, mask: Tensor) -> Tensor:
        """What each head of root i gives to itself and to the leaves of item i.

        Shapes: roots (P, D); leaves (P, N, D); mask (P, N) bool; returns (P, H, 1 + N), which sums to 1.
        """
        prepared = self.prepare_leaves(leaves, mask)
        return self._root_weights(self.prepare_roots(roots[:, None]), prepared).squeeze(2)

    def _root_weights(self, roots: Roots, leaves: Leaves) -> Tensor:
        """Attention of the edges that end in a root, itself first: (L, H, R, 1 + N)."""
        target, own = roots.target.mT, _activate(roots.target + roots.source).mT  # (A, H, R)
        logits = _activate(target[..., None] + leaves.source)  # (L, H, R, N)
        return _softmax_with_root(own[..., None], logits, leaves.mask[:, None, None])  # Eq. 7


def _edge_terms(layer: GATConv, values: Tensor) -> tuple[Tensor, Tensor]:
    """The halves of a . [W_a h_i ; W_a h_j] for nodes (..., H, C): as a source and as a target, (..., H)."""
    return (values * layer.att_src[0]).sum(-1), (values * layer.att_dst[0]).sum(-1)


def _activate(logits: Tensor) -> Tensor:
    return F.leaky_relu(logits, SLOPE)


def _softmax_with_root(root: Tensor, leaves: Tensor, mask: Tensor) -> Tensor:
    """Softmax over a root, which always exists, and leaves: (..., 1), (..., N) -> (..., N + 1)."""
    logits = torch.cat([root.expand(*leaves.shape[:-1], 1), leaves], dim=-1)
    return masked_softmax(logits, F.pad(mask, (1, 0), value=True))
