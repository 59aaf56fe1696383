"""Similarities and the learned scale on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.masked import masked_mean

MAX_LOGIT_SCALE = 100.0


class LogitScale(nn.Module):
    """CLIP's learned temperature: multiplies cosines by exp(parameter), at most 100 unless told.

    The clamp acts on the parameter after each optimiser step (`clamp_`), not in the forward pass: there its gradient
    would vanish above the limit and the scale could never come down again.

    Raises:
        ConfigError: a scale that is not positive.

    >>> LogitScale(20.0)(torch.tensor([0.5, 1.0])).round().tolist()
    [10.0, 20.0]
    """

    def __init__(self, init: float, at_most: float = MAX_LOGIT_SCALE) -> None:
        super().__init__()
        for name, value in {"logit_scale": init, "max_logit_scale": at_most}.items():
            if not value > 0:
                raise ConfigError(f"model.{name} is {value}; it multiplies cosines: above 0")
        self.at_most = at_most
        self.log = nn.Parameter(torch.tensor(math.log(min(init, at_most))))

    def forward(self, cosines: Tensor) -> Tensor:
        """Scales cosines of any shape."""
        return cosines * self.log.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Brings the scale back to its limit; the training loop calls this after each step."""
        self.log.clamp_(max=math.log(self.at_most))


def cosine_matrix(texts: Tensor, videos: Tensor) -> Tensor:
    """Cosines of all pairs: (T, D), (V, D) -> (T, V).

    >>> cosine_matrix(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    tensor([[1., 0.]])
    """
    return F.normalize(texts, dim=-1) @ F.normalize(videos, dim=-1).T


def mean_frame_cosines(sentences: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
    """Cosines of sentences and mean unit frames: (T, D), (V, n, D), (V, n) bool -> (T, V) (CLIP4Clip's meanP)."""
    return cosine_matrix(sentences, masked_mean(F.normalize(frames, dim=-1), frame_mask))
