"""Figures after post-processing, which stand beside the plain ones: `dsl/`, `qb/`, `sk/`, `sk1/`, each direction alone.

Dual softmax looks at all queries of the test, the others at a bank of training items: captions for text to video,
videos for video to text. What a bank of videos is asked for is a training video's score with each caption of the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tvr_lightning.errors import ScoreError
from tvr_lightning.evaluation.encoding import inference
from tvr_lightning.evaluation.options import Evaluation
from tvr_lightning.metrics import (
    Ranks,
    dual_softmax,
    metrics_of,
    qb_norm,
    sinkhorn_biases,
    sinkhorn_single_query,
)
from tvr_lightning.metrics.matrix import CHUNK, chunks
from tvr_lightning.types import TensorRows

Score = Callable[..., Tensor]  # of `scoring.score_all`: model, texts, videos
Ranked = Callable[[Tensor], Ranks]


class HasParts(Protocol):
    """A method whose score is the mean of several; UCoFiA."""

    def part_scores(self, texts: Any, videos: Any) -> Tensor:
        """(T, V, parts)."""


@dataclass(frozen=True)
class Bank:
    """Features of training items that post-processing compares with.

    Attributes:
        texts: captions; None for none.
        videos: videos; None for none.
    """

    texts: TensorRows | None = None
    videos: TensorRows | None = None


@dataclass
class PartOf:
    """One of the scores whose mean a method's score is, as a method of its own.

    Attributes:
        model: has `part_scores`.
        part: which of them.
    """

    model: Any
    part: int
    training: bool = False

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.model.device
        return device

    def encode_text(self, text: Any) -> Any:
        """The method's."""
        return self.model.encode_text(text)

    def encode_video(self, video: Any) -> Any:
        """The method's."""
        return self.model.encode_video(video)

    def score(self, texts: Any, videos: Any) -> Tensor:
        """(T, V)."""
        scores: Tensor = self.model.part_scores(texts, videos)[..., self.part]
        return scores

    def train(self, mode: bool = True) -> PartOf:
        """Stays as it is: who asks for its scores has set the method's mode."""
        return self


def post_processed(
    model: Any,
    scores: Tensor,
    items: tuple[Any, Any],
    bank: Bank,
    options: Evaluation,
    score: Score,
    ranked: Ranked,
) -> dict[str, float]:
    """Metrics of every post-processing that the options name; of a direction whose bank is there.

    Args:
        model: the method.
        scores: (T, V).
        items: features of the T texts and V videos.
        bank: of the training set.
        options: which, and their temperatures.
        score: scores all pairs of features under a model.
        ranked: a score matrix to ranks.
    """
    texts, videos = items
    metrics: dict[str, float] = {}
    if options.dual_softmax is not None:
        for direction in ("t2v", "v2t"):
            with _said_of("dual_softmax", options):
                adjusted = _finite(dual_softmax(scores, options.dual_softmax, direction))
            metrics |= _of_direction("dsl", direction, adjusted, ranked)
    for direction, rows, columns in (("t2v", bank.texts, videos), ("v2t", texts, bank.videos)):
        if options.wants_bank and rows is not None and columns is not None:

            def known(scorer: Any, rows: Any = rows, columns: Any = columns) -> Tensor:
                return score(scorer, rows, columns)

            metrics |= _with_bank(model, direction, scores, known, options, ranked)
    for name in ("dsl", "qb", "sk", "sk1"):
        sums = [metrics.get(f"{name}/{direction}/RSum") for direction in ("t2v", "v2t")]
        if None not in sums:
            metrics[f"{name}/SumR"] = sum(x for x in sums if x is not None)
    return metrics


def _with_bank(
    model: Any,
    direction: str,
    scores: Tensor,
    known: Callable[[Any], Tensor],
    options: Evaluation,
    ranked: Ranked,
) -> dict[str, float]:
    """One direction's metrics; `known` gives a method's scores of the bank and the items, texts before videos."""

    def turned(matrix: Tensor) -> Tensor:
        """Queries before items, and back."""
        return matrix if direction == "t2v" else matrix.T

    plain, bank = turned(scores), turned(known(model))
    found: dict[str, Tensor] = {}
    if options.qb_norm is not None:
        with _said_of("qb_norm", options):
            found["qb"] = _finite(qb_norm(plain, bank, options.qb_norm))
    if options.sinkhorn is not None:
        settings = options.sinkhorn, options.sinkhorn_rounds
        parts = range(len(getattr(model, "parts", ())))
        biases = []
        with inference(model):
            for each in (turned(known(PartOf(model, part))) for part in parts) if parts else (bank,):
                with _said_of("sinkhorn", options):
                    biases.append(sinkhorn_biases(each, *settings))
        with _said_of("sinkhorn", options):
            found["sk"] = _finite(plain + torch.stack(biases).mean(0).to(plain.dtype))
            found["sk1"] = _finite(sinkhorn_single_query(plain, bank, *settings))
    metrics: dict[str, float] = {}
    for name, adjusted in found.items():
        metrics |= _of_direction(name, direction, turned(adjusted), ranked)
    return metrics


@contextmanager
def _said_of(name: str, options: Evaluation) -> Iterator[None]:
    """Names the setting of whatever post-processing cannot compute from scores that are finite themselves.

    Raises:
        ScoreError: in place of the one inside.
    """
    try:
        yield
    except ScoreError as error:
        raise ScoreError(
            f"model.evaluation.{name}={getattr(options, name)}: {error}. Set it to the unit of the scores, or to null "
            "for none: see docs/comparing.md"
        ) from error


def _finite(scores: Tensor) -> Tensor:
    """The same scores.

    Raises:
        ScoreError: some are not numbers.
    """
    for part in chunks(len(scores), max(scores.shape[1], 1), CHUNK):
        if not bool(torch.isfinite(scores[part]).all()):
            raise ScoreError("what it makes of the scores is not finite")
    return scores


def _of_direction(prefix: str, direction: str, scores: Tensor, ranked: Ranked) -> dict[str, float]:
    """One direction's ranking metrics of scores after post-processing."""
    metrics = metrics_of(ranked(scores))
    return {f"{prefix}/{name}": value for name, value in metrics.items() if name.startswith(f"{direction}/")}
