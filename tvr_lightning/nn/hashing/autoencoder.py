"""The autoencoder over both modalities of DBRC."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdaptiveTanh(nn.Module):
    """tanh(a z) with a learned a above 0, which drives codes towards -1 and +1 as it grows.

    Shapes: z of any shape; returns the same.

    >>> AdaptiveTanh()(torch.tensor([0.0, 100.0]))
    tensor([0., 1.], grad_fn=<TanhBackward0>)
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        """Squeezes codes."""
        return (self.log_scale.exp() * z).tanh()

    def flatness(self) -> Tensor:
        """a^-2, the penalty under which a grows."""
        return (-2 * self.log_scale).exp()


class FeatureDecoder(nn.Module):
    """Features from codes: linear, ReLU, linear; (B, K) -> (B, F).

    >>> FeatureDecoder(code_length=16, width=8, features=12)(torch.randn(3, 16)).shape
    torch.Size([3, 12])
    """

    def __init__(self, code_length: int, width: int, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(code_length, width), nn.ReLU(), nn.Linear(width, features))

    def forward(self, codes: Tensor) -> Tensor:
        """Rebuilds features."""
        rebuilt: Tensor = self.layers(codes)
        return rebuilt
