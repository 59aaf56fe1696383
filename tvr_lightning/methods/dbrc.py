"""DBRC: deep binary reconstruction (Li, Hu, Nie, ACM MM 2017).

An autoencoder over both modalities whose middle layer is the code. A code made of both inputs, of the video alone or of
the text alone rebuilds both inputs, so that codes of one modality carry what the other one holds.
adaptive tanh, tanh(a z) with a learned a    -> nn.hashing.autoencoder.AdaptiveTanh
    the penalty that lets a grow, a^-2       -> AdaptiveTanh.flatness, weighted by scale_weight
reconstructions: sum over the codes of both, of the video and of the text of the mean squared errors of X^v and X^t
                                             -> DBRC.compute_losses
Our reading, where the public record does not say: one hidden layer of 512 on each side of the code (the paper stacks
layers and begins with those of a Boltzmann machine); the joint code's z is the sum of both modalities', as that of a
layer on joined hidden units; inputs have mean 0 and deviation 1 over the training set in each dimension; Adam, 1e-3, 60
epochs; scale_weight 0.001.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.encoders.base import FrameEncoder, TextEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.methods.hashing import MeanFeatureCodes
from tvr_lightning.nn.hashing.autoencoder import AdaptiveTanh, FeatureDecoder
from tvr_lightning.nn.hashing.functions import FeatureHash
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import CodeFeatures

SMALLEST_DEVIATION = 1e-6  # of a dimension that is the same for all: divided by nothing smaller


class DBRC(MeanFeatureCodes):
    """DBRC.

    Args:
        video_encoder: frozen; the mean of its frames is X^v.
        text_encoder: frozen; the mean of its tokens is X^t.
        code_length: K, bits of a code.
        hidden_width: of encoders and decoders.
        scale_weight: of a^-2.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: a negative weight, or an encoder that trains.
    """

    tested_with: ClassVar = {"code_length": 32, "hidden_width": 32}
    video_mean: Tensor
    text_mean: Tensor
    video_deviation: Tensor
    text_deviation: Tensor

    def __init__(
        self,
        video_encoder: FrameEncoder,
        text_encoder: TextEncoder,
        code_length: int = 64,
        hidden_width: int = 512,
        scale_weight: float = 0.001,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        if scale_weight < 0:
            raise ConfigError(f"model.scale_weight is {scale_weight}; from 0 on")
        self.take_encoders(video_encoder, text_encoder, code_length)
        self.scale_weight = scale_weight
        widths = {"video": video_encoder.embed_dim, "text": text_encoder.embed_dim}
        for name, width in widths.items():
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_deviation", torch.ones(width))
        self.encode_features_of_video = FeatureHash(widths["video"], code_length, hidden_width)
        self.encode_features_of_text = FeatureHash(widths["text"], code_length, hidden_width)
        self.decode_video = FeatureDecoder(code_length, hidden_width, widths["video"])
        self.decode_text = FeatureDecoder(code_length, hidden_width, widths["text"])
        self.activation = AdaptiveTanh()

    def hash_video(self, x: Tensor) -> Tensor:
        """Z of videos, (V, F) -> (V, K)."""
        codes: Tensor = self.encode_features_of_video(self._standard_video(x))
        return codes

    def hash_text(self, x: Tensor) -> Tensor:
        """Z of texts, (T, F') -> (T, K)."""
        codes: Tensor = self.encode_features_of_text(self._standard_text(x))
        return codes

    def _standard_video(self, x: Tensor) -> Tensor:
        return (x - self.video_mean) / self.video_deviation

    def _standard_text(self, x: Tensor) -> Tensor:
        return (x - self.text_mean) / self.text_deviation

    def learn_from(self, video_features: Tensor, text_features: Tensor, row: Tensor | None = None) -> None:
        """Takes means and deviations of the training set; arguments as in the base."""
        for name, features in (("video", video_features), ("text", text_features)):
            deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_deviation").copy_(deviation.clamp(min=SMALLEST_DEVIATION))

    def compute_losses(self, texts: CodeFeatures, videos: CodeFeatures, video_index: Tensor) -> Mapping[str, Tensor]:
        """What each code fails to rebuild of both inputs, and the penalty on the scale."""
        video, text = self._standard_video(videos.source), self._standard_text(texts.source)
        sources = {"joint": videos.real + texts.real, "video": videos.real, "text": texts.real}
        losses = {}
        for name, z in sources.items():
            codes = self.activation(z)
            losses[name] = F.mse_loss(self.decode_video(codes), video) + F.mse_loss(self.decode_text(codes), text)
        losses["scale"] = self.scale_weight * self.activation.flatness()
        return losses
