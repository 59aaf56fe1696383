"""Similarities and the learned scale on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.nn.masked import masked_mean

MAX_LOGIT_SCALE = 100.0


class LogitScale(nn.Module):
    """CLIP's learned temperature: multiplies cosines by exp(parameter), at most 100.

    The clamp acts on the parameter after each optimiser step (`clamp_`), not in the forward pass: there its gradient
    would vanish above the limit and the scale could never come down again.

    >>> LogitScale(20.0)(torch.tensor([0.5, 1.0])).round().tolist()
    [10.0, 20.0]
    """

    def __init__(self, init: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(min(init, MAX_LOGIT_SCALE))))

    def forward(self, cosines: Tensor) -> Tensor:
        """Scales cosines of any shape."""
        return cosines * self.log.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Brings the scale back to at most 100; the training loop calls this after each step."""
        self.log.clamp_(max=math.log(MAX_LOGIT_SCALE))


def cosine_matrix(texts: Tensor, videos: Tensor) -> Tensor:
    """Cosines of all pairs: (T, D), (V, D) -> (T, V).

    >>> cosine_matrix(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    tensor([[1., 0.]])
    """
    return F.normalize(texts, dim=-1) @ F.normalize(videos, dim=-1).T


def mean_frame_cosines(sentences: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
    """Cosines of sentences and mean unit frames: (T, D), (V, n, D), (V, n) bool -> (T, V) (CLIP4Clip's meanP)."""
    return cosine_matrix(sentences, masked_mean(F.normalize(frames, dim=-1), frame_mask))
