"""What the evaluator finds out about binary codes besides ranks: hashing metrics, and what they are measured by.

Queries are test items of one modality, the database holds codes of the other one: of the training items (the custom of
cross-modal hashing) or of the test items. Three baselines hash the same features with as many bits: signs of principal
components, signs of random hyperplanes, and codes without information, whose expectation is known.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor

from tvr_lightning.distributed import ranks
from tvr_lightning.errors import ScoreError
from tvr_lightning.evaluation.encoding import EncodedSplit, Labels
from tvr_lightning.evaluation.options import Evaluation
from tvr_lightning.evaluation.projection_codes import ProjectionCodes, hyperplane_codes, pca_codes
from tvr_lightning.evaluation.query_values import QueryValues
from tvr_lightning.metrics import (
    HammingCounts,
    PrecisionRecall,
    curve_of_codes,
    hamming_counts,
    interval_of_means,
    metrics_of_codes,
    query_precisions,
)
from tvr_lightning.names import CHANCE, PCA, RANDOM
from tvr_lightning.types import CodeFeatures

EncodedCodes = EncodedSplit[CodeFeatures, CodeFeatures]


@dataclass(frozen=True)
class HashingResult:
    """What hashing metrics say about a test.

    Attributes:
        metrics: `hash/t2v/mAP` and so on, in percent; `hash/mAP`, the mean of both directions'; `hash/pca/...`,
            `hash/random/...` and `hash/chance/...` of the baselines.
        intervals: 95 % bootstrap intervals by the same names.
        facts: database, its size, what mAP@k is divided by, code length, queries left out.
        curves: precision and recall by radius, for each direction.
        codes: of the split's captions and videos, `text` and `video`, (T, K) and (V, K) int8.
        values: query by query, for each precision of each direction; empty before a final evaluation.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    facts: Mapping[str, Any]
    curves: Mapping[str, PrecisionRecall]
    codes: Mapping[str, Tensor]
    values: Mapping[str, QueryValues]


@dataclass(frozen=True)
class _Relevance:
    """One direction's labels, (Q, C) and (N, C) bool, and which video each query is or describes, (Q,) int64."""

    queries: Tensor
    items: Tensor
    video: Tensor

    def counts(self, query_codes: Tensor, item_codes: Tensor) -> HammingCounts:
        return hamming_counts(query_codes, item_codes, self.queries, self.items)


def has_codes(split: EncodedSplit[Any, Any]) -> TypeGuard[EncodedCodes]:
    """Whether the features of captions and videos are codes."""
    return isinstance(split.texts, CodeFeatures) and isinstance(split.videos, CodeFeatures)


def evaluate_codes(
    queries: EncodedCodes,
    database: EncodedCodes | None,
    options: Evaluation,
    seed: int = 0,
    final: bool = True,
) -> HashingResult | None:
    """Computes hashing metrics in both directions.

    Args:
        queries: codes of the split's captions and videos; each caption's video is among them.
        database: where they are looked up, among themselves when None; no baseline hashes a `source` with F = 0.
        options: of the evaluation.
        seed: of the bootstrap and of the random hyperplanes.
        final: whether intervals and baselines are wanted.

    Returns:
        None where no query shares a label with the database; a warning says so.

    Raises:
        ScoreError: a relaxed code is not finite.
        ValueError: codes of queries and database differ in length.
    """
    queries = queries.to("cpu")
    searched = queries if database is None else database.to("cpu")
    for part in (queries, searched):
        for name, codes in (("text", part.texts), ("video", part.videos)):
            _require_finite(codes, f"{name} of the {part.name} split")
    labelled = [x for part in (queries, searched) for x in (*part.text_labels, *part.video_labels)]
    place = {c: i for i, c in enumerate(sorted({c for labels in labelled for c in labels}))}
    relevance = {
        "t2v": _Relevance(
            multi_hot(queries.text_labels, place), multi_hot(searched.video_labels, place), queries.caption_row
        ),
        "v2t": _Relevance(
            multi_hot(queries.video_labels, place),
            multi_hot(searched.text_labels, place),
            torch.arange(len(queries.videos)),
        ),
    }
    counts = {
        "t2v": relevance["t2v"].counts(queries.texts.codes, searched.videos.codes),
        "v2t": relevance["v2t"].counts(queries.videos.codes, searched.texts.codes),
    }
    if not all(bool(c.answerable.any()) for c in counts.values()):
        if ranks()[0] == 0:
            warnings.warn("no hashing metrics: no query shares a class label with the database", stacklevel=2)
        return None
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    values: dict[str, QueryValues] = {}
    for name, direction in relevance.items():
        precisions = query_precisions(counts[name], normalise=options.codes.normalise)
        metrics |= {f"hash/{name}/{k}": v for k, v in metrics_of_codes(counts[name], precisions).items()}
        for metric, precision in precisions.items() if final else ():
            rows = torch.arange(len(precision))
            values[f"hash/{name}/{metric}"] = QueryValues(100.0 * precision, direction.video, rows, name == "t2v")
        if final and options.resamples:
            of_query = 100.0 * precisions["mAP"]
            intervals[f"hash/{name}/mAP"] = interval_of_means(of_query[None], direction.video, seed, options.resamples)
    metrics["hash/mAP"] = (metrics["hash/t2v/mAP"] + metrics["hash/v2t/mAP"]) / 2
    if final:
        metrics |= _baselines(queries, searched, relevance, counts, seed)
    facts = {
        "database": searched.name,
        "texts": len(searched.texts),
        "videos": len(searched.videos),
        "normalise": options.codes.normalise,
        "bits": counts["t2v"].bits,
        "queries_without_relevant": {name: int((~c.answerable).sum()) for name, c in counts.items()},
    }
    curves = {name: curve_of_codes(c) for name, c in counts.items()}
    kept = {"text": queries.texts.codes, "video": queries.videos.codes}
    return HashingResult(metrics, intervals, facts, curves, kept, values)


def _baselines(
    queries: EncodedCodes,
    database: EncodedCodes,
    relevance: Mapping[str, _Relevance],
    counts: Mapping[str, HammingCounts],
    seed: int,
) -> dict[str, float]:
    """The mAP of codes that nobody learned; projections are fitted on the database's features of each modality."""
    bits = counts["t2v"].bits
    found = {f"hash/{CHANCE}/{direction}/mAP": c.tied() for direction, c in counts.items()}
    has_source = all(x.source.shape[1] for x in (database.texts, database.videos))
    fits: dict[str, Callable[[Tensor, int], ProjectionCodes]] = {
        PCA: pca_codes,
        RANDOM: partial(hyperplane_codes, seed=seed),
    }
    for name, fit in fits.items() if has_source else ():
        text, video = fit(database.texts.source, bits), fit(database.videos.source, bits)
        found[f"hash/{name}/t2v/mAP"] = relevance["t2v"].counts(
            text(queries.texts.source), video(database.videos.source)
        )
        found[f"hash/{name}/v2t/mAP"] = relevance["v2t"].counts(
            video(queries.videos.source), text(database.texts.source)
        )
    return {name: metrics_of_codes(c, query_precisions(c, ()))["mAP"] for name, c in found.items()}


def multi_hot(labels: Labels, place: Mapping[int, int]) -> Tensor:
    """Labels as (N, C) bool; `place` gives each class its column."""
    hot = torch.zeros(len(labels), len(place), dtype=torch.bool)
    for row, own in enumerate(labels):
        hot[row, [place[c] for c in own]] = True
    return hot


def _require_finite(codes: CodeFeatures, what: str) -> None:
    broken = ~torch.isfinite(codes.real).all(1)
    if bool(broken.any()):
        raise ScoreError(
            f"the code of {what} in row {int(broken.nonzero()[0])} is not finite before its sign is taken, as are "
            f"{int(broken.sum())} of {len(broken)}. Look at the weights (a diverged run?) and at that item's features."
        )
