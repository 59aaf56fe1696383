"""What hashing methods share: frozen features as their inputs, and a look at those of the whole training set.

Codes are made from one vector an item: X^v, a video's mean frame feature, and X^t, a text's mean token feature. Both
come from frozen encoders, so they are computed once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from tvr_lightning.data.annotations.base import TRAIN
from tvr_lightning.data.frozen import Frozen
from tvr_lightning.encoders.base import FrameEncoder, TextEncoder, frame_features
from tvr_lightning.errors import ConfigError, DataError, few
from tvr_lightning.evaluation.encoding import encode_items
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.types import CodeFeatures, TensorRows, TextInput, VideoInput
from tvr_lightning.visible import say_once

CodesT = TypeVar("CodesT", bound=CodeFeatures)


@dataclass(frozen=True)
class _Mean(TensorRows):
    """(N, F), mean frozen features."""

    features: Tensor


class HashingModule(RetrievalModule[CodesT, CodesT]):
    """A hashing method.

    Codes are compared by their inner products. Where a validation split is asked to choose weights, mean average
    precision does, which counts labels. Runs with codes of another length have a name of their own.

    Attributes:
        code_length: K, bits of a code.
    """

    runs_apart_by: ClassVar[str | None] = "code_length"
    code_length: int

    @property
    def monitor(self) -> str:
        """Mean average precision of the codes, both directions."""
        return "val/hash/mAP"

    def score(self, texts: CodesT, videos: CodesT) -> Tensor:
        """Inner products of the codes, K - 2 x Hamming distance; (T, V)."""
        return texts.codes.float() @ videos.codes.float().T


class TrainingSetHashing(HashingModule[CodesT]):
    """A hashing method that sees the frozen features of the whole training set before it trains.

    Attributes:
        seed: of what it draws from then on; the run's.
        centred: whether the training set's means are taken from X^v and X^t.
        video_mean: (F,), of X^v of the training set where they are centred; 0 before it is seen.
        text_mean: (F',) likewise.
    """

    seed: int = 0
    centred: bool = False
    _has_means: bool = False
    video_mean: Tensor
    text_mean: Tensor

    def centre(self, video_width: int, text_width: int) -> None:
        """Has features centred from now on.

        Frozen encoders give features with a large part in common: whatever is said, texts have cosines near 1, and
        what a method reads off similarities says that all items are alike. Tags, the papers' texts, have no such part.
        """
        self.centred = self._has_means = True
        self.register_buffer("video_mean", torch.zeros(video_width))
        self.register_buffer("text_mean", torch.zeros(text_width))

    @abstractmethod
    def video_source(self, video: VideoInput) -> Tensor:
        """X^v (V, F), a video's frozen features."""

    @abstractmethod
    def text_source(self, text: TextInput) -> Tensor:
        """X^t (T, F'), a text's frozen features."""

    def learn_from(self, video_features: Tensor, text_features: Tensor, row: Tensor | None = None) -> None:
        """Takes what it needs of the training set's frozen features, before the first step; here nothing.

        Args:
            video_features: X^v (N, F), on the CPU, centred where the method has it so.
            text_features: X^t (N, F') likewise, of videos with several captions their mean.
            row: (V,) int64, which of the N items each training video is, -1 for none; null when V = N.
        """

    def on_fit_start(self) -> None:
        """Shows the method the training set: the same in a resumed run, because the encoders are frozen.

        Raises:
            DataError: no video or no caption of the training set can be encoded, or the features of some are not
                finite.
        """
        self.seed = self.datamodule.seed
        split = self.datamodule.splits[TRAIN]
        captions, clips = self.datamodule.evaluation_loaders(split)
        video, video_ids = encode_items(
            self, lambda x: _Mean(self.video_source(x)), clips, "training videos", shared=True
        )
        text, caption_ids = encode_items(
            self, lambda x: _Mean(self.text_source(x)), captions, "training captions", shared=True
        )
        videos, has_video = _per_video(video.features, video_ids, len(split.records))
        texts, has_text = _per_video(text.features, split.caption_video[caption_ids], len(split.records))
        for of, features in (("video", videos), ("captions", texts)):
            _require_finite(features, of, [record.video_id for record in split.records])
        known = has_video & has_text
        videos, texts = videos[known], texts[known]
        if self.centred:
            self.video_mean.copy_(videos.mean(0))
            self.text_mean.copy_(texts.mean(0))
            videos, texts = videos - videos.mean(0), texts - texts.mean(0)
        self.learn_from(videos, texts, torch.where(known, known.cumsum(0) - 1, -1))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes weights of before features were centred as they are: the method then centres nothing.

        Raises:
            CheckpointError: as in the base.
        """
        weights = checkpoint.get("state_dict", {})
        if self._has_means:
            means = {name: torch.zeros_like(getattr(self, name)) for name in ("video_mean", "text_mean")}
            self.centred = not means.keys().isdisjoint(weights)
            if not self.centred:
                weights.update(means)
                say_once("these weights were trained on features that were not centred, and are used so")
        super().on_load_checkpoint(checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out means that were not taken, so that whatever reads the checkpoint takes none either."""
        super().on_save_checkpoint(checkpoint)
        if self._has_means and not self.centred:
            for name in ("video_mean", "text_mean"):
                del checkpoint["state_dict"][name]


class MeanFeatures:
    """The sources of a hashing method: means over frames and tokens of two frozen encoders, which it holds."""

    video_encoder: FrameEncoder
    text_encoder: TextEncoder

    def take_encoders(self, video_encoder: FrameEncoder, text_encoder: TextEncoder, code_length: int) -> None:
        """Holds the encoders, and the length of codes.

        Raises:
            ConfigError: an encoder trains, or a code has no bit.
        """
        if code_length < 1:
            raise ConfigError(f"model.code_length is {code_length}; it must be at least 1 bit")
        for name, encoder in (("video_encoder", video_encoder), ("text_encoder", text_encoder)):
            check_freeze(name, encoder, True)
        self.video_encoder, self.text_encoder, self.code_length = video_encoder, text_encoder, code_length

    def frozen_text(self) -> Frozen[TextInput]:
        """X^t, a text's mean token feature as its only row."""
        return Frozen(self.text_encoder, self._mean_token, f"mean of tokens, {self.text_encoder.fingerprint()}")

    def _mean_token(self, text: TextInput) -> Tensor:
        tokens = self.text_encoder.encode_tokens(text.tokens, text.token_mask)
        return masked_mean(tokens, text.token_mask)[:, None]  # (T, 1, F)

    @torch.no_grad()
    def frames_of(self, video: VideoInput) -> Tensor:
        """Frozen features of frames, (V, n, F)."""
        return frame_features(self.video_encoder, video)

    def video_source(self, video: VideoInput) -> Tensor:
        """X^v, a video's mean frame feature."""
        return masked_mean(self.frames_of(video), video.frame_mask)

    @torch.no_grad()
    def text_source(self, text: TextInput) -> Tensor:
        """X^t, a text's mean token feature."""
        return (text.features if text.has_features else self._mean_token(text))[:, 0]


class MeanFeatureCodes(MeanFeatures, TrainingSetHashing[CodeFeatures]):
    """A hashing method whose hash functions see the mean features alone."""

    keeps_neighbours: ClassVar[bool] = True
    hash_video: Callable[[Tensor], Tensor]
    """X^v (V, F) to relaxed codes (V, K)."""
    hash_text: Callable[[Tensor], Tensor]
    """X^t (T, F') to relaxed codes (T, K)."""

    def encode_video(self, video: VideoInput) -> CodeFeatures:
        """Codes of videos, and X^v."""
        source = self.video_source(video)
        source = source - self.video_mean if self.centred else source
        return CodeFeatures(self.hash_video(source), source)

    def encode_text(self, text: TextInput) -> CodeFeatures:
        """Codes of texts, and X^t."""
        source = self.text_source(text)
        source = source - self.text_mean if self.centred else source
        return CodeFeatures(self.hash_text(source), source)


def check_freeze(name: str, encoder: Any, wanted: bool) -> None:
    """Refuses an encoder that trains where features are computed once, or the other way round.

    Raises:
        ConfigError: says which setting is to change.
    """
    if encoder.freeze != wanted:
        raise ConfigError(
            f"model.{name}.freeze is {encoder.freeze}; features are computed once from the frozen encoders, and the "
            f"hash functions train: set it to {str(wanted).lower()}"
        )


def check_shares(**shares: float) -> None:
    """Refuses settings of a method that are not shares.

    Raises:
        ConfigError: names the first.
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"model.{name} is {share}; it must be between 0 and 1")


def check_positive(**values: float) -> None:
    """Refuses settings of a method that must be above 0.

    Raises:
        ConfigError: names the first.
    """
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"model.{name} is {value}; it must be above 0")


def _per_video(features: Tensor, place: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean of the features (N, F) of each of `count` videos, (V, F), and which have any, (V,) bool."""
    total = torch.zeros(count, features.shape[1]).index_add_(0, place, features.cpu())
    seen = torch.bincount(place, minlength=count)
    return total / seen.clamp(min=1)[:, None], seen > 0


def _require_finite(features: Tensor, of: str, names: Sequence[str]) -> None:
    broken = (~features.isfinite().all(1)).nonzero()[:, 0].tolist()
    if broken:
        raise DataError(
            f"the frozen features of the {of} of {few([names[i] for i in broken])} are not finite, and the method "
            "learns from those of the whole training set. Look at what data.frame_features names, or at the encoder's "
            "weights."
        )
