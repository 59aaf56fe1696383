"""TC-MGC: text-conditioned multi-grained contrast (Jing, Yang, Chu 2025).

frames        temporal encoder            -> nn.temporal.TemporalTransformer            1
conditioning  language-video attention    -> nn.tc_mgc.language_video_attention         2 3 4 5 6 7 8 9 10 11
contrasts     four cosines                -> TCMGC, nn.tc_mgc.language_video_attention  12 13 14 15
reorganising  the frame-word matrix       -> TCMGC                                      16 17
one score     of a vector (ISA)           -> nn.tc_mgc.similarity_reorganisation        18 19 20 21
of each       of a matrix (Bi-ISA)        -> nn.tc_mgc.similarity_reorganisation        22 23 24 25 26 27 28 29 30
one of all    linear softmax aggregation  -> nn.tc_mgc.similarity_reorganisation        31 32
loss          symmetric InfoNCE, SDR      -> losses.contrastive, TCMGC                  33 34 35 36 37
What trains (without dropout) and scores is `LanguageVideoAttention.cosines`: no pair has a vector of width D. What
reads like the paper is `LanguageVideoAttention.attend`. tests/nn/tc_mgc/test_language_video_attention.py ties them.
Departures, as the released code has them: cosines where the paper says dot product; Eq. 35's sum of the two directions
is their mean; Eq. 31, Eq. 32 and Eq. 36 take scores times the logit scale, at most 100; lambda is 100 inside both
softmaxes of ISA, which the equations do not print. The text calls Table 13's lambda the factor of InfoNCE, the code
uses it in ISA: `softmax_scale` is the latter, `logit_scale` and `max_logit_scale` are the former.
Not as the released code: frames and words that do not exist are masked everywhere; its two matrices D x D, which no
equation has, are left out; 3 temporal layers as the paper says, where it has 4; no dropout.
Where the paper is silent: attention, ISA and LSA start as the identity; one head; contrasts without conditioning
(Table 4) are X-CLIP's, the mean of unit frames and, for frames, those of CLIP before the temporal encoder; captions of
one video in a batch are not negatives of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.device import Graphs, graphed
from tvr_lightning.encoders.base import DualEncoder, frame_features
from tvr_lightning.errors import ConfigError, nearest
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import Pairs, similarity_decorrelation, symmetric_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.blocks import in_blocks, without_common_padding
from tvr_lightning.methods.views import Clouds, Maps, Parts, View, Weights, frames_of, words_of
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.nn.similarity import MAX_LOGIT_SCALE, LogitScale
from tvr_lightning.nn.tc_mgc.language_video_attention import LanguageVideoAttention, VideoBasis
from tvr_lightning.nn.tc_mgc.similarity_reorganisation import (
    BidirectionalAggregation,
    InteractiveAggregation,
    Reorganisation,
    ScoreAggregation,
    reorganise,
    reorganised_size,
)
from tvr_lightning.nn.temporal import TemporalTransformer
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import StillFeatures, TextFeatures, TextInput, VideoFeatures, VideoInput

Contrast = Literal["video_sentence", "video_word", "sentence_frame", "frame_word"]
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)


class TCMGC(RetrievalModule[TextFeatures, VideoFeatures]):
    """TC-MGC.

    Args:
        encoder: CLIP; its context_length is m.
        contrasts: which of the four take part, in any combination (Table 9).
        conditioned: which of them look at the video through the text; the others compare with the mean-pooled video
            and with the encoder's frames, as X-CLIP does (Table 4).
        keep_rate: r, the share of similarities that reorganisation keeps.
        video_word: what happens to the other words' similarities with the video (Table 5).
        sentence_frame: ... to the other frames' with the sentence (Table 6).
        frame_word_words: ... along the words of the frame-word matrix (Tables 7, 8).
        frame_word_frames: ... along its frames.
        weighting: how the similarities of one contrast are weighted: `isa`, or `softmax` without interaction.
        aggregation: how the contrasts' scores become one.
        temporal: `none` leaves the temporal encoder out (Table 10).
        num_layers: layers of the temporal encoder.
        max_frames: n at most.
        num_frames: n, of which reorganisation keeps a share where frames are not conditioned; `data.num_frames`.
        heads: of the language-video attention (Table 12).
        projections: see `LanguageVideoAttention`.
        residual: see `LanguageVideoAttention` (Table 11).
        dropout: see `LanguageVideoAttention`; scores of training steps then come from the literal form.
        softmax_scale: lambda of ISA (Table 13).
        sdr_weight: alpha, weight of similarity decorrelation; 0 leaves it out (Fig. 7, Fig. A.1).
        sdr_pairs: whose scores it decorrelates (Table A.1).
        logit_scale: where the learned scale starts; the encoder's own when null.
        max_logit_scale: where it ends.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: no contrast, an unknown or a repeated one.
    """

    tested_with: ClassVar = {"keep_rate": 0.5, "num_layers": 2}

    def __init__(
        self,
        encoder: DualEncoder,
        contrasts: Sequence[Contrast] = CONTRASTS,
        conditioned: Sequence[Contrast] = CONTRASTS,
        keep_rate: float = 0.1,
        video_word: Reorganisation = "removal",
        sentence_frame: Reorganisation = "fusion",
        frame_word_words: Reorganisation = "removal",
        frame_word_frames: Reorganisation = "removal",
        weighting: Literal["isa", "softmax"] = "isa",
        aggregation: Literal["lsa", "softmax", "mean"] = "lsa",
        temporal: Literal["transformer", "none"] = "transformer",
        num_layers: int = 3,
        max_frames: int = 77,
        num_frames: int = 12,
        heads: int = 1,
        projections: bool = True,
        residual: bool = True,
        dropout: float = 0.0,
        softmax_scale: float = 100.0,
        sdr_weight: float = 0.5,
        sdr_pairs: Pairs = "positive",
        logit_scale: float | None = None,
        max_logit_scale: float = MAX_LOGIT_SCALE,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        _check_contrasts(contrasts, "contrasts")
        _check_contrasts(conditioned, "conditioned", may_be_empty=True)
        if not 0 < keep_rate <= 1:
            raise ConfigError(
                f"model.keep_rate is {keep_rate}; it is a share of the words and must be above 0 and at most 1"
            )
        self.encoder = encoder
        self.contrasts = tuple(c for c in CONTRASTS if c in contrasts)
        self.conditioned = frozenset(conditioned) & frozenset(contrasts)
        self.keep_rate, self.sdr_weight, self.sdr_pairs = keep_rate, sdr_weight, sdr_pairs
        self.num_frames, self.max_words = num_frames, encoder.context_length
        self.kinds: dict[str, Reorganisation] = {
            "video_word": video_word, "sentence_frame": sentence_frame,
            "words": frame_word_words, "frames": frame_word_frames,
        }  # fmt: skip
        width = encoder.embed_dim
        self.logit_scale = LogitScale(encoder.logit_scale_init if logit_scale is None else logit_scale, max_logit_scale)
        self.temporal = None
        if temporal == "transformer":
            self.temporal = TemporalTransformer.beside(encoder, num_layers, max_frames)
        if self.conditioned:
            try:
                self.attention = LanguageVideoAttention(width, heads, projections, residual, dropout)
            except ValueError as error:
                raise ConfigError(f"model.heads: {error}") from None
        linear = weighting == "isa"
        self.weigh = nn.ModuleDict()
        for contrast in self.contrasts[self.contrasts[0] == "video_sentence" :]:
            frames = self._length(contrast)
            if contrast == "frame_word":
                rows = reorganised_size(frames, keep_rate, frame_word_frames)
                columns = reorganised_size(self.max_words, keep_rate, frame_word_words)
                self.weigh[contrast] = BidirectionalAggregation(rows, columns, softmax_scale, linear)
            else:
                length = frames if contrast == "sentence_frame" else self.max_words
                size = reorganised_size(length, keep_rate, self.kinds[contrast])
                self.weigh[contrast] = InteractiveAggregation(size, softmax_scale, linear)
        self.aggregate = ScoreAggregation(len(self.contrasts), aggregation)
        self._graphs = Graphs()

    def encode_video(self, video: VideoInput) -> VideoFeatures:
        """Frame features after the temporal encoder, and before it where a contrast is not conditioned."""
        frames = still = frame_features(self.encoder, video)
        if self.temporal is not None:
            frames = self.temporal(still, video.frame_mask)
        if len(self.conditioned) == len(self.contrasts):
            return VideoFeatures(frames, video.frame_mask)
        return StillFeatures(frames, video.frame_mask, still)

    def encode_text(self, text: TextInput) -> TextFeatures:
        """Sentence and word features."""
        return TextFeatures(*self.encoder.encode_text(text.tokens, text.token_mask), text.token_mask)

    def score(self, texts: TextFeatures, videos: VideoFeatures) -> Tensor:
        """(T, V) scores of all pairs; without gradients in blocks of texts, so that memory stays small."""
        texts = without_common_padding(texts)
        if torch.is_grad_enabled():
            return self.aggregate(self.contrast_scores(texts, videos))
        basis = self.attention.basis(videos.frames, videos.frame_mask) if self.conditioned else None
        return in_blocks(
            lambda part: self.aggregate(self.contrast_scores(part, videos, basis)),
            texts,
            len(videos) * (texts.words.shape[1] + 1) ** 2,
        )

    def compute_losses(self, texts: TextFeatures, videos: VideoFeatures, video_index: Tensor) -> Mapping[str, Tensor]:
        """Symmetric InfoNCE over the batch, and decorrelation of the matching pairs' scores."""
        scores, total = self.learned_scores(texts, videos)
        losses = {"contrast": symmetric_cross_entropy(total, video_index)}
        if self.sdr_weight and len(self.contrasts) > 1:
            spread = similarity_decorrelation(scores, self.sdr_pairs, video_index)
            losses["decorrelation"] = self.sdr_weight * spread  # Eq. 37
        return losses

    def learned_scores(self, texts: TextFeatures, videos: VideoFeatures) -> tuple[Tensor, Tensor]:
        """`contrast_scores` (T, V, C) of a training batch and what they are aggregated to, (T, V)."""

        def scored(*x: Tensor) -> tuple[Tensor, ...]:
            scores = self.contrast_scores(TextFeatures(*x[:3]), type(videos)(*x[3:]))
            return scores, self.aggregate(scores)

        features = (*without_common_padding(texts).tensors().values(), *videos.tensors().values())
        heads = [self.weigh, self.aggregate, self.logit_scale, *([self.attention] if self.conditioned else [])]
        scores, total = graphed(self._graphs, scored, features, heads)
        return scores, total

    def contrast_scores(self, texts: TextFeatures, videos: VideoFeatures, basis: VideoBasis | None = None) -> Tensor:
        """The scaled scores of each contrast that enter the aggregation, (T, V, number of contrasts).

        Args:
            texts: T captions.
            videos: V videos.
            basis: of these videos, when several blocks of texts share it.
        """
        conditioned, plain = self._conditioned(texts, videos, basis), self._plain(texts, videos)
        scores = []
        for contrast in self.contrasts:
            similarities, mask = (conditioned if contrast in self.conditioned else plain)[contrast]
            scores.append(self._weigh(contrast, similarities, mask))
        return self.logit_scale(torch.stack(scores, dim=-1)).transpose(0, 1)

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """Attention over frames (Fig. 11), the contrasts' scores (12), LSA's weights (13), words and frames (10)."""
        texts, videos = self.encode_text(text), self.encode_video(video)
        words, frames = words_of(text), frames_of(video)
        rows = [place for word in words for place in word.tokens]
        views: list[View] = []
        if self.conditioned:
            weights = self.attention_weights(texts, videos)[0, 0]
            weights = weights[[0, *(row + 1 for row in rows)]][:, video.frame_mask[0]]
            panel = Weights("language-video attention", ("sentence", *words), frames, weights, "attention")
            views.append(Maps("attention", (panel,)))
        scores = self.contrast_scores(texts, videos)[0, 0]
        names = tuple(name.replace("_", "-") for name in self.contrasts)
        views.append(Parts("contrasts", "scaled score", names, {"score": scores}))
        if len(names) > 1:
            kind = {"lsa": "linear softmax"}.get(self.aggregate.kind, self.aggregate.kind)
            series = {"softmax": scores.softmax(-1), kind: self.aggregate.weights(scores)}
            views.append(Parts("aggregation", "weight in the score", names, series))
        vectors = {"words": texts.words[0, rows], "frames": videos.frames[0, video.frame_mask[0]]}
        return (*views, Clouds("features", vectors))

    def attention_weights(self, texts: TextFeatures, videos: VideoFeatures) -> Tensor:
        """What sentence and words look at, mean over heads: (T, V, m + 1, n), row 0 is the sentence."""
        queries = torch.cat([texts.sentence[:, None], texts.words], dim=1)
        weights = self.attention.weights(queries.flatten(0, 1), videos.frames, videos.frame_mask).mean(1)  # (V, n, T q)
        by_text: Tensor = weights.unflatten(2, queries.shape[:2]).permute(2, 0, 3, 1)
        return by_text

    def _conditioned(
        self, texts: TextFeatures, videos: VideoFeatures, basis: VideoBasis | None
    ) -> dict[Contrast, tuple[Tensor, Tensor]]:
        """Similarities (V, T, ...) of the conditioned contrasts, each with its mask (T, ...)."""
        if not self.conditioned:
            return {}
        coarse = not self.conditioned.isdisjoint({"video_sentence", "video_word"})
        fine = not self.conditioned.isdisjoint({"sentence_frame", "frame_word"})
        sentence, words = texts.sentence[:, None], texts.word_mask
        literal = self.training and self.attention.dropout.p > 0
        if coarse and fine and not literal:
            basis = basis or self.attention.basis(videos.frames, videos.frame_mask)
            cosines = self.attention.text_cosines(texts.sentence, texts.words, basis)
            found = (cosines.sentence_sentence[..., None], *cosines[1:])
        else:
            queries = torch.cat([*([sentence] if coarse else []), *([texts.words] if fine else [])], dim=1)
            others = torch.cat([sentence, texts.words], dim=1)
            if literal:
                all_cosines = self.attention.literal_cosines(queries, videos.frames, videos.frame_mask, others)
            else:
                basis = basis or self.attention.basis(videos.frames, videos.frame_mask)
                all_cosines = self.attention.cosines(queries, basis, others)
            by_sentence, by_word = all_cosines[:, :, 0], all_cosines[:, :, int(coarse) :]
            found = by_sentence[..., :1], by_sentence[..., 1:], by_word[..., 0], by_word[..., 1:]
        return {
            "video_sentence": (found[0], words[:, :1]),  # Eq. 12
            "video_word": (found[1], words),  # Eq. 13
            "sentence_frame": (found[2], words),  # Eq. 14
            "frame_word": (found[3], words[:, :, None] & words[:, None, :]),  # Eq. 15
        }

    def _plain(self, texts: TextFeatures, videos: VideoFeatures) -> dict[Contrast, tuple[Tensor, Tensor]]:
        """The same without conditioning: frames are the video's own, masks (V, 1, n) or (V, T, n, m)."""
        if not isinstance(videos, StillFeatures):
            return {}
        count = videos.frames.shape[1]
        if count > self.num_frames:
            raise ValueError(f"{count} frames, but the model was built for {self.num_frames}: data.num_frames")
        video = F.normalize(masked_mean(F.normalize(videos.frames, dim=-1), videos.frame_mask), dim=-1)
        frames = F.normalize(videos.still, dim=-1)
        sentence, words = F.normalize(texts.sentence, dim=-1), F.normalize(texts.words, dim=-1)
        exists, spoken = videos.frame_mask[:, None], texts.word_mask
        return {
            "video_sentence": ((video @ sentence.T)[..., None], spoken[:, :1]),
            "video_word": (torch.einsum("vd,tmd->vtm", video, words), spoken),
            "sentence_frame": (torch.einsum("vnd,td->vtn", frames, sentence), exists),
            "frame_word": (
                torch.einsum("vnd,tmd->vtnm", frames, words),
                exists[..., None] & spoken[None, :, None, :],
            ),
        }

    def _length(self, contrast: Contrast) -> int:
        """How many frames a contrast compares: seen through the text a video has one for each word."""
        return self.max_words if contrast in self.conditioned else self.num_frames

    def _weigh(self, contrast: Contrast, similarities: Tensor, mask: Tensor) -> Tensor:
        """(V, T, ...) similarities of one contrast to one score (V, T)."""
        if contrast == "video_sentence":
            return similarities[..., 0]
        frames, rate = self._length(contrast), self.keep_rate
        if contrast == "frame_word":
            s, mask = reorganise(similarities, mask, self.max_words, rate, self.kinds["words"])  # Eq. 16
            s, mask = reorganise(s.mT, mask.mT, frames, rate, self.kinds["frames"])  # Eq. 17
            return self.weigh[contrast](s.mT, mask.mT)
        length = frames if contrast == "sentence_frame" else self.max_words
        return self.weigh[contrast](*reorganise(similarities, mask, length, rate, self.kinds[contrast]))


def _check_contrasts(contrasts: Sequence[Contrast], name: str, may_be_empty: bool = False) -> None:
    for contrast in contrasts:
        if contrast not in CONTRASTS:
            raise ConfigError(f"model.{name}: no contrast '{contrast}'; {nearest(contrast, CONTRASTS)}")
    if len(set(contrasts)) != len(contrasts) or not (contrasts or may_be_empty):
        raise ConfigError(f"model.{name} is {list(contrasts)}: name each contrast once, out of {', '.join(CONTRASTS)}")
