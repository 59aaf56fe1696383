"""Codes without learning, to measure learned ones by: signs of principal components and of random hyperplanes."""

from __future__ import annotations

import torch
from torch import Tensor


class ProjectionCodes:
    """Signs of centred projections; the axes of one modality know nothing of the other's.

    Args:
        mean: (F,), subtracted first: features that are all positive would lie on one side of most hyperplanes.
        axes: (F, K') with K' <= K.
        bits: K; bits without an axis are +1 everywhere.
    """

    def __init__(self, mean: Tensor, axes: Tensor, bits: int) -> None:
        self.mean = mean
        self.axes = axes
        self.bits = bits

    def __call__(self, features: Tensor) -> Tensor:
        """Returns codes, (N, F) to (N, K) int8 of -1 and +1.

        Raises:
            ValueError: features of another width.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features must be (items, {len(self.mean)}), got {tuple(features.shape)}")
        codes = torch.ones(len(features), self.bits, dtype=torch.int8)
        codes[:, : self.axes.shape[1]][(features - self.mean) @ self.axes < 0] = -1
        return codes


def pca_codes(features: Tensor, bits: int) -> ProjectionCodes:
    """Fits principal components; `bits` of them, or as many as the features have.

    An axis points where its largest entry is positive, so that the same features give the same codes.

    Args:
        features: (N, F) float of the database.
        bits: K.

    Raises:
        ValueError: no features or no bits.
    """
    _check(features, bits)
    mean = features.mean(0)
    centred = features - mean
    items, width = centred.shape
    # the smaller of covariance and Gram matrix has the same components
    small = centred.T @ centred if width <= items else centred @ centred.T
    values, vectors = torch.linalg.eigh(small)
    kept = values > values[-1].clamp(min=0) * max(items, width) * torch.finfo(values.dtype).eps
    vectors = vectors[:, kept].flip(1)[:, :bits]  # descending
    axes = vectors if width <= items else centred.T @ vectors
    axes = axes / axes.norm(dim=0, keepdim=True)
    if axes.shape[1]:
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return ProjectionCodes(mean, axes, bits)


def hyperplane_codes(features: Tensor, bits: int, seed: int = 0) -> ProjectionCodes:
    """Draws hyperplanes through the features' mean (Charikar 2002).

    Args:
        features: (N, F) float of the database.
        bits: K.
        seed: the same for equal hyperplanes.

    Raises:
        ValueError: no features or no bits.
    """
    _check(features, bits)
    axes = torch.randn(features.shape[1], bits, generator=torch.Generator().manual_seed(seed))
    return ProjectionCodes(features.mean(0), axes.to(features.dtype), bits)


def _check(features: Tensor, bits: int) -> None:
    if features.ndim != 2 or features.numel() == 0 or bits < 1:
        raise ValueError(f"codes need features and bits, got shape {tuple(features.shape)} and {bits} bits")
