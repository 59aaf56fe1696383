"""DJSRH: deep joint-semantics reconstructing hashing (Su, Zhong, Zhang, ICCV 2019).

joint similarity S of a batch -> nn.hashing.joint_similarity.djsrh_similarity
codes h = tanh(a z), a = sqrt(epoch + 1) -> DJSRH.compute_losses; after training their signs, which a does not change
loss MSE(cos(h_v, h_t), S) + 0.1 MSE(cos(h_v, h_v), S) + 0.1 MSE(cos(h_t, h_t), S)  -> DJSRH.compute_losses
Departures: the released code trains AlexNet's last layers too; here the video's net is one linear layer on X^v, the
mean of frozen frame features, and X^t is the mean of frozen token features where it had tags. Both are centred by the
training set's means: frozen features are nearly alike (methods.hashing). No decay of biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from tvr_lightning.encoders.base import FrameEncoder, TextEncoder
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.hashing import reconstruction
from tvr_lightning.methods.hashing import MeanFeatureCodes, check_shares
from tvr_lightning.nn.hashing.functions import FeatureHash
from tvr_lightning.nn.hashing.joint_similarity import djsrh_similarity
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import CodeFeatures


class DJSRH(MeanFeatureCodes):
    """DJSRH.

    Args:
        video_encoder: frozen; the mean of its frames is X^v.
        text_encoder: frozen; the mean of its tokens is X^t.
        code_length: K, bits of a code.
        video_share: b, the videos' share in S.
        diffusion: e, the share of S~ S~^T in S.
        scale: mu, what S is multiplied by.
        intra_weight: of the two terms inside a modality.
        hidden_width: of the text's net.
        video_lr: learning rate of the video's net; the text's is the optimiser's.
        centred: whether the training set's means are taken from X^v and X^t.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: a number outside of its range, or an encoder that trains.
    """

    tested_with: ClassVar = {"code_length": 32, "hidden_width": 32}

    def __init__(
        self,
        video_encoder: FrameEncoder,
        text_encoder: TextEncoder,
        code_length: int = 64,
        video_share: float = 0.9,
        diffusion: float = 0.4,
        scale: float = 1.5,
        intra_weight: float = 0.1,
        hidden_width: int = 4096,
        video_lr: float = 1e-3,
        centred: bool = True,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        check_shares(video_share=video_share, diffusion=diffusion)
        self.take_encoders(video_encoder, text_encoder, code_length)
        if centred:
            self.centre(video_encoder.embed_dim, text_encoder.embed_dim)
        self.video_share, self.diffusion, self.scale, self.intra_weight = video_share, diffusion, scale, intra_weight
        self.video_lr = video_lr
        self.hash_video = FeatureHash(video_encoder.embed_dim, code_length)
        self.hash_text = FeatureHash(text_encoder.embed_dim, code_length, hidden_width)

    @property
    def rates(self) -> Mapping[str, float]:
        """The video's net has its own."""
        return {"hash_video": self.video_lr}

    def compute_losses(self, texts: CodeFeatures, videos: CodeFeatures, video_index: Tensor) -> Mapping[str, Tensor]:
        """Between the modalities, and inside each of them."""
        steepness = (self.current_epoch + 1) ** 0.5  # a
        video, text = (steepness * videos.real).tanh(), (steepness * texts.real).tanh()
        similarity = djsrh_similarity(videos.source, texts.source, self.video_share, self.diffusion, self.scale)
        return {
            "inter_modal": reconstruction(video, text, similarity),
            "video": self.intra_weight * reconstruction(video, video, similarity),
            "text": self.intra_weight * reconstruction(text, text, similarity),
        }
