"""Noise in place of data and encoders: what the leak check trains and tests on; see `leakcheck`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from tvr_lightning.data.annotations.base import TEST, TRAIN, Annotations
from tvr_lightning.data.datamodule import VideoTextDataModule
from tvr_lightning.data.dataset import Augmentation, VideoReader
from tvr_lightning.data.text import TokenizedText, Tokenizer
from tvr_lightning.data.video.frames import VideoFrames
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.encoders.base import DualEncoder, Encoder, Patches, TextEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.nn.patches.hooks import UNCHANGED, TokenHook
from tvr_lightning.types import Record

SIZE = 8  # height and width of a frame of noise
VOCABULARY = 10_000
START, END = VOCABULARY - 2, VOCABULARY - 1  # around every caption, as CLIP has them


@dataclass(frozen=True)
class LeakProbe:
    """How much is trained and tested.

    Attributes:
        steps: training steps.
        batch_size: pairs of a step.
        pairs: training pairs in all.
        videos: test videos.
        texts: test captions, more than videos: the later videos have two.
        num_frames: frames of a video.
        max_words: tokens of a caption.
        lr: learning rate of everything that trains.
        seed: of weights, noise and order.
    """

    steps: int = 800
    batch_size: int = 8
    pairs: int = 256
    videos: int = 100
    texts: int = 150
    num_frames: int = 4
    max_words: int = 8
    lr: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "pairs", "videos", "num_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"leakcheck: {name} is {getattr(self, name)}; it must be at least 1")
        if self.max_words < 4:
            raise ConfigError(f"leakcheck: max_words is {self.max_words}; at least 4, for two words between the ends")
        if not self.videos < self.texts <= 2 * self.videos:
            raise ConfigError(
                f"leakcheck: {self.texts} texts for {self.videos} videos; more texts than videos, at most twice as "
                "many: code that needs as many texts as videos must not pass"
            )
        if not 2 <= self.batch_size <= self.pairs:
            raise ConfigError(f"leakcheck: batch_size is {self.batch_size}; from 2 to {self.pairs}, the training pairs")


class NoiseEncoder(DualEncoder):
    """Takes the place of an encoder: noise pixels or noise tokens to noise features, by a random map that never trains.

    A frame, a word or a caption has unit variance in each of D dimensions; different ones are independent.

    Args:
        like: the encoder that it replaces.
        seed: of the map.
    """

    pixels: Tensor
    words: Tensor

    def __init__(self, like: Encoder, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embed_dim, self.image_size, self.freeze = like.embed_dim, SIZE, like.freeze
        self.context_length = like.context_length if isinstance(like, TextEncoder) else 0
        self.vocabulary_size = VOCABULARY
        inputs = 3 * SIZE * SIZE
        self.register_buffer("pixels", torch.randn(inputs, self.embed_dim, generator=generator) / math.sqrt(inputs))
        self.register_buffer("words", torch.randn(VOCABULARY, self.embed_dim, generator=generator))

    def encode_frames(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """(V, n, 3, S, S) uint8, (V, n) -> (V, n, D), zeros where the mask is False."""
        features = ((frames.flatten(2).float() - 127.5) / 73.9) @ self.pixels  # 73.9: of uniform bytes
        return features.masked_fill(~frame_mask[..., None], 0.0)

    def show_patches(self, at_least: int = 1) -> None:
        """Nothing has to be prepared; a frame has four patches."""

    def encode_patches(
        self, frames: Tensor, frame_mask: Tensor, hook: TokenHook = UNCHANGED, attended: bool = False
    ) -> Patches:
        """Frames and their four quarters (V, n, 4, D), each through the rows of the map that belong to its pixels."""
        mask, half = torch.ones_like(frame_mask) if attended else frame_mask, SIZE // 2
        # (V, n, 3, S, S) -> (V, n, 3, 2, S / 2, 2, S / 2) -> (V, n, 4, 3 S / 2 S / 2)
        quarters = frames.unflatten(-1, (2, half)).unflatten(-3, (2, half)).permute(0, 1, 3, 5, 2, 4, 6).flatten(4)
        quarters = 2 * (quarters.flatten(2, 3).float() - 127.5) / 73.9 * mask[..., None, None]
        rows = self.pixels.view(3, 2, half, 2, half, -1).permute(1, 3, 0, 2, 4, 5).reshape(4, -1, self.embed_dim)
        patches = torch.einsum("vnqi,qid->vnqd", quarters, rows)
        tokens = torch.cat([self.encode_frames(frames, mask)[:, :, None], patches], dim=2)
        for block in range(2):
            tokens, mask = hook.before_block(block, 2, tokens, mask)
        return Patches(tokens[:, :, 0], tokens[:, :, 1:], mask)

    def encode_tokens(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """(T, m), (T, m) -> (T, m, D), zeros where the mask is False."""
        return self.words[tokens].masked_fill(~token_mask[..., None], 0.0)

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sentences (T, D), the scaled means of their words without both ends, and words (T, m, D)."""
        words = self.encode_tokens(tokens, token_mask)
        content = token_mask & (tokens < START)
        return masked_mean(words, content) * content.sum(1, keepdim=True).sqrt(), words

    def fingerprint(self) -> str:
        """Nothing of noise is ever kept."""
        return "noise"


class NoiseTokenizer(Tokenizer):
    """A caption's tokens are drawn at random, from a seed that the caption's text is; every word is a textual node."""

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length

    @property
    def vocabulary_size(self) -> int:
        """Of the noise encoders."""
        return VOCABULARY

    def fingerprint(self) -> str:
        """The same for all."""
        return "noise"

    def __call__(self, captions: Sequence[str]) -> TokenizedText:
        """Draws tokens."""
        shape = len(captions), self.context_length
        tokens, word = torch.zeros(shape, dtype=torch.int64), torch.full(shape, -1)
        lengths = torch.zeros(len(captions), dtype=torch.int64)
        for row, caption in enumerate(captions):
            generator = np.random.default_rng(crc32(caption.encode()))
            count = int(generator.integers((self.context_length - 2) // 2, self.context_length - 1))
            tokens[row, 0], tokens[row, count + 1] = START, END
            tokens[row, 1 : count + 1] = torch.from_numpy(generator.integers(1, START, count))
            word[row, 1 : count + 1] = torch.arange(count)
            lengths[row] = count + 2
        mask = torch.arange(self.context_length) < lengths[:, None]
        lost = torch.zeros_like(lengths)
        return TokenizedText(tokens, mask, lost > 0, word, lost)

    def words(self, tokens: Tensor) -> tuple[str, ...]:
        """Numbers."""
        return tuple(str(t) for t in tokens.tolist() if 0 < t < START)


class NoiseAnnotations(Annotations):
    """Videos that no file holds, and captions that say nothing.

    Training videos have one caption each, test videos one or two. Test captions come in the order of their videos, so
    that a score by place in the list is found too.
    """

    def __init__(self, probe: LeakProbe) -> None:
        self.name, self.protocol, self.root = "noise", f"seed {probe.seed}", Path()
        self.probe = probe

    @property
    def splits(self) -> tuple[str, ...]:
        """Training and test."""
        return TRAIN, TEST

    def load(self, split: str) -> list[Record]:
        """Gives the records."""
        self.check_split(split)
        p = self.probe
        single = 2 * p.videos - p.texts  # test videos with one caption
        counts = [1] * p.pairs if split == TRAIN else [1] * single + [2] * (p.videos - single)
        return [
            Record(
                f"{split}{i}",
                Path(__file__),  # it exists, and nobody reads it
                tuple(f"{p.seed} {split} {i} {k}" for k in range(count)),
                labels=(i % 5,),
            )
            for i, count in enumerate(counts)
        ]


class NoiseReader(VideoReader):
    """Draws frames instead of decoding them; half of their variance belongs to the video, half to the frame."""

    def _decode(self, index: int, o: FrameOptions, generator: np.random.Generator | None) -> VideoFrames:
        draw = np.random.default_rng(crc32(self.records[index].captions[0].encode()) + 1)
        video, frames = draw.random((3, SIZE, SIZE)), draw.random((o.num_frames, 3, SIZE, SIZE))
        exist = int(draw.integers((o.num_frames + 1) // 2, o.num_frames + 1))
        mask = torch.arange(o.num_frames) < exist
        noise = np.where(draw.random(frames.shape) < 0.5, video, frames)  # pixel by pixel: bytes stay uniform
        pixels = torch.from_numpy((256 * noise).astype(np.uint8)) * mask[:, None, None, None]
        return VideoFrames(pixels, mask, torch.arange(o.num_frames, dtype=torch.float64) * mask)


class NoiseData(VideoTextDataModule):
    """The data module, over noise."""

    reads_files = False

    def __init__(self, probe: LeakProbe, augment: Augmentation | None) -> None:
        super().__init__(
            NoiseAnnotations(probe), batch_size=probe.batch_size, num_frames=probe.num_frames, fps=None, size=SIZE,
            max_words=probe.max_words, tokenizer=NoiseTokenizer(probe.max_words), selection="last",
            augment=augment, cache_features=False, num_workers=0, seed=probe.seed,
        )  # fmt: skip

    def setup(self, stage: str) -> None:
        """Makes the splits, their frames drawn."""
        super().setup(stage)
        for name, split in self.splits.items():
            reader = NoiseReader(split.records, split.reader.frames, "raise")
            self.splits[name] = replace(split, reader=reader)
