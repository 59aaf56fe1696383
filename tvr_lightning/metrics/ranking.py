"""Ranks and the metrics made of them, for text -> video and video -> text.

Every metric is its expected value under uniformly random ordering of equal scores, so a constant scorer gets exactly
chance. A query keeps counts, from which everything follows: g items score greater than its best own item, n tie with
it, k of these its own. The first own item then stands at g + pos, P(pos > j) = C(n-j, k) / C(n, k), and

    rank = g + (n+1)/(k+1)        hit at K = P(g + pos <= K)        (k = 1: 1 + g + others/2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from tvr_lightning.metrics.average_precision import average_precision
from tvr_lightning.metrics.matrix import CHUNK, as_pairs, as_relation, as_scores, chunks, require_finite, widen
from tvr_lightning.types import TensorRows

if TYPE_CHECKING:
    from tvr_lightning.metrics.matrix import ArrayLike

V2T = Literal["sets", "captions"]
CUTOFFS = (1, 5, 10, 50)
SUMMED_CUTOFFS = (1, 5, 10)  # RSum and SumR


@dataclass(frozen=True)
class DirectionRanks(TensorRows):
    """Where the own items of each of Q queries stand, in one direction; a run's file keeps the same columns.

    Attributes:
        greater: (Q,) int64, items that score greater than the query's best own item.
        tied_other: (Q,) int64, other items that score the same.
        tied_own: (Q,) int64, own items that score the same, the best one included: 1 where an item is a video or a
            caption set.
        average_precision: (Q,) float64 in 0..1; with one own item the expected reciprocal rank.
        video: (Q,) int64, the video that the query is or describes; queries of one video are resampled together.
        query: (Q,) int64, the query itself: row (text -> video) or column (video -> text) of the score matrix.
    """

    greater: Tensor
    tied_other: Tensor
    tied_own: Tensor
    average_precision: Tensor
    video: Tensor
    query: Tensor

    @property
    def expected_rank(self) -> Tensor:
        """(Q,) float64, the expected rank of the first own item, 1 = best."""
        return self.greater + (self.tied_other + self.tied_own + 1) / (self.tied_own + 1).double()

    def hit(self, cutoff: int) -> Tensor:
        """(Q,) float64, the probability that an own item is among the first `cutoff`."""
        places = (cutoff - self.greater).clamp(min=0)
        tied = self.tied_other + self.tied_own
        miss = torch.ones_like(tied, dtype=torch.float64)
        for i in range(int(self.tied_own.max())):
            factor = (tied - places - i).clamp(min=0) / (tied - i).clamp(min=1).double()
            miss = torch.where(i < self.tied_own, miss * factor, miss)
        return 1.0 - miss


@dataclass(frozen=True)
class Ranks:
    """Ranks of both directions.

    Attributes:
        t2v: every caption is a query, every video an item.
        v2t: every video that has captions is a query, in ascending order.
    """

    t2v: DirectionRanks
    v2t: DirectionRanks


def query_ranks(
    scores: ArrayLike,
    caption_video: ArrayLike,
    v2t: V2T = "sets",
    chunk: int = CHUNK,
    also: ArrayLike | None = None,
) -> Ranks:
    """Ranks every query of a score matrix.

    Videos without a caption are items of text -> video and no queries of video -> text. Where several items are right
    for a query, its rank is that of the best placed one, and its average precision is over all of them; a caption set
    is right for a video that one of its captions is right for.

    Args:
        scores: (T, V), higher is better; any real dtype and device, may be memory-mapped.
        caption_video: (T,) integers, the column of each caption's video.
        v2t: what a video ranks: `sets`, caption sets by their best caption (CLIP4Clip family), or `captions`, all
            captions, of which the best placed own one counts (image retrieval).
        chunk: entries of the matrix looked at together; bounds the extra memory.
        also: (R, 2) integers, further pairs of a row and a column that is right for it; None for none.

    Returns:
        Counts per query, on the CPU.

    Raises:
        ValueError: shapes do not fit, a video is not a column, a pair is not in the matrix, nothing to rank, or an
            unknown protocol.
        ScoreError: a score is not finite; names the pair.
    """
    if v2t not in get_args(V2T):
        raise ValueError(f"v2t must be one of {', '.join(get_args(V2T))}, got {v2t!r}")
    matrix = as_scores(scores)
    video = as_relation(caption_video, matrix)
    require_finite(matrix, chunk)
    if also is not None and len(also):
        return _rank_several(matrix, video, as_pairs(also, matrix), v2t, chunk)
    rank_videos = _rank_sets if v2t == "sets" else _rank_captions
    return Ranks(_rank_texts(matrix, video, chunk), rank_videos(matrix, video, chunk))


def ranking_metrics(scores: ArrayLike, caption_video: ArrayLike, v2t: V2T = "sets") -> dict[str, float]:
    """Computes the ranking metrics of a score matrix; see `query_ranks` and `metrics_of`.

    >>> metrics = ranking_metrics(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), caption_video=[0, 1])
    >>> metrics["t2v/R@1"], metrics["v2t/R@1"], metrics["t2v/MnR"]
    (50.0, 100.0, 1.5)
    """
    return metrics_of(query_ranks(scores, caption_video, v2t))


def metrics_of(ranks: Ranks) -> dict[str, float]:
    """Averages ranks into metrics.

    Returns:
        For each direction `t2v/...`, `v2t/...`: R@1, R@5, R@10, R@50, RSum (of the first three) and mAP in percent,
        MdR and MnR (median and mean of expected ranks); and SumR, RSum of both directions.
    """
    metrics: dict[str, float] = {}
    for name, direction in (("t2v", ranks.t2v), ("v2t", ranks.v2t)):
        recall = {cutoff: 100.0 * float(direction.hit(cutoff).mean()) for cutoff in CUTOFFS}
        metrics |= {f"{name}/R@{cutoff}": value for cutoff, value in recall.items()}
        # torch.median takes the lower of two middle values, quantile their mean but of few elements only
        ordered = direction.expected_rank.sort().values
        metrics[f"{name}/MdR"] = float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)
        metrics[f"{name}/MnR"] = float(ordered.mean())
        metrics[f"{name}/RSum"] = sum(recall[cutoff] for cutoff in SUMMED_CUTOFFS)
        metrics[f"{name}/mAP"] = 100.0 * float(direction.average_precision.mean())
    metrics["SumR"] = metrics["t2v/RSum"] + metrics["v2t/RSum"]
    return metrics


def _rank_texts(scores: Tensor, video: Tensor, chunk: int) -> DirectionRanks:
    greater, tied = [], []
    for part in chunks(len(scores), scores.shape[1], chunk):
        block = widen(scores[part])
        own = block.gather(1, video[part, None])
        greater.append((block > own).sum(1))
        tied.append((block == own).sum(1))
    return _with_one_own(torch.cat(greater), torch.cat(tied), video, torch.arange(len(video)))


def _rank_sets(scores: Tensor, video: Tensor, chunk: int) -> DirectionRanks:
    described, caption_set = torch.unique(video, return_inverse=True)
    greater, tied = [], []
    for part in chunks(len(described), len(scores), chunk):
        block = widen(scores[:, described[part]])  # (T, q)
        sets = block.new_full((len(described), block.shape[1]), -torch.inf)
        sets.scatter_reduce_(0, caption_set[:, None].expand_as(block), block, "amax")
        own = sets[part].diagonal()
        greater.append((sets > own).sum(0))
        tied.append((sets == own).sum(0))
    return _with_one_own(torch.cat(greater), torch.cat(tied), described, described)


def _rank_captions(scores: Tensor, video: Tensor, chunk: int) -> DirectionRanks:
    described = torch.unique(video)
    columns: list[tuple[Tensor, ...]] = []
    for part in chunks(len(described), len(scores), chunk):
        block = widen(scores[:, described[part]].T.contiguous())  # (q, T)
        columns.append(_counts(block, video == described[part, None], chunk))
    return _joined(columns, described, described)


def _rank_several(scores: Tensor, video: Tensor, also: Tensor, v2t: V2T, chunk: int) -> Ranks:
    """Ranks where a caption has further right videos: `also`, (R, 2) rows and columns."""
    rows = torch.arange(len(video), device=video.device)
    pairs = torch.cat([torch.stack([rows, video], 1), also]).unique(dim=0)  # (P, 2)
    described, caption_set = torch.unique(video, return_inverse=True)
    place = torch.full((scores.shape[1],), -1, device=video.device)
    place[described] = torch.arange(len(described), device=video.device)
    query, items = place[pairs[:, 1]], pairs[:, 0]  # -1: a video that nobody describes is not a query
    if v2t == "sets":
        items = caption_set[items]
    texts, videos = [], []
    for part in chunks(len(scores), scores.shape[1], chunk):
        block = widen(scores[part])
        texts.append(_counts(block, _mask(pairs[:, 0] - part.start, pairs[:, 1], block), chunk))
    for part in chunks(len(described), len(scores), chunk):
        block = widen(scores[:, described[part]].T.contiguous())  # (q, T)
        if v2t == "sets":
            sets = block.new_full((len(block), len(described)), -torch.inf)
            block = sets.scatter_reduce_(1, caption_set[None].expand_as(block), block, "amax")  # (q, S)
        videos.append(_counts(block, _mask(query - part.start, items, block), chunk))
    return Ranks(_joined(texts, video, rows), _joined(videos, described, described))


def _mask(rows: Tensor, columns: Tensor, block: Tensor) -> Tensor:
    """Pairs as a bool matrix of the block's shape; those of rows outside of it are left out."""
    own = torch.zeros_like(block, dtype=torch.bool)
    inside = (rows >= 0) & (rows < len(block))
    own[rows[inside], columns[inside]] = True
    return own


def _counts(block: Tensor, own: Tensor, chunk: int) -> tuple[Tensor, ...]:
    """Counts and average precision of queries, (q, N) scores and which items are their own."""
    best = block.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    tied = block == best
    precision = average_precision(block, own, chunk)
    return (block > best).sum(1), (tied & ~own).sum(1), (tied & own).sum(1), precision


def _joined(columns: list[tuple[Tensor, ...]], video: Tensor, query: Tensor) -> DirectionRanks:
    greater, tied_other, tied_own, precision = (torch.cat(column).cpu() for column in zip(*columns, strict=True))
    return DirectionRanks(greater, tied_other, tied_own, precision, video.cpu(), query.cpu())


def _with_one_own(greater: Tensor, tied: Tensor, video: Tensor, query: Tensor) -> DirectionRanks:
    """Ranks of queries with one own item; their average precision is E[1/rank] = (H(g+n) - H(g)) / n."""
    greater, tied = greater.cpu(), tied.cpu()
    low, high = greater.double(), (greater + tied).double()
    reciprocal = (torch.digamma(high + 1) - torch.digamma(low + 1)) / tied
    reciprocal = torch.where(tied == 1, 1 / high, reciprocal)
    return DirectionRanks(greater, tied - 1, torch.ones_like(tied), reciprocal, video.cpu(), query.cpu())
