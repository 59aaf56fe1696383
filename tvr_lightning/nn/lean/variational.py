"""LEAN's variational inference and readout over hypergraphs (Li et al. 2024), in index form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.utils import scatter, softmax

from tvr_lightning.nn.lean.hypergraph import KINDS, MAX_EXPONENT, SLOPE, Kind, check_kinds, glorot


class Gaussian(NamedTuple):
    """Distributions of node states.

    Attributes:
        mean: (..., D).
        log_sigma: the same, in [-10, 10]; None where states have no spread.
    """

    mean: Tensor
    log_sigma: Tensor | None

    def draw(self, noise: Tensor) -> Tensor:
        """States for standard normal noise that broadcasts against the mean."""
        return self.mean if self.log_sigma is None else self.mean + noise * self.log_sigma.exp()  # Eq. 14


def standard_normal(like: Tensor, *shape: int) -> Tensor:
    """Draws noise of a shape, of the dtype and on the device of a tensor."""
    return torch.randn(shape, dtype=like.dtype, device=like.device)


class HypergraphGaussian(nn.Module):
    """Gaussian node states from a hypergraph's Laplacian.

        A = D_v^-1/2 H W D_e^-1 H^T D_v^-1/2,   mean = A ReLU(A X W_0) W_mean,   log sigma = A ReLU(A X W_0) W_sigma

    W holds one learned weight per kind of hyperedge, kept positive by softplus; all start at 1. D_e^-1 is that of
    hypergraph networks; the paper prints D_e^-1/2. A node without a hyperedge gets zeros. W_sigma starts at zero, at
    the prior's spread: from Glorot's weights the divergence of the first steps was in the hundreds.

    Args:
        width: D.
        kinds: which hyperedges the hypergraphs have.
        spread: whether states have a variance; without, they are their means.

    >>> index, kind = torch.tensor([[0, 1, 2], [0, 0, 0]]), torch.tensor([0])  # one global hyperedge of three nodes
    >>> HypergraphGaussian(8)(torch.randn(3, 8), index, kind).mean.shape
    torch.Size([3, 8])
    """

    def __init__(self, width: int, kinds: Sequence[Kind] = KINDS, spread: bool = True) -> None:
        super().__init__()
        self.kinds = check_kinds(kinds)
        self.raw_weights = nn.Parameter(torch.full((len(self.kinds),), math.log(math.e - 1)))  # softplus: 1
        self.shared = glorot(width, width)
        self.mean = glorot(width, width)
        self.log_sigma = nn.Linear(width, width, bias=False) if spread else None
        if self.log_sigma is not None:
            nn.init.zeros_(self.log_sigma.weight)

    def kind_weights(self) -> dict[Kind, Tensor]:
        """The weight of each kind of hyperedge, scalars."""
        return dict(zip(self.kinds, F.softplus(self.raw_weights).unbind(), strict=True))

    def heads(self, spread: Tensor, with_sigma: bool) -> Gaussian:
        """Mean and clamped log sigma from A ReLU(A X W_0), (..., D)."""
        if self.log_sigma is None or not with_sigma:
            return Gaussian(self.mean(spread), None)
        return Gaussian(self.mean(spread), self.log_sigma(spread).clamp(-MAX_EXPONENT, MAX_EXPONENT))

    def forward(self, x: Tensor, hyperedge_index: Tensor, hyperedge_kind: Tensor, with_sigma: bool = True) -> Gaussian:
        """States of the nodes (N, D) of a hypergraph; see `LEANConv` for the index form."""
        node, edge = hyperedge_index
        weights, none = self.kind_weights(), x.new_zeros(())
        of_edge = torch.stack([weights.get(kind, none) for kind in KINDS])[hyperedge_kind]  # (E,)
        node_degree = scatter(of_edge[edge], node, dim_size=len(x))
        root = torch.where(node_degree > 0, node_degree.clamp(min=1e-12).rsqrt(), 0.0)[:, None]
        size = scatter(torch.ones_like(edge, dtype=x.dtype), edge, dim_size=len(of_edge))

        def laplacian(h: Tensor) -> Tensor:
            e = scatter((root * h)[node], edge, dim=0, dim_size=len(of_edge)) * (of_edge / size)[:, None]
            spread: Tensor = root * scatter(e[edge], node, dim=0, dim_size=len(x))
            return spread

        return self.heads(laplacian(F.relu(laplacian(self.shared(x)))), with_sigma)  # Eq. 15


class Readout(nn.Module):
    """A number for each hypergraph: score = LeakyReLU(w . z), z = tanh(sum_i softmax_i(a . h_i) h_i).

    The softmax around it in Eq. 16 belongs to the cross-entropy of the losses.

    Args:
        width: D.

    >>> Readout(8)(torch.randn(5, 8), graph=torch.tensor([0, 0, 1, 1, 1]), count=2).shape
    torch.Size([2])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = glorot(width, 1)
        self.score = glorot(width, 1)

    def scores(self, pooled: Tensor) -> Tensor:
        """(..., D) attended sums to (...) scores."""
        logits: Tensor = self.score(torch.tanh(pooled))[..., 0]
        return F.leaky_relu(logits, SLOPE)  # Eq. 16

    def forward(self, h: Tensor, graph: Tensor, count: int) -> Tensor:
        """Scores of P hypergraphs: h (X, D) their nodes and hyperedges, graph (X,) whose each is; returns (P,)."""
        weight = self.weights(h, graph, count)
        return self.scores(scatter(weight[:, None] * h, graph, dim=0, dim_size=count))

    def weights(self, h: Tensor, graph: Tensor, count: int) -> Tensor:
        """What each node counts in its hypergraph, (X,), which sums to 1 over one; arguments as `forward`."""
        return softmax(self.attention(h)[:, 0], graph, num_nodes=count)


def gaussian_divergence(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(mean, sigma^2) from N(0, 1), averaged over dimensions.

    Eq. 19 as printed has the opposite sign, which would push the distributions away from the prior.

    Args:
        mean: (..., D).
        log_sigma: (..., D).

    Returns:
        (...): -1/2 mean(1 + log sigma^2 - mean^2 - sigma^2), at least in float32.

    >>> gaussian_divergence(torch.ones(1, 8), torch.zeros(1, 8))
    tensor([0.5000])
    """
    dtype = torch.promote_types(mean.dtype, torch.float32)
    mean, log_sigma = mean.to(dtype), log_sigma.to(dtype)
    return -(1 + 2 * log_sigma - mean.square() - (2 * log_sigma).exp()).mean(-1) / 2  # Eq. 19
