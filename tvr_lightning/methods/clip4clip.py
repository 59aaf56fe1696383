"""CLIP4Clip (Luo et al. 2022): CLIP for videos, with four similarity calculators.

meanP        mean of frame features (Sec. 3.3, parameter-free)
seqLSTM      LSTM over frames, mean (sequential type)        -> nn.temporal.TemporalLSTM
seqTransf    transformer over frames, mean (sequential type) -> nn.temporal.TemporalTransformer
tightTransf  transformer over sentence and frames of a pair, a linear layer to the score (tight type)
The transformers start as copies of CLIP's first text layers where CLIP is pretrained and widths agree.
Departures: captions of the same video are not negatives of each other's video (losses.contrastive).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from tvr_lightning.encoders.base import DualEncoder, frame_features
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.released import CLIP_NAMES, ReleasedNames, block_names, temporal_names
from tvr_lightning.methods.views import View, over_frames
from tvr_lightning.nn.similarity import LogitScale, cosine_matrix, mean_frame_cosines
from tvr_lightning.nn.temporal import (
    FramePositions,
    TemporalLSTM,
    TemporalTransformer,
    copy_clip_layers,
    quick_gelu,
    transformer_layers,
)
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import SentenceFeatures, TextInput, VideoFeatures, VideoInput

Similarity = Literal["meanP", "seqLSTM", "seqTransf", "tightTransf"]


class CLIP4Clip(RetrievalModule[SentenceFeatures, VideoFeatures]):
    """CLIP4Clip.

    Args:
        encoder: CLIP.
        similarity: the calculator.
        num_layers: layers of seqTransf and tightTransf.
        max_frames: positions that seqTransf and tightTransf have.
        logit_scale: where the learned scale starts; the encoder's own when null.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.
    """

    tested_with: ClassVar = {"num_layers": 2}

    def __init__(
        self,
        encoder: DualEncoder,
        similarity: Similarity = "seqTransf",
        num_layers: int = 4,
        max_frames: int = 77,
        logit_scale: float | None = None,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        self.encoder = encoder
        self.similarity = similarity
        self.temporal: nn.Module | None = None
        width = encoder.embed_dim
        if similarity == "tightTransf":
            self.cross = CrossTransformer(width, max(1, width // 64), num_layers, max_frames)
            if encoder.pretrained:
                copy_clip_layers(self.cross.layers, self.cross.positions, encoder.text_blocks, encoder.text_positions)
        else:
            self.logit_scale = LogitScale(encoder.logit_scale_init if logit_scale is None else logit_scale)
        if similarity == "seqLSTM":
            self.temporal = TemporalLSTM(width)
        elif similarity == "seqTransf":
            self.temporal = TemporalTransformer.beside(encoder, num_layers, max_frames)

    def encode_video(self, video: VideoInput) -> VideoFeatures:
        """Frame features, after the temporal layers where there are any."""
        frames = frame_features(self.encoder, video)
        if self.temporal is not None:
            frames = self.temporal(frames, video.frame_mask)
        return VideoFeatures(frames, video.frame_mask)

    def encode_text(self, text: TextInput) -> SentenceFeatures:
        """Sentence features."""
        return SentenceFeatures(self.encoder.encode_text(text.tokens, text.token_mask)[0])

    def score(self, texts: SentenceFeatures, videos: VideoFeatures) -> Tensor:
        """Scaled cosine of sentence and mean frame, or the cross-transformer's score; (T, V)."""
        if self.similarity == "tightTransf":
            return self.cross(texts.sentence, videos.frames, videos.frame_mask)
        cosines = mean_frame_cosines(texts.sentence, videos.frames, videos.frame_mask)
        return self.logit_scale(cosines)

    def compute_losses(
        self, texts: SentenceFeatures, videos: VideoFeatures, video_index: Tensor
    ) -> Mapping[str, Tensor]:
        """Symmetric cross-entropy."""
        return {"contrastive": symmetric_cross_entropy(self.score(texts, videos), video_index)}

    def released_names(self) -> ReleasedNames:
        """Of the files that its training saved; each calculator has files of its own."""
        if self.similarity == "tightTransf":
            own = {
                "cross.positions": "cross.embeddings.position_embeddings",
                **{"cross.norm": "cross.pooler.ln_pool", "cross.pool": "cross.pooler.dense"},
                "cross.to_score": "similarity_dense",
                **block_names("cross.layers", "cross.transformer.resblocks", len(self.cross.layers)),
            }
            return ReleasedNames(
                {"encoder.clip": "clip", **own},
                unused={
                    "clip.logit_scale": "the tight type's scores are not scaled",
                    "similarity_dense.bias": "one number for all pairs: no ranking sees it",
                },
                absent={"cross.types.weight": "the released code does not tell a sentence's place from a frame's"},
            )
        if isinstance(self.temporal, TemporalTransformer):
            return ReleasedNames({**CLIP_NAMES, **temporal_names(self.temporal)})
        if self.similarity == "seqLSTM":
            unused = {"frame_position_embeddings": "an LSTM looks at no positions"}
            return ReleasedNames({**CLIP_NAMES, "temporal.lstm": "lstm_visual"}, unused=unused)
        return ReleasedNames(CLIP_NAMES)

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """The caption's cosine with each frame; the tight type has no such number."""
        if self.similarity == "tightTransf":
            return ()
        sentence, frames = self.encode_text(text).sentence, self.encode_video(video).frames
        return (over_frames(video, cosine_matrix(sentence, frames[0])[0]),)


class CrossTransformer(nn.Module):
    """Sentence and frames of each pair through one transformer; the sentence's place gives the score.

    Shapes: sentences (T, D); frames (V, n, D); frame_mask (V, n) bool; returns (T, V), not scaled (as released).
    Raises ValueError for more frames than positions.
    """

    def __init__(self, width: int, heads: int, num_layers: int, max_frames: int) -> None:
        super().__init__()
        self.positions = FramePositions(max_frames, width, std=0.01, before=1)  # the sentence's
        self.types = nn.Embedding(2, width)
        nn.init.normal_(self.types.weight, std=0.01)
        self.layers = transformer_layers(width, heads, num_layers)
        self.norm = nn.LayerNorm(width)
        self.pool = nn.Linear(width, width)
        self.to_score = nn.Linear(width, 1, bias=False)  # released: with a bias, which no softmax over scores can see

    def forward(self, sentences: Tensor, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Scores all pairs."""
        num_texts, (num_videos, count) = len(sentences), frames.shape[:2]
        kinds = torch.cat([self.types.weight[:1], self.types.weight[1:].expand(count, -1)])
        extra = self.positions.of(count) + kinds  # (n + 1, D)
        text = (sentences + extra[0])[:, None, None].expand(-1, num_videos, 1, -1)  # (T, V, 1, D)
        video = (frames + extra[1:])[None].expand(num_texts, -1, -1, -1)  # (T, V, n, D)
        x = torch.cat([text, video], dim=2).flatten(0, 1)  # (T * V, n + 1, D)
        padded = torch.cat([frame_mask.new_zeros(num_videos, 1), ~frame_mask], dim=1)  # (V, n + 1)
        padded = padded.repeat(num_texts, 1)  # (T * V, n + 1)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padded)
        pooled = quick_gelu(self.pool(self.norm(x[:, 0])))
        return self.to_score(pooled).view(num_texts, num_videos)
