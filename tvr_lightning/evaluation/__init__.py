"""All pairs to metrics: features of every caption and video, their scores, what scores say."""

from tvr_lightning.evaluation.encoding import EncodedSplit, encode_split, encode_texts, encode_videos
from tvr_lightning.evaluation.evaluator import EvaluationResult, TrainingItems, evaluate, scored_items
from tvr_lightning.evaluation.options import CodeOptions, Evaluation
from tvr_lightning.evaluation.postprocessing import Bank
from tvr_lightning.evaluation.scoring import score_all

__all__ = [
    "Bank",
    "CodeOptions",
    "EncodedSplit",
    "Evaluation",
    "EvaluationResult",
    "TrainingItems",
    "encode_split",
    "encode_texts",
    "encode_videos",
    "evaluate",
    "score_all",
    "scored_items",
]
