"""X-Pool (Gorti et al. 2022): a video pooled over its frames by what the sentence looks at.

pooling   one head of attention, a sentence over frames, and a linear layer, each after a layer norm
                                         -> nn.tc_mgc.language_video_attention.LanguageVideoAttention
score     cosine of the sentence with the pooled video -> XPool.score
The block is the one that TC-MGC took over for its sentences and words. What trains without dropout and what scores is
its exact low-rank form: no pair has a vector of width D. With dropout a training step computes the literal form.
Departures: a video with fewer frames than are sampled has fewer (`padding: attended` repeats its last one, as the
released code does); captions of one video in a batch are not negatives of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tvr_lightning.encoders.base import DualEncoder, frame_features
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.blocks import in_blocks
from tvr_lightning.methods.released import CLIP_NAMES, ReleasedNames
from tvr_lightning.methods.views import Maps, View, Weights, frames_of
from tvr_lightning.nn.similarity import LogitScale
from tvr_lightning.nn.tc_mgc.language_video_attention import LanguageVideoAttention
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import Padding, SentenceFeatures, TextInput, VideoFeatures, VideoInput


class XPool(RetrievalModule[SentenceFeatures, VideoFeatures]):
    """X-Pool.

    Args:
        encoder: CLIP.
        padding: `masked` leaves out frames that do not exist; `attended` repeats a video's last frame up to
            `num_frames`, as the released code does.
        num_frames: of a video under `padding: attended`; `data.num_frames`.
        dropout: on the linear layer's output while training.
        logit_scale: where the learned scale starts; the encoder's own when null.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: a dropout outside 0 to 1, or a scale that is not positive.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        padding: Padding = "masked",
        num_frames: int = 12,
        dropout: float = 0.3,
        logit_scale: float | None = None,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        if not 0 <= dropout < 1:
            raise ConfigError(f"model.dropout is {dropout}; it is a share of the channels: 0 or more, below 1")
        self.encoder, self.padding, self.num_frames = encoder, padding, num_frames
        self.pool = LanguageVideoAttention(encoder.embed_dim, dropout=dropout)
        self.logit_scale = LogitScale(encoder.logit_scale_init if logit_scale is None else logit_scale)

    def encode_video(self, video: VideoInput) -> VideoFeatures:
        """Frame features."""
        frames, mask = frame_features(self.encoder, video), video.frame_mask
        if self.padding == "masked":
            return VideoFeatures(frames, mask)
        places = torch.arange(max(self.num_frames, mask.shape[1]), device=mask.device)
        places = torch.minimum(places, (mask.sum(1, keepdim=True) - 1).clamp(min=0))  # (V, n)
        repeated = frames.gather(1, places[..., None].expand(-1, -1, frames.shape[-1]))  # (V, n, D)
        return VideoFeatures(repeated, mask.any(1, keepdim=True).expand_as(places))

    def encode_text(self, text: TextInput) -> SentenceFeatures:
        """Sentence features."""
        return SentenceFeatures(self.encoder.encode_text(text.tokens, text.token_mask)[0])

    def score(self, texts: SentenceFeatures, videos: VideoFeatures) -> Tensor:
        """(T, V) scaled cosines of sentence and pooled video; without gradients in blocks of texts."""
        if self.training and self.pool.dropout.p > 0:
            return self.literal_score(texts, videos)
        basis = self.pool.basis(videos.frames, videos.frame_mask)

        def scored(part: SentenceFeatures) -> Tensor:
            sentences = part.sentence[:, None]
            return self.logit_scale(self.pool.cosines(sentences, basis, sentences).flatten(1).T)

        if torch.is_grad_enabled():
            return scored(texts)
        return in_blocks(scored, texts, basis.vectors.shape[:2].numel())

    def literal_score(self, texts: SentenceFeatures, videos: VideoFeatures) -> Tensor:
        """The same with a vector of width D for each pair, as the paper writes it."""
        sentences = texts.sentence[:, None]  # (T, 1, D)
        cosines = self.pool.literal_cosines(sentences, videos.frames, videos.frame_mask, sentences)
        return self.logit_scale(cosines.flatten(1).T)

    def compute_losses(
        self, texts: SentenceFeatures, videos: VideoFeatures, video_index: Tensor
    ) -> Mapping[str, Tensor]:
        """Symmetric cross-entropy."""
        return {"contrastive": symmetric_cross_entropy(self.score(texts, videos), video_index)}

    def released_names(self) -> ReleasedNames:
        """Of its checkpoints, whose CLIP has the names of Hugging Face's."""
        parts = {
            **{"query": "cross_attn.q_proj", "key": "cross_attn.k_proj", "value": "cross_attn.v_proj"},
            **{"output": "cross_attn.out_proj", "fc": "linear_proj", "norm_inputs": "layer_norm1"},
            **{"norm_attended": "layer_norm2", "norm_output": "layer_norm3"},
        }
        return ReleasedNames({**CLIP_NAMES, **{f"pool.{own}": f"pool_frames.{there}" for own, there in parts.items()}})

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """What the sentence looks at; repeated frames count for the one that they repeat."""
        sentence, videos, frames = self.encode_text(text).sentence, self.encode_video(video), frames_of(video)
        weights = self.pool.weights(sentence, videos.frames, videos.frame_mask)[0, 0, :, 0]  # (n,)
        shown = weights[: len(frames)].clone()
        shown[-1] += weights[len(frames) :].sum()
        panel = Weights("sentence over frames", ("sentence",), frames, shown[None], "attention")
        return (Maps("attention", (panel,)),)
