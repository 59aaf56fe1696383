"""Batches of small fully connected graphs, and message passing over typed edges (R-GCN)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import RGCNConv

from tvr_lightning.nn.ghan.mpaa import Readout, activated_readout


def complete_edges(exists: Tensor) -> Tensor:
    """Edges between all nodes of each graph, self-loops included.

    Args:
        exists: (G, N) bool; node n of graph g is g N + n, one that does not exist gets no edge.

    Returns:
        (2, E) int64, sources above targets.
    """
    count = exists.shape[1]
    graph, source, target = (exists[:, :, None] & exists[:, None, :]).nonzero(as_tuple=True)
    return torch.stack([graph * count + source, graph * count + target])


class RelationalMessagePassing(nn.Module):
    """MPAA's message passing and readout with R-GCN layers in place of attention: a weight for each pair of node kinds.

    The heterogeneous graphs of GHAN (Yu, Hu, Li 2022, Sec. 4.5), which names R-GCN (Schlichtkrull et al. 2018) and no
    more. Here: layers with an ELU each, hidden width 256 as MPAA's heads; the last is read at the roots, with relations
    for the edges that end there only; self-loops are R-GCN's own W_0.

        h'_i = ELU(W_0 h_i + sum_r mean_{j in N_r(i)} W_r h_j)

    Args:
        width: D, of nodes and readout.
        hidden_width: between the layers.
        num_kinds: kinds of nodes.
        roots: the kinds of which a graph has one node, which is read.
        dropout: on the input nodes.
        readout: as `MPAA`.
        steps: of message passing before the readout, each with weights of its own.

    Raises:
        ValueError: fewer than one step.

    >>> layer, edges = RelationalMessagePassing(8, 4, num_kinds=2, roots=[0]), complete_edges(torch.ones(1, 3).bool())
    >>> layer(torch.randn(3, 8), edges, kinds=torch.tensor([0, 1, 1]), roots=torch.tensor([0])).shape
    torch.Size([1, 8])
    """

    relation: Tensor
    read_relation: Tensor

    def __init__(
        self,
        width: int,
        hidden_width: int,
        num_kinds: int,
        roots: Sequence[int],
        dropout: float = 0.2,
        readout: Readout = "softmax",
        steps: int = 1,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"{steps} steps of message passing; at least 1")
        kinds = range(num_kinds)
        pairs = [(s, t) for s in kinds for t in kinds if s != t or s not in roots]
        into_roots = [(s, t) for s, t in pairs if t in roots]
        self.register_buffer("relation", _table(num_kinds, pairs), persistent=False)
        self.register_buffer("read_relation", _table(num_kinds, into_roots), persistent=False)
        self.aggregate = RGCNConv(width, hidden_width, len(pairs))
        self.read = RGCNConv(hidden_width, width, len(into_roots), bias=False)
        self.further = nn.ModuleList(RGCNConv(hidden_width, hidden_width, len(pairs)) for _ in range(steps - 1))
        self.dropout = nn.Dropout(dropout)
        self.readout = readout

    def forward(self, nodes: Tensor, edge_index: Tensor, kinds: Tensor, roots: Tensor) -> Tensor:
        """Runs on several graphs in one.

        Args:
            nodes: (N, D).
            edge_index: (2, E) int64, sources above targets; self-loops are left out.
            kinds: (N,) int64.
            roots: (G,) int64, the nodes to read, of the kinds that `roots` named.

        Returns:
            (G, D).
        """
        edge_index = edge_index[:, edge_index[0] != edge_index[1]]
        of_edges = kinds[edge_index[0]], kinds[edge_index[1]]
        relation = self.relation[of_edges]
        hidden = F.elu(self.aggregate(self.dropout(nodes), edge_index, relation))
        for layer in self.further:
            hidden = F.elu(layer(hidden, edge_index, relation))
        relation = self.read_relation[of_edges]
        known = relation >= 0
        return activated_readout(self.read(hidden, edge_index[:, known], relation[known])[roots], self.readout)


def _table(num_kinds: int, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """(num_kinds, num_kinds) int64, the number of each pair of kinds in the list, -1 for others."""
    table = torch.full((num_kinds, num_kinds), -1)
    for number, (source, target) in enumerate(pairs):
        table[source, target] = number
    return table
