"""Torch datasets over records: training pairs, captions alone, videos alone; and the sampler that orders them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tvr_lightning.data.augment import FrameAugmentation, augment_frames
from tvr_lightning.data.augment_text import CaptionAugmenter, TextAugmentation
from tvr_lightning.data.given import GivenFeatures
from tvr_lightning.data.stores.features import FeatureRows
from tvr_lightning.data.stores.frames import FrameCache
from tvr_lightning.data.text import Tokenizer
from tvr_lightning.data.video.frames import VideoFrames
from tvr_lightning.data.video.records import read_record
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.errors import ConfigError, DataError, DecodeError
from tvr_lightning.types import Record, TextInput, VideoInput, VideoTextBatch

CaptionSampling = Literal["all", "random"]
OnDecodeError = Literal["raise", "skip"]


@dataclass(frozen=True)
class Augmentation:
    """A second view of each training pair: frames that the first view does not have, changed, and a changed caption.

    Attributes:
        frames: how frames are changed.
        text: how captions are changed.
        every: the view comes in each `every`-th epoch, for methods that use it in some passes only: 2 for the second,
            fourth, ... epoch.
    """

    frames: FrameAugmentation = FrameAugmentation()
    text: TextAugmentation = TextAugmentation()
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"data.augment.every is {self.every}; it must be at least 1")


class TokenizedCaptions:
    """All captions of a split, tokenised once.

    Attributes:
        video_index: (T,) int64, the caption's row in the records.
        truncated: how many captions are longer than the context.
        truncated_nodes: how many textual nodes lie beyond it; None where the tokeniser knows no nodes.
        features: what a frozen encoder made of the captions, where it is kept.
    """

    def __init__(self, records: Sequence[Record], tokenizer: Tokenizer) -> None:
        self.captions = [caption for record in records for caption in record.captions]
        counts = torch.tensor([len(record.captions) for record in records])
        self.video_index = torch.repeat_interleave(torch.arange(len(records)), counts)
        self.first = torch.cumsum(counts, 0) - counts  # position of each video's first caption
        self.counts = counts
        for index, caption in enumerate(self.captions):
            if not caption.strip():
                video = records[int(self.video_index[index])].video_id
                raise DataError(f"video {video} has an empty caption; remove it from the annotation file")
        self.tokenizer = tokenizer
        text = tokenizer(self.captions)
        self.tokens, self.mask = text.tokens.to(torch.int32), text.mask  # int32: a quarter million captions stay small
        self.word = torch.full_like(text.tokens, -1) if text.word is None else text.word
        self.word = self.word.to(torch.int16)
        self.truncated = int(text.truncated.sum())
        self.truncated_nodes = None if text.lost_nodes is None else int(text.lost_nodes.sum())
        self.features: FeatureRows | None = None

    def __len__(self) -> int:
        """Number of captions T."""
        return len(self.captions)

    def rows(self, index: Tensor) -> TextInput:
        """Returns the captions at the given positions, (T,) int64."""
        text = TextInput(
            self.tokens[index].long(), self.mask[index], index, self.video_index[index], self.word[index].long()
        )
        if self.features is None:
            return text
        kept = [self.features[i].features for i in index.tolist()]
        return replace(text, features=torch.stack(kept)) if kept else text

    def retokenize(self, index: int, caption: str) -> TextInput:
        """Another wording in place of a caption, as a batch of one."""
        text, place = self.tokenizer([caption]), torch.tensor([index])
        return TextInput(text.tokens, text.mask, place, self.video_index[place], text.word)  # type: ignore[arg-type]


class VideoReader:
    """Decodes records, and keeps account of those that cannot be decoded.

    Args:
        records: the split's videos.
        frames: how frames are taken.
        on_decode_error: whether a video that cannot be decoded stops the run.
        cache: keeps decoded frames; not with a generator.
        given: features that take the place of frames.

    Attributes:
        features: what a frozen encoder made of the first view, where it is kept; nothing is decoded then.
        failed: (V,) bool in shared memory, so that counts survive in the main process when workers decode.
        uncached: (V,) bool likewise, True where the cache did not keep a video that was decoded.
    """

    def __init__(
        self,
        records: Sequence[Record],
        frames: FrameOptions,
        on_decode_error: OnDecodeError,
        cache: FrameCache | None = None,
        given: GivenFeatures | None = None,
    ) -> None:
        self.records = records
        self.frames = frames
        self.on_decode_error = on_decode_error
        self.cache = cache
        self.given = given
        self.features: FeatureRows | GivenFeatures | None = given
        self.failed, self.uncached = torch.zeros(2, len(records), dtype=torch.bool).share_memory_()

    def read(self, index: int, generator: np.random.Generator | None = None) -> VideoInput | None:
        """Gives one video, its first view; None when it cannot be decoded and such videos are skipped.

        Raises:
            DecodeError: with the path and the decoder's reason, under `on_decode_error: raise`.
        """
        kept = self.cached_features(index)
        if kept is not None:
            return kept
        views = self.views(index, generator)
        return views[0] if views else None

    def cached_features(self, index: int) -> VideoInput | None:
        """One video as kept features; None where there are none."""
        row = self.features[index] if self.features is not None else None
        if row is None or row.failed:
            return None
        no_frames = torch.empty(1, len(row.mask), 3, 0, 0, dtype=torch.uint8)
        return VideoInput(no_frames, row.mask[None], torch.tensor([index]), row.features[None])

    def views(self, index: int, generator: np.random.Generator | None = None) -> tuple[VideoInput, ...] | None:
        """Decodes one video; of frames a, b, c, d, two views are a, c and b, d. None as in `read`.

        A clip of a single frame has it in every view.

        Raises:
            DecodeError: as `read`.
        """
        clip, place = self._decode_views(index, generator), torch.tensor([index])
        if clip is None:
            return None
        last = int(clip.mask.sum()) - 1
        sets = (slice(min(view, last), None, self.frames.views) for view in range(self.frames.views))
        return tuple(VideoInput(clip.frames[rows][None], clip.mask[rows][None], place) for rows in sets)

    def watch(self, index: int) -> VideoFrames | None:
        """The first view of one video to look at: its frames, even where features are kept, and their times.

        Raises:
            DecodeError: as `read`.
        """
        clip = self._decode_views(index, None)
        return clip and VideoFrames(*(x[:: self.frames.views] for x in clip))

    def _decode_views(self, index: int, generator: np.random.Generator | None) -> VideoFrames | None:
        o = self.frames
        return self._decode(index, replace(o, num_frames=o.views * o.num_frames, views=1), generator)

    def _decode(self, index: int, o: FrameOptions, generator: np.random.Generator | None) -> VideoFrames | None:
        record = self.records[index]
        decode = partial(read_record, record, o, generator)
        try:
            if self.cache:
                clip, kept = self.cache.fetch(record, o, decode)
                self.uncached[index] = not kept
                return clip
            return decode()
        except DecodeError as error:
            if self.on_decode_error == "raise":
                raise
            if not self.failed[index]:
                warnings.warn(f"skipped and counted: {error}", stacklevel=1)
            self.failed[index] = True
            return None

    def empty_input(self) -> VideoInput:
        """No video, in the shapes that `read` gives."""
        n, size = self.frames.num_frames, self.frames.size
        frames, mask = torch.empty(0, n, 3, size, size, dtype=torch.uint8), torch.empty(0, n, dtype=torch.bool)
        index = torch.empty(0, dtype=torch.int64)
        kept = self._some_features()
        if kept is None:
            return VideoInput(frames, mask, index)
        return VideoInput(frames[..., :0, :0], mask, index, kept.new_empty(0, *kept.shape))

    def bytes_of_one(self) -> int:
        """Size of a video as a batch has it, all views."""
        o, kept = self.frames, self._some_features()
        frames = o.num_frames * 3 * o.size**2
        return o.views * frames if kept is None else kept.nbytes + (o.views - 1) * frames

    def _some_features(self) -> Tensor | None:
        """Features (n, F) of any video; None where none are kept."""
        rows = (self.features[i] for i in range(len(self.records))) if self.features is not None else ()
        return next((row.features for row in rows if not row.failed), None)


class PairDataset(Dataset[VideoTextBatch | None]):
    """Training pairs. An item's key is (position, epoch): what is drawn at random depends on nothing else.

    Args:
        captions: the split's captions.
        reader: decodes the split's videos.
        caption_sampling: `all` makes every caption a sample, `random` every video with one of its captions.
        jitter: moves frames inside their segments at random; only for `fps: null` with uniform sampling.
        seed: the run's seed.
        augment: gives a second view; the reader's frames then have two.
    """

    def __init__(
        self,
        captions: TokenizedCaptions,
        reader: VideoReader,
        caption_sampling: CaptionSampling,
        jitter: bool,
        seed: int,
        augment: Augmentation | None = None,
    ) -> None:
        self.captions = captions
        self.reader = reader
        self.caption_sampling = caption_sampling
        self.jitter = jitter
        self.seed = seed
        self.augment = augment
        self.augment_caption = None if augment is None else CaptionAugmenter(augment.text)
        self.videos = torch.nonzero(captions.counts)[:, 0]  # a video without captions is not a training sample

    def __len__(self) -> int:
        """Number of samples in an epoch."""
        return len(self.captions) if self.caption_sampling == "all" else len(self.videos)

    def sources(self) -> NDArray[np.int64]:
        """A number for each sample, equal for clips of one source; a clip without a known source has its own."""
        names = [r.source or (r.video_id,) for r in self.reader.records]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        of_video = np.array([numbers[name] for name in names], dtype=np.int64)
        videos = self.captions.video_index if self.caption_sampling == "all" else self.videos
        numbered: NDArray[np.int64] = of_video[videos.numpy()]
        return numbered

    def __getitem__(self, key: tuple[int, int]) -> VideoTextBatch | None:
        """Returns one pair as a batch of one, None when its video is skipped."""
        position, epoch = key
        seed = (self.seed, epoch, position)
        # zeros at a seed's end count for nothing: position 0 would draw what the epoch's order is drawn from
        generator = np.random.default_rng(seed if position else (*seed, 1))
        if self.caption_sampling == "all":
            caption = position
            video = int(self.captions.video_index[position])
        else:
            video = int(self.videos[position])
            caption = int(self.captions.first[video]) + int(generator.integers(int(self.captions.counts[video])))
        jitter = generator if self.jitter else None
        text = self.captions.rows(torch.tensor([caption]))
        if self.augment is None or self.augment_caption is None or (epoch + 1) % self.augment.every:
            clip = self.reader.read(video, jitter)
            return None if clip is None else VideoTextBatch(text, clip)
        views = self.reader.views(video, jitter)
        if views is None:
            return None
        frames = augment_frames(views[1].frames[0], generator, self.augment.frames, views[1].frame_mask[0])[None]
        wording = self.augment_caption(self.captions.captions[caption], generator)
        second = VideoTextBatch(self.captions.retokenize(caption, wording), replace(views[1], frames=frames))
        return VideoTextBatch(text, self.reader.cached_features(video) or views[0], second)


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
    return VideoTextBatch.of_rows(kept) if kept else None


def collate_videos(samples: Sequence[VideoInput | None]) -> VideoInput | None:
    """Joins videos; None when every one was skipped."""
    kept = [s for s in samples if s is not None]
    return VideoInput.of_rows(kept) if kept else None


def collate_captions(samples: Sequence[TextInput]) -> TextInput:
    """Joins captions."""
    return TextInput.of_rows(samples)


def collate_nothing(_: object) -> None:
    """Joins the items of an empty share."""


class SeededSampler(Sampler[tuple[int, int]]):
    """A permutation for each epoch, fixed by seed and epoch alone; yields (position, epoch).

    Under several ranks each takes its part of every joined batch: the parts in rank order are the batch of one process.
    What cannot be shared evenly is left out, so that every rank makes the same number of steps. Lightning calls
    `set_epoch`.

    Args:
        length: samples of all ranks.
        seed: the run's seed.
        batch_size: of each rank.
        rank: which share is taken.
        world: number of shares.
        start: the epoch in which training continues, and how many samples of this rank's share are skipped there.
        groups: (length,) int64; samples of one number follow each other, in random order. None for no groups.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        batch_size: int = 1,
        rank: int = 0,
        world: int = 1,
        start: tuple[int, int] = (0, 0),
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.length = length
        self.groups = groups
        self.seed = seed
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.start = start
        self.epoch = start[0]  # workers read ahead before Lightning names the epoch

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of samples that this rank sees in a whole epoch; Lightning counts those skipped itself."""
        return self.length // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yields this rank's share of the epoch's permutation."""
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(self.length)
        if self.groups is not None:
            place = generator.permutation(int(self.groups.max(initial=-1)) + 1)
            order = order[np.argsort(place[self.groups[order]], kind="stable")]
        order = order[: len(self) * self.world]
        joined = self.batch_size * self.world
        batches = np.split(order, range(joined, len(order), joined))
        share = np.concatenate([np.array_split(batch, self.world)[self.rank] for batch in batches])
        for position in share[self.start[1] if self.epoch == self.start[0] else 0 :]:
            yield int(position), self.epoch
