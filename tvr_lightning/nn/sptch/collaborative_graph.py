"""The similarity of all training items over both modalities, block by block (SPTCH, Sec. 3.2.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK_NUMBERS = 1 << 23  # similarities of a block of rows while thresholds are looked for: 64 MiB
COLUMNS = 4096  # columns whose features are copied in float64 at a time


class CollaborativeGraph:
    """S of N items from their features: weighted cosines, the smallest of each row -1, tanh, symmetric.

    Eq. 1: S = weight cos(video) + (1 - weight) cos(text). Eq. 2: in each row the `round(dropped N)` smallest entries
    become -1; of equal entries those further left go first, so that the number is exact. Then tanh, then
    (S + S^T) / 2. S is never stored: a row keeps its largest dropped entry (value and column), which decides about
    each entry alone. Cosines are summed in float64 and rounded to float32, so that an entry is the same in every block.

    Args:
        video_features: (N, F), one mean feature per video.
        text_features: (N, F'), one per text.
        weight: theta_1, the videos' share.
        dropped: theta_2, the share of each row that is taken for noise.
        processed: without it S stays as Eq. 1 has it: no thresholds, no tanh (variant S1).

    Attributes:
        video_features: X^v (N, F), float32 or float64.
        text_features: X^t (N, F') likewise.

    Raises:
        ValueError: the modalities differ in their number of items, or a share lies outside of [0, 1].

    >>> CollaborativeGraph(torch.randn(10, 8), torch.randn(10, 6)).block(torch.tensor([0, 3, 7])).shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        video_features: Tensor,
        text_features: Tensor,
        weight: float = 0.6,
        dropped: float = 0.1,
        processed: bool = True,
    ) -> None:
        if len(video_features) != len(text_features):
            raise ValueError(f"{len(video_features)} videos, but {len(text_features)} texts")
        for name, share in (("weight", weight), ("dropped", dropped)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; it must be between 0 and 1")
        kind = torch.promote_types(video_features.dtype, torch.float32)
        self.video_features, self.text_features = (x.detach().to(kind) for x in (video_features, text_features))
        self.weight, self.processed = weight, processed
        count = round(dropped * len(self)) if processed else 0
        self._value = torch.full((len(self),), -torch.inf, device=video_features.device)
        self._column = torch.full((len(self),), -1, device=video_features.device)
        if count:
            for rows, similarity in self._rows():
                self._value[rows], self._column[rows] = _last_of_smallest(similarity, count)

    def __len__(self) -> int:
        """Number of items N."""
        return len(self.video_features)

    def to(self, device: torch.device | str) -> Self:
        """Moves everything to `device`, in place."""
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def block(self, rows: Tensor) -> Tensor:
        """S among some items.

        Args:
            rows: (B,) int64, items; one may come several times.

        Returns:
            (B, B) in the dtype of the features.
        """
        similarity = self._similarity(rows, rows)
        if self.processed:
            value, column = self._value[rows, None], self._column[rows, None]
            drop = (similarity < value) | ((similarity == value) & (rows <= column))
            similarity = self._process(similarity, drop, rows)
        return similarity.to(self.video_features.dtype)

    def _process(self, similarity: Tensor, drop: Tensor, rows: Tensor) -> Tensor:
        """What becomes of the similarities of some items, (B, B), of which some are dropped."""
        similarity = similarity.masked_fill(drop, -1).tanh()  # Eq. 2
        return (similarity + similarity.T) / 2

    def _rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        everything = torch.arange(len(self), device=self.video_features.device)
        for rows in everything.split(max(1, BLOCK_NUMBERS // max(1, len(self)))):
            yield rows, self._similarity(rows, everything)

    def _similarity(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Weighted cosines between rows (R,) and columns (C,); (R, C) float32."""
        total = torch.zeros(len(rows), len(columns), dtype=torch.float64, device=rows.device)
        for features, share in ((self.video_features, self.weight), (self.text_features, 1 - self.weight)):
            left = F.normalize(features[rows].double(), dim=1)
            for start in range(0, len(columns), COLUMNS):
                part = slice(start, start + COLUMNS)
                right = F.normalize(features[columns[part]].double(), dim=1)
                total[:, part] += share * (left @ right.T)  # Eq. 1
        return total.float()


def _last_of_smallest(similarity: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count`-th smallest entry of each row, equal ones counted from the left: values (R,) and columns (R,)."""
    value = similarity.kthvalue(count, dim=1).values
    equal = similarity == value[:, None]
    wanted = count - (similarity < value[:, None]).sum(1)  # how many of the equal ones belong to the smallest
    column = (equal.cumsum(1) == wanted[:, None]).int().argmax(1)
    return value, column
