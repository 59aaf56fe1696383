"""The one evaluator: every caption and every video encoded once, all pairs scored in chunks, then metrics.

Features wait on the CPU; a chunk of them visits the model's device at a time, so that the device holds
`chunk_size` texts and videos whatever the size of the split. Scores are computed in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from tvr_lightning.distributed import ranks, share, spread_rows, together
from tvr_lightning.errors import DataError, ScoreError
from tvr_lightning.evaluation.codes import CodeDatabase, HashingResult, Labels, evaluate_codes
from tvr_lightning.metrics import (
    Ranks,
    bootstrap_intervals,
    dual_softmax,
    metrics_of,
    probe_metrics,
    qb_norm,
    query_ranks,
)
from tvr_lightning.types import CodeFeatures, TensorRows, TextInput, VideoInput

TextT = TypeVar("TextT", bound=TensorRows)
VideoT = TypeVar("VideoT", bound=TensorRows)
InputT = TypeVar("InputT", bound=TensorRows)
RowsT = TypeVar("RowsT", bound=TensorRows)

TOP = 10  # how many retrieved items a run keeps of each query
LEAKY = "leaky/"  # begins the name of every figure whose scores read the ground truth


class Retriever(Protocol[TextT, VideoT]):
    """What the evaluator needs of a method; every `RetrievalModule` has it."""

    training: bool

    @property
    def device(self) -> torch.device:
        """Where the method computes."""

    def encode_text(self, text: TextInput) -> TextT:
        """Texts to features."""

    def encode_video(self, video: VideoInput) -> VideoT:
        """Videos to features."""

    def score(self, texts: TextT, videos: VideoT) -> Tensor:
        """Features to (T, V) scores."""

    def train(self, mode: bool = True) -> Any:
        """Switches dropout and the like."""


@dataclass(frozen=True)
class Evaluation:
    """How scores become numbers.

    Attributes:
        v2t: what a video ranks: `sets`, each video's captions together (score: their maximum), or `captions`, each
            caption alone (rank: the best of its own).
        chunk_size: texts and videos scored at a time.
        resamples: bootstrap resamples for the 95 % intervals of test results, 0 for none.
        dual_softmax: temperature of dual softmax (CAMoE), reported besides as `dsl/...`; null for none.
        qb_norm: beta of QB-Norm, reported besides as `qb/t2v/...`; null for none.
        qb_bank: how many training captions make QB-Norm's query bank.
        matrix_limit_mib: a score matrix above this size lives in a temporary file instead of memory.
        hashing_database: where a test looks up codes: among those of the `train` items (the custom of cross-modal
            hashing) or of the `test` items. Validation takes its own split.
        hashing_normalise: what mAP@k of codes is divided by: min(k, number of `relevant` items), or the number of
            relevant ones among the k `retrieved` (the released code of several hashing methods).
    """

    v2t: Literal["sets", "captions"] = "sets"
    chunk_size: int = 256
    resamples: int = 1000
    dual_softmax: float | None = None
    qb_norm: float | None = None
    qb_bank: int = 5000
    matrix_limit_mib: int = 4096
    hashing_database: Literal["train", "test"] = "train"
    hashing_normalise: Literal["relevant", "retrieved"] = "relevant"


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
        hashing: what hashing metrics say where features are codes; None where they are not, or have no labels.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    ranks: Ranks
    caption_ids: Tensor
    video_ids: Tensor
    top: Mapping[str, tuple[Tensor, Tensor]]
    left_out: int
    hashing: HashingResult | None = None


def encode_texts(model: Retriever[TextT, VideoT], loader: Iterable[TextInput]) -> TextT:
    """Encodes every caption of a loader, in its order.

    Returns:
        Features on the CPU, (T, ...); floating-point fields in float32.
    """
    return _encode(model, model.encode_text, loader)


def encode_videos(model: Retriever[TextT, VideoT], loader: Iterable[VideoInput | None]) -> VideoT:
    """Encodes every video of a loader, in its order; batches that were skipped whole are None and leave nothing.

    Returns:
        Features on the CPU, (V, ...); floating-point fields in float32.
    """
    return _encode(model, model.encode_video, loader)


def _encode(model: Retriever[Any, Any], encode: Callable[[InputT], RowsT], loader: Iterable[InputT | None]) -> RowsT:
    training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            parts = [on_cpu(encode(batch.to(model.device))) for batch in loader if batch is not None]
    finally:
        model.train(training)
    if not parts:
        raise DataError("nothing to encode: the loader gave no batch")
    return type(parts[0]).cat(parts)


def on_cpu(features: RowsT) -> RowsT:
    """Moves features to the CPU, and reduced precision back to float32."""
    return features.map(lambda x: x.detach().to("cpu", torch.float32 if x.is_floating_point() else x.dtype))


def score_all(
    model: Retriever[TextT, VideoT],
    texts: TextT,
    videos: VideoT,
    chunk_size: int = 256,
    matrix_limit_mib: int = 4096,
    shared: bool = False,
) -> Tensor:
    """Scores every text with every video, chunk by chunk.

    Args:
        model: the method.
        texts: features of T texts, on any device.
        videos: features of V videos.
        chunk_size: texts and videos scored at a time; sets the peak memory of the method's `score`.
        matrix_limit_mib: above this size the matrix is a memory-mapped temporary file, removed with the tensor.
        shared: every rank calls this with the same features and scores a share of the texts; all get all scores.

    Returns:
        (T, V) float32 on the CPU.

    Raises:
        ScoreError: a score is NaN or infinite; names the method and the pair.
    """
    scores = _matrix(len(texts), len(videos), matrix_limit_mib)
    rank, world = ranks() if shared else (0, 1)
    shares = [share(len(texts), chunk_size, r, world) for r in range(world)]
    training = model.training
    model.train(False)
    try:
        with torch.inference_mode(), together() if shared else nullcontext():
            for t in shares[rank][::chunk_size]:
                text_chunk = texts[t : t + chunk_size].to(model.device)
                for v in range(0, len(videos), chunk_size):
                    chunk = model.score(text_chunk, videos[v : v + chunk_size].to(model.device)).float().cpu()
                    finite = torch.isfinite(chunk)
                    if not bool(finite.all()):
                        row, column = torch.nonzero(~finite)[0].tolist()
                        raise ScoreError(
                            f"{type(model).__name__} scored text {t + row} with video {v + column} as "
                            f"{chunk[row, column].item()}; a rank of it would mean nothing. Look at the weights "
                            "(a diverged run?) and at that video's and caption's features."
                        )
                    scores[t : t + chunk_size, v : v + chunk_size] = chunk
    finally:
        model.train(training)
    spread_rows(scores, shares)
    return scores


def _matrix(rows: int, columns: int, limit_mib: int) -> Tensor:
    if rows * columns * 4 <= limit_mib << 20:
        return torch.empty(rows, columns)
    with tempfile.TemporaryDirectory(prefix="tvr-scores-") as folder:
        # the mapping outlives the file's name: nothing is left behind even after a kill later on
        flat = torch.from_file(str(Path(folder) / "scores"), shared=True, size=rows * columns)
    return flat.view(rows, columns)


def evaluate(
    model: Retriever[TextT, VideoT],
    texts: TextT,
    videos: VideoT,
    caption_video: Tensor,
    options: Evaluation,
    *,
    caption_ids: Tensor | None = None,
    video_ids: Tensor | None = None,
    num_videos: int | None = None,
    probes: Sequence[tuple[str, int, int]] = (),
    bank: TextT | None = None,
    labels: Labels = (),
    database: CodeDatabase | None = None,
    seed: int = 0,
    intervals: bool = True,
    shared: bool = False,
) -> EvaluationResult:
    """Scores all pairs and computes every metric of retrieval.

    A method that reads the ground truth gets it here, and all its figures are named `leaky/...`.

    Args:
        model: the method.
        texts: features of the split's captions.
        videos: features of the videos that could be encoded.
        caption_video: (T,) int64, the row of each caption's video in the split's list.
        options: protocol, post-processing, chunks.
        caption_ids: (T,) position of each caption in the split's list; 0..T-1 when None.
        video_ids: (V,) position of each encoded video in the split's list; 0..V-1 when None. Captions of videos that
            are not among them are left out.
        num_videos: videos in the split's list; as many as were encoded when None.
        probes: minimal pairs as (kind, video, video), positions in the split's list.
        bank: features of training captions for QB-Norm.
        labels: class labels of each video in the split's list, for codes.
        database: codes that codes are looked up among; the split's own when None.
        seed: seed of the bootstrap.
        intervals: whether to bootstrap, and to measure codes by baselines.
        shared: every rank calls this with the same features and scores a share; all get the same result.

    Raises:
        ScoreError: a score is not finite.
        DataError: no caption describes any of the videos.
    """
    video_ids = torch.arange(len(videos)) if video_ids is None else video_ids
    caption_ids = torch.arange(len(texts)) if caption_ids is None else caption_ids
    num_videos = len(videos) if num_videos is None else num_videos
    row_of = torch.full((num_videos,), -1)
    row_of[video_ids] = torch.arange(len(video_ids))
    present = row_of[caption_video] >= 0
    if not bool(present.any()):
        raise DataError("nothing to evaluate: none of the captions describes a video that was encoded")
    texts, caption_ids, caption_row = texts[present], caption_ids[present], row_of[caption_video[present]]

    leaky = bool(getattr(model, "reads_ground_truth", False))
    if leaky:
        texts, videos = _match(model, texts, videos, caption_row)
    scores = score_all(model, texts, videos, options.chunk_size, options.matrix_limit_mib, shared)
    ranks = query_ranks(scores, caption_row, options.v2t)
    metrics = dict(metrics_of(ranks))
    described = set(caption_row.tolist())
    known = [(k, int(row_of[a]), int(row_of[b])) for k, a, b in probes if {int(row_of[a]), int(row_of[b])} <= described]
    if known:
        metrics.update(probe_metrics(scores, caption_row, known))
    if options.dual_softmax is not None:
        for direction in ("t2v", "v2t"):
            adjusted = dual_softmax(scores, options.dual_softmax, direction)
            _add_prefixed(metrics, "dsl", direction, metrics_of(query_ranks(adjusted, caption_row, options.v2t)))
        metrics["dsl/SumR"] = metrics["dsl/t2v/RSum"] + metrics["dsl/v2t/RSum"]
    if options.qb_norm is not None and bank is not None:
        bank_scores = score_all(model, bank, videos, options.chunk_size, options.matrix_limit_mib, shared)
        adjusted = qb_norm(scores, bank_scores, options.qb_norm)
        _add_prefixed(metrics, "qb", "t2v", metrics_of(query_ranks(adjusted, caption_row, options.v2t)))
    sure: Mapping[str, tuple[float, float]] = {}
    if intervals and options.resamples:
        sure = bootstrap_intervals(ranks, seed=seed, resamples=options.resamples)
    hashing = None
    if isinstance(texts, CodeFeatures) and isinstance(videos, CodeFeatures):
        own = [labels[v] if labels else () for v in video_ids.tolist()]
        queries = CodeDatabase("evaluated", texts, videos, [own[v] for v in caption_row.tolist()], own)
        hashing = evaluate_codes(queries, database, caption_row, options, seed, intervals)
        if hashing is not None:
            metrics |= hashing.metrics
            sure = {**sure, **hashing.intervals}
    if leaky:
        metrics = {LEAKY + name: value for name, value in metrics.items()}
        sure = {LEAKY + name: value for name, value in sure.items()}
    return EvaluationResult(
        metrics,
        sure,
        ranks,
        caption_ids,
        video_ids,
        {"t2v": _top(scores, video_ids), "v2t": _top(scores.T, caption_ids)},
        num_videos - len(video_ids),
        hashing,
    )


def _match(model: Any, texts: TextT, videos: VideoT, caption_row: Tensor) -> tuple[TextT, VideoT]:
    """Features of a method that reads the ground truth, after it did; see `RetrievalModule.match`."""
    training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            matched: tuple[TextT, VideoT] = model.match(texts, videos, caption_row)
    finally:
        model.train(training)
    return matched


def _add_prefixed(metrics: dict[str, float], prefix: str, direction: str, new: Mapping[str, float]) -> None:
    metrics.update({f"{prefix}/{k}": v for k, v in new.items() if k.startswith(f"{direction}/")})


def _top(scores: Tensor, ids: Tensor, rows: int = 1024) -> tuple[Tensor, Tensor]:
    """The best `TOP` items of each row, (Q, TOP) scores and ids, a block of rows at a time."""
    k = min(TOP, scores.shape[1])
    blocks = [scores[i : i + rows].topk(k, dim=1) for i in range(0, len(scores), rows)]
    return torch.cat([b.values for b in blocks]), ids[torch.cat([b.indices for b in blocks])]
