"""Centres against a loop over sets, centres and points."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tvr_lightning import device
from tvr_lightning.nn.patches.clustering import SIGMA, Algorithm, cluster_centres

BOTH: tuple[Algorithm, ...] = ("k_medoids", "spectral")


def random_sets(count: int = 6, length: int = 14, width: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    points = torch.randn(count, length, width, generator=generator, dtype=torch.double)
    mask = torch.arange(length) < torch.randint(6, length + 1, (count, 1), generator=generator)
    return points, mask


def obvious(points: np.ndarray, lengths: list[float], count: int) -> list[int]:
    """k-medoids of one set of points that all exist."""
    number = len(points)
    far = [[math.dist(a, b) for b in points] for a in points]
    centres = [max(range(number), key=lambda i: lengths[i])]
    while len(centres) < count:
        rest = [i for i in range(number) if i not in centres]
        centres.append(max(rest, key=lambda i: min(far[i][c] for c in centres)))
    while True:
        own = [min(range(count), key=lambda k: far[i][centres[k]]) for i in range(number)]
        moved = []
        for k in range(count):
            members = [i for i in range(number) if own[i] == k]
            moved.append(min(members, key=lambda i: sum(far[i][j] for j in members)))
        if moved == centres:
            return sorted(centres)
        centres = moved


def embedded(points: np.ndarray, count: int) -> tuple[np.ndarray, list[float]]:
    """Rows of the smallest eigenvectors of the normalised Laplacian, and their lengths before they are unit vectors."""
    kernel = np.array([[math.exp(-(math.dist(a, b) ** 2) / (2 * SIGMA**2)) for b in points] for a in points])
    root = np.diag(kernel.sum(1) ** -0.5)
    rows = np.linalg.eigh(np.eye(len(points)) - root @ kernel @ root)[1][:, :count]
    lengths = np.linalg.norm(rows, axis=1)
    return rows / lengths[:, None], list(lengths)


@pytest.mark.parametrize("algorithm", BOTH)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_centres_are_those_of_a_loop(algorithm: Algorithm, count: int) -> None:
    points, mask = random_sets()
    found = cluster_centres(points, mask, count, algorithm, iterations=50)
    for one, exists, centres in zip(points, mask, found, strict=True):
        alone = one[exists].numpy()
        vectors, lengths = (
            embedded(alone, count) if algorithm == "spectral" else (alone, list(np.linalg.norm(alone, axis=1)))
        )
        assert centres.tolist() == obvious(vectors, lengths, count)


@pytest.mark.parametrize("algorithm", BOTH)
def test_planted_clusters_are_found(algorithm: Algorithm) -> None:
    torch.manual_seed(0)
    middles = 10 * torch.eye(4)
    points = (middles[:, None] + 0.1 * torch.randn(4, 6, 4)).flatten(0, 1)[None]
    centres = cluster_centres(points, torch.ones(1, 24).bool(), 4, algorithm)[0]
    assert (centres // 6).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("algorithm", BOTH)
def test_blocks_and_what_places_without_points_hold_change_nothing(
    algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, mask = random_sets()
    whole = cluster_centres(points, mask, 3, algorithm)
    assert bool(mask.gather(1, whole).all())
    assert torch.equal(cluster_centres(torch.where(mask[..., None], points, 7.0), mask, 3, algorithm), whole)
    monkeypatch.setattr(device, "CPU", dataclasses.replace(device.CPU, similarities=1))
    assert torch.equal(cluster_centres(points, mask, 3, algorithm), whole)


def test_equal_points_are_chosen_once() -> None:
    points = torch.zeros(2, 6, 3)
    points[1, 0] = 1.0
    found = cluster_centres(points, torch.ones(2, 6).bool(), 6)
    assert found.tolist() == [[0, 1, 2, 3, 4, 5]] * 2


def test_sets_without_points_do_no_harm() -> None:
    points, mask = random_sets()
    mask[2] = False
    found = cluster_centres(points, mask, 3)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(found[others], cluster_centres(points[others], mask[others], 3))
    assert cluster_centres(points[:0], mask[:0], 3).shape == (0, 3)


def test_too_many_centres_are_refused() -> None:
    points, mask = random_sets()
    with pytest.raises(ValueError, match="15 centres of 14 points; from 1 to 14"):
        cluster_centres(points, mask, 15)
