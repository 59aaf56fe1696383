"""STMH: semantic topic multimodal hashing (Wang, Gao, Wang, He, IJCAI 2015), in closed form.

objective  r sum_i |x_i^v - g_i^v F_v|_2 + (1 - r) sum_i sum_k g_ik^t |x_i^t - f_k^t|^2 + l |G_t - G_v R|^2
               + g (|R|^2 + |G_v|^2 + |F_v|^2 + |F_t|^2)    -> STMH.objective
G_t: which K / 2 of K topics a text contains, 0 or 1; F_t: the topics' centres; G_v F_v: a robust factorisation of the
videos into concepts, each item's error counted as it is and not squared; R: from concepts to topics
solution   each part in turn, the others as they are        -> nn.hashing.topics.topic_factors
codes      of a text: the K / 2 topics whose centres are nearest; of a video: its concepts g R, the upper half
                                                            -> STMH.hash_text, STMH.hash_video
The objective and its rounds are those of a public implementation under the paper's name, with its settings (r 0.5, l
0.5, g 0.0001, 10 rounds); the paper describes the same parts. Our reading: what a topic costs an item is twice its
agreement with G_v R less, as the objective has it (there once); centres are the least squares of all topics together.
Texts are mean BERT features here instead of counts of words, so that topics are not lists of words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from tvr_lightning.encoders.base import FrameEncoder, TextEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.methods.closed_form import ClosedForm
from tvr_lightning.methods.hashing import check_positive, check_shares
from tvr_lightning.nn.hashing.topics import TopicWeights, above_middle, concepts_of, distances, topic_factors, topics_of
from tvr_lightning.optim import Optimizer


class STMH(ClosedForm):
    """STMH.

    Args:
        video_encoder: frozen; the mean of its frames is X^v.
        text_encoder: frozen; the mean of its tokens is X^t.
        code_length: K, bits of a code: topics. At least 2: a text contains half of them.
        video_share: r, the videos' share.
        agreement_weight: l, of the distance between topics and what concepts say of them.
        norm_weight: g, above 0.
        rounds: how often each part is solved for.
        optimizer: takes no steps here.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: a number outside of its range, or an encoder that trains.
    """

    tested_with: ClassVar = {"code_length": 64}

    def __init__(
        self,
        video_encoder: FrameEncoder,
        text_encoder: TextEncoder,
        code_length: int = 64,
        video_share: float = 0.5,
        agreement_weight: float = 0.5,
        norm_weight: float = 1e-4,
        rounds: int = 10,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        check_shares(video_share=video_share)
        check_positive(agreement_weight=agreement_weight, norm_weight=norm_weight)
        if rounds < 1 or code_length == 1:
            raise ConfigError(f"model.rounds is {rounds}, model.code_length {code_length}; at least 1 and 2")
        self.take_encoders(video_encoder, text_encoder, code_length)
        self.weights = TopicWeights(video_share, agreement_weight, norm_weight)
        self.rounds = rounds
        widths = video_encoder.embed_dim, text_encoder.embed_dim
        self.concepts = nn.Parameter(torch.randn(code_length, widths[0]))  # F_v
        self.topics = nn.Parameter(torch.randn(code_length, widths[1]))  # F_t
        self.transform = nn.Parameter(torch.randn(code_length, code_length) / code_length**0.5)  # R

    def hash_video(self, x: Tensor) -> Tensor:
        """Concepts times R, less its middle value, (V, F) -> (V, K)."""
        x = x.to(self.concepts.dtype)
        return above_middle(concepts_of(x, self.concepts, self.weights) @ self.transform)

    def hash_text(self, x: Tensor) -> Tensor:
        """Nearness of the topics' centres less the middle one, (T, F') -> (T, K)."""
        return above_middle(-distances(x.to(self.topics.dtype), self.topics))

    def solution(self, video_features: Tensor, text_features: Tensor) -> Mapping[str, Tensor]:
        """Concepts, topics and what leads from one to the other."""
        found = topic_factors(video_features, text_features, self.code_length, self.weights, self.rounds, self.seed)
        return {"concepts": found.concepts, "topics": found.topics, "transform": found.transform}

    def objective(self, video_features: Tensor, text_features: Tensor) -> Mapping[str, Tensor]:
        """The terms; G_v and G_t are those of the items under the parameters as they are."""
        weights = self.weights
        with torch.no_grad():
            of_video = concepts_of(video_features, self.concepts, weights)
            of_text = topics_of(text_features, self.topics, of_video @ self.transform, weights)
        errors = (video_features - of_video @ self.concepts).norm(dim=1).sum()
        spread = (of_text * distances(text_features, self.topics)).sum()
        norms = sum((x.square().sum() for x in (self.transform, of_video, self.concepts, self.topics)), 0 * errors)
        return {
            "concepts": weights.video_share * errors,
            "topics": (1 - weights.video_share) * spread,
            "agreement": weights.agreement * (of_text - of_video @ self.transform).square().sum(),
            "norms": weights.norm * norms,
        }
