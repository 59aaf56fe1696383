"""Average precision when scores tie: its expected value under random ordering of equal scores.

McSherry and Najork, "Computing information retrieval performance measures efficiently in the presence of tied
scores", ECIR 2008. Sorting ties in any fixed order instead gives a figure that depends on the sort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tvr_lightning.metrics.matrix import CHUNK, as_scores, chunks, require_finite, widen

if TYPE_CHECKING:
    from tvr_lightning.metrics.matrix import ArrayLike


def average_precision(scores: ArrayLike, relevant: ArrayLike, chunk: int = CHUNK) -> Tensor:
    """Expected average precision of each query over all its relevant items.

    A group of n items with equal scores, r of them relevant, that t items and R relevant ones precede, adds

        r/n sum_{j=t+1}^{t+n} (R + 1 + (j-t-1) b) / j  =  r/n [(R + 1 - (t+1) b) (H(t+n) - H(t)) + n b],

    with b = (r-1)/(n-1) and harmonic numbers H; the sum over groups is divided by the number of relevant items.

    Args:
        scores: (Q, N), higher is better; pass negated distances.
        relevant: (Q, N) bool.
        chunk: entries looked at together; bounds the extra memory.

    Returns:
        (Q,) float64 on the scores' device, NaN for a query without a relevant item.

    Raises:
        ValueError: shapes differ, or `relevant` is not boolean.
        ScoreError: a score is not finite.
    """
    matrix, mask = as_scores(scores), torch.as_tensor(relevant)
    if mask.shape != matrix.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"relevant must be bool of the scores' shape {tuple(matrix.shape)}, got {mask.dtype} {tuple(mask.shape)}"
        )
    require_finite(matrix, chunk, "query", "item")
    mask = mask.to(matrix.device)
    harmonic = harmonic_numbers(matrix.shape[1], matrix.device)
    parts = chunks(len(matrix), matrix.shape[1], chunk)
    return torch.cat([_block(widen(matrix[part]), mask[part], harmonic) for part in parts])


def harmonic_numbers(count: int, device: torch.device) -> Tensor:
    """Returns H(0)..H(count), (count + 1,) float64."""
    terms = torch.arange(count + 1, dtype=torch.float64, device=device).reciprocal()
    terms[0] = 0.0
    return terms.cumsum(0)


def _block(scores: Tensor, relevant: Tensor, harmonic: Tensor) -> Tensor:
    number = relevant.sum(1)
    width = int(number.max())
    if width == 0:
        return torch.full_like(number, torch.nan, dtype=torch.float64)
    # each query's relevant scores, side by side: (q, width), -inf where a query has fewer
    row, column = relevant.nonzero(as_tuple=True)
    slot = torch.arange(len(row), device=row.device) - (number.cumsum(0) - number)[row]
    own = scores.new_full((len(scores), width), -torch.inf)
    own[row, slot] = scores[row, column]
    # group of each relevant item: t and n among all items, R and r among the relevant
    before, size = _precede_and_tie(scores, own)
    before_own, size_own = _precede_and_tie(own, own)
    share = (size_own - 1) / (size - 1).clamp(min=1).double()
    gain = (before_own + 1 - (before + 1) * share) * (harmonic[before + size] - harmonic[before]) / size + share
    # every one of a group's r relevant items carries 1/r of the group's term
    return gain.masked_fill(own == -torch.inf, 0.0).sum(1) / number.double().masked_fill(number == 0, torch.nan)


def _precede_and_tie(items: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Counts, for each of `scores` (q, w), the greater and the equal ones of `items` (q, n) in its row."""
    ascending = items.contiguous().sort(dim=1).values
    below = torch.searchsorted(ascending, scores)
    up_to = torch.searchsorted(ascending, scores, right=True)
    return items.shape[1] - up_to, up_to - below
