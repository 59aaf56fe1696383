"""AGCH: aggregation-based graph convolutional hashing (Zhang, Luo, Huang, Liu, Xu, IEEE TMM 2022).

joint similarity S of a batch, direction times distance -> nn.hashing.joint_similarity.agch_similarity
joint codes: two graph convolutions of the joined features over S, a linear layer, tanh -> AGCH.joint_codes
losses: cosines of codes repeat S, between the modalities, inside each and inside the joint codes; the codes of both
    modalities meet the signs of the joint ones -> AGCH.compute_losses
What the paper's public record gives: gamma_v 2.0 and gamma_t 0.3 for joined features, whose squares are the modalities'
shares of a joined cosine (0.978 and 0.022, the defaults), rho 4, convolutions of width 4096 and 2048, alpha and beta 1
on the larger datasets. Departures, where it does not: shares multiply C D of each modality instead of joined features;
features are centred (as DJSRH's here); no fusion net beside the convolutions; the weight lambda, of 5 to 10, whose term
the record does not show, is left out; all nets train at once by Adam, where the paper updates one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.encoders.base import FrameEncoder, TextEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.hashing import code_regression, quantisation, reconstruction
from tvr_lightning.methods.hashing import MeanFeatureCodes
from tvr_lightning.nn.hashing.functions import FeatureHash
from tvr_lightning.nn.hashing.joint_similarity import agch_similarity
from tvr_lightning.nn.sptch.hashing import GraphConvolution, binary, propagation
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import CodeFeatures


class AGCH(MeanFeatureCodes):
    """AGCH.

    Args:
        video_encoder: frozen; the mean of its frames is X^v.
        text_encoder: frozen; the mean of its tokens is X^t.
        code_length: K, bits of a code.
        shares: g_v and g_t, of the modalities in S.
        radius: rho, above 0: distances are divided by it.
        similarity_weight: alpha, of what codes of the modalities are to repeat of S.
        joint_weight: beta, of the joint codes' own terms.
        code_weight: of the distance of both modalities' codes from the joint signs.
        hidden_width: of the text's net.
        graph_widths: of both graph convolutions.
        centred: whether the training set's means are taken from X^v and X^t.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: a number outside of its range, or an encoder that trains.
    """

    tested_with: ClassVar = {"code_length": 32, "hidden_width": 32, "graph_widths": (32, 16)}

    def __init__(
        self,
        video_encoder: FrameEncoder,
        text_encoder: TextEncoder,
        code_length: int = 64,
        shares: tuple[float, float] = (0.978, 0.022),
        radius: float = 4.0,
        similarity_weight: float = 1.0,
        joint_weight: float = 1.0,
        code_weight: float = 1.0,
        hidden_width: int = 4096,
        graph_widths: tuple[int, int] = (4096, 2048),
        centred: bool = True,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        if radius <= 0:
            raise ConfigError(f"model.radius is {radius}; distances are divided by it: above 0")
        if len(shares) != 2 or min(shares) < 0:
            raise ConfigError(f"model.shares is {shares}; two numbers from 0 on: of videos and texts")
        self.take_encoders(video_encoder, text_encoder, code_length)
        if centred:
            self.centre(video_encoder.embed_dim, text_encoder.embed_dim)
        self.shares, self.radius = shares, radius
        self.similarity_weight, self.joint_weight, self.code_weight = similarity_weight, joint_weight, code_weight
        self.hash_video = FeatureHash(video_encoder.embed_dim, code_length, unit=True)
        self.hash_text = FeatureHash(text_encoder.embed_dim, code_length, hidden_width, unit=True)
        joined = video_encoder.embed_dim + text_encoder.embed_dim
        self.convolve_first = GraphConvolution(joined, graph_widths[0], norm=False)
        self.convolve_second = GraphConvolution(graph_widths[0], graph_widths[1], norm=False)
        self.to_code = nn.Linear(graph_widths[1], code_length)

    def joint_codes(self, video: Tensor, text: Tensor, similarity: Tensor) -> Tensor:
        """H (B, K), inside -1..1, from X^v (B, F), X^t (B, F') and S (B, B)."""
        weights = propagation(similarity)
        joined = torch.cat([F.normalize(video, dim=1), F.normalize(text, dim=1)], 1)  # (B, F + F')
        codes: Tensor = self.to_code(self.convolve_second(self.convolve_first(joined, weights), weights))
        return codes.tanh()

    def compute_losses(self, texts: CodeFeatures, videos: CodeFeatures, video_index: Tensor) -> Mapping[str, Tensor]:
        """What codes repeat of S, the joint codes' terms, and the distance from their signs."""
        similarity = agch_similarity(videos.source, texts.source, self.shares, self.radius)
        video, text = videos.real.tanh(), texts.real.tanh()
        joint = self.joint_codes(videos.source, texts.source, similarity)
        signs = binary(joint)
        return {
            "inter_modal": self.similarity_weight * reconstruction(video, text, similarity),
            "video": self.similarity_weight * reconstruction(video, video, similarity),
            "text": self.similarity_weight * reconstruction(text, text, similarity),
            "joint": self.joint_weight * reconstruction(joint, joint, similarity),
            "quantisation": self.joint_weight * quantisation(signs, joint),
            "code": self.code_weight * code_regression(signs, video, text),
        }
