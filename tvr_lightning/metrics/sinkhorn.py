"""Scores corrected so that items are found equally often, by Sinkhorn's rounds over a bank of other queries.

A kernel K = exp(s / temperature) of B queries of a bank and N items is scaled by row and column until every row and
every column sums to 1: from b = 1 / column sums on, in each round a = 1 / (K b), b = 1 / (K' a). An item that many
queries like ends with a small b. What is added to a score is the item's bias, temperature * log_softmax(log b).

`sinkhorn_biases` is UCoFiA's (Wang et al. 2023, after Park et al. 2022): one bias an item, of the bank alone.
`sinkhorn_single_query` lets each query join the bank for itself, the single-query setting of Yakovlev et al. (2023): no
other test query is looked at. Both see more than the pair and are reported under names of their own (`sk/...`,
`sk1/...`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.errors import ScoreError
from tvr_lightning.metrics.matrix import CHUNK, as_scores, chunks, require_finite, widen

if TYPE_CHECKING:
    from tvr_lightning.metrics.matrix import ArrayLike

ROUNDS = 4  # UCoFiA's
FARTHEST = 600.0  # temperatures that a query's score may lie above all of a bank's: exp of more is not a number


def sinkhorn_biases(
    bank_scores: ArrayLike, temperature: float = 1.0, rounds: int = ROUNDS, chunk: int = CHUNK
) -> Tensor:
    """The bias of each item, to be added to scores in the same unit.

    Args:
        bank_scores: (B, N), scores of other queries with the items that are ranked.
        temperature: unit of the scores: 1 for cosines times a logit scale of 100, 0.01 for plain cosines.
        rounds: of both scalings.
        chunk: entries looked at together.

    Returns:
        (N,) float64.

    Raises:
        ValueError: an empty bank, a temperature that is not positive and finite, or no round.
        ScoreError: a score is not finite.

    >>> bank = torch.tensor([[5.0, 1.0], [4.0, 3.0]])  # everyone likes the first
    >>> biases = sinkhorn_biases(bank)
    >>> bool(biases[0] < biases[1])
    True
    """
    bank = _checked(bank_scores, temperature, rounds, chunk)
    log_b = -_column_sums(bank, temperature, torch.zeros(len(bank), dtype=torch.float64), chunk)
    for _ in range(rounds):
        log_b = -_column_sums(bank, temperature, -_row_sums(bank, temperature, log_b, chunk), chunk)
    return temperature * log_b.log_softmax(0)


def sinkhorn_single_query(
    scores: ArrayLike,
    bank_scores: ArrayLike,
    temperature: float = 1.0,
    rounds: int = ROUNDS,
    chunk: int = CHUNK >> 2,
) -> Tensor:
    """Scores with the biases that a bank and the query itself give, query by query.

    Two products of the bank's kernel with a matrix of queries and items are computed a round, `chunk` numbers of each
    at a time.

    Args:
        scores: (Q, N), each row a query that stands alone.
        bank_scores: (B, N), of other queries with the same items.
        temperature: see `sinkhorn_biases`.
        rounds: likewise.
        chunk: numbers held together.

    Returns:
        (Q, N), float32 unless the scores are wider.

    Raises:
        ValueError: as `sinkhorn_biases`, or the bank has other items.
        ScoreError: a score is not finite, or lies so many temperatures above the bank's that no number holds it.

    >>> scores = torch.tensor([[2.0, 1.9], [1.0, 1.9]])
    >>> sinkhorn_single_query(scores, torch.tensor([[5.0, 1.0], [4.0, 3.0]])).argmax(1).tolist()
    [1, 1]
    """
    matrix, bank = as_scores(scores), _checked(bank_scores, temperature, rounds, chunk)
    if bank.shape[1] != matrix.shape[1]:
        raise ValueError(f"the bank scores {bank.shape[1]} items, the queries {matrix.shape[1]}; give both the same")
    require_finite(matrix, chunk, "query", "item")
    items = matrix.shape[1]
    # one round in logarithms: no row or column of what is left can vanish
    columns = -_column_sums(bank, temperature, torch.zeros(len(bank), dtype=torch.float64), chunk)
    rows = -_row_sums(bank, temperature, columns, chunk)
    adjusted = torch.empty_like(matrix, dtype=widen(matrix[:1]).dtype)
    for part in chunks(len(matrix), max(items, 1), chunk):
        own = matrix[part].double() / temperature + columns  # (q, N)
        if float(own.max()) > FARTHEST:
            raise ScoreError(
                f"a query's score lies {float(own.max()):.0f} temperatures of Sinkhorn above the bank's, more than any "
                f"number holds the exponential of: the temperature of {temperature:g} is too low for these scores"
            )
        kernel = own.softmax(1).T  # (N, q), the query's own row after that round
        b = -F.softplus(own).T  # its logarithm, relative to `columns`
        for _ in range(rounds):
            b = b.exp()
            total = kernel / (kernel * b).sum(0)
            for block in chunks(len(bank), max(items, len(own)), chunk):
                shared = (bank[block].double() / temperature + columns + rows[block, None]).exp()  # (k, N)
                total += shared.T @ (shared @ b).reciprocal_()
            b = -total.log()
        biases = (b + columns[:, None]).log_softmax(0).T
        adjusted[part] = (matrix[part].double() + temperature * biases).to(adjusted.dtype)
    return adjusted


def _checked(bank_scores: ArrayLike, temperature: float, rounds: int, chunk: int) -> Tensor:
    bank = as_scores(bank_scores, "bank_scores").cpu()
    if not 0 < temperature < float("inf"):
        raise ValueError(f"the temperature of Sinkhorn must be positive and finite, got {temperature}")
    if rounds < 1:
        raise ValueError(f"Sinkhorn takes 1 round or more, got {rounds}")
    require_finite(bank, chunk, "bank query", "item")
    return bank


def _row_sums(bank: Tensor, temperature: float, log_b: Tensor, chunk: int) -> Tensor:
    """(B,) logarithms of K b."""
    parts = chunks(len(bank), bank.shape[1], chunk)
    return torch.cat([(bank[part].double() / temperature + log_b).logsumexp(1) for part in parts])


def _column_sums(bank: Tensor, temperature: float, log_a: Tensor, chunk: int) -> Tensor:
    """(N,) logarithms of K' a."""
    total = torch.full((bank.shape[1],), -torch.inf, dtype=torch.float64)
    for part in chunks(len(bank), bank.shape[1], chunk):
        total = torch.logaddexp(total, (bank[part].double() / temperature + log_a[part, None]).logsumexp(0))
    return total
