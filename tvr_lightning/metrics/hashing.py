"""Metrics of binary codes by Hamming distance: mAP, mAP@k, precision@k, precision and recall by radius.

An item is relevant where it shares a class label with the query. K-bit codes have K + 1 distances only, so most items
tie: every figure is its expected value under random ordering inside each distance (McSherry and Najork, "Computing
information retrieval performance measures efficiently in the presence of tied scores", ECIR 2008). It follows from how
many items, and how many relevant ones, lie at each distance; no item is ever sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from tvr_lightning.metrics.average_precision import harmonic_numbers
from tvr_lightning.metrics.matrix import as_matrix, chunks

if TYPE_CHECKING:
    from tvr_lightning.metrics.matrix import ArrayLike

Normalise = Literal["relevant", "retrieved"]
CUTOFFS = (50, 100)
CHUNK = 1 << 22  # pairs looked at together: what is counted stays near the processor


@dataclass(frozen=True)
class HammingCounts:
    """What lies at each Hamming distance 0..K of each query.

    Attributes:
        items: (Q, K + 1) int64.
        relevant: (Q, K + 1) int64, those of them that share a label with the query.
    """

    items: Tensor
    relevant: Tensor

    @property
    def bits(self) -> int:
        """K."""
        return self.items.shape[1] - 1

    @property
    def answerable(self) -> Tensor:
        """(Q,) bool, whether the database holds a relevant item; other queries have no precision."""
        return self.relevant.sum(1) > 0

    def tied(self) -> HammingCounts:
        """All items at one distance: what codes without information give, in expectation."""
        return HammingCounts(self.items.sum(1, keepdim=True), self.relevant.sum(1, keepdim=True))


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of everything within a Hamming radius, means over the queries with a relevant item.

    Attributes:
        radius: (P,) int64 in ascending order: those within which some query retrieves something.
        precision: (P,) in 0..1, over the queries that retrieve something within the radius; others have none.
        recall: (P,) in 0..1, over all queries.
        retrieving: (P,) in 0..1, share of the queries that `precision` is over.
    """

    radius: Tensor
    precision: Tensor
    recall: Tensor
    retrieving: Tensor


def hamming_counts(
    query_codes: ArrayLike,
    database_codes: ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    chunk: int = CHUNK,
) -> HammingCounts:
    """Counts items and relevant items at each distance of each query.

    Args:
        query_codes: (Q, K) of -1 and +1.
        database_codes: (N, K) of -1 and +1.
        query_labels: (Q, C) bool, which classes each query has.
        database_labels: (N, C) bool.
        chunk: pairs looked at together; bounds the extra memory.

    Raises:
        ValueError: shapes do not fit, nothing to rank, codes that are not -1 or +1, labels that are not bool.
    """
    queries, items = _as_codes(query_codes, "query_codes"), _as_codes(database_codes, "database_codes")
    if queries.shape[1] != items.shape[1]:
        raise ValueError(f"query codes have {queries.shape[1]} bits, database codes {items.shape[1]}")
    own = _as_labels(query_labels, len(queries), "query_labels").to(queries.device)
    known = _as_labels(database_labels, len(items), "database_labels").to(queries.device)
    if own.shape[1] != known.shape[1]:
        raise ValueError(f"query labels have {own.shape[1]} classes, database labels {known.shape[1]}")
    items, bits = items.to(queries.device), queries.shape[1]
    width = 2 * bits + 2
    counts = []
    for part in chunks(len(queries), len(items), chunk):
        inner = queries[part] @ items.T
        relevant = own[part] @ known.T > 0
        # K - <q, x> is twice the distance: even, so relevance has the lowest bit to itself
        key = (bits - inner).add_(relevant).long()
        key += width * torch.arange(len(key), device=key.device)[:, None]
        # (q (K+1) 2,) -> (q, K+1, 2)
        counts.append(torch.bincount(key.view(-1), minlength=len(key) * width).view(len(key), bits + 1, 2))
    split = torch.cat(counts)
    return HammingCounts(split.sum(2), split[..., 1])


def query_precisions(
    counts: HammingCounts, ks: Sequence[int] = CUTOFFS, normalise: Normalise = "relevant"
) -> dict[str, Tensor]:
    """Expected precisions of each query.

    Args:
        counts: of `hamming_counts`.
        ks: cutoffs.
        normalise: what average precision at k is divided by: `relevant`, min(k, number of relevant items), or
            `retrieved`, the number of relevant items among the first k, whose chance is part of the expected value (a
            query that retrieves none counts 0).

    Returns:
        `mAP` over the whole database, and `mAP@k` and `P@k` for each k: (Q,) float64 in 0..1, NaN for a query without
        a relevant item. P@k is divided by the size of the database where that is smaller than k.

    Raises:
        ValueError: a cutoff below 1, or an unknown `normalise`.
    """
    if normalise not in get_args(Normalise):
        raise ValueError(f"normalise must be one of {', '.join(get_args(Normalise))}, got {normalise!r}")
    if any(k < 1 for k in ks):
        raise ValueError(f"cutoffs must be at least 1, got {list(ks)}")
    groups = _Groups(counts)
    total = counts.relevant.sum(1)
    found = {"mAP": groups.gain(groups.size).sum(1) / total}
    for k in ks:
        if normalise == "retrieved":
            found[f"mAP@{k}"] = groups.precision_over_retrieved(k)
        else:
            found[f"mAP@{k}"] = groups.gain(groups.taken(k)).sum(1) / total.clamp(max=k)
        found[f"P@{k}"] = groups.hits(k).sum(1) / min(k, int(groups.size[0].sum()))
    return {name: value.masked_fill(~counts.answerable, torch.nan) for name, value in found.items()}


def metrics_of_codes(counts: HammingCounts, precisions: Mapping[str, Tensor]) -> dict[str, float]:
    """Averages the precisions of the queries that have relevant items, in percent, and counts the others.

    Raises:
        ValueError: no query has a relevant item.
    """
    answerable = counts.answerable
    if not bool(answerable.any()):
        raise ValueError("no query shares a label with any item of the database: mAP is undefined")
    metrics = {name: 100.0 * float(value[answerable].mean()) for name, value in precisions.items()}
    return metrics | {"n_queries_without_relevant": float((~answerable).sum())}


def hashing_metrics(
    query_codes: ArrayLike,
    database_codes: ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    ks: Sequence[int] = CUTOFFS,
    normalise: Normalise = "relevant",
) -> dict[str, float]:
    """Computes the hashing metrics of codes; see `hamming_counts` for the arguments and `query_precisions` for both.

    Returns:
        `mAP`, and for each k `mAP@k` and `P@k`, in percent; `n_queries_without_relevant`, how many are left out.

    Raises:
        ValueError: arguments do not fit, or no query has a relevant item.

    >>> queries, database = torch.tensor([[1, 1]]), torch.tensor([[1, -1], [1, 1], [-1, -1]])
    >>> labels = torch.eye(2, dtype=torch.bool)  # one row an item, one column a class
    >>> hashing_metrics(queries, database, labels[[0]], labels[[0, 1, 0]], ks=(2,))["P@2"]
    50.0
    """
    counts = hamming_counts(query_codes, database_codes, query_labels, database_labels)
    return metrics_of_codes(counts, query_precisions(counts, ks, normalise))


def precision_recall_curve(
    query_codes: ArrayLike, database_codes: ArrayLike, query_labels: ArrayLike, database_labels: ArrayLike
) -> PrecisionRecall:
    """Precision and recall by Hamming radius; see `hamming_counts` for the arguments.

    Raises:
        ValueError: arguments do not fit, or no query has a relevant item.
    """
    return curve_of_codes(hamming_counts(query_codes, database_codes, query_labels, database_labels))


def curve_of_codes(counts: HammingCounts) -> PrecisionRecall:
    """Precision and recall by Hamming radius.

    Raises:
        ValueError: no query has a relevant item.
    """
    answerable = counts.answerable
    if not bool(answerable.any()):
        raise ValueError("no query shares a label with any item of the database: recall is undefined")
    within, hits = counts.items[answerable].cumsum(1), counts.relevant[answerable].cumsum(1)
    something = within > 0
    number = something.sum(0)
    precision = (hits / within.clamp(min=1).double()).sum(0) / number.clamp(min=1)
    recall = (hits / hits[:, -1:].double()).mean(0)
    radius = number.nonzero()[:, 0]
    return PrecisionRecall(radius, precision[radius], recall[radius], number[radius] / len(within))


class _Groups:
    """Items at equal distances: a group's n items, r of them relevant, that t items and R relevant ones precede."""

    def __init__(self, counts: HammingCounts) -> None:
        self.size, self.relevant = counts.items, counts.relevant
        self.before = self.size.cumsum(1) - self.size
        self.before_relevant = self.relevant.cumsum(1) - self.relevant

    @cached_property
    def harmonic(self) -> Tensor:
        return harmonic_numbers(int(self.size.sum(1).max()), self.size.device)

    def taken(self, k: int) -> Tensor:
        """(Q, G), how many items of each group are among the first k."""
        return (k - self.before).clamp(min=0).minimum(self.size)

    def hits(self, k: int) -> Tensor:
        """(Q, G) float64, the expected number of relevant ones among these."""
        return self.relevant * self.taken(k) / self.size.clamp(min=1).double()

    def gain(self, taken: Tensor) -> Tensor:
        """(Q, G) float64, the expected sum of precisions at relevant items among each group's first `taken`."""
        return self._sum(self.size, self.relevant, self.before, self.before_relevant, taken)

    def _sum(self, size: Tensor, relevant: Tensor, before: Tensor, before_relevant: Tensor, taken: Tensor) -> Tensor:
        """Sums P(place j relevant) E[precision at j | relevant] over a group's first m = `taken` places.

        r/n sum_{j=t+1}^{t+m} (R + 1 + (j-t-1) b) / j  =  r/n [(R + 1 - (t+1) b) (H(t+m) - H(t)) + m b], b = (r-1)/(n-1)
        """
        share = (relevant - 1) / (size - 1).clamp(min=1).double()
        span = self.harmonic[before + taken] - self.harmonic[before]
        inner = (before_relevant + 1 - (before + 1) * share) * span + taken * share
        return relevant * inner / size.clamp(min=1)

    def precision_over_retrieved(self, k: int) -> Tensor:
        """(Q,), expected average precision at k, divided by the number of relevant items among the first k.

        That number is chance where a group straddles the cutoff: x of the m items taken from it are relevant with a
        hypergeometric probability, and given x their order is random again.
        """
        whole = self.before + self.size <= k
        complete = self.gain(self.size).masked_fill(~whole, 0.0).sum(1)
        hits = self.relevant.masked_fill(~whole, 0).sum(1)
        straddles = ~whole & (self.before < k)  # one group of a query at most

        def pick(x: Tensor) -> Tensor:
            return (x * straddles).sum(1, keepdim=True)

        size, relevant, before, taken = map(pick, (self.size, self.relevant, self.before, self.taken(k)))
        x = torch.arange(int(taken.max()) + 1, device=size.device)
        chance = (
            _log_choose(relevant, x) + _log_choose(size - relevant, taken - x) - _log_choose(size, taken)
        ).exp()  # (Q, m + 1)
        value = self._sum(taken, x.expand_as(chance), before, hits[:, None], taken)
        value = (complete[:, None] + value) / (hits[:, None] + x).clamp(min=1)
        return (chance * value).sum(1)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    """Logarithm of the binomial coefficient, -inf outside 0 <= k <= n."""
    n, k = torch.broadcast_tensors(n, k)
    inside = k.clamp(min=0).minimum(n)
    value = torch.lgamma(n.double() + 1) - torch.lgamma(inside.double() + 1) - torch.lgamma((n - inside).double() + 1)
    return value.masked_fill(inside != k, -torch.inf)


def _as_codes(codes: ArrayLike, name: str) -> Tensor:
    matrix = as_matrix(codes, name).float()
    if not bool((matrix.abs() == 1).all()):
        raise ValueError(f"{name} must hold -1 and +1 only; take the sign of real codes first, 0 counting as +1")
    return matrix


def _as_labels(labels: ArrayLike, rows: int, name: str) -> Tensor:
    matrix = torch.as_tensor(labels)
    if matrix.ndim != 2 or len(matrix) != rows or matrix.dtype != torch.bool:
        raise ValueError(f"{name} must be bool ({rows}, classes), got {matrix.dtype} {tuple(matrix.shape)}")
    return matrix.float()
