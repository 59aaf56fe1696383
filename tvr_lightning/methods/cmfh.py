"""CMFH: collective matrix factorisation hashing (Ding, Guo, Zhou, CVPR 2014), in closed form.

objective  l |X_v - V U_v|^2 + (1 - l) |X_t - V U_t|^2 + mu (|V - X_v P_v|^2 + |V - X_t P_t|^2)
               + g (|V|^2 + |U_v|^2 + |U_t|^2 + |P_v|^2 + |P_t|^2)    -> CMFH.objective
solution   U, P and V in turn, each a ridge solution of the others     -> nn.hashing.factorisation.collective_factors
codes      sign((x - mean) P_v), sign((x - mean) P_t)                  -> CMFH.hash_video, CMFH.hash_text
Rows are items here, columns in the paper; features are centred by the training set's means.
Departures, where the public record does not say: V begins with standard normal numbers, and there are 25 rounds, as in
a public implementation. The paper's features were those of images and tags; here they are those that SPTCH sees.
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
from tvr_lightning.nn.hashing.factorisation import Factors, collective_factors
from tvr_lightning.optim import Optimizer


class CMFH(ClosedForm):
    """CMFH.

    Args:
        video_encoder: frozen; the mean of its frames is X^v.
        text_encoder: frozen; the mean of its tokens is X^t.
        code_length: K, bits of a code.
        video_share: l, the videos' share in the factorisation.
        projection_weight: mu, of the distance of V from what is projected.
        norm_weight: g, above 0: with it each round has one solution.
        rounds: of the alternating least squares.
        optimizer: takes no steps here.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: a number outside of its range, or an encoder that trains.
    """

    tested_with: ClassVar = {"code_length": 32, "norm_weight": 1.0}
    video_projection: Tensor
    text_projection: Tensor

    def __init__(
        self,
        video_encoder: FrameEncoder,
        text_encoder: TextEncoder,
        code_length: int = 64,
        video_share: float = 0.5,
        projection_weight: float = 100.0,
        norm_weight: float = 0.01,
        rounds: int = 25,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        check_shares(video_share=video_share)
        check_positive(projection_weight=projection_weight, norm_weight=norm_weight)
        if rounds < 1:
            raise ConfigError(f"model.rounds is {rounds}; it must be at least 1")
        self.take_encoders(video_encoder, text_encoder, code_length)
        self.video_share, self.projection_weight, self.norm_weight = video_share, projection_weight, norm_weight
        self.rounds = rounds
        self.centre(video_encoder.embed_dim, text_encoder.embed_dim)
        for name, width in (("video", video_encoder.embed_dim), ("text", text_encoder.embed_dim)):
            self.register_parameter(f"{name}_projection", nn.Parameter(torch.randn(width, code_length) / width**0.5))

    def hash_video(self, x: Tensor) -> Tensor:
        """(V, F) -> (V, K)."""
        return x @ self.video_projection

    def hash_text(self, x: Tensor) -> Tensor:
        """(T, F') -> (T, K)."""
        return x @ self.text_projection

    def solution(self, video_features: Tensor, text_features: Tensor) -> Mapping[str, Tensor]:
        """Projections of the training set's features."""
        found = self._factors(video_features, text_features)
        return {"video_projection": found.video_projection, "text_projection": found.text_projection}

    def _factors(self, video: Tensor, text: Tensor) -> Factors:
        return collective_factors(
            video, text, self.code_length, self.video_share, self.projection_weight, self.norm_weight, self.rounds,
            self.seed,
        )  # fmt: skip

    def objective(self, video_features: Tensor, text_features: Tensor) -> Mapping[str, Tensor]:
        """The five terms in three; V, U_v and U_t are those of the items."""
        with torch.no_grad():
            found = self._factors(video_features.double(), text_features.double())
        v, of_video, of_text = (x.to(video_features) for x in (found.latent, found.video_basis, found.text_basis))
        p_video, p_text = self.video_projection, self.text_projection
        factorised = self.video_share * _squares(video_features - v @ of_video)
        factorised = factorised + (1 - self.video_share) * _squares(text_features - v @ of_text)
        projected = _squares(v - video_features @ p_video) + _squares(v - text_features @ p_text)
        norms = sum((_squares(x) for x in (v, of_video, of_text, p_video, p_text)), torch.zeros_like(projected))
        return {
            "factorisation": factorised,
            "projection": self.projection_weight * projected,
            "norms": self.norm_weight * norms,
        }


def _squares(x: Tensor) -> Tensor:
    return x.square().sum()
