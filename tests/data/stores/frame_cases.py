"""What the tests of the frame cache share."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from tvr_lightning.data.stores.frames import FrameCache
from tvr_lightning.data.stores.store import Store
from tvr_lightning.data.video.frames import VideoFrames, read_frames
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.types import Record

OPTIONS = FrameOptions(num_frames=4, sampling="uniform", fps=None, size=16)
CLIP_BYTES = 192 + 4 * 3 * 16 * 16 + 64 + 64  # header and table, frames, mask, times; places are multiples of 64


def gib(clips: float) -> float:
    return clips * CLIP_BYTES / 2**30


def decode(record: Record, options: FrameOptions = OPTIONS) -> VideoFrames:
    o = options
    assert o.sampling != "key"  # another function reads those
    return read_frames(
        record.video_path, o.num_frames, o.sampling, o.fps, o.size, start=record.start, end=record.end
    )  # fmt: skip


def cache_in(folder: Path, gib: float) -> FrameCache:
    return FrameCache(Store(folder, gib))


def fetch(cache: FrameCache, record: Record, options: FrameOptions = OPTIONS) -> tuple[VideoFrames, bool, bool]:
    """Frames, whether they were decoded, whether they are kept."""
    decoded = []

    def watched() -> VideoFrames:
        decoded.append(record)
        return decode(record, options)

    clip, kept = cache.fetch(record, options, watched)
    return clip, bool(decoded), kept


def clips_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("frames/??/*.frames"))


def same(a: VideoFrames, b: VideoFrames) -> bool:
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def age(folder: Path, seconds: float = 3600) -> None:
    """Makes what lies in the cache that of a run long ago."""
    for path in clips_of(folder):
        os.utime(path, (time.time() - seconds, path.stat().st_mtime - seconds))
