"""Frames of a record, whether it is a video file or a folder of pictures extracted from one.

A folder holds a picture a frame, `000001.jpg` and so on, in the order of the numbers in their names. When each was on
screen follows from how many there are a second, so the same moments are chosen as from the video.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tvr_lightning.data.annotations.readers import natural_key
from tvr_lightning.data.video.frames import VideoFrames, check_decodes, read_frames, segment
from tvr_lightning.data.video.key_frames import THUMBNAIL_SIDE, changes_between, choose_key_frames, read_key_frames
from tvr_lightning.data.video.packets import Timeline
from tvr_lightning.data.video.sampling import FrameOptions, choose_frames
from tvr_lightning.errors import ConfigError, DecodeError
from tvr_lightning.types import Record

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")


def read_record(record: Record, options: FrameOptions, generator: np.random.Generator | None = None) -> VideoFrames:
    """Reads the frames of a record; see `read_frames` and `read_key_frames`.

    Args:
        record: a video file, or with a `frame_rate` a folder of pictures.
        options: which frames, and how large; `views` is not looked at.
        generator: jitters `uniform` without `fps`.

    Raises:
        DecodeError: no frame can be given; the message has the path and the reason.
        ConfigError: an option is out of range.
    """
    o, part = options, {"start": record.start, "end": record.end, "resize": options.resize}
    if record.frame_rate is not None:
        return _read_pictures(record, record.frame_rate, o, generator)
    if o.sampling == "key":
        return read_key_frames(record.video_path, o.num_frames, o.size, **part)  # type: ignore[arg-type]
    return read_frames(
        record.video_path, o.num_frames, o.sampling, o.fps, o.size, generator=generator, **part  # type: ignore[arg-type]
    )  # fmt: skip


def check_record(record: Record) -> None:
    """Makes sure that a record gives a frame; reads no further.

    Raises:
        DecodeError: it gives none.
    """
    check_decodes(record.video_path if record.frame_rate is None else pictures_in(record.video_path)[0])


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of the numbers in their names.

    Raises:
        DecodeError: the folder cannot be read, or holds none.
    """
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name.rpartition(".")[2].lower() in PICTURES and e.name[0] != "."]
    except OSError as error:
        raise DecodeError(f"{folder}: no folder of frames: {error.strerror}") from error
    if not names:
        raise DecodeError(f"{folder}: no picture is in it ({', '.join(PICTURES)})")
    return [folder / name for name in sorted(names, key=natural_key)]


def choose_rows(
    count: int,
    rate: float,
    options: FrameOptions,
    place: Path,
    record: Record,
    generator: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Which of a record's frames are kept, where they were taken out of the video before.

    Args:
        count: how many there are.
        rate: of them, a second.
        options: which are kept; not `key`, for which pixels are needed.
        place: names them in errors.
        record: its segment.
        generator: jitters `uniform` without `fps`.

    Returns:
        (at most n,) strictly increasing positions.

    Raises:
        DecodeError: the segment lies outside.
    """
    if options.sampling == "key":
        raise ConfigError("data.sampling=key compares pixels: set it to uniform, head or tail for frame features")
    timeline = _timeline(count, rate)
    first, last = segment(place, record.start, record.end, timeline.end)
    return choose_frames(timeline, options.num_frames, options.sampling, options.fps, first, last, generator)


def _timeline(count: int, rate: float) -> Timeline:
    return Timeline(np.arange(count) / rate, count / rate, count / rate, slack=1e-6 / rate)


def _read_pictures(
    record: Record, rate: float, options: FrameOptions, generator: np.random.Generator | None
) -> VideoFrames:
    pictures = pictures_in(record.video_path)
    timeline = _timeline(len(pictures), rate)
    if options.sampling == "key":
        chosen = _key_rows(pictures, timeline, options, record)
    else:
        chosen = choose_rows(len(pictures), rate, options, record.video_path, record, generator)
    frames = torch.zeros(options.num_frames, 3, options.size, options.size, dtype=torch.uint8)
    times = torch.zeros(options.num_frames, dtype=torch.float64)
    for row, number in enumerate(chosen.tolist()):
        frames[row] = read_frames(pictures[number], 1, size=options.size, resize=options.resize).frames[0]
        times[row] = timeline.times[number]
    return VideoFrames(frames, torch.arange(options.num_frames) < len(chosen), times)


def _key_rows(pictures: Sequence[Path], timeline: Timeline, options: FrameOptions, record: Record) -> NDArray[np.int64]:
    first, last = segment(record.video_path, record.start, record.end, timeline.end)
    rows = timeline.between(first, last)
    small = [read_frames(pictures[row], 1, size=THUMBNAIL_SIDE).frames[0].numpy() for row in rows.tolist()]
    return choose_key_frames(timeline, rows, changes_between(small), options.num_frames, first, last)
