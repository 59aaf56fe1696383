"""Token-level weighted network: words to phrases, frames to clips (GHAN, Yu, Hu, Li 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from tvr_lightning.nn.masked import masked_softmax


class TokenRefining(nn.Module):
    """Weighted sums of transformed tokens, a fixed number of them: Att(e) m(e).

    Att is a softmax over tokens of one linear layer; m is "a stack of linear layers", here with one ReLU between the
    two, without which they would be one. Eq. 5's bias is left out: it adds the same to all tokens of a part, which a
    softmax over tokens cannot see.

    Args:
        width: D.
        num_parts: phrases or clips.
        hidden_width: of m.

    >>> import torch
    >>> refine = TokenRefining(width=8, num_parts=6)
    >>> refine(torch.randn(3, 10, 8), torch.ones(3, 10).bool()).shape
    torch.Size([3, 6, 8])
    """

    def __init__(self, width: int, num_parts: int, hidden_width: int = 1024) -> None:
        super().__init__()
        self.attend = nn.Linear(width, num_parts, bias=False)
        self.transform = nn.Sequential(nn.Linear(width, hidden_width), nn.ReLU(), nn.Linear(hidden_width, width))

    def weights(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """How much each token gives to each part: (N, m, D), (N, m) bool -> (N, num_parts, m).

        Sums to 1 over m; 0 where the mask is False, everywhere for an item without a token.
        """
        return masked_softmax(self.attend(tokens), mask.unsqueeze(-1), dim=1).mT  # Eq. 5

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(N, m, D), (N, m) bool -> (N, num_parts, D)."""
        refined: Tensor = self.weights(tokens, mask) @ self.transform(tokens)  # of words Eq. 3, of frames Eq. 4
        return refined
