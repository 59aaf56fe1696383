"""Frames of video files by time stamp, decoded with PyAV (FFmpeg).

The packets of the stream are read first, without decoding: they say exactly which frames exist and when, so frame
numbers, headers and frame rates are never trusted. Then only what the wanted frames need is decoded: the reader jumps
to a key frame where that spares more than `JUMP` packets, and frames that no other frame refers to are skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import NamedTuple, get_args

import av
import numpy as np
import torch
from av.codec.context import ThreadType
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from tvr_lightning.data.video.container import Packets, demux, open_video, reason, scan
from tvr_lightning.data.video.decoding import first_that_decodes, intact_frames
from tvr_lightning.data.video.pixels import Resizer, shown_size
from tvr_lightning.data.video.sampling import Sampling, Timeline, choose_frames
from tvr_lightning.errors import ConfigError, DecodeError, nearest

_log = logging.getLogger(__name__)

JUMP = 12
"""Packets that a seek must spare: emptying and refilling a decoder that reorders frames costs about as much."""

_SKIPPING = ("h264", "hevc")  # decoders known to heed `skip_frame` packet by packet; dav1d, for one, does not


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
) -> VideoFrames:
    """Reads frames spread over a video or a segment of it; see `choose_frames` for which.

    Frames are shown upright with square pixels, the short side resized to `size` (bicubic, antialiased), the centre
    cut out. A frame is given once: what a short or damaged video lacks is masked. A damaged frame is replaced by the
    last intact one since its key frame, unless that is given already.

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

    Raises:
        DecodeError: no frame can be given; the message has the path and the reason.
        ConfigError: an argument is out of range.
    """
    _check_arguments(num_frames, sampling, fps, size, threads)
    path = Path(path)

    def choose(timeline: Timeline) -> NDArray[np.int64]:
        first, last = segment(path, start, end, timeline.end)
        return choose_frames(timeline, num_frames, sampling, fps, first, last, generator)

    return first_that_decodes(
        path, lambda container, index: _read_stream(container, index, path, choose, num_frames, size, threads)
    )


def probe_video(path: str | PathLike[str], full: bool = False) -> VideoProbe:
    """Describes a video and makes sure that its first frame decodes, or with `full` that every frame does.

    Raises:
        DecodeError: it does not decode; with `full` also when the file is cut off or any frame is damaged.
    """
    path = Path(path)
    return first_that_decodes(path, lambda container, index: _probe_stream(container, index, path, full))


def _probe_stream(container: InputContainer, index: int, path: Path, full: bool) -> VideoProbe:
    packets = scan(container, prepare(container, index, threads=1), path)
    _, stop, end, _ = packets.timeline
    if full and end > stop:
        raise DecodeError(f"{path}: cut off: the header promises {end:.1f} s, the file ends after {stop:.1f} s")
    with open_video(path) as fresh:
        stream = prepare(fresh, index, threads=1)
        faults = [packets.fault] if packets.fault else []
        first, count = None, 0
        for frame in intact_frames(fresh, stream, faults):
            first, count = first or frame, count + 1
            if not full:
                break
        if first is None or (full and (faults or count < len(packets.ticks))):
            why = faults[0] if faults else "no reason given"
            raise DecodeError(f"{path}: {count} of {len(packets.ticks)} frames decode ({why})")
        width, height = shown_size(first, stream)
        return VideoProbe(stop, width, height, stream.codec_context.name, fps=len(packets.ticks) / stop)


def _check_arguments(num_frames: int, sampling: str, fps: float | None, size: int, threads: int) -> None:
    if sampling not in get_args(Sampling):
        raise ConfigError(f"frame sampling '{sampling}' does not exist: {nearest(sampling, get_args(Sampling))}")
    if num_frames < 1 or size < 1 or threads < 0:
        raise ConfigError(
            f"num_frames ({num_frames}) and size ({size}) must be 1 or more, threads ({threads}) 0 or more"
        )
    if fps is not None and not 0 < fps <= 1000:
        raise ConfigError(f"fps must lie between 0 and 1000 or be null for every frame, got {fps}")


def _read_stream(
    container: InputContainer,
    index: int,
    path: Path,
    choose: Callable[[Timeline], NDArray[np.int64]],
    num_frames: int,
    size: int,
    threads: int,
    seek: bool = True,
) -> VideoFrames:
    packets = scan(container, prepare(container, index, threads), path)
    return decode_chosen(
        container, index, path, packets, choose(packets.timeline), num_frames, size, threads, seek=seek
    )


def decode_chosen(
    container: InputContainer,
    index: int,
    path: Path,
    packets: Packets,
    chosen: NDArray[np.int64],
    num_frames: int,
    size: int,
    threads: int,
    *,
    seek: bool = True,
) -> VideoFrames:
    """Decodes frames of one stream by their numbers.

    Args:
        container: the file, its packets read through once.
        index: the stream.
        path: the file.
        packets: what `scan` found.
        chosen: (at most n,) strictly increasing frame numbers; those from N up stand for lost frames.
        num_frames: n.
        size: height and width of the result in pixels.
        threads: decoder threads.
        seek: False decodes from the start, which gives the same.

    Raises:
        DecodeError: none of the frames can be given.
    """
    faults: list[str] = []
    found: dict[int, NDArray[np.uint8]] | None = None
    stream = prepare(container, index, threads)
    wanted = chosen[chosen < len(packets.ticks)]
    resize = Resizer(size, stream, threads, path)
    if seek and not packets.counted:
        found = _decode_sparingly(container, stream, packets, wanted, resize)
    if found is None:
        with open_video(path) as fresh:
            found = _decode_in_order(fresh, prepare(fresh, index, threads), packets, wanted, resize, faults)

    if 2 * len(found) < len(chosen):
        _, stop, end, _ = packets.timeline
        cut = f"the header promises {end:.1f} s, the file ends after {stop:.1f} s" if end > stop else "no reason given"
        why = next(iter(faults), packets.fault or cut)
        if not found:
            raise DecodeError(f"{path}: none of {len(chosen)} frames can be decoded: {why}")
        _log.warning("%s: damaged: only %d of %d frames can be decoded (%s)", path, len(found), len(chosen), why)

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
        raise DecodeError(f"{path}: the segment runs from {first} s to {end} s: its start must lie before its end")
    return first, last


def prepare(container: InputContainer, index: int, threads: int) -> VideoStream:
    """A video stream, its decoder set to give each frame before it reads on."""
    stream = container.streams[index]
    assert isinstance(stream, VideoStream)
    stream.thread_type = ThreadType.SLICE  # frame threads would decode ahead of what is wanted
    stream.codec_context.thread_count = threads
    return stream


def _decode_sparingly(
    container: InputContainer, stream: VideoStream, packets: Packets, wanted: NDArray[np.int64], resize: Resizer
) -> dict[int, NDArray[np.uint8]] | None:
    """Decodes what the wanted frames need; None when a seek or a frame does not turn out exactly as planned."""
    found: dict[int, NDArray[np.uint8]] = {}
    skips = stream.codec_context.name in _SKIPPING
    for key, run in _runs(packets, wanted):
        missing = {int(packets.ticks[frame]): frame for frame in run}
        targets = frozenset(missing)
        latest = max(targets)
        try:
            container.seek(int(packets.ticks[key]), stream=stream)
            landed = False
            for packet in demux(container, stream):
                if isinstance(packet, str):
                    _log.debug("reading after a seek failed (%s); decoding from the start", packet)
                    return None
                if not landed:
                    if not packet.is_keyframe or packet.pts is None or packet.pts > packets.ticks[key]:
                        _log.debug("a seek to %d landed at %s; decoding from the start", packets.ticks[key], packet.pts)
                        return None
                    landed = True
                if skips:
                    stream.codec_context.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
                for frame in _decode(packet):
                    if frame.pts in missing and not frame.is_corrupt:
                        found[missing.pop(frame.pts)] = resize(frame)
                    if frame.pts is None or frame.pts > latest:
                        break
                else:
                    if missing:
                        continue
                break
        except av.FFmpegError as error:
            _log.debug("decoding by seeking failed (%s); decoding from the start", reason(error))
            return None
        if missing:
            _log.debug("%d frames did not come out after seeking; decoding from the start", len(missing))
            return None
    return found


def _runs(packets: Packets, wanted: NDArray[np.int64]) -> Iterator[tuple[int, list[int]]]:
    """Groups wanted frames into runs that are decoded without a seek, each with its key frame."""
    key, run, reached = 0, list[int](), 0
    for frame in wanted.tolist():
        if run and packets.order[packets.key[frame]] - reached > JUMP:
            yield key, run
            run = []
        if not run:
            key = int(packets.key[frame])
        run.append(frame)
        reached = max(reached, int(packets.order[frame]))
    if run:
        yield key, run


def _decode_in_order(
    container: InputContainer,
    stream: VideoStream,
    packets: Packets,
    wanted: NDArray[np.int64],
    resize: Resizer,
    faults: list[str],
) -> dict[int, NDArray[np.uint8]]:
    """Decodes from the start; instead of a frame that does not come out, gives the last one since its key frame."""
    found: dict[int, NDArray[np.uint8]] = {}
    pending = wanted.tolist()[::-1]
    latest: tuple[int, av.VideoFrame] | None = None

    def stand_in(missing: int) -> None:
        if latest and latest[0] >= packets.key[missing] and latest[0] not in found:
            found[latest[0]] = resize(latest[1])

    for position, frame in numbered_frames(container, stream, packets, faults):
        while pending and pending[-1] < position:
            stand_in(pending.pop())
        if pending and pending[-1] == position:
            found[pending.pop()] = resize(frame)
        if not pending:
            return found
        latest = position, frame
    for missing in pending:
        stand_in(missing)
    return found


def numbered_frames(
    container: InputContainer, stream: VideoStream, packets: Packets, faults: list[str]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yields every intact frame with its number, from where the file stands; what goes wrong is noted in `faults`.

    Where `packets.counted`, the file must stand at its beginning.
    """
    for count, frame in enumerate(intact_frames(container, stream, faults)):
        if packets.counted:
            yield count, frame
        elif frame.pts is not None and frame.pts >= packets.ticks[0]:
            yield int(np.searchsorted(packets.ticks, frame.pts, side="right")) - 1, frame


def _decode(packet: Packet[VideoStream]) -> list[av.VideoFrame]:
    # An empty packet ends the stream for the decoder; one with a time stamp only says "as before"
    return [] if not packet.size and packet.dts is not None else packet.decode()
