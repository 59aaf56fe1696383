"""Token-level weighted network: words to phrases, frames to clips (GHAN, Yu, Hu, Li 2022)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from tvr_lightning.nn.masked import masked_softmax

RefineOver = Literal["tokens", "phrases"]


class TokenRefining(nn.Module):
    """Weighted sums of transformed tokens, a fixed number of them: Att(e) m(e).

    Att is a softmax of one linear layer; m is "a stack of linear layers", here with one ReLU between the two, without
    which they would be one. Over `tokens`, every part shares its weight of 1 out among the tokens, and Eq. 5's bias is
    left out: it adds the same to all tokens of a part, which such a softmax cannot see. Over `phrases`, every token
    shares its weight out among the parts, as Eq. 5 reads with its softmax before the transpose; there the bias counts.

    Args:
        width: D.
        num_parts: phrases or clips.
        hidden_width: of m.
        over: what the softmax runs over, the `tokens` or the parts (`phrases`, and clips alike).

    >>> import torch
    >>> refine = TokenRefining(width=8, num_parts=6)
    >>> refine(torch.randn(3, 10, 8), torch.ones(3, 10).bool()).shape
    torch.Size([3, 6, 8])
    """

    def __init__(self, width: int, num_parts: int, hidden_width: int = 1024, over: RefineOver = "tokens") -> None:
        super().__init__()
        self.over = over
        self.attend = nn.Linear(width, num_parts, bias=over == "phrases")
        self.transform = nn.Sequential(nn.Linear(width, hidden_width), nn.ReLU(), nn.Linear(hidden_width, width))

    def weights(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """How much each token gives to each part: (N, m, D), (N, m) bool -> (N, num_parts, m).

        Sums to 1 over m, or under `phrases` over the parts at every token; 0 where the mask is False, everywhere for
        an item without a token.
        """
        logits, exists = self.attend(tokens), mask.unsqueeze(-1)  # (N, m, num_parts)
        if self.over == "phrases":
            return (logits.softmax(-1) * exists).mT  # Eq. 5
        return masked_softmax(logits, exists, dim=1).mT  # Eq. 5

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(N, m, D), (N, m) bool -> (N, num_parts, D)."""
        refined: Tensor = self.weights(tokens, mask) @ self.transform(tokens)  # of words Eq. 3, of frames Eq. 4
        return refined
