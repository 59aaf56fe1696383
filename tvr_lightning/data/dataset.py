"""Torch datasets over records: training pairs, captions alone, videos alone; and the sampler that orders them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tvr_lightning.data.cache import FrameCache
from tvr_lightning.data.text import CLIPTokenizer
from tvr_lightning.data.video import read_frames
from tvr_lightning.errors import DataError, DecodeError
from tvr_lightning.types import Record, TextInput, VideoInput, VideoTextBatch

CaptionSampling = Literal["all", "random"]
FrameSampling = Literal["uniform", "head", "tail"]
OnDecodeError = Literal["raise", "skip"]


@dataclass(frozen=True)
class FrameOptions:
    """How frames are taken from a video; see `data.video.read_frames`.

    Attributes:
        num_frames: n, frames of a video; fewer are padded and masked.
        sampling: which frames are kept.
        fps: candidate frames per second, None for the whole video in equal segments.
        size: height and width after resize and centre crop.
    """

    num_frames: int
    sampling: FrameSampling
    fps: float | None
    size: int


class TokenizedCaptions:
    """All captions of a split, tokenised once.

    Attributes:
        video_index: (T,) int64, the caption's row in the records.
        truncated: how many captions are longer than the context.
    """

    def __init__(self, records: Sequence[Record], tokenizer: CLIPTokenizer) -> None:
        self.captions = [caption for record in records for caption in record.captions]
        counts = torch.tensor([len(record.captions) for record in records])
        self.video_index = torch.repeat_interleave(torch.arange(len(records)), counts)
        self.first = torch.cumsum(counts, 0) - counts  # position of each video's first caption
        self.counts = counts
        for index, caption in enumerate(self.captions):
            if not caption.strip():
                video = records[int(self.video_index[index])].video_id
                raise DataError(f"video {video} has an empty caption; remove it from the annotation file")
        text = tokenizer(self.captions)
        self.tokens, self.mask = (
            text.tokens.to(torch.int32),
            text.mask,
        )  # int32: a quarter million captions stay small
        self.truncated = int(text.truncated.sum())

    def __len__(self) -> int:
        """Number of captions T."""
        return len(self.captions)

    def rows(self, index: Tensor) -> TextInput:
        """Returns the captions at the given positions, (T,) int64."""
        return TextInput(self.tokens[index].long(), self.mask[index], index, self.video_index[index])


class VideoReader:
    """Decodes records, and keeps account of those that cannot be decoded.

    Args:
        records: the split's videos.
        frames: how frames are taken.
        on_decode_error: whether a video that cannot be decoded stops the run.
        cache: keeps decoded frames; not with a generator.

    Attributes:
        failed: (V,) bool in shared memory, so that counts survive in the main process when workers decode.
        uncached: (V,) bool likewise, True where the cache did not keep a video that was decoded.
    """

    def __init__(
        self,
        records: Sequence[Record],
        frames: FrameOptions,
        on_decode_error: OnDecodeError,
        cache: FrameCache | None = None,
    ) -> None:
        self.records = records
        self.frames = frames
        self.on_decode_error = on_decode_error
        self.cache = cache
        self.failed, self.uncached = torch.zeros(2, len(records), dtype=torch.bool).share_memory_()

    def read(self, index: int, generator: np.random.Generator | None = None) -> VideoInput | None:
        """Decodes one video; None when it cannot be decoded and such videos are skipped.

        Raises:
            DecodeError: with the path and the decoder's reason, under `on_decode_error: raise`.
        """
        record, o = self.records[index], self.frames
        decode = partial(
            read_frames, record.video_path, o.num_frames, o.sampling, o.fps, o.size,
            start=record.start, end=record.end, generator=generator,
        )  # fmt: skip
        try:
            if self.cache:
                clip, kept = self.cache.fetch(record, o, decode)
                self.uncached[index] = not kept
            else:
                clip = decode()
        except DecodeError as error:
            if self.on_decode_error == "raise":
                raise
            if not self.failed[index]:
                warnings.warn(f"skipped and counted: {error}", stacklevel=1)
            self.failed[index] = True
            return None
        return VideoInput(clip.frames[None], clip.mask[None], torch.tensor([index]))


class PairDataset(Dataset[VideoTextBatch | None]):
    """Training pairs. An item's key is (position, epoch): what is drawn at random depends on nothing else.

    Args:
        captions: the split's captions.
        reader: decodes the split's videos.
        caption_sampling: `all` makes every caption a sample, `random` every video with one of its captions.
        jitter: moves frames inside their segments at random; only for `fps: null` with uniform sampling.
        seed: the run's seed.
    """

    def __init__(
        self,
        captions: TokenizedCaptions,
        reader: VideoReader,
        caption_sampling: CaptionSampling,
        jitter: bool,
        seed: int,
    ) -> None:
        self.captions = captions
        self.reader = reader
        self.caption_sampling = caption_sampling
        self.jitter = jitter
        self.seed = seed
        self.videos = torch.nonzero(captions.counts)[:, 0]  # a video without captions is no training sample

    def __len__(self) -> int:
        """Number of samples in an epoch."""
        return len(self.captions) if self.caption_sampling == "all" else len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> VideoTextBatch | None:
        """Returns one pair as a batch of one, None when its video is skipped."""
        position, epoch = key
        generator = np.random.default_rng((self.seed, epoch, position))
        if self.caption_sampling == "all":
            caption = position
            video = int(self.captions.video_index[position])
        else:
            video = int(self.videos[position])
            caption = int(self.captions.first[video]) + int(generator.integers(int(self.captions.counts[video])))
        clip = self.reader.read(video, generator if self.jitter else None)
        if clip is None:
            return None
        return VideoTextBatch(self.captions.rows(torch.tensor([caption])), clip)


class VideoDataset(Dataset[VideoInput | None]):
    """Each video of a split once, for evaluation."""

    def __init__(self, reader: VideoReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        """Number of videos V."""
        return len(self.reader.records)

    def __getitem__(self, index: int) -> VideoInput | None:
        """Returns one video as a batch of one, None when it is skipped."""
        return self.reader.read(index)


class CaptionDataset(Dataset[TextInput]):
    """Each caption of a split once, for evaluation."""

    def __init__(self, captions: TokenizedCaptions) -> None:
        self.captions = captions

    def __len__(self) -> int:
        """Number of captions T."""
        return len(self.captions)

    def __getitem__(self, index: int) -> TextInput:
        """Returns one caption as a batch of one."""
        return self.captions.rows(torch.tensor([index]))


def collate_pairs(samples: Sequence[VideoTextBatch | None]) -> VideoTextBatch | None:
    """Joins pairs; None when every video of the batch was skipped."""
    kept = [s for s in samples if s is not None]
    if not kept:
        return None
    return VideoTextBatch(TextInput.cat([s.text for s in kept]), VideoInput.cat([s.video for s in kept]))


def collate_videos(samples: Sequence[VideoInput | None]) -> VideoInput | None:
    """Joins videos; None when every one was skipped."""
    kept = [s for s in samples if s is not None]
    return VideoInput.cat(kept) if kept else None


def collate_captions(samples: Sequence[TextInput]) -> TextInput:
    """Joins captions."""
    return TextInput.cat(list(samples))


class SeededSampler(Sampler[tuple[int, int]]):
    """A permutation for each epoch, fixed by seed and epoch alone; yields (position, epoch).

    Under several ranks each takes every `world`-th sample; the last incomplete round is left out so that every rank
    makes the same number of steps. Lightning calls `set_epoch`.

    Args:
        length: samples of all ranks.
        seed: the run's seed.
        rank: which share is taken.
        world: number of shares.
        start: the epoch in which training goes on, and how many samples of this rank's share are passed over there.
    """

    def __init__(self, length: int, seed: int, rank: int = 0, world: int = 1, start: tuple[int, int] = (0, 0)) -> None:
        self.length = length
        self.seed = seed
        self.rank = rank
        self.world = world
        self.start = start
        self.epoch = start[0]  # workers read ahead before Lightning names the epoch

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of samples that this rank sees in a whole epoch; Lightning counts those passed over itself."""
        return self.length // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yields this rank's share of the epoch's permutation."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        share = order[: len(self) * self.world][self.rank :: self.world]
        for position in share[self.start[1] if self.epoch == self.start[0] else 0 :]:
            yield int(position), self.epoch
