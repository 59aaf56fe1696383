"""The one evaluator: scores of all pairs to ranks, and from these and the features every metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tvr_lightning.evaluation.codes import HashingResult, evaluate_codes, has_codes
from tvr_lightning.evaluation.encoding import EncodedSplit, Retriever, TextT, VideoT, inference
from tvr_lightning.evaluation.options import Evaluation
from tvr_lightning.evaluation.postprocessing import Bank, post_processed
from tvr_lightning.evaluation.query_values import QueryValues
from tvr_lightning.evaluation.scoring import score_all
from tvr_lightning.metrics import (
    Ranks,
    bootstrap_intervals,
    metrics_of,
    probe_wins,
    query_ranks,
)
from tvr_lightning.names import LEAKY

TOP = 10  # how many retrieved items a run keeps of each query


@dataclass(frozen=True)
class TrainingItems:
    """What of the training set a test looks at.

    Attributes:
        bank: what post-processing compares with.
        database: the items whose codes those of the test are looked up among; among themselves when None.
    """

    bank: Bank = field(default_factory=Bank)
    database: EncodedSplit[Any, Any] | None = None


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that one evaluation found.

    Attributes:
        metrics: by name, without the stage's prefix.
        intervals: 95 % bootstrap intervals by the same names.
        ranks: per query, in both directions.
        caption_ids: (T,) position of each scored caption in the split's list.
        video_ids: (V,) position of each scored video in the split's list.
        top: for each direction, scores and positions (in the split's lists) of the `TOP` best items of each query.
        left_out: videos of the split that could not be scored.
        values: minimal pairs and hashing metrics query by query, by the same names; ranks hold the others.
        hashing: what hashing metrics say where features are codes; None where they are not, or have no labels.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    ranks: Ranks
    caption_ids: Tensor
    video_ids: Tensor
    top: Mapping[str, tuple[Tensor, Tensor]]
    left_out: int
    values: Mapping[str, QueryValues]
    hashing: HashingResult | None = None


def evaluate(
    model: Retriever[TextT, VideoT],
    split: EncodedSplit[TextT, VideoT],
    options: Evaluation,
    training_items: TrainingItems | None = None,
    *,
    seed: int = 0,
    final: bool = True,
    shared: bool = False,
) -> EvaluationResult:
    """Scores all pairs and computes every metric of retrieval.

    A method that reads the ground truth gets it here, and all its figures are named `leaky/...`. Captions of videos
    that could not be encoded are left out.

    Args:
        model: the method.
        split: features of the split's captions and videos; where both are codes, hashing metrics are computed too.
        options: protocol, post-processing, chunks.
        training_items: what post-processing and codes take of the training set.
        seed: seed of the bootstrap.
        final: whether to bootstrap, and to measure codes by baselines.
        shared: every rank calls this with the same features and scores a share; all get the same result.

    Raises:
        ScoreError: a score is not finite.
        DataError: no caption describes any of the videos.
    """
    split, training = scored_items(model, split), training_items or TrainingItems()
    caption_row = split.caption_row
    leaky = bool(getattr(model, "reads_ground_truth", False))
    score = partial(score_all, chunk_size=options.chunk_size, matrix_limit_mib=options.matrix_limit_mib, shared=shared)
    scores = score(model, split.texts, split.videos)
    ranked = partial(query_ranks, caption_video=caption_row, v2t=options.v2t, also=split.right_pairs)
    ranks = ranked(scores)
    values = _probes(scores, split)
    metrics = metrics_of(ranks) | {name: float(found.value.mean()) for name, found in values.items()}
    metrics |= post_processed(model, scores, (split.texts, split.videos), training.bank, options, score, ranked)
    intervals: dict[str, tuple[float, float]] = {}
    if final and options.resamples:
        intervals |= bootstrap_intervals(ranks, seed=seed, resamples=options.resamples)
    hashing = None
    if has_codes(split):
        hashing = evaluate_codes(split, training.database, options, seed, final)
        if hashing is not None:
            metrics |= hashing.metrics
            intervals |= hashing.intervals
            values |= hashing.values
    prefix = LEAKY if leaky else ""
    return EvaluationResult(
        {prefix + name: value for name, value in metrics.items()},
        {prefix + name: value for name, value in intervals.items()},
        ranks,
        split.caption_ids,
        split.video_ids,
        {"t2v": _top(scores, split.video_ids), "v2t": _top(scores.T, split.caption_ids)},
        split.num_videos - len(split.video_ids),
        {prefix + name: found for name, found in values.items()},
        hashing,
    )


def scored_items(model: Any, split: EncodedSplit[TextT, VideoT]) -> EncodedSplit[TextT, VideoT]:
    """What of a split is scored: captions of videos that were encoded.

    A method that reads the ground truth gets it here; see `RetrievalModule.match`.

    Args:
        model: the method.
        split: features of all captions and videos.

    Raises:
        DataError: no caption describes any of the videos.
    """
    split = split.captioned()
    if not getattr(model, "reads_ground_truth", False):
        return split
    with inference(model):
        texts, videos = model.match(split.texts, split.videos, split.caption_row)
    return replace(split, texts=texts, videos=videos)


def _probes(scores: Tensor, split: EncodedSplit[Any, Any]) -> dict[str, QueryValues]:
    """The minimal pairs both of whose videos have captions, by `probe/<kind>`."""
    row_of, described = split.row_of.tolist(), set(split.caption_row.tolist())
    known = [(kind, row_of[a], row_of[b]) for kind, a, b in split.probes if {row_of[a], row_of[b]} <= described]
    found = probe_wins(scores, split.caption_row, known) if known else {}
    return {name: QueryValues(100.0 * wins, pair[:, 0], pair[:, 1]) for name, (pair, wins) in found.items()}


def _top(scores: Tensor, ids: Tensor, rows: int = 1024) -> tuple[Tensor, Tensor]:
    """The best `TOP` items of each row, (Q, TOP) scores and ids, a block of rows at a time."""
    k = min(TOP, scores.shape[1])
    blocks = [scores[i : i + rows].topk(k, dim=1) for i in range(0, len(scores), rows)]
    return torch.cat([b.values for b in blocks]), ids[torch.cat([b.indices for b in blocks])]
