"""CenterCLIP (Zhao et al. 2022): of the patches of neighbouring frames, only cluster centres stay in the image tower.

segments     d frames each; their class tokens are averaged         -> nn.patches.hooks.SegmentCentres
clustering   K patches of a segment stay, later blocks see these    -> nn.patches.clustering.cluster_centres
head         CLIP4Clip's meanP or seqTransf over segments           -> CenterCLIP.score, nn.temporal.TemporalTransformer
loss         symmetric cross-entropy                                -> losses.contrastive.symmetric_cross_entropy
Departures: a segment consists of those of its frames that exist (released: all of them, and a segment whose last frame
does not exist is left out of the mean); clustering ends after `iterations` at the latest, without asking whether all
segments of a batch have settled (released: 100 at most, until their mean shift is small); the spectral form begins
with the row that was longest before rows became unit vectors (released: among unit vectors, where rounding decides).
Captions of one video in a batch are not negatives of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.data.frozen import Frozen
from tvr_lightning.encoders.base import DualEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.released import CLIP_NAMES, ReleasedNames, temporal_names
from tvr_lightning.methods.views import View, over_frames
from tvr_lightning.nn.patches.clustering import Algorithm
from tvr_lightning.nn.patches.hooks import SegmentCentres
from tvr_lightning.nn.similarity import LogitScale, cosine_matrix, mean_frame_cosines
from tvr_lightning.nn.temporal import TemporalTransformer
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import SentenceFeatures, TextInput, VideoFeatures, VideoInput


class CenterCLIP(RetrievalModule[SentenceFeatures, VideoFeatures]):
    """CenterCLIP.

    Args:
        encoder: CLIP, with a vision transformer.
        similarity: CLIP4Clip's calculator over segments.
        segment_frames: d, frames of a segment: 2, 3 or 4 for 6, 4 or 3 segments of 12 frames.
        keep_rate: K as a share of a frame's patches: 1 is 49 of ViT-B/32, 0.51 and 0.816 are 100 and 160 of ViT-B/16.
        depth: the share of the image tower's blocks that still see frames: 0.5 is 6 of 12.
        clustering: k-medoids, or spectral.
        iterations: of k-medoids, at most.
        num_layers: layers of seqTransf.
        max_frames: positions that seqTransf has.
        logit_scale: where the learned scale starts; the encoder's own when null.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: an encoder without patches, or a number outside of its range.
    """

    tested_with: ClassVar = {"num_layers": 2}

    def __init__(
        self,
        encoder: DualEncoder,
        similarity: Literal["meanP", "seqTransf"] = "meanP",
        segment_frames: int = 2,
        keep_rate: float = 1.0,
        depth: float = 0.5,
        clustering: Algorithm = "k_medoids",
        iterations: int = 20,
        num_layers: int = 4,
        max_frames: int = 77,
        logit_scale: float | None = None,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        if iterations < 0:
            raise ConfigError(f"model.iterations is {iterations}; it must be at least 0")
        self.encoder = encoder
        encoder.show_patches()
        self.centres = SegmentCentres(segment_frames, keep_rate, depth, clustering, iterations)
        self.logit_scale = LogitScale(encoder.logit_scale_init if logit_scale is None else logit_scale)
        self.temporal = None
        if similarity == "seqTransf":
            self.temporal = TemporalTransformer.beside(encoder, num_layers, max_frames)

    def encode_video(self, video: VideoInput) -> VideoFeatures:
        """Segments in place of frames, after the temporal layers where there are any."""
        segments = self._segments(video)
        if self.temporal is None:
            return segments
        return VideoFeatures(self.temporal(segments.frames, segments.frame_mask), segments.frame_mask)

    def encode_text(self, text: TextInput) -> SentenceFeatures:
        """Sentence features."""
        return SentenceFeatures(self.encoder.encode_text(text.tokens, text.token_mask)[0])

    def score(self, texts: SentenceFeatures, videos: VideoFeatures) -> Tensor:
        """(T, V) scaled cosines of sentence and mean segment."""
        return self.logit_scale(mean_frame_cosines(texts.sentence, videos.frames, videos.frame_mask))

    def compute_losses(
        self, texts: SentenceFeatures, videos: VideoFeatures, video_index: Tensor
    ) -> Mapping[str, Tensor]:
        """Symmetric cross-entropy."""
        return {"contrastive": symmetric_cross_entropy(self.score(texts, videos), video_index)}

    def released_names(self) -> ReleasedNames:
        """CLIP4Clip's, on whose code its own stands; clustering has no weights. Nobody has published a checkpoint."""
        return ReleasedNames({**CLIP_NAMES, **({} if self.temporal is None else temporal_names(self.temporal))})

    def frozen_video(self) -> Frozen[VideoInput] | None:
        """Segments of a frozen image tower, each with a last number that says whether it exists."""
        if not self.encoder.frames_frozen:
            return None

        def encode(video: VideoInput) -> Tensor:
            found = self._segments(video)
            both = torch.cat([found.frames, found.frame_mask[..., None].to(found.frames.dtype)], dim=-1)
            return F.pad(both, (0, 0, 0, video.frame_mask.shape[1] - both.shape[1]))  # (V, n, D + 1)

        return Frozen(self.encoder, encode, f"{self.encoder.fingerprint()} segments {self.centres}")

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """The caption's cosine with each frame's segment."""
        sentence, segments = self.encode_text(text).sentence, self.encode_video(video).frames
        cosines = cosine_matrix(sentence, segments[0])[0].repeat_interleave(self.centres.frames)
        return (over_frames(video, cosines[: video.frame_mask.shape[1]]),)

    def _segments(self, video: VideoInput) -> VideoFeatures:
        """Those that the loader brought along, else of the pixels."""
        if video.has_features:
            count = -(-video.frame_mask.shape[1] // self.centres.frames)
            kept = video.features[:, :count]
            return VideoFeatures(kept[..., :-1], kept[..., -1] > 0.5)
        segments, _, mask = self.encoder.encode_patches(video.frames, video.frame_mask, self.centres)
        return VideoFeatures(segments, mask)
