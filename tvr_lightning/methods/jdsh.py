"""JDSH: joint-modal distribution-based similarity hashing (Liu, Qian, Guan, Zhan, Ye, SIGIR 2020).

joint similarity S of a batch        -> nn.hashing.joint_similarity.jdsh_similarity
distribution-based weighting of S    -> nn.hashing.joint_similarity.bounds_of, weighted_by_distribution
codes h = tanh(a z), a = sqrt(epoch + 1), and the loss
    0.1 MSE(cos(h_v, h_v), S) + 2 MSE(cos(h_v, h_t), S) - mean_i cos(h_v, h_t)_ii + 0.1 MSE(cos(h_t, h_t), S)
                                     -> JDSH.compute_losses
Departures: the paper's bounds are numbers for each dataset, from two distributions that were fitted to the similarities
of its pairs. Here they are estimated, once, from batches of the training set, with the released code's distances from
the location (2 scales to the left, 4 to the right); `left` and so on set them. Nets and inputs are those of DJSRH here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from tvr_lightning.encoders.base import FrameEncoder, TextEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.hashing import agreement, reconstruction
from tvr_lightning.methods.hashing import MeanFeatureCodes
from tvr_lightning.nn.hashing.functions import FeatureHash
from tvr_lightning.nn.hashing.joint_similarity import Bounds, bounds_of, jdsh_similarity, weighted_by_distribution
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import CodeFeatures

SAMPLE = 32  # items of a batch from which bounds are estimated: the paper's batch


class JDSH(MeanFeatureCodes):
    """JDSH.

    Args:
        video_encoder: frozen; the mean of its frames is X^v.
        text_encoder: frozen; the mean of its tokens is X^t.
        code_length: K, bits of a code.
        shares: a, b and c: of the videos' similarities, the texts' and those of higher order.
        left_weight: l_1, of what is certainly unlike.
        right_weight: l_2, of what is certainly alike.
        left_scales: scales from the location of the similarities to `left`.
        right_scales: scales from there to `right`.
        left: similarities below it are certainly unlike; null: estimated from the training set, like the next three.
        right: similarities above it are certainly alike.
        smallest: least similarity.
        largest: greatest similarity.
        scale: mu, what S is multiplied by.
        intra_weight: of the two terms inside a modality.
        hidden_width: of the text's net.
        centred: whether the training set's means are taken from X^v and X^t.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: shares that are not three, or an encoder that trains.
    """

    tested_with: ClassVar = {"code_length": 32, "hidden_width": 32}
    bounds: Tensor

    def __init__(
        self,
        video_encoder: FrameEncoder,
        text_encoder: TextEncoder,
        code_length: int = 64,
        shares: tuple[float, float, float] = (0.5, 0.1, 0.4),
        left_weight: float = 0.1,
        right_weight: float = 0.2,
        left_scales: float = 2.0,
        right_scales: float = 4.0,
        left: float | None = None,
        right: float | None = None,
        smallest: float | None = None,
        largest: float | None = None,
        scale: float = 1.4,
        intra_weight: float = 0.1,
        hidden_width: int = 4096,
        centred: bool = True,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        if len(shares) != 3 or min(shares) < 0:
            raise ConfigError(f"model.shares is {shares}; three numbers from 0 on: of videos, texts and higher order")
        self.take_encoders(video_encoder, text_encoder, code_length)
        if centred:
            self.centre(video_encoder.embed_dim, text_encoder.embed_dim)
        self.shares, self.left_weight, self.right_weight = shares, left_weight, right_weight
        self.scales, self.given = (left_scales, right_scales), (left, right, smallest, largest)
        self.scale, self.intra_weight = scale, intra_weight
        self.register_buffer("bounds", torch.full((4,), torch.nan))  # before a training set is seen: of each batch
        self.hash_video = FeatureHash(video_encoder.embed_dim, code_length)
        self.hash_text = FeatureHash(text_encoder.embed_dim, code_length, hidden_width)
        self._estimated = False

    def learn_from(self, video_features: Tensor, text_features: Tensor, row: Tensor | None = None) -> None:
        """Estimates the bounds from pairs of the training set, in batches that are drawn; arguments as in the base."""
        order = torch.randperm(len(video_features), generator=torch.Generator().manual_seed(self.seed))
        batches = [rows for rows in order.split(SAMPLE) if len(rows) > 1] or [order]
        pairs = [
            off_diagonal(jdsh_similarity(video_features[rows].double(), text_features[rows].double(), self.shares))
            for rows in batches
        ]
        self.bounds.copy_(torch.stack(self._bounds(torch.cat(pairs))))
        self._estimated = True

    def _bounds(self, similarities: Tensor) -> Bounds:
        found = bounds_of(similarities, *self.scales)
        return Bounds(
            *(x if own is None else torch.full_like(x, own) for x, own in zip(found, self.given, strict=True))
        )

    def similarity(self, video: Tensor, text: Tensor) -> Tensor:
        """S (B, B), weighted and scaled; before a training set is seen, with the bounds of the batch."""
        plain = jdsh_similarity(video, text, self.shares)
        bounds = Bounds(*self.bounds.to(plain)) if self._estimated else self._bounds(off_diagonal(plain))
        return self.scale * weighted_by_distribution(plain, bounds, self.left_weight, self.right_weight)

    def compute_losses(self, texts: CodeFeatures, videos: CodeFeatures, video_index: Tensor) -> Mapping[str, Tensor]:
        """Between the modalities, of each pair with itself, and inside each modality."""
        steepness = (self.current_epoch + 1) ** 0.5  # a
        video, text = (steepness * videos.real).tanh(), (steepness * texts.real).tanh()
        similarity = self.similarity(videos.source, texts.source)
        return {
            "inter_modal": 2 * reconstruction(video, text, similarity),
            "agreement": agreement(video, text),
            "video": self.intra_weight * reconstruction(video, video, similarity),
            "text": self.intra_weight * reconstruction(text, text, similarity),
        }


def off_diagonal(similarity: Tensor) -> Tensor:
    """Similarities of pairs of different items: (B, B) -> (B (B - 1),); all of them where there is one item."""
    other = ~torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    return similarity[other] if len(similarity) > 1 else similarity.flatten()
