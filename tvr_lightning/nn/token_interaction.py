"""Words and frames of a pair, each compared with what fits it best (DRL, Wang et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.nn.masked import masked_max, masked_softmax
from tvr_lightning.types import TensorRows


@dataclass(frozen=True)
class Tokens(TensorRows):
    """Words of captions or frames of videos, prepared for any number of the others.

    Attributes:
        unit: (N, n, D) unit vectors.
        weights: (N, n), what each counts: sums to 1, 0 where the mask is False.
        mask: (N, n) bool.
        padded: (N,) bool, where places that do not exist take part in maxima with a similarity of 0.

    >>> TokenInteraction(8).of_texts(torch.randn(3, 5, 8), torch.ones(3, 5).bool()).weights.shape
    torch.Size([3, 5])
    """

    unit: Tensor
    weights: Tensor
    mask: Tensor
    padded: Tensor


class TokenInteraction(nn.Module):
    """Token-wise interaction, weighted or not.

    s(t, v) = 1/2 (sum_i a_i max_j w_i . f_j + sum_j b_j max_i w_i . f_j), over unit words w and frames f.

    Args:
        width: D.
        weighted: a and b are a softmax of what a small network makes of each word and frame, else 1 / their number.
        num_layers: of that network, linear, with ReLU between. The last has no bias, which no softmax would see.

    Raises:
        ValueError: less than one layer.

    >>> interact = TokenInteraction(8)
    >>> interact(torch.randn(3, 5, 8), torch.ones(3, 5).bool(), torch.randn(2, 4, 8), torch.ones(2, 4).bool()).shape
    torch.Size([3, 2])
    """

    def __init__(self, width: int, weighted: bool = True, num_layers: int = 2) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"a network of {num_layers} layers has no weights: give 1 or more")
        self.of_words = _network(width, num_layers) if weighted else None
        self.of_frames = _network(width, num_layers) if weighted else None

    def of_texts(self, words: Tensor, mask: Tensor, padded: Tensor | None = None) -> Tokens:
        """Captions prepared for `compare`: words (T, m, D), mask (T, m) bool; `padded` of `Tokens`, none when None."""
        return _tokens(self.of_words, words, mask, padded)

    def of_videos(self, frames: Tensor, mask: Tensor, padded: Tensor | None = None) -> Tokens:
        """Videos likewise: frames (V, n, D), mask (V, n) bool."""
        return _tokens(self.of_frames, frames, mask, padded)

    @staticmethod
    def compare(texts: Tokens, videos: Tokens) -> Tensor:
        """The scores of all pairs, (T, V)."""
        matrix = torch.einsum("tmd,vnd->tvmn", texts.unit, videos.unit)
        of_word = masked_max(matrix, videos.mask[None, :, None, :])  # (T, V, m)
        of_frame = masked_max(matrix, texts.mask[:, None, :, None], dim=-2)  # (T, V, n)
        of_word = torch.where(videos.padded[None, :, None], of_word.clamp(min=0), of_word)
        of_frame = torch.where(texts.padded[:, None, None], of_frame.clamp(min=0), of_frame)
        return ((of_word * texts.weights[:, None]).sum(-1) + (of_frame * videos.weights).sum(-1)) / 2

    def forward(self, words: Tensor, word_mask: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Scores all pairs.

        Shapes: words (T, m, D), frames (V, n, D), of any length; masks alike, bool; returns (T, V). What places hold
        where the mask is False changes nothing.
        """
        return self.compare(self.of_texts(words, word_mask), self.of_videos(frames, frame_mask))


def _network(width: int, num_layers: int) -> nn.Sequential:
    hidden = [layer for _ in range(num_layers - 1) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 1, bias=False))


def _tokens(network: nn.Module | None, features: Tensor, mask: Tensor, padded: Tensor | None) -> Tokens:
    # equal logits: each of N places counts 1 / N
    logits = features.new_zeros(mask.shape) if network is None else network(features).squeeze(-1)
    padded = mask.new_zeros(len(mask)) if padded is None else padded
    return Tokens(F.normalize(features, dim=-1), masked_softmax(logits, mask), mask, padded)
