"""DRL (Wang et al. 2022): how words and frames interact, and how their channels are kept apart.

interaction   dp: the sentence with the mean frame           -> nn.similarity.mean_frame_cosines
              ti, wti: each word with its best frame and the reverse, averaged or weighted
                                                             -> nn.token_interaction.TokenInteraction
channels      CDCR, a loss on the correlation of channels    -> losses.decorrelation
frames        CLIP4Clip's seqTransf                          -> nn.temporal.TemporalTransformer
CDCR's weights are the released scripts', whose second term is 0; the paper's text has 0.06.
Departures: padded words and frames are left out, where the released code gives them a similarity of 0, which a maximum
below 0 loses to (`padding: attended`); in CDCR they are left out always. `cdcr: pooled` correlates sentences with mean
frames, whatever the interaction, as the released code does for dp; for ti and wti it draws a word and a frame. Its
interaction through a cross-transformer (xti) is CLIP4Clip's tightTransf. Captions of one video in a batch are not
negatives of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.encoders.base import DualEncoder, frame_features
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.losses.decorrelation import channel_correlation, channel_decorrelation
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.blocks import in_blocks, without_common_padding
from tvr_lightning.methods.released import CLIP_NAMES, ReleasedNames, temporal_names
from tvr_lightning.methods.views import Label, Maps, View, Weights, frames_of, over_frames, words_of
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.nn.similarity import LogitScale, cosine_matrix, mean_frame_cosines
from tvr_lightning.nn.temporal import TemporalTransformer
from tvr_lightning.nn.token_interaction import TokenInteraction, Tokens
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import Padding, TextFeatures, TextInput, VideoFeatures, VideoInput


class DRL(RetrievalModule[TextFeatures, VideoFeatures]):
    """DRL.

    Args:
        encoder: CLIP; its context_length is m.
        interaction: `dp`, sentence and mean frame; `ti`, words and frames; `wti`, with learned weights.
        weight_layers: linear layers of the networks that weigh words and frames.
        cdcr: which pairs the loss on channels looks at: `matched`, each word with its best frame and each frame with
            its best word; `pooled`, sentences with mean frames; null for none.
        cdcr_weight: lambda, of that loss.
        cdcr_diagonal: weight of the channels' own correlations in it.
        cdcr_off_diagonal: weight of all others.
        padding: `masked` leaves out words and frames that do not exist; `attended` gives them a similarity of 0, where
            captions have fewer than m words and videos fewer than `num_frames` frames, as the released code does.
        num_frames: of a video under `padding: attended`; `data.num_frames`.
        num_layers: layers of the temporal encoder.
        max_frames: positions that it has.
        logit_scale: where the learned scale starts; the encoder's own when null.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: less than one layer for the weights, a negative weight, or a scale that is not positive.
    """

    tested_with: ClassVar = {"num_layers": 2}
    # random weights make all cosines alike: at a lower scale some pairs are pushed below 0, where padding wins every
    # maximum and nothing pulls them up again
    tested_besides: ClassVar = {"padding=attended": {"logit_scale": 50.0}}

    def __init__(
        self,
        encoder: DualEncoder,
        interaction: Literal["dp", "ti", "wti"] = "wti",
        weight_layers: int = 2,
        cdcr: Literal["matched", "pooled", None] = "matched",
        cdcr_weight: float = 0.001,
        cdcr_diagonal: float = 0.14,
        cdcr_off_diagonal: float = 0.0,
        padding: Padding = "masked",
        num_frames: int = 12,
        num_layers: int = 4,
        max_frames: int = 77,
        logit_scale: float | None = None,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        weights = {"cdcr_weight": cdcr_weight, "cdcr_diagonal": cdcr_diagonal, "cdcr_off_diagonal": cdcr_off_diagonal}
        for name, value in weights.items():
            if not value >= 0:
                raise ConfigError(f"model.{name} is {value}; it weighs a loss: 0 or more")
        self.encoder, self.padding, self.num_frames = encoder, padding, num_frames
        self.interaction, self.cdcr, self.cdcr_weight = interaction, cdcr, cdcr_weight
        self.cdcr_terms = cdcr_diagonal, cdcr_off_diagonal
        width = encoder.embed_dim
        self.temporal = TemporalTransformer.beside(encoder, num_layers, max_frames)
        try:
            self.interact = TokenInteraction(width, interaction == "wti", weight_layers)
        except ValueError as error:
            raise ConfigError(f"model.weight_layers: {error}") from None
        self.logit_scale = LogitScale(encoder.logit_scale_init if logit_scale is None else logit_scale)

    def encode_video(self, video: VideoInput) -> VideoFeatures:
        """Frame features after the temporal layers."""
        return VideoFeatures(self.temporal(frame_features(self.encoder, video), video.frame_mask), video.frame_mask)

    def encode_text(self, text: TextInput) -> TextFeatures:
        """Sentence and word features."""
        return TextFeatures(*self.encoder.encode_text(text.tokens, text.token_mask), text.token_mask)

    def score(self, texts: TextFeatures, videos: VideoFeatures) -> Tensor:
        """(T, V) scaled scores; those of words and frames without gradients in blocks of texts."""
        if self.interaction == "dp":
            return self.logit_scale(mean_frame_cosines(texts.sentence, videos.frames, videos.frame_mask))
        texts = without_common_padding(texts)
        words, frames = self._words(texts), self._frames(videos)
        if torch.is_grad_enabled():
            return self.logit_scale(self.interact.compare(words, frames))
        numbers = len(videos) * (texts.words.shape[1] + 1) * (videos.frames.shape[1] + 1)
        return in_blocks(lambda part: self.logit_scale(self.interact.compare(part, frames)), words, numbers)

    def compute_losses(self, texts: TextFeatures, videos: VideoFeatures, video_index: Tensor) -> Mapping[str, Tensor]:
        """Symmetric cross-entropy, and channel decorrelation of the matching pairs."""
        losses = {"contrastive": symmetric_cross_entropy(self.score(texts, videos), video_index)}
        if self.cdcr is not None and self.cdcr_weight:
            correlation = self.channel_correlation(texts, videos)
            losses["cdcr"] = self.cdcr_weight * channel_decorrelation(correlation, *self.cdcr_terms)
        return losses

    def channel_correlation(self, texts: TextFeatures, videos: VideoFeatures) -> Tensor:
        """C (D, D) of a batch whose rows are matching pairs; see `cdcr`."""
        words, frames = F.normalize(texts.words, dim=-1), F.normalize(videos.frames, dim=-1)
        if self.cdcr == "pooled":
            sentence = F.normalize(texts.sentence, dim=-1)
            video = F.normalize(masked_mean(frames, videos.frame_mask), dim=-1)
            return channel_correlation(sentence, video, videos.frame_mask.any(1))
        similarities = (words @ frames.mT).detach()  # (B, m, n)
        best_frames = _best(similarities, frames, videos.frame_mask)  # (B, m, D)
        best_words = _best(similarities.mT, words, texts.word_mask)  # (B, n, D)
        of_words = of_frames = None
        if self.interaction == "wti":  # released: rows count what they count in the score
            of_words, of_frames = (x.weights / len(texts) for x in (self._words(texts), self._frames(videos)))
        by_word = channel_correlation(words, best_frames, texts.word_mask, of_words)
        # released: its own side first here too, so that off the diagonal the mean is of C and a transpose
        by_frame = channel_correlation(frames, best_words, videos.frame_mask, of_frames)
        return (by_word + by_frame) / 2

    def released_names(self) -> ReleasedNames:
        """Of the files that its training saved; a network of one layer has no number there, the last layer a bias."""
        names, unused = {**CLIP_NAMES, **temporal_names(self.temporal)}, {}
        for own, there in (("of_words", "text_weight_fc"), ("of_frames", "video_weight_fc")):
            network = getattr(self.interact, own)
            if network is not None:
                last = len(network) - 1
                names[f"interact.{own}" if last else f"interact.{own}.0"] = there
                unused[f"{there}.{last}.bias" if last else f"{there}.bias"] = "a softmax does not see it"
        return ReleasedNames(names, unused=unused)

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """The caption's tokens against the frames, and what each of them counts; of dp the sentence alone."""
        texts, videos = self.encode_text(text), self.encode_video(video)
        if self.interaction == "dp":
            return (over_frames(video, cosine_matrix(texts.sentence, videos.frames[0])[0]),)
        tokens: tuple[Label, ...] = ("start", *words_of(text), "end")
        frames = frames_of(video)
        words, seen = texts.words[0, text.token_mask[0]], videos.frames[0, video.frame_mask[0]]
        panel = Weights("caption and frames", tokens, frames, cosine_matrix(words, seen), "cosine")
        if self.interaction == "ti":
            return (Maps("similarity", (panel,)),)
        of_words = self._words(texts).weights[0, text.token_mask[0]]
        of_frames = self._frames(videos).weights[0, video.frame_mask[0]]
        weights = (
            Weights("words", ("weight",), tokens, of_words[None]),
            Weights("frames", ("weight",), frames, of_frames[None]),
        )
        return Maps("similarity", (panel,)), Maps("weights", weights)

    def _words(self, texts: TextFeatures) -> Tokens:
        padded = texts.word_mask.sum(1) < (self.encoder.context_length if self.padding == "attended" else 0)
        return self.interact.of_texts(texts.words, texts.word_mask, padded)

    def _frames(self, videos: VideoFeatures) -> Tokens:
        padded = videos.frame_mask.sum(1) < (self.num_frames if self.padding == "attended" else 0)
        return self.interact.of_videos(videos.frames, videos.frame_mask, padded)


def _best(similarities: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """For each row the most similar of the others: (B, a, b), (B, b, D), (B, b) bool -> (B, a, D)."""
    place = similarities.masked_fill(~mask[:, None], torch.finfo(similarities.dtype).min).argmax(-1)  # (B, a)
    return others.gather(1, place[..., None].expand(-1, -1, others.shape[-1]))
