"""Mean pooling over any pair of encoders: CLIP4Clip's meanP (Luo et al. 2022, Sec. 3.3) without CLIP.

What a graph or hypergraph over VGG's frames and BERT's words adds is seen beside this: the mean frame and the mean
token, each through a linear layer, compared by their cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from tvr_lightning.encoders.base import FrameEncoder, TextEncoder, frame_features
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.views import View, over_frames
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.nn.similarity import LogitScale, cosine_matrix, mean_frame_cosines
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import SentenceFeatures, TextInput, VideoFeatures, VideoInput


class MeanPool(RetrievalModule[SentenceFeatures, VideoFeatures]):
    """Mean frame against mean token.

    Args:
        video_encoder: VGG, trained or frozen.
        text_encoder: BERT, trained or frozen.
        width: D, of the shared space.
        logit_scale: where the learned scale starts.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: a width or scale that is not positive.
    """

    tested_with: ClassVar = {"width": 64}

    def __init__(
        self,
        video_encoder: FrameEncoder,
        text_encoder: TextEncoder,
        width: int = 512,
        logit_scale: float = 1 / 0.07,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        if width <= 0:
            raise ConfigError(f"model.width is {width}; it must be positive")
        self.video_encoder, self.text_encoder = video_encoder, text_encoder
        self.visual = nn.Linear(video_encoder.embed_dim, width)
        self.textual = nn.Linear(text_encoder.embed_dim, width)
        self.logit_scale = LogitScale(logit_scale)

    def encode_video(self, video: VideoInput) -> VideoFeatures:
        """Frame features in the shared space."""
        frames = frame_features(self.video_encoder, video)
        return VideoFeatures(self.visual(frames).masked_fill(~video.frame_mask[..., None], 0), video.frame_mask)

    def encode_text(self, text: TextInput) -> SentenceFeatures:
        """Mean tokens in the shared space."""
        tokens = self.text_encoder.encode_tokens(text.tokens, text.token_mask)
        return SentenceFeatures(self.textual(masked_mean(tokens, text.token_mask)))

    def score(self, texts: SentenceFeatures, videos: VideoFeatures) -> Tensor:
        """(T, V) scaled cosines of sentence and mean frame."""
        return self.logit_scale(mean_frame_cosines(texts.sentence, videos.frames, videos.frame_mask))

    def compute_losses(
        self, texts: SentenceFeatures, videos: VideoFeatures, video_index: Tensor
    ) -> Mapping[str, Tensor]:
        """Symmetric cross-entropy."""
        return {"contrastive": symmetric_cross_entropy(self.score(texts, videos), video_index)}

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """The caption's cosine with each frame."""
        sentence, frames = self.encode_text(text).sentence, self.encode_video(video).frames
        return (over_frames(video, cosine_matrix(sentence, frames[0])[0]),)
