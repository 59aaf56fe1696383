"""All pairs to metrics: features of every caption and video, their scores, what scores say."""

from tvr_lightning.evaluation.evaluator import (
    LEAKY,
    Evaluation,
    EvaluationResult,
    encode_texts,
    encode_videos,
    evaluate,
    on_cpu,
    score_all,
)

__all__ = [
    "LEAKY",
    "Evaluation",
    "EvaluationResult",
    "encode_texts",
    "encode_videos",
    "evaluate",
    "on_cpu",
    "score_all",
]
