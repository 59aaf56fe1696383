"""X-CLIP (Ma et al. 2022): contrasts of every grain of a text with every grain of a video.

grains        sentence, words; video, frames                 -> XCLIP.encode_text, XCLIP.encode_video
video         mean of unit frames after temporal layers      -> nn.temporal.TemporalTransformer
contrasts     video-sentence, video-word, sentence-frame, frame-word, their mean -> XCLIP.contrast_scores
one score     of a vector or matrix of similarities, weighted by what a matrix makes of their softmax
                                                             -> nn.tc_mgc.similarity_reorganisation
Sentence and words go through a matrix each where they meet the video and the frames; it starts as the identity, as do
those of the weights. Frames are CLIP's own, before the temporal layers; the video is what these give.
Departures: padding is left out (`padding: attended` lets it take part, as the released code does: its captions are
padded with token 0, its videos with empty pictures); captions of one video in a batch are not negatives of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.encoders.base import DualEncoder, check_padding, filled_frames, frame_features
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.blocks import in_blocks, without_common_padding
from tvr_lightning.methods.released import CLIP_NAMES, ReleasedNames, temporal_names
from tvr_lightning.methods.views import Maps, Parts, View, Weights, frames_of, words_of
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.nn.similarity import LogitScale
from tvr_lightning.nn.tc_mgc.similarity_reorganisation import (
    BidirectionalAggregation,
    InteractiveAggregation,
    identity_layer,
)
from tvr_lightning.nn.temporal import TemporalTransformer
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import Padding, StillFeatures, TextFeatures, TextInput, VideoInput

CONTRASTS = ("video-sentence", "video-word", "sentence-frame", "frame-word")


@dataclass(frozen=True)
class FramesAndVideo(StillFeatures):
    """Frames with and without the temporal layers, which may differ in number.

    Attributes:
        still_mask: (V, n) bool, which of `still` take part.
    """

    still_mask: Tensor


class XCLIP(RetrievalModule[TextFeatures, FramesAndVideo]):
    """X-CLIP.

    Args:
        encoder: CLIP; its context_length is m.
        padding: `masked` leaves out words and frames that do not exist; `attended` fills captions up to m words and
            videos up to `num_frames` frames and lets all of them take part, as the released code does.
        num_frames: n, for which there are weights; `data.num_frames`.
        softmax_scale: 1 / tau of the weights' softmax.
        num_layers: layers of the temporal encoder.
        max_frames: positions that it has.
        logit_scale: where the learned scale starts; the encoder's own when null.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: a scale that is not positive, or an encoder that has no features of padding where it is attended.
    """

    tested_with: ClassVar = {"num_layers": 2}

    def __init__(
        self,
        encoder: DualEncoder,
        padding: Padding = "masked",
        num_frames: int = 12,
        softmax_scale: float = 100.0,
        num_layers: int = 4,
        max_frames: int = 77,
        logit_scale: float | None = None,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        if not softmax_scale > 0:
            raise ConfigError(f"model.softmax_scale is {softmax_scale}; it multiplies similarities: above 0")
        check_padding(encoder, padding)
        self.encoder, self.padding, self.num_frames = encoder, padding, num_frames
        width, words = encoder.embed_dim, encoder.context_length
        self.temporal = TemporalTransformer.beside(encoder, num_layers, max_frames)
        self.sentence_map, self.word_map = identity_layer(width), identity_layer(width)
        self.over_words = InteractiveAggregation(words, softmax_scale, again=False)
        self.over_frames = InteractiveAggregation(num_frames, softmax_scale, again=False)
        self.over_both = BidirectionalAggregation(num_frames, words, softmax_scale, again=False)
        self.logit_scale = LogitScale(encoder.logit_scale_init if logit_scale is None else logit_scale)

    def encode_video(self, video: VideoInput) -> FramesAndVideo:
        """Frame features after the temporal layers, and before them."""
        still, mask = frame_features(self.encoder, video), video.frame_mask
        frames = self.temporal(still, mask)
        if self.padding == "masked":
            return FramesAndVideo(frames, mask, still, mask)
        still = filled_frames(self.encoder, still, mask, self.num_frames)
        return FramesAndVideo(frames, mask, still, mask.new_ones(still.shape[:2]))

    def encode_text(self, text: TextInput) -> TextFeatures:
        """Sentence and word features."""
        if self.padding == "masked":
            return TextFeatures(*self.encoder.encode_text(text.tokens, text.token_mask), text.token_mask)
        sentence, words = self.encoder.encode_padded_text(text.tokens, text.token_mask)
        return TextFeatures(sentence, words, text.token_mask.new_ones(words.shape[:2]))

    def score(self, texts: TextFeatures, videos: FramesAndVideo) -> Tensor:
        """(T, V) scaled means of the four contrasts; without gradients in blocks of texts: memory stays small."""
        texts = without_common_padding(texts)
        if torch.is_grad_enabled():
            return self.logit_scale(self.contrast_scores(texts, videos).mean(-1))
        units = _units(videos)
        numbers = len(videos) * (texts.words.shape[1] + 1) * (videos.still.shape[1] + 1)
        return in_blocks(
            lambda part: self.logit_scale(self.contrast_scores(part, videos, units).mean(-1)), texts, numbers
        )

    def compute_losses(self, texts: TextFeatures, videos: FramesAndVideo, video_index: Tensor) -> Mapping[str, Tensor]:
        """Symmetric cross-entropy."""
        return {"contrastive": symmetric_cross_entropy(self.score(texts, videos), video_index)}

    def contrast_scores(
        self, texts: TextFeatures, videos: FramesAndVideo, units: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The four contrasts' scores of all pairs, in the order of `CONTRASTS`, (T, V, 4).

        Args:
            texts: T captions.
            videos: V videos.
            units: of these videos, when several blocks of texts share them: the unit video (V, D) and frames (V, n, D).
        """
        video, frames = units or _units(videos)
        sentence, words = F.normalize(texts.sentence, dim=-1), F.normalize(texts.words, dim=-1)
        exists, spoken = videos.still_mask[:, None], texts.word_mask  # (V, 1, n), (T, m)
        by_word = torch.einsum("vd,tmd->vtm", video, words)
        by_frame = torch.einsum("vnd,td->vtn", frames, sentence)
        matrix = torch.einsum("vnd,tmd->vtnm", frames, self.word_map(words))
        scores = (
            video @ self.sentence_map(sentence).T,
            self.over_words(by_word, spoken),
            self.over_frames(by_frame, exists),
            self.over_both(matrix, exists[..., None] & spoken[None, :, None, :]),
        )
        return torch.stack(scores, dim=-1).transpose(0, 1)

    def released_names(self) -> ReleasedNames:
        """Of the files that its training saved."""
        own = {
            **{"sentence_map": "global_mat_weight", "word_map": "local_mat_weight"},
            **{"over_words.interact": "word_logit_weight", "over_frames.interact": "frame_logit_weight"},
            **{
                "over_both.over_words.interact": "word_mat_weight",
                "over_both.then_frames.interact": "frame_mat_weight2",
            },
            **{
                "over_both.over_frames.interact": "frame_mat_weight",
                "over_both.then_words.interact": "word_mat_weight2",
            },
        }
        names = {**CLIP_NAMES, **temporal_names(self.temporal)}
        return ReleasedNames(names, {f"{part}.weight": there for part, there in own.items()})

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """The caption's words against the frames, and the contrasts' scores."""
        texts, videos = self.encode_text(text), self.encode_video(video)
        words, frames = words_of(text), frames_of(video)
        rows = [place for word in words for place in word.tokens]
        vectors = torch.cat([texts.sentence, self.word_map(texts.words[0, rows])])
        seen = videos.still[0, : video.frame_mask.shape[1]][video.frame_mask[0]]
        cosines = F.normalize(vectors, dim=-1) @ F.normalize(seen, dim=-1).T
        panel = Weights("caption and frames", ("sentence", *words), frames, cosines, "cosine")
        scores = self.logit_scale(self.contrast_scores(texts, videos))[0, 0]
        return Maps("similarity", (panel,)), Parts("contrasts", "scaled score", CONTRASTS, {"score": scores})


def _units(videos: FramesAndVideo) -> tuple[Tensor, Tensor]:
    """Unit vectors of videos (V, D) and of their frames (V, n, D)."""
    video = masked_mean(F.normalize(videos.frames, dim=-1), videos.frame_mask)
    return F.normalize(video, dim=-1), F.normalize(videos.still, dim=-1)
