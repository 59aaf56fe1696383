"""What takes the place of LEAN's hypergraph attention network in its ablation (Li et al. 2024, Table 2).

Hypergraph convolution is PyG's; graph convolution and graph attention are PyG's on the clique expansion, where nodes
are neighbours that share a hyperedge. The paper does not describe its "uncertain GCN"; here it is the Gaussian graph
convolution of Zhu et al. 2019 (robust graph convolutional networks), whose damping exp(-variance) Eq. 13 has too.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GATConv, GCNConv, HypergraphConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import scatter

from tvr_lightning.nn.lean.hypergraph import SLOPE, Hypergraphs, clique_expansion, glorot
from tvr_lightning.nn.lean.variational import standard_normal

Replacement = Literal["hgnn", "uncertain_gcn", "gcn", "gat"]


class UncertainGCNConv(nn.Module):
    """Graph convolution of Gaussian node states with independent dimensions (Zhu et al. 2019).

        mean     <- LeakyReLU(A (mean exp(-variance)) W_mean)
        variance <- ReLU(A^2 (variance exp(-2 variance)) W_variance)        A^2: entries squared

    A is the symmetrically normalised adjacency with self-loops.

    Args:
        width: D.

    >>> mean, variance, edges = torch.randn(3, 8), torch.rand(3, 8), torch.tensor([[0, 1, 2], [1, 2, 0]])
    >>> [x.shape for x in UncertainGCNConv(8)(mean, variance, edges, torch.ones(3))]
    [torch.Size([3, 8]), torch.Size([3, 8])]
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = glorot(width, width)
        self.variance = glorot(width, width)

    def forward(self, mean: Tensor, variance: Tensor, edge_index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """States (N, D), (N, D) over edges (2, M) with weights (M,)."""
        source, target = edge_index
        damping = torch.exp(-variance)
        means = self.mean(mean * damping)[source] * weight[:, None]
        variances = self.variance(variance * damping.square())[source] * weight.square()[:, None]
        return (
            F.leaky_relu(scatter(means, target, dim=0, dim_size=len(mean)), SLOPE),
            F.relu(scatter(variances, target, dim=0, dim_size=len(mean))),
        )


class ReplacementNetwork(nn.Module):
    """A stack of one kind of graph layer over hypergraphs, each followed by LeakyReLU: x <- LeakyReLU(conv(x)).

    Args:
        kind: which layer.
        width: D.
        iterations: how many.

    >>> from tvr_lightning.nn.lean.hypergraph import pair_hypergraphs
    >>> graphs, _ = pair_hypergraphs(*[torch.randn(1, 3, 8), torch.ones(1, 3).bool()] * 2)
    >>> ReplacementNetwork("gcn", width=8, iterations=2)(graphs).shape
    torch.Size([6, 8])
    """

    def __init__(self, kind: Replacement, width: int, iterations: int) -> None:
        super().__init__()
        self.kind = kind
        layers = {"hgnn": HypergraphConv, "gcn": GCNConv, "gat": GATConv}
        if kind == "uncertain_gcn":
            self.start = nn.ModuleList([glorot(width, width) for _ in range(2)])
            self.layers = nn.ModuleList([UncertainGCNConv(width) for _ in range(iterations)])
        else:
            self.layers = nn.ModuleList([layers[kind](width, width) for _ in range(iterations)])

    def forward(self, graphs: Hypergraphs) -> Tensor:
        """New nodes (N, D); those of the uncertain GCN are drawn while training, means otherwise."""
        x = graphs.x
        if self.kind == "hgnn":
            for layer in self.layers:
                x = F.leaky_relu(layer(x, graphs.hyperedge_index, num_edges=len(graphs.hyperedge_kind)), SLOPE)
            return x
        edge_index = clique_expansion(graphs.hyperedge_index, len(x))
        if self.kind == "uncertain_gcn":
            return self._uncertain(x, edge_index)
        for layer in self.layers:
            x = F.leaky_relu(layer(x, edge_index), SLOPE)
        return x

    def _uncertain(self, x: Tensor, edge_index: Tensor) -> Tensor:
        edges, weight = gcn_norm(edge_index, None, len(x), dtype=x.dtype)
        mean, variance = F.leaky_relu(self.start[0](x), SLOPE), F.relu(self.start[1](x))
        for layer in self.layers:
            mean, variance = layer(mean, variance, edges, weight)
        if not self.training:
            return mean
        return mean + standard_normal(mean, *mean.shape) * (variance + 1e-8).sqrt()
