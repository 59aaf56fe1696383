"""Matrix factorisations that hashing methods solve by alternating least squares; rows are items."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """Of N items, K codes' bits, F and F' features.

    Attributes:
        latent: V (N, K).
        video_basis: U_v (K, F).
        text_basis: U_t (K, F').
        video_projection: P_v (F, K).
        text_projection: P_t (F', K).

    >>> found = collective_factors(torch.randn(6, 5), torch.randn(6, 4), 3, 0.5, 100.0, 0.01, rounds=2, seed=0)
    >>> found.latent.shape, found.video_projection.shape
    (torch.Size([6, 3]), torch.Size([5, 3]))
    """

    latent: Tensor
    video_basis: Tensor
    text_basis: Tensor
    video_projection: Tensor
    text_projection: Tensor


def ridge(inputs: Tensor, targets: Tensor, weight: float) -> Tensor:
    """The W that minimises |targets - inputs W|^2 + weight |W|^2: inputs (N, F), targets (N, K) -> (F, K).

    >>> ridge(torch.tensor([[2.0], [0.0]]), torch.tensor([[6.0], [1.0]]), 2.0)
    tensor([[2.]])
    """
    items, width = inputs.shape
    if width <= items:
        gram = inputs.T @ inputs
        return _solve(gram, inputs.T @ targets, weight)
    return inputs.T @ _solve(inputs @ inputs.T, targets, weight)  # the same, by the smaller matrix


def _solve(gram: Tensor, right: Tensor, weight: float) -> Tensor:
    damped = gram + weight * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved: Tensor = torch.linalg.solve(damped, right)
    return solved


def start_values(items: int, bits: int, seed: int, like: Tensor) -> Tensor:
    """(N, K) standard normal numbers, the same on every device."""
    drawn = torch.randn(items, bits, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(like)


def collective_factors(
    video: Tensor,
    text: Tensor,
    bits: int,
    video_share: float,
    projection_weight: float,
    norm_weight: float,
    rounds: int,
    seed: int,
) -> Factors:
    """Alternating least squares of CMFH: each factor in turn is the ridge solution of the others.

    U_m = argmin l_m |X_m - V U|^2 + g |U|^2      P_m = argmin mu |V - X_m P|^2 + g |P|^2
    V   = (sum_m l_m X_m U_m^T + mu X_m P_m) (sum_m l_m U_m U_m^T + (2 mu + g) I)^-1

    Args:
        video: X_v (N, F), centred.
        text: X_t (N, F'), centred.
        bits: K.
        video_share: l_v; l_t is 1 - l_v.
        projection_weight: mu.
        norm_weight: g.
        rounds: how often each factor is solved for.
        seed: of the V that it begins with.
    """
    latent = start_values(len(video), bits, seed, video)
    shares = video_share, 1 - video_share
    identity = torch.eye(bits, dtype=video.dtype, device=video.device)
    bases, projections = [], []
    for _ in range(rounds):
        gram = latent.T @ latent
        bases = [
            torch.linalg.solve(share * gram + norm_weight * identity, share * latent.T @ x)
            for share, x in zip(shares, (video, text), strict=True)
        ]
        projections = [ridge(x, latent, norm_weight / projection_weight) for x in (video, text)]
        wanted = torch.zeros_like(latent)
        inner = (2 * projection_weight + norm_weight) * identity
        for share, x, basis, projection in zip(shares, (video, text), bases, projections, strict=True):
            wanted = wanted + share * x @ basis.T + projection_weight * x @ projection
            inner = inner + share * basis @ basis.T
        latent = torch.linalg.solve(inner, wanted.T).T
    return Factors(latent, *bases, *projections)
