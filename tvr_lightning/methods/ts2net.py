"""TS2-Net (Liu et al. 2022): token shift and token selection between CLIP and the temporal layers.

token shift      attention of the image tower's last blocks reads patches of neighbours -> nn.patches.hooks.TokenShift
token selection  of each frame its class token and its K best patches -> nn.patches.selection.TokenSelection
temporal layers  over all of these tokens; a frame is then its class token -> nn.temporal.TemporalTransformer
score            frames weighted by their cosine with the sentence -> TS2Net.score
loss             symmetric cross-entropy -> losses.contrastive.symmetric_cross_entropy
Departures: frames that do not exist give and take nothing; the mask of a frame counts for all of its tokens (released:
repeated as a whole, so that 5 frames of 12 give 1, 1, 0, 1, 1, 0, ... for the class tokens); `padding: attended` has
both as released. In tests the released code adds noise to the selection, here neither mode does. The selection's
gradient is the estimate of Berthet et al. (2020); the released code keeps of it what the noise of a place contributes
to its own choice. Grids below 28 tokens shift every fourth token, where a seventh of them would be none or all.
Captions of one video in a batch are not negatives of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.encoders.base import DualEncoder, frozen_patches, patch_features, with_places
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.blocks import in_blocks
from tvr_lightning.methods.released import CLIP_NAMES, ReleasedNames, selection_names, temporal_names
from tvr_lightning.methods.views import View, over_frames
from tvr_lightning.nn.masked import masked_softmax
from tvr_lightning.nn.patches.hooks import TokenShift
from tvr_lightning.nn.patches.selection import TokenSelection
from tvr_lightning.nn.similarity import LogitScale, cosine_matrix
from tvr_lightning.nn.temporal import CLIP_POSITIONS, TemporalTransformer
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import Padding, SentenceFeatures, TextInput, VideoFeatures, VideoInput

if TYPE_CHECKING:
    from tvr_lightning.data.frozen import Frozen

SHARPNESS = 4.0  # of the weights of frames


class TS2Net(RetrievalModule[SentenceFeatures, VideoFeatures]):
    """TS2-Net.

    Args:
        encoder: CLIP, with a vision transformer.
        padding: `masked` leaves out frames that do not exist; `attended` fills videos up to `max_frames` with empty
            pictures and masks tokens as the released code does.
        selected_patches: K, patches that stay of each frame.
        shifted_blocks: how many of the image tower's last blocks shift tokens.
        num_samples: draws of the perturbed top-K in a training step.
        sigma: of its noise.
        num_layers: of the temporal encoder.
        max_frames: n at most, with K + 1 positions each.
        logit_scale: where the learned scale starts; the encoder's own when null.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: an encoder without patches or with too few, or a number that must be above 0 and is not.
    """

    tested_with: ClassVar = {"num_layers": 2}

    def __init__(
        self,
        encoder: DualEncoder,
        padding: Padding = "masked",
        selected_patches: int = 3,
        shifted_blocks: int = 2,
        num_samples: int = 500,
        sigma: float = 0.05,
        num_layers: int = 4,
        max_frames: int = 12,
        logit_scale: float | None = None,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        self.encoder, self.padding = encoder, padding
        encoder.show_patches(at_least=selected_patches)
        self.max_frames, self.tokens = max_frames, 1 + selected_patches
        width = encoder.embed_dim
        self.shift = TokenShift(shifted_blocks)
        self.select = TokenSelection(width, selected_patches, num_samples, sigma)
        self.temporal = TemporalTransformer.beside(encoder, num_layers, max_frames, self.tokens, CLIP_POSITIONS)
        self.logit_scale = LogitScale(encoder.logit_scale_init if logit_scale is None else logit_scale)

    def encode_video(self, video: VideoInput) -> VideoFeatures:
        """Frames, each its class token after all selected tokens of the video have seen each other."""
        attended = self.padding == "attended"
        if attended:
            video = with_places(video, self.max_frames)
        mask = video.frame_mask
        found = patch_features(self.encoder, video, self.shift, attended)
        tokens = self.select(found.frames, found.patches).flatten(1, 2)  # (V, n (1 + K), D)
        if attended:
            frames = self.temporal.attended(tokens, mask.repeat(1, self.tokens))
            return VideoFeatures(frames[:, :: self.tokens], torch.ones_like(mask))
        frames = self.temporal(tokens, mask.repeat_interleave(self.tokens, dim=1))
        return VideoFeatures(frames[:, :: self.tokens], mask)

    def encode_text(self, text: TextInput) -> SentenceFeatures:
        """Sentence features."""
        return SentenceFeatures(self.encoder.encode_text(text.tokens, text.token_mask)[0])

    def score(self, texts: SentenceFeatures, videos: VideoFeatures) -> Tensor:
        """(T, V) scaled sums of the cosines c with the frames, weighted by softmax(4 c / |c|)."""
        frames, mask = F.normalize(videos.frames, dim=-1), videos.frame_mask

        def scored(part: SentenceFeatures) -> Tensor:
            cosines = torch.einsum("td,vnd->tvn", F.normalize(part.sentence, dim=-1), frames) * mask
            weights = masked_softmax(SHARPNESS * F.normalize(cosines, dim=-1), mask)
            return self.logit_scale((weights * cosines).sum(-1))

        return scored(texts) if torch.is_grad_enabled() else in_blocks(scored, texts, mask.numel())

    def compute_losses(
        self, texts: SentenceFeatures, videos: VideoFeatures, video_index: Tensor
    ) -> Mapping[str, Tensor]:
        """Symmetric cross-entropy."""
        return {"contrastive": symmetric_cross_entropy(self.score(texts, videos), video_index)}

    def released_names(self) -> ReleasedNames:
        """Of the files that its training saved; there the attention of blocks that shift lies inside of the shift."""
        blocks = "visual.transformer.resblocks."
        tower = [n.removeprefix(f"encoder.clip.{blocks}") for n, _ in self.named_parameters() if f".clip.{blocks}" in n]
        count = 1 + max(int(name.partition(".")[0]) for name in tower)
        shifted = [f"{blocks}{i}.attn" for i in range(max(0, count - self.shift.blocks), count)]
        unused = ("text_token_selector", "visual_prompt_encoder")
        return ReleasedNames(
            {
                **{**CLIP_NAMES, **temporal_names(self.temporal), **selection_names()},
                **{f"encoder.clip.{part}": f"clip.{part}.net" for part in shifted},
            },
            unused=dict.fromkeys(unused, "the released forward pass does not call it"),
        )

    def frozen_video(self) -> Frozen[VideoInput] | None:
        """Frames and patches of a frozen image tower; of none where pictures that do not exist take part."""
        return None if self.padding == "attended" else frozen_patches(self.encoder, self.shift)

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """The caption's cosine with each frame."""
        sentence, frames = self.encode_text(text).sentence, self.encode_video(video).frames
        return (over_frames(video, cosine_matrix(sentence, frames[0])[0, : video.frame_mask.shape[1]]),)
