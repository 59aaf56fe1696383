"""LEAN's variational inference and readout over hypergraphs (Li et al. 2024), in index form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.utils import scatter, softmax

from tvr_lightning.nn.lean.hypergraph import KINDS, MAX_EXPONENT, SLOPE, Kind, check_kinds, glorot

Activation = Literal["tanh", "sigmoid"]


class Gaussian(NamedTuple):
    """Distributions of states.

    Attributes:
        mean: (..., D).
        log_sigma: the same, in [-10, 10]; None where states have no spread.

    >>> Gaussian(torch.zeros(2), torch.zeros(2)).draw(torch.tensor([1.0, -1.0]))
    tensor([ 1., -1.])
    """

    mean: Tensor
    log_sigma: Tensor | None

    def draw(self, noise: Tensor) -> Tensor:
        """States for standard normal noise that broadcasts against the mean."""
        return self.mean if self.log_sigma is None else self.mean + noise * self.log_sigma.exp()  # Eq. 14


def standard_normal(like: Tensor, *shape: int) -> Tensor:
    """Draws noise of a shape, of the dtype and on the device of a tensor."""
    return torch.randn(shape, dtype=like.dtype, device=like.device)


class Heads(nn.Module):
    """Mean and clamped log sigma of states, two products.

    W_sigma starts at zero, at the prior's spread: from Glorot's weights the divergence of the first steps was in the
    hundreds.

    Args:
        width: D.
        spread: whether states have a variance; without, they are their means.

    >>> Heads(8, spread=False)(torch.randn(3, 8), with_sigma=True).log_sigma is None
    True
    """

    def __init__(self, width: int, spread: bool) -> None:
        super().__init__()
        self.mean = glorot(width, width)
        self.log_sigma = nn.Linear(width, width, bias=False) if spread else None
        if self.log_sigma is not None:
            nn.init.zeros_(self.log_sigma.weight)

    def forward(self, hidden: Tensor, with_sigma: bool) -> Gaussian:
        """States (..., D) from A ReLU(A X W_0), (..., D)."""
        if self.log_sigma is None or not with_sigma:
            return Gaussian(self.mean(hidden), None)
        return Gaussian(self.mean(hidden), self.log_sigma(hidden).clamp(-MAX_EXPONENT, MAX_EXPONENT))


class HypergraphGaussian(nn.Module):
    """Gaussian states of nodes from a hypergraph's Laplacian, and of hyperedges from that of its dual.

        B = D_v^-1/2 H W^1/2 D_e^-1/2
        nodes        A = B B^T     mean = A ReLU(A X W_0) W_mean      log sigma = A ReLU(A X W_0) W_sigma
        hyperedges   A = B^T B     the same of E, with the same W_0 and heads of their own

    So A = D_v^-1/2 H W D_e^-1 H^T D_v^-1/2 for nodes. W holds one learned weight per kind of hyperedge, kept positive
    by softplus; all start at 1. D_e^-1 is that of hypergraph networks; the paper prints D_e^-1/2, and states of
    hyperedges in its introduction alone. A node without a hyperedge gets zeros.

    Args:
        width: D.
        kinds: which hyperedges the hypergraphs have.
        spread: whether states have a variance; without, they are their means.
        hyperedges: whether hyperedges have states.

    >>> index, kind = torch.tensor([[0, 1, 2], [0, 0, 0]]), torch.tensor([0])  # one global hyperedge of three nodes
    >>> HypergraphGaussian(8)(torch.randn(3, 8), index, kind).mean.shape
    torch.Size([3, 8])
    """

    def __init__(
        self, width: int, kinds: Sequence[Kind] = KINDS, spread: bool = True, hyperedges: bool = False
    ) -> None:
        super().__init__()
        self.kinds = check_kinds(kinds)
        self.raw_weights = nn.Parameter(torch.full((len(self.kinds),), math.log(math.e - 1)))  # softplus: 1
        self.shared = glorot(width, width)
        self.nodes = Heads(width, spread)
        self.hyperedges = Heads(width, spread) if hyperedges else None

    def kind_weights(self) -> dict[Kind, Tensor]:
        """The weight of each kind of hyperedge, scalars."""
        return dict(zip(self.kinds, F.softplus(self.raw_weights).unbind(), strict=True))

    def forward(self, x: Tensor, hyperedge_index: Tensor, hyperedge_kind: Tensor, with_sigma: bool = True) -> Gaussian:
        """States of the nodes (N, D) of a hypergraph; see `LEANConv` for the index form."""
        node, edge = hyperedge_index
        of_node, of_edge = self._factors(len(x), hyperedge_index, hyperedge_kind, x.dtype)

        def laplacian(h: Tensor) -> Tensor:
            e = scatter((of_node * h)[node], edge, dim=0, dim_size=len(of_edge)) * of_edge.square()
            spread: Tensor = of_node * scatter(e[edge], node, dim=0, dim_size=len(x))
            return spread

        return self.nodes(laplacian(F.relu(laplacian(self.shared(x)))), with_sigma)  # Eq. 15

    def of_hyperedges(
        self, e: Tensor, num_nodes: int, hyperedge_index: Tensor, hyperedge_kind: Tensor, with_sigma: bool = True
    ) -> Gaussian:
        """States of the hyperedges (E, D) of a hypergraph.

        Raises:
            ValueError: this layer has no heads for them.
        """
        if self.hyperedges is None:
            raise ValueError("hyperedges have no states here; build HypergraphGaussian(..., hyperedges=True)")
        node, edge = hyperedge_index
        of_node, of_edge = self._factors(num_nodes, hyperedge_index, hyperedge_kind, e.dtype)

        def laplacian(h: Tensor) -> Tensor:
            x = scatter((of_edge * h)[edge], node, dim=0, dim_size=num_nodes) * of_node.square()
            spread: Tensor = of_edge * scatter(x[node], edge, dim=0, dim_size=len(e))
            return spread

        return self.hyperedges(laplacian(F.relu(laplacian(self.shared(e)))), with_sigma)  # Eq. 15

    def _factors(self, num_nodes: int, index: Tensor, kind: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """D_v^-1/2 (N, 1), zero for a node in no hyperedge, and (W D_e^-1)^1/2 (E, 1)."""
        node, edge = index
        weights, none = self.kind_weights(), self.raw_weights.new_zeros(())
        of_kind = torch.stack([weights.get(name, none) for name in KINDS])[kind].to(dtype)  # (E,)
        degree = scatter(of_kind[edge], node, dim_size=num_nodes)
        root = torch.where(degree > 0, degree.clamp(min=1e-12).rsqrt(), 0.0)
        size = scatter(torch.ones_like(edge, dtype=dtype), edge, dim_size=len(kind))
        return root[:, None], (of_kind / size).sqrt()[:, None]


class Readout(nn.Module):
    """A number for each hypergraph: score = LeakyReLU(w . z), z = s(sum_i softmax_i(a . h_i) h_i).

    s is tanh; the paper prints sigma, and so `sigmoid` is there, too. The softmax around it in Eq. 16 belongs to the
    cross-entropy of the losses. What is read are states, of nothing else: so the divergence bounds all that a score
    can see.

    Args:
        width: D.
        activation: s.

    >>> Readout(8)(torch.randn(5, 8), graph=torch.tensor([0, 0, 1, 1, 1]), count=2).shape
    torch.Size([2])
    """

    def __init__(self, width: int, activation: Activation = "tanh") -> None:
        super().__init__()
        self.attention = glorot(width, 1)
        self.score = glorot(width, 1)
        self.activation = activation

    def scores(self, pooled: Tensor) -> Tensor:
        """(..., D) attended sums to (...) scores."""
        z = torch.sigmoid(pooled) if self.activation == "sigmoid" else torch.tanh(pooled)
        logits: Tensor = self.score(z)[..., 0]
        return F.leaky_relu(logits, SLOPE)  # Eq. 16

    def weights(self, h: Tensor, graph: Tensor, count: int) -> Tensor:
        """The weight of each state (X, D) in its hypergraph's sum: (X,)."""
        weight: Tensor = softmax(self.attention(h)[:, 0], graph, num_nodes=count)
        return weight

    def forward(self, h: Tensor, graph: Tensor, count: int) -> Tensor:
        """Scores of P hypergraphs: h (X, D) their states, graph (X,) whose each is; returns (P,)."""
        weight = self.weights(h, graph, count)
        return self.scores(scatter(weight[:, None] * h, graph, dim=0, dim_size=count))


def gaussian_divergence(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(mean, sigma^2) from N(0, 1), averaged over dimensions.

    Eq. 19 as printed has the opposite sign, which would push the distributions away from the prior, and lacks the 1/2.

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
