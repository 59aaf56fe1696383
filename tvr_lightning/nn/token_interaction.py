"""Words and frames of a pair, each compared with what fits it best (DRL, Wang et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.nn.masked import masked_max, masked_softmax


class TokenInteraction(nn.Module):
    """Token-wise interaction, weighted or not.

    s(t, v) = 1/2 (sum_i a_i max_j w_i . f_j + sum_j b_j max_i w_i . f_j), over unit words w and frames f.

    Args:
        width: D.
        weighted: a and b are a softmax over what a small network makes of each word and frame, else 1 / their number.
        num_layers: linear layers of that network, with ReLU between. The last has no bias, which no softmax would see.

    Raises:
        ValueError: less than one layer.

    >>> interact = TokenInteraction(8)
    >>> interact(torch.randn(3, 5, 8), torch.ones(3, 5).bool(), torch.randn(2, 4, 8), torch.ones(2, 4).bool()).shape
    torch.Size([3, 2])
    """

    def __init__(self, width: int, weighted: bool = True, num_layers: int = 2) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"a network of {num_layers} layers weighs nothing: give 1 or more")
        self.of_words = _network(width, num_layers) if weighted else None
        self.of_frames = _network(width, num_layers) if weighted else None

    def word_weights(self, words: Tensor, mask: Tensor) -> Tensor:
        """a: words (T, m, D), mask (T, m) bool -> (T, m), sums to 1, 0 where the mask is False."""
        return _weights(self.of_words, words, mask)

    def frame_weights(self, frames: Tensor, mask: Tensor) -> Tensor:
        """b: frames (V, n, D), mask (V, n) bool -> (V, n), likewise."""
        return _weights(self.of_frames, frames, mask)

    def forward(
        self,
        words: Tensor,
        word_mask: Tensor,
        frames: Tensor,
        frame_mask: Tensor,
        zeros: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Scores all pairs.

        Args:
            words: (T, m, D), of any length.
            word_mask: (T, m) bool.
            frames: (V, n, D), of any length.
            frame_mask: (V, n) bool.
            zeros: (T,) and (V,) bool, which captions and videos have places without word or frame that take part in
                maxima with a similarity of 0; None where none do.

        Returns:
            (T, V); what padded places hold changes nothing.
        """
        a, b = self.word_weights(words, word_mask), self.frame_weights(frames, frame_mask)
        matrix = torch.einsum("tmd,vnd->tvmn", F.normalize(words, dim=-1), F.normalize(frames, dim=-1))
        of_word = masked_max(matrix, frame_mask[None, :, None, :])  # (T, V, m)
        of_frame = masked_max(matrix, word_mask[:, None, :, None], dim=-2)  # (T, V, n)
        if zeros is not None:
            of_word = torch.where(zeros[1][None, :, None], of_word.clamp(min=0), of_word)
            of_frame = torch.where(zeros[0][:, None, None], of_frame.clamp(min=0), of_frame)
        return ((of_word * a[:, None]).sum(-1) + (of_frame * b).sum(-1)) / 2


def _network(width: int, num_layers: int) -> nn.Sequential:
    hidden = [layer for _ in range(num_layers - 1) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 1, bias=False))


def _weights(network: nn.Module | None, features: Tensor, mask: Tensor) -> Tensor:
    # equal logits: each of N places counts 1 / N
    logits = features.new_zeros(mask.shape) if network is None else network(features).squeeze(-1)
    return masked_softmax(logits, mask)
