"""What the evaluator finds out about binary codes besides ranks: hashing metrics, and what they are measured by.

Queries are test items of one modality, the database holds codes of the other one: of the training items (the custom of
cross-modal hashing) or of the test items. Three baselines hash the same features with as many bits: signs of principal
components, signs of random hyperplanes, and codes without information, whose expectation is known.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from tvr_lightning.distributed import gather_on_cpu, ranks
from tvr_lightning.errors import DataError, ScoreError
from tvr_lightning.evaluation.projection_codes import ProjectionCodes, hyperplane_codes, pca_codes
from tvr_lightning.metrics import (
    HammingCounts,
    PrecisionRecall,
    curve_of_codes,
    hamming_counts,
    mean_interval,
    metrics_of_codes,
    query_precisions,
)
from tvr_lightning.types import CodeFeatures, Places, TensorRows, TextInput, VideoInput

RowsT = TypeVar("RowsT", bound=TensorRows)
InputT = TypeVar("InputT", TextInput, VideoInput)
Labels = Sequence[tuple[int, ...]]


class HashingOptions(Protocol):
    """What of `Evaluation` concerns codes."""

    @property
    def hashing_normalise(self) -> Literal["relevant", "retrieved"]:
        """What average precision at k is divided by."""

    @property
    def resamples(self) -> int:
        """Bootstrap resamples."""


@dataclass(frozen=True)
class CodeDatabase:
    """Codes that are searched in.

    Attributes:
        name: the split they are of.
        texts: T codes; where `source` has F = 0, no baseline hashes it.
        videos: V codes.
        text_labels: class labels of each text's video.
        video_labels: class labels of each video.
    """

    name: str
    texts: CodeFeatures
    videos: CodeFeatures
    text_labels: Labels
    video_labels: Labels


@dataclass(frozen=True)
class HashingResult:
    """What hashing metrics say about a test.

    Attributes:
        metrics: `hash/t2v/mAP` and so on, in percent; `hash/mAP`, the mean of both directions'; `hash/pca/...`,
            `hash/random/...` and `hash/chance/...` of the baselines.
        intervals: 95 % bootstrap intervals by the same names.
        facts: database, its size, what mAP@k is divided by, code length, queries left out.
        curves: precision and recall by radius, for each direction.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    facts: Mapping[str, Any]
    curves: Mapping[str, PrecisionRecall]


@dataclass(frozen=True)
class _Relevance:
    """One direction's labels, (Q, C) and (N, C) bool, and which video each query is or describes, (Q,) int64."""

    queries: Tensor
    items: Tensor
    video: Tensor

    def counts(self, query_codes: Tensor, item_codes: Tensor) -> HammingCounts:
        return hamming_counts(query_codes, item_codes, self.queries, self.items)


def evaluate_codes(
    queries: CodeDatabase,
    database: CodeDatabase | None,
    text_video: Tensor,
    options: HashingOptions,
    seed: int = 0,
    final: bool = True,
) -> HashingResult | None:
    """Computes hashing metrics in both directions.

    Args:
        queries: codes of the split's texts and videos.
        database: where they are looked up; among themselves when None.
        text_video: (T,) int64, the row in `queries.videos` of each text's video.
        options: of the evaluation.
        seed: of the bootstrap and of the random hyperplanes.
        final: whether intervals and baselines are wanted.

    Returns:
        None where no query shares a label with the database; a warning says so.

    Raises:
        ScoreError: a relaxed code is not finite.
        ValueError: codes of queries and database differ in length.
    """
    searched = database or queries
    for part in (queries, searched):
        for name, codes in (("text", part.texts), ("video", part.videos)):
            _require_finite(codes, f"{name} of the {part.name} split")
    labelled = [x for part in (queries, searched) for x in (*part.text_labels, *part.video_labels)]
    place = {c: i for i, c in enumerate(sorted({c for labels in labelled for c in labels}))}
    relevance = {
        "t2v": _Relevance(multi_hot(queries.text_labels, place), multi_hot(searched.video_labels, place), text_video),
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
    for name, direction in relevance.items():
        precisions = query_precisions(counts[name], normalise=options.hashing_normalise)
        metrics |= {f"hash/{name}/{k}": v for k, v in metrics_of_codes(counts[name], precisions).items()}
        if final and options.resamples:
            values = 100.0 * precisions["mAP"]
            intervals[f"hash/{name}/mAP"] = mean_interval(values, direction.video, seed, options.resamples)
    metrics["hash/mAP"] = (metrics["hash/t2v/mAP"] + metrics["hash/v2t/mAP"]) / 2
    if final:
        metrics |= _baselines(queries, searched, relevance, counts, seed)
    facts = {
        "database": "test" if database is None else database.name,
        "texts": len(searched.texts),
        "videos": len(searched.videos),
        "normalise": options.hashing_normalise,
        "bits": counts["t2v"].bits,
        "queries_without_relevant": {name: int((~c.answerable).sum()) for name, c in counts.items()},
    }
    return HashingResult(metrics, intervals, facts, {name: curve_of_codes(c) for name, c in counts.items()})


def _baselines(
    queries: CodeDatabase,
    database: CodeDatabase,
    relevance: Mapping[str, _Relevance],
    counts: Mapping[str, HammingCounts],
    seed: int,
) -> dict[str, float]:
    """The mAP of codes that nobody learned; projections are fitted on the database's features of each modality."""
    bits = counts["t2v"].bits
    found = {f"hash/chance/{direction}/mAP": c.tied() for direction, c in counts.items()}
    has_source = all(x.source.shape[1] for x in (database.texts, database.videos))
    fits: dict[str, Callable[[Tensor, int], ProjectionCodes]] = {
        "pca": pca_codes,
        "random": partial(hyperplane_codes, seed=seed),
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


def encode_items(
    encode: Callable[[InputT], RowsT], loader: Iterable[InputT | None], device: torch.device
) -> tuple[RowsT, Tensor]:
    """Encodes every item of a loader; under several ranks each encodes its share and all get all.

    Args:
        encode: a method's `encode_text` or `encode_video`, in evaluation mode.
        loader: batches; None where nothing of one could be read.
        device: where the method computes.

    Returns:
        Features on the CPU in float32, and (N,) int64, which items of the split they are of.

    Raises:
        DataError: no item could be encoded.
    """
    parts: list[RowsT] = []
    index: list[Tensor] = []
    with torch.inference_mode():
        for batch in loader:
            if batch is not None:
                rows = encode(batch.to(device))
                parts.append(rows.map(lambda x: x.to("cpu", torch.float32 if x.is_floating_point() else x.dtype)))
                index.append(batch.index.cpu())
    features = gather_on_cpu(type(parts[0]).cat(parts) if parts else None)
    places = gather_on_cpu(Places(torch.cat(index)) if index else None)
    if features is None or places is None:
        raise DataError("nothing to encode: the loader gave no batch")
    return features, places.index


def encode_database(
    model: Any,
    name: str,
    loaders: tuple[Iterable[TextInput], Iterable[VideoInput | None]],
    caption_video: Tensor,
    labels: Labels,
) -> CodeDatabase:
    """Codes of a split with their labels; every rank calls this with loaders of its share.

    Args:
        model: a method whose features are `CodeFeatures`.
        name: the split's.
        loaders: captions, videos.
        caption_video: (T,) int64, the row of each caption's video among all of the split.
        labels: class labels of each video of the split.

    Raises:
        DataError: no caption or no video could be encoded.
    """
    training = model.training
    model.train(False)
    try:
        texts, text_index = encode_items(model.encode_text, loaders[0], model.device)
        videos, video_index = encode_items(model.encode_video, loaders[1], model.device)
    finally:
        model.train(training)
    return CodeDatabase(
        name,
        texts,
        videos,
        [labels[v] for v in caption_video[text_index].tolist()],
        [labels[v] for v in video_index.tolist()],
    )


def _require_finite(codes: CodeFeatures, what: str) -> None:
    broken = ~torch.isfinite(codes.real).all(1)
    if bool(broken.any()):
        raise ScoreError(
            f"the code of {what} in row {int(broken.nonzero()[0])} is not finite before its sign is taken, as are "
            f"{int(broken.sum())} of {len(broken)}. Look at the weights (a diverged run?) and at that item's features."
        )
