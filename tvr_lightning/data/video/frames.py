"""Frames of video files by time stamp, decoded with PyAV (FFmpeg).

The packets of the stream are read first, without decoding: they say exactly which frames exist and when, so frame
numbers, headers and frame rates are never trusted. Then only what the wanted frames need is decoded.
"""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tvr_lightning.data.video.container import OpenVideo, first_that_decodes, pyav_errors
from tvr_lightning.data.video.decoding import decode_frames
from tvr_lightning.data.video.examination import examine
from tvr_lightning.data.video.packets import Packets, scan
from tvr_lightning.data.video.pixels import Resizer, shown_size
from tvr_lightning.data.video.sampling import Resize, Sampling, choose_frames
from tvr_lightning.errors import ConfigError, DecodeError, nearest

_log = logging.getLogger(__name__)


class VideoFrames(NamedTuple):
    """Frames of one video; those that exist come first, in order.

    Attributes:
        frames: (n, 3, size, size) uint8 RGB, zeros where the mask is False.
        mask: (n,) bool, True = the frame exists.
        times: (n,) float64, seconds from the first frame of the video to each frame's own presentation, 0 where the
            mask is False.
    """

    frames: Tensor
    mask: Tensor
    times: Tensor


class VideoProbe(NamedTuple):
    """What a video is.

    Attributes:
        duration: seconds from the first frame to the end of the last one that the file holds.
        width: pixels as shown, after rotation and with square pixels.
        height: likewise.
        codec: FFmpeg's name for the decoder.
        fps: frames per second on average.
    """

    duration: float
    width: int
    height: int
    codec: str
    fps: float


def read_frames(
    path: str | PathLike[str],
    num_frames: int,
    sampling: Sampling = "uniform",
    fps: float | None = None,
    size: int = 224,
    *,
    start: float | None = None,
    end: float | None = None,
    threads: int = 1,
    generator: np.random.Generator | None = None,
    resize: Resize = "crop",
) -> VideoFrames:
    """Reads frames spread over a video or a segment of it; see `choose_frames` for which.

    Frames are shown upright with square pixels, resized to `size` (bicubic, antialiased), see `Resizer`. A frame
    is given once: what a short or damaged video lacks is masked. A frame that is damaged, or may refer to a
    damaged one, is replaced by the last intact one since its key frame, unless that is given already.

    Args:
        path: the video file.
        num_frames: n, the most frames to give.
        sampling: `uniform`, `head` or `tail`.
        fps: candidates per second, None for every frame of the video.
        size: height and width of the result in pixels.
        start: first second of the segment, on the video's own clock; None for its beginning.
        end: end of the segment, exclusive; None or anything later than the video for its end.
        threads: decoder threads; 0 lets FFmpeg choose.
        generator: jitters `uniform` without `fps`.
        resize: `crop` or `squash`; see `Resizer`.

    Raises:
        DecodeError: no frame can be given; the message has the path and the reason.
        ConfigError: an argument is out of range.
    """
    _check_arguments(num_frames, sampling, fps, size, threads)
    path = Path(path)

    def read(video: OpenVideo) -> VideoFrames:
        packets = scan(video)
        first, last = segment(path, start, end, packets.timeline.end)
        chosen = choose_frames(packets.timeline, num_frames, sampling, fps, first, last, generator)
        return draw_frames(video, packets, chosen, num_frames, size, resize=resize)

    return first_that_decodes(path, read, threads)


def probe_video(path: str | PathLike[str], full: bool = False) -> VideoProbe:
    """Describes a video and makes sure that its first frame decodes, or with `full` that every frame does.

    Raises:
        DecodeError: it does not decode; with `full` also when the file is cut off or any frame is damaged.
    """
    return first_that_decodes(Path(path), lambda video: _probe(video, full))


def read_duration(path: str | PathLike[str]) -> float:
    """Seconds from a video's first frame to the end of the last one that the file holds; nothing is decoded.

    Raises:
        DecodeError: it has no packets that could be frames.
    """
    return first_that_decodes(Path(path), lambda video: scan(video).timeline.stop)


def check_decodes(path: str | PathLike[str]) -> None:
    """Makes sure that a video gives a frame, its first that is whole; reads no further.

    Raises:
        DecodeError: it gives none; with the path and the reason.
    """
    first_that_decodes(Path(path), examine)


def _probe(video: OpenVideo, full: bool) -> VideoProbe:
    packets, first, cut, broken = examine(video, full)
    if full and (cut or broken):
        raise DecodeError(f"{video.path}: {cut or broken}")
    stop = packets.timeline.stop
    with pyav_errors(video.path):
        width, height = shown_size(first, video.stream)
    return VideoProbe(stop, width, height, video.stream.codec_context.name, fps=len(packets.ticks) / stop)


def _check_arguments(num_frames: int, sampling: str, fps: float | None, size: int, threads: int) -> None:
    if sampling not in get_args(Sampling):
        raise ConfigError(f"frame sampling '{sampling}' does not exist: {nearest(sampling, get_args(Sampling))}")
    check_numbers(num_frames, size, threads)
    if fps is not None and not 0 < fps <= 1000:
        raise ConfigError(f"fps must lie between 0 and 1000 or be null for every frame, got {fps}")


def check_numbers(num_frames: int, size: int, threads: int) -> None:
    """Refuses numbers with which nothing can be read.

    Raises:
        ConfigError: one is too small.
    """
    if num_frames < 1 or size < 1 or threads < 0:
        raise ConfigError(
            f"num_frames ({num_frames}) and size ({size}) must be 1 or more, threads ({threads}) 0 or more"
        )


def draw_frames(
    video: OpenVideo,
    packets: Packets,
    chosen: NDArray[np.int64],
    num_frames: int,
    size: int,
    *,
    seek: bool = True,
    resize: Resize = "crop",
) -> VideoFrames:
    """Decodes frames of one stream by their numbers and draws them.

    Args:
        video: the stream, wherever it stands.
        packets: what `scan` found.
        chosen: (at most n,) strictly increasing frame numbers; those from N up stand for lost frames.
        num_frames: n.
        size: height and width of the result in pixels.
        seek: False decodes from the start, which gives the same.
        resize: see `Resizer`.

    Raises:
        DecodeError: none of the frames can be given.
    """
    wanted = chosen[chosen < len(packets.ticks)]
    found, faults = decode_frames(video, packets, wanted, Resizer(size, video, resize), seek=seek)
    if 2 * len(found) < len(chosen):
        _, stop, end, _ = packets.timeline
        cut = f"the header promises {end:.1f} s, the file ends after {stop:.1f} s" if end > stop else "no reason given"
        why = next(iter(faults), packets.fault or cut)
        if not found:
            raise DecodeError(f"{video.path}: none of {len(chosen)} frames can be decoded: {why}")
        _log.warning("%s: damaged: only %d of %d frames can be decoded (%s)", video.path, len(found), len(chosen), why)

    frames = torch.zeros(num_frames, 3, size, size, dtype=torch.uint8)
    times = torch.zeros(num_frames, dtype=torch.float64)
    for row, frame in enumerate(sorted(found)):
        frames[row] = torch.from_numpy(found[frame])
        times[row] = packets.timeline.times[frame]
    return VideoFrames(frames, torch.arange(num_frames) < len(found), times)


def segment(path: Path, start: float | None, end: float | None, duration: float) -> tuple[float, float]:
    """First and last second of a segment, cut to the video's length.

    Raises:
        DecodeError: it begins outside the video, or ends before it begins.
    """
    first, last = 0.0 if start is None else start, duration if end is None else min(end, duration)
    if not 0 <= first < duration:
        raise DecodeError(f"{path}: the segment starts at {first} s, outside the video (0 to {duration:.2f} s)")
    if not first < last:
        raise DecodeError(f"{path}: the segment runs from {first} s to {end} s: its start must be before its end")
    return first, last
