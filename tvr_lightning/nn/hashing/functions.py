"""Hash functions of mean features."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.nn.draws import RowDropout


class FeatureHash(nn.Module):
    """Relaxed codes of mean features: a linear layer, or one hidden layer before it.

        z = W x + b      or      z = W dropout(ReLU(W' x + b')) + b

    Shapes: x (N, F); returns (N, K) without bounds.

    Args:
        features: F.
        code_length: K.
        hidden_width: of the hidden layer; None for no such layer.
        dropout: of what the hidden layer gives.
        unit: whether features are brought to unit length first.

    >>> import torch
    >>> FeatureHash(features=12, code_length=16, hidden_width=8)(torch.randn(3, 12)).shape
    torch.Size([3, 16])
    """

    def __init__(
        self,
        features: int,
        code_length: int,
        hidden_width: int | None = None,
        dropout: float = 0.0,
        unit: bool = False,
    ) -> None:
        super().__init__()
        self.unit = unit
        self.hidden: nn.Module | None = None
        if hidden_width is not None:
            self.hidden = nn.Sequential(nn.Linear(features, hidden_width), nn.ReLU(), RowDropout(dropout))
        self.project = nn.Linear(features if hidden_width is None else hidden_width, code_length)

    def forward(self, x: Tensor) -> Tensor:
        """Hashes items."""
        if self.unit:
            x = F.normalize(x, dim=1)
        codes: Tensor = self.project(x if self.hidden is None else self.hidden(x))
        return codes
