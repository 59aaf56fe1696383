"""The similarity of all training items of CIRH, block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from tvr_lightning.nn.sptch.collaborative_graph import CollaborativeGraph


class CorrelationGraph(CollaborativeGraph):
    """S of N items from their features: weighted cosines, the smallest of each row 0, mixed with their sigmoid.

    S_1 = weight cos(video) + (1 - weight) cos(text), in each row the `round(dropped N)` smallest entries 0;
    S_2 = 2 sigmoid(S_1) - 1 + I, symmetrised;    S = mixture S_1 + (1 - mixture) S_2
    S_1 stays as it is, and so an item's row may differ from its column. As in SPTCH, whose graph is this one's
    descendant, S is never stored, and an entry is the same in every block.

    Args:
        video_features: (N, F), one mean feature per video.
        text_features: (N, F'), one per text.
        weight: a_1, the videos' share.
        dropped: the share of each row that is set to 0.
        mixture: a_2, the share of S_1.

    Raises:
        ValueError: the modalities differ in their number of items, or a share lies outside of [0, 1].

    >>> CorrelationGraph(torch.randn(10, 8), torch.randn(10, 6)).block(torch.tensor([0, 3, 7])).shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        video_features: Tensor,
        text_features: Tensor,
        weight: float = 0.6,
        dropped: float = 0.6,
        mixture: float = 0.6,
    ) -> None:
        super().__init__(video_features, text_features, weight, dropped)
        if not 0 <= mixture <= 1:
            raise ValueError(f"mixture is {mixture}; it must be between 0 and 1")
        self.mixture = mixture

    def _process(self, similarity: Tensor, drop: Tensor, rows: Tensor) -> Tensor:
        first = similarity.double().masked_fill(drop, 0)
        second = 2 * first.sigmoid() - 1 + (rows[:, None] == rows[None, :]).double()
        return self.mixture * first + (1 - self.mixture) * (second + second.T) / 2


def mixed_with_neighbours(features: Tensor, similarity: Tensor, shares: tuple[float, float, float]) -> Tensor:
    """An item's features mixed with those of its two most similar items in the batch, itself left out.

    Shapes: features (B, F), similarity (B, B); returns (B, F). Of fewer than three items each stays as it is.

    >>> x, s = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[9.0, 1.0, 0.0], [1.0, 9.0, 0.0], [2.0, 1.0, 9.0]])
    >>> mixed_with_neighbours(x, s, (0.7, 0.2, 0.1)).T
    tensor([[0.4000, 0.9000, 1.5000]])
    """
    if len(features) < 3:
        return features
    others = similarity.clone().fill_diagonal_(-torch.inf)
    nearest = others.sort(dim=1, descending=True, stable=True).indices  # (B, B), of equal ones the left one first
    first, second = features[nearest[:, 0]], features[nearest[:, 1]]
    return shares[0] * features + shares[1] * first + shares[2] * second
