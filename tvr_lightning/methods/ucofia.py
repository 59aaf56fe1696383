"""UCoFiA (Wang et al. 2023): sentence with video, sentence with frames and words with patches, aligned and unified.

tokens           of each frame its class token and its K best patches -> nn.patches.selection.TokenSelection
video            mean of unit frames after temporal layers -> nn.temporal.TemporalTransformer
video-sentence   cosine, each side through a matrix -> UCoFiA.part_scores
sentence-frame   cosines with CLIP's frames, to one score -> InteractiveAggregation
patch-word       words through a matrix with the selected tokens, to one score -> BidirectionalAggregation
score            the mean of the three; the learned scale multiplies the first two -> UCoFiA.score
Both aggregations are those of nn.tc_mgc.similarity_reorganisation; matrices start as the identity.
The paper's unification (a bias for each video, from Sinkhorn's rounds over training texts and the gallery) sees more
than a pair: it is post-processing of `part_scores`, which `score` averages (`model.evaluation.sinkhorn`, `sk/...`).
Departures: words, frames and patches that do not exist are left out; `padding: attended` lets them take part in the
last two scores, as released. The released code chooses patches with noise in tests too, here neither mode does; its
training code has a second matrix D x D on the side of the patches, which its test code leaves out, and so does this.
The selection's gradient as in methods.ts2net. Captions of one video in a batch are not negatives of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.encoders.base import DualEncoder, check_padding, frozen_patches, patch_features, with_places
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.blocks import in_blocks, without_common_padding
from tvr_lightning.methods.released import CLIP_NAMES, ReleasedNames, selection_names, temporal_names
from tvr_lightning.methods.views import Parts, View, over_frames
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.nn.patches.selection import TokenSelection
from tvr_lightning.nn.similarity import LogitScale, cosine_matrix
from tvr_lightning.nn.tc_mgc.similarity_reorganisation import (
    BidirectionalAggregation,
    InteractiveAggregation,
    identity_layer,
)
from tvr_lightning.nn.temporal import CLIP_POSITIONS, TemporalTransformer
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import Padding, StillFeatures, TextFeatures, TextInput, VideoInput

if TYPE_CHECKING:
    from tvr_lightning.data.frozen import Frozen

PARTS = ("video-sentence", "sentence-frame", "patch-word")


@dataclass(frozen=True)
class TokenFeatures(StillFeatures):
    """Features of videos with their selected tokens.

    Attributes:
        tokens: (V, n (1 + K), D), those of a frame one after the other, the class token first.
    """

    tokens: Tensor


class UCoFiA(RetrievalModule[TextFeatures, TokenFeatures]):
    """UCoFiA.

    Args:
        encoder: CLIP, with a vision transformer; its context_length is m.
        padding: `masked` leaves out what does not exist; `attended` fills captions up to m words and videos up to
            `max_frames` with empty pictures and lets all of them take part where the released code does.
        selected_patches: K, patches that stay of each frame.
        num_samples: draws of the perturbed top-K in a training step.
        sigma: of its noise.
        softmax_scale: 1 / tau of the weights' softmax.
        num_layers: of the temporal encoder.
        max_frames: n at most, for which there are positions and weights.
        logit_scale: where the learned scale starts; the encoder's own when null.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: an encoder without patches or with too few, or a number that must be above 0 and is not.
    """

    tested_with: ClassVar = {"num_layers": 2}
    parts: ClassVar = PARTS
    in_float32: ClassVar = ("part_scores",)

    def __init__(
        self,
        encoder: DualEncoder,
        padding: Padding = "masked",
        selected_patches: int = 3,
        num_samples: int = 500,
        sigma: float = 0.05,
        softmax_scale: float = 100.0,
        num_layers: int = 4,
        max_frames: int = 12,
        logit_scale: float | None = None,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        if not softmax_scale > 0:
            raise ConfigError(f"model.softmax_scale is {softmax_scale}; it multiplies similarities: above 0")
        check_padding(encoder, padding)
        self.encoder, self.padding, self.max_frames = encoder, padding, max_frames
        encoder.show_patches(at_least=selected_patches)
        width, words = encoder.embed_dim, encoder.context_length
        self.tokens = 1 + selected_patches
        self.select = TokenSelection(width, selected_patches, num_samples, sigma)
        self.temporal = TemporalTransformer.beside(encoder, num_layers, max_frames, at_least=CLIP_POSITIONS)
        self.sentence_map, self.video_map, self.word_map = (identity_layer(width) for _ in range(3))
        self.over_frames = InteractiveAggregation(max_frames, softmax_scale)
        self.over_both = BidirectionalAggregation(max_frames * self.tokens, words, softmax_scale)
        self.logit_scale = LogitScale(encoder.logit_scale_init if logit_scale is None else logit_scale)

    def encode_video(self, video: VideoInput) -> TokenFeatures:
        """Frames after the temporal layers and before them, and the selected tokens."""
        attended = self.padding == "attended"
        if attended:
            video = with_places(video, self.max_frames)
        still, patches, _ = patch_features(self.encoder, video, attended=attended)
        tokens = self.select(still, patches).flatten(1, 2)  # (V, n (1 + K), D)
        return TokenFeatures(self.temporal(still, video.frame_mask), video.frame_mask, still, tokens)

    def encode_text(self, text: TextInput) -> TextFeatures:
        """Sentence and word features."""
        if self.padding == "masked":
            return TextFeatures(*self.encoder.encode_text(text.tokens, text.token_mask), text.token_mask)
        sentence, words = self.encoder.encode_padded_text(text.tokens, text.token_mask)
        return TextFeatures(sentence, words, text.token_mask.new_ones(words.shape[:2]))

    def score(self, texts: TextFeatures, videos: TokenFeatures) -> Tensor:
        """(T, V) means of `part_scores`."""
        return self.part_scores(texts, videos).mean(-1)

    def compute_losses(self, texts: TextFeatures, videos: TokenFeatures, video_index: Tensor) -> Mapping[str, Tensor]:
        """Symmetric cross-entropy."""
        return {"contrastive": symmetric_cross_entropy(self.score(texts, videos), video_index)}

    def part_scores(self, texts: TextFeatures, videos: TokenFeatures) -> Tensor:
        """The three scores of all pairs, in the order of `PARTS`, (T, V, 3); the first two are scaled.

        Without gradients in blocks of texts, so that memory stays small.
        """
        if torch.is_grad_enabled():
            return self._part_scores(texts, videos)
        numbers = videos.tokens.shape[:2].numel() * texts.words.shape[1]
        return in_blocks(lambda part: self._part_scores(part, videos), texts, numbers)

    def _part_scores(self, texts: TextFeatures, videos: TokenFeatures) -> Tensor:
        texts = without_common_padding(texts)
        sentence, words = F.normalize(texts.sentence, dim=-1), F.normalize(texts.words, dim=-1)
        video = F.normalize(masked_mean(F.normalize(videos.frames, dim=-1), videos.frame_mask), dim=-1)
        exists = videos.frame_mask if self.padding == "masked" else torch.ones_like(videos.frame_mask)
        cosines = torch.einsum("td,vnd->tvn", sentence, F.normalize(videos.still, dim=-1))
        matrix = torch.einsum("tmd,vjd->tvjm", self.word_map(words), videos.tokens)
        there = exists.repeat_interleave(self.tokens, dim=1)[..., None] & texts.word_mask[:, None, None]  # (T, V, j, m)
        parts = (
            self.logit_scale(self.sentence_map(sentence) @ self.video_map(video).T),
            self.logit_scale(self.over_frames(cosines, exists[None])),
            self.over_both(matrix, there),
        )
        return torch.stack(parts, dim=-1)

    def released_names(self) -> ReleasedNames:
        """Of its checkpoints, which keep what its earlier versions computed."""
        own = {
            **{"sentence_map": "global_mat_weight", "video_map": "global_mat_weight_1", "word_map": "local_mat_weight"},
            "over_frames.interact": "frame_logit_weight",
            **{
                "over_both.over_words.interact": "word_mat_weight",
                "over_both.then_frames.interact": "pixel_mat_weight2",
            },
            **{
                "over_both.over_frames.interact": "pixel_mat_weight",
                "over_both.then_words.interact": "word_mat_weight2",
            },
        }
        unused = ("word_logit_weight", "frame_mat_weight", "frame_mat_weight2", "word_mat_weight_for_pixel")
        return ReleasedNames(
            {**CLIP_NAMES, **temporal_names(self.temporal), **selection_names()},
            {f"{part}.weight": there for part, there in own.items()},
            {
                **dict.fromkeys(unused, "the released code makes no score of it"),
                "local_mat_weight1": "the released test code leaves it out",
            },
        )

    def frozen_video(self) -> Frozen[VideoInput] | None:
        """Frames and patches of a frozen image tower; of none where pictures that do not exist take part."""
        return None if self.padding == "attended" else frozen_patches(self.encoder)

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """The caption's cosine with each frame, and the three scores."""
        texts, videos = self.encode_text(text), self.encode_video(video)
        cosines = cosine_matrix(texts.sentence, videos.still[0])[0, : video.frame_mask.shape[1]]
        scores = self.part_scores(texts, videos)[0, 0]
        return over_frames(video, cosines), Parts("parts", "score", PARTS, {"score": scores})
