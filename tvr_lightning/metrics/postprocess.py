"""Scores corrected by what other queries score. Never on silently.

Both functions look at more than the pair: dual softmax at the whole set of test queries, QB-Norm at a bank of other
queries. A deployed search engine has the second at best. Their results are not comparable with plain scores and are
reported under names of their own (`dsl/...`, `qb/...`). Sinkhorn's are in `sinkhorn_biases` and beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tvr_lightning.metrics.matrix import CHUNK, as_scores, chunks, require_finite, widen

if TYPE_CHECKING:
    from tvr_lightning.metrics.matrix import ArrayLike


def dual_softmax(scores: ArrayLike, temperature: float, direction: str, chunk: int = CHUNK) -> Tensor:
    """Weighs each score by how much its item prefers the query over all other queries (CAMoE, Cheng et al. 2021).

        t2v:  s'_tv = s_tv exp(s_tv / temperature) / sum_t' exp(s_t'v / temperature)
        v2t:  s'_tv = s_tv exp(s_tv / temperature) / sum_v' exp(s_tv' / temperature)

    The sum runs over the queries of that direction, so the result sees the whole test set and is not comparable
    with plain scores. The temperature belongs to the unit of the scores: 1 for cosines times a logit scale of 100,
    0.01 for plain cosines. As published, a negative score is weighed towards 0, which raises it.

    Args:
        scores: (T, V).
        temperature: of the softmax, in units of the scores.
        direction: `t2v` or `v2t`, the direction that will be ranked.
        chunk: entries looked at together.

    Returns:
        (T, V), float32 unless the scores are wider.

    Raises:
        ValueError: an unknown direction, a temperature that is not positive and finite, or scores not in a matrix.
        ScoreError: a score is not finite.
    """
    matrix = as_scores(scores)
    if direction not in ("t2v", "v2t"):
        raise ValueError(f"direction must be t2v or v2t, got {direction!r}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"the temperature of dual softmax must be positive and finite, got {temperature}")
    require_finite(matrix, chunk)
    by_item = matrix.T if direction == "t2v" else matrix  # (items, queries)
    adjusted = torch.empty_like(by_item, dtype=widen(matrix[:1]).dtype)
    for part in chunks(len(by_item), by_item.shape[1], chunk):
        block = widen(by_item[part])
        adjusted[part] = block * (block / temperature).softmax(dim=1)
    return adjusted.T if direction == "t2v" else adjusted


def qb_norm(scores: ArrayLike, bank_scores: ArrayLike, beta: float, chunk: int = CHUNK) -> Tensor:
    """Querybank normalisation with dynamic inverted softmax (QB-Norm, Bogolin et al. 2022).

    Written for texts that look for videos; for videos that look for texts give both matrices turned over.
    A video is activated when it is the top-1 of at least one bank query. A query whose top-1 video is activated is
    normalised over its whole row, every other row stays as it is:

        exp(beta s_tv) / sum_b exp(beta s_bv),   returned as   s_tv - (1/beta) log sum_b exp(beta s_bv)

    The returned form is the logarithm of the ratio over beta, which ranks a row alike and neither overflows nor
    underflows into ties. Normalised and plain rows have different offsets: rank within rows only.
    Videos that share the top score all count as top-1. The result sees a bank of other queries and is not
    comparable with plain scores.

    Args:
        scores: (T, V).
        bank_scores: (B, V), scores of training captions with the same videos, in the same unit.
        beta: inverse temperature, 1 / unit of the scores; the paper takes 20 for cosines.
        chunk: entries looked at together.

    Returns:
        (T, V), float32 unless the scores are wider.

    Raises:
        ValueError: the bank has other videos or no queries, or beta is not positive and finite.
        ScoreError: a score is not finite.
    """
    matrix, bank = as_scores(scores), as_scores(bank_scores, "bank_scores")
    if bank.shape[1] != matrix.shape[1]:
        raise ValueError(f"the bank scores {bank.shape[1]} videos, the queries {matrix.shape[1]}; give both the same")
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta of QB-Norm must be positive and finite, got {beta}")
    require_finite(matrix, chunk)
    require_finite(bank, chunk, "bank query")
    activated = torch.zeros(bank.shape[1], dtype=torch.bool, device=bank.device)
    for part in chunks(len(bank), bank.shape[1], chunk):
        activated |= (bank[part] == bank[part].amax(1, keepdim=True)).any(0)
    offset = [(beta * bank[:, part].double()).logsumexp(0) / beta for part in chunks(bank.shape[1], len(bank), chunk)]
    activated, hubness = activated.to(matrix.device), torch.cat(offset).to(matrix.device)

    adjusted = torch.empty_like(matrix, dtype=widen(matrix[:1]).dtype)
    for part in chunks(len(matrix), matrix.shape[1], chunk):
        block = widen(matrix[part])
        top_is_activated = ((block == block.amax(1, keepdim=True)) & activated).any(1, keepdim=True)
        adjusted[part] = torch.where(top_is_activated, block - hubness.to(block.dtype), block)
    return adjusted
