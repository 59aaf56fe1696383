"""Centres of many small sets of points at once, without randomness: k-medoids and spectral clustering (CenterCLIP)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.device import sizes

Algorithm = Literal["k_medoids", "spectral"]
SIGMA = 2.0  # of the heat kernel, as released


@torch.compiler.disable  # type: ignore[untyped-decorator]  # loops over centres
@torch.no_grad()
def cluster_centres(
    points: Tensor, mask: Tensor, count: int, algorithm: Algorithm = "k_medoids", iterations: int = 20
) -> Tensor:
    """Which points of each set are the centres of its clusters (Zhao et al. 2022), in ascending order.

    `k_medoids` starts as Katsavounidis, Kuo and Zhang (1994): the longest point first, then always the one that is
    farthest from its nearest centre. Then points join their nearest centre, and of each cluster the point with the
    smallest sum of distances to the others becomes the centre, until nothing changes. Of equal points the first counts.
    `spectral` does so with the rows of the smallest eigenvectors of the normalised Laplacian of a heat kernel; the
    first centre is the row that was longest before rows became unit vectors.

    Nothing waits for a GPU but `spectral`'s eigenvectors, once a block of sets. Sets are computed in blocks, so that
    memory stays small. Distances are computed in float32 at least.

    Args:
        points: (S, N, W).
        mask: (S, N) bool, True = the point exists.
        count: K, centres of a set.
        algorithm: the distances that are clustered.
        iterations: of the loop, at most.

    Returns:
        (S, K) int64; places of points that exist, where a set has at least K of them or none.

    Raises:
        ValueError: K is not between 1 and N.

    >>> points = torch.tensor([[[0.0], [0.2], [5.0], [5.1], [5.3]]])
    >>> cluster_centres(points, torch.ones(1, 5).bool(), 2)
    tensor([[0, 3]])
    """
    num_sets, length = mask.shape
    if not 1 <= count <= length:
        raise ValueError(f"{count} centres of {length} points; from 1 to {length}")
    block = max(1, sizes(points.device).similarities // length**2)
    wide = points.dtype if points.dtype == torch.float64 else torch.float32
    with torch.autocast(points.device.type, enabled=False):
        found = [
            _medoids(*_embedded(points[i : i + block].to(wide), mask[i : i + block], count, algorithm), iterations)
            for i in range(0, num_sets, block)
        ]
    return torch.cat(found) if found else mask.new_zeros(0, count, dtype=torch.int64)


def _embedded(x: Tensor, mask: Tensor, count: int, algorithm: Algorithm) -> tuple[Tensor, Tensor, Tensor, int]:
    """The points that are clustered, their lengths, their mask and K."""
    if algorithm == "k_medoids":
        return x, x.norm(dim=-1), mask, count
    both = mask[:, :, None] & mask[:, None]
    kernel = (-_distances(x).square() / (2 * SIGMA**2)).exp() * both
    scale = kernel.sum(-1).clamp(min=torch.finfo(x.dtype).tiny).rsqrt()
    # an eigenvalue is at most 2: points that do not exist come last
    own = torch.where(mask, 1.0, 3.0).to(x.dtype)
    laplacian = torch.diag_embed(own) - scale[..., None] * kernel * scale[:, None]
    rows = torch.linalg.eigh(laplacian).eigenvectors[..., :count]  # (S, N, K)
    return F.normalize(rows, dim=-1), rows.norm(dim=-1), mask, count


def _distances(x: Tensor) -> Tensor:
    """(S, N, W) -> (S, N, N), 0 on the diagonal."""
    distances = torch.cdist(x, x)
    distances.diagonal(dim1=1, dim2=2).zero_()
    return distances


def _medoids(x: Tensor, lengths: Tensor, mask: Tensor, count: int, iterations: int) -> Tensor:
    """(S, N, W) -> (S, K)."""
    distances, sets = _distances(x), torch.arange(len(x), device=x.device)
    # KKZ; a chosen point is at -1, so that none is chosen twice, one that does not exist farther down
    medoids = lengths.masked_fill(~mask, -torch.inf).argmax(1, keepdim=True)
    nearest = distances[sets, medoids[:, 0]].masked_fill(~mask, -torch.inf)
    while medoids.shape[1] < count:
        nearest.scatter_(1, medoids[:, -1:], torch.where(mask.gather(1, medoids[:, -1:]), -1.0, -torch.inf).to(x.dtype))
        chosen = nearest.argmax(1, keepdim=True)
        medoids = torch.cat([medoids, chosen], dim=1)
        nearest = torch.minimum(nearest, distances[sets, chosen[:, 0]])
    place = torch.arange(x.shape[1], device=x.device)
    for _ in range(iterations):
        cluster = _to_medoids(distances, medoids).argmin(1)  # (S, N)
        together = (cluster[:, :, None] == cluster[:, None]) & mask[:, None]
        cost = (distances * together).sum(-1).masked_fill(~mask, torch.inf)
        least = torch.full_like(medoids, 0, dtype=x.dtype).fill_(torch.inf).scatter_reduce(1, cluster, cost, "amin")
        best = (cost == least.gather(1, cluster)) & mask
        first = torch.full_like(medoids, x.shape[1])
        first = first.scatter_reduce(1, cluster, torch.where(best, place, x.shape[1]), "amin")
        moved = torch.where(first < x.shape[1], first, medoids)  # a centre at the same point as another: none is left
        if moved.device.type == "cpu" and torch.equal(moved, medoids):  # a GPU would have to be waited for
            break
        medoids = moved
    return medoids.sort(1).values


def _to_medoids(distances: Tensor, medoids: Tensor) -> Tensor:
    """(S, N, N), (S, K) -> (S, K, N)."""
    return distances.gather(1, medoids[..., None].expand(-1, -1, distances.shape[-1]))
