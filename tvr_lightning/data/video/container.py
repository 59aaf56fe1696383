"""Video files: opening them safely, and reading what their packets say before anything is decoded.

A path is opened here and nowhere else; what is open flows down through the modules of this folder, and out as pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
import numpy as np
from av.codec.context import ThreadType
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tvr_lightning.errors import DecodeError

MAX_SECONDS = 10 * 24 * 3600.0
"""Time stamps and headers that claim more than this are damaged, not long."""

_Result = TypeVar("_Result")

_TEXT_CODECS = ("ansi", "bintext", "xbin", "idf")  # FFmpeg draws the letters of text files as pictures


class Timeline(NamedTuple):
    """When the frames of a video are on screen, in seconds from its first frame.

    Attributes:
        times: (N,) float64, strictly increasing, `times[0] == 0`.
        stop: when the last frame leaves the screen.
        end: when the video ends by its header; later than `stop` only where the file is cut off.
        slack: how far a stored time stamp may lie from the true time because its clock is coarse.
    """

    times: NDArray[np.float64]
    stop: float
    end: float
    slack: float = 0.0

    def on_screen(self, moments: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns the distinct frames seen at `moments`: the last frames whose time stamp is not later.

        Each moment at or after `stop` has lost its frame and adds one index, N and up.

        Shapes: moments (M,), increasing; returns (at most M,), strictly increasing.
        """
        present = moments[moments < self.stop]
        frames = np.searchsorted(self.times, present + self.slack, side="right") - 1
        lost = len(self.times) + np.arange(len(moments) - len(present))
        return np.concatenate([np.unique(frames), lost]).astype(np.int64)

    def between(self, start: float, end: float) -> NDArray[np.int64]:
        """Returns every frame seen in the half-open segment from `start` to `end`, at least one; lost ones are not.

        Shapes: returns (at most N,), neighbouring indices.
        """
        first = int(np.searchsorted(self.times, start + self.slack, side="right")) - 1
        after = int(np.searchsorted(self.times, end - self.slack, side="left"))
        return np.arange(first, max(after, first + 1), dtype=np.int64)


class Packets(NamedTuple):
    """The decodable frames of a stream as its packets announce them, in order of presentation.

    Attributes:
        ticks: (N,) int64, presentation time stamps in units of the stream's time base, strictly increasing.
        order: (N,) int64, position of each frame's packet among all packets of the stream.
        key: (N,) int64, index of the last key frame that is not presented later than the frame.
        counted: True where the file stores no presentation times: the k-th decoded frame then is frame k.
        timeline: the same in seconds.
        fault: why reading stopped early, if it did.
    """

    ticks: NDArray[np.int64]
    order: NDArray[np.int64]
    key: NDArray[np.int64]
    counted: bool
    timeline: Timeline
    fault: str | None


@contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """Opens a file for reading whatever its name; FFmpeg's errors inside the block become `DecodeError`.

    Raises:
        DecodeError: no readable, non-empty regular file, or FFmpeg does not know its format.
    """
    try:
        if path.exists() and not path.is_file():
            raise DecodeError(f"{path}: not a file but {'a folder' if path.is_dir() else 'a device or pipe'}")
        with path.open("rb") as file:
            if not file.read(1):
                raise DecodeError(f"{path}: the file is empty (0 bytes); download or copy it again")
    except OSError as error:
        raise DecodeError(f"{path}: {error.strerror}") from error
    try:
        # The prefix keeps names such as `concat:x` or `-x` from being read as protocols or options, the white list
        # keeps playlists in disguise from reaching the network.
        with av.open(
            f"file:{path}", mode="r", metadata_errors="replace", container_options={"protocol_whitelist": "file"}
        ) as container:
            yield container
    except av.FFmpegError as error:
        raise DecodeError(f"{path}: cannot be decoded: {reason(error)}") from error


class OpenVideo:
    """A video stream of an open file, its decoder set to give each frame before it reads on.

    Args:
        path: the file.
        container: the same, opened.
        index: the stream.
        threads: decoder threads; 0 lets FFmpeg choose.
    """

    def __init__(self, path: Path, container: InputContainer, index: int, threads: int) -> None:
        stream = container.streams[index]
        assert isinstance(stream, VideoStream)
        stream.thread_type = ThreadType.SLICE  # frame threads would decode ahead of what is wanted
        stream.codec_context.thread_count = threads
        self.path = path
        self.container = container
        self.stream = stream
        self.threads = threads

    @contextmanager
    def reopened(self) -> Iterator[OpenVideo]:
        """The stream at its beginning again: in some formats a demuxer that has read on cannot go back there."""
        with open_video(self.path) as container:
            yield OpenVideo(self.path, container, self.stream.index, self.threads)


def first_that_decodes(path: Path, read: Callable[[OpenVideo], _Result], threads: int = 1) -> _Result:
    """Returns what `read` makes of the first video stream that it does not refuse.

    Args:
        path: the video file.
        read: takes the stream of the file, opened afresh.
        threads: decoder threads; parallel processes use the cores already.

    Raises:
        DecodeError: of the first stream, when `read` raises it for all of them.
    """
    refusals: list[DecodeError] = []
    while True:
        with open_video(path) as container:
            indices = video_streams(container, path)
            try:
                return read(OpenVideo(path, container, indices[len(refusals)], threads))
            except DecodeError as refusal:
                refusals.append(refusal)
        if len(refusals) == len(indices):
            raise refusals[0]


def reason(error: av.FFmpegError) -> str:
    """FFmpeg's message for an error."""
    return error.strerror or str(error)


def video_streams(container: InputContainer, path: Path) -> list[int]:
    """Returns the indices of the video streams that FFmpeg can decode, its own choice first; cover pictures are none.

    Raises:
        DecodeError: there is no such stream.
    """
    best = container.streams.best("video")
    streams = [s for s in container.streams.video if s.codec_context is not None]  # None: no decoder
    streams = [s for s in streams if s.codec_context.name not in _TEXT_CODECS]
    streams = [s for s in streams if not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds = [s.type for s in container.streams]
        found = " and ".join(f"{kinds.count(k)} {k} stream{'s'[: kinds.count(k) > 1]}" for k in dict.fromkeys(kinds))
        raise DecodeError(
            f"{path}: no video stream that can be decoded (cover pictures and text do not count); "
            f"found {found or 'no streams'} in format {container.format.name}"
        )
    return [s.index for s in sorted(streams, key=lambda s: best is None or s.index != best.index)]


def demux(video: OpenVideo) -> Iterator[Packet[VideoStream] | str]:
    """Yields the packets of a stream and, in place of what cannot be read, FFmpeg's reason.

    The last packet is empty and flushes the decoder. Reading goes on after errors until a second one follows
    without a packet in between.
    """
    for other in video.container.streams:
        other.discard = Discard.default if other.index == video.stream.index else Discard.all
    failed = False
    while True:
        try:
            for packet in video.container.demux(video.stream):
                failed = False
                yield packet
            return
        except av.FFmpegError as error:
            yield reason(error)
            if failed:
                return
            failed = True


def scan(video: OpenVideo) -> Packets:
    """Reads every packet of a stream without decoding; headers are used only to notice what a cut file lacks.

    Raises:
        DecodeError: the stream has no packets, or time stamps that cannot be.
    """
    container, stream, path = video.container, video.stream, video.path
    fault = None
    rows: list[tuple[int | None, int, bool]] = []  # presentation time, duration, key frame; in decoding order
    for packet in demux(video):
        if isinstance(packet, str):
            fault = packet
        elif packet.size and not packet.is_discard:
            rows.append((packet.pts, packet.duration or 0, packet.is_keyframe))
    if not rows or stream.time_base is None:
        raise DecodeError(f"{path}: the video stream has no packets ({fault or 'the file ends before them'})")

    tick = float(stream.time_base)
    stamps = [pts for pts, _, _ in rows if pts is not None]
    durations = np.array([duration for _, duration, _ in rows], dtype=np.int64)
    known = durations[durations > 0]
    frame_ticks = max(int(np.median(known)) if len(known) else round(1 / float(stream.guessed_rate or 25) / tick), 1)
    keys = np.array([key for _, _, key in rows])
    # AVI stores decoding times only, raw streams none; FFmpeg's guesses are wrong once frames are reordered
    counted = len(stamps) < len(rows) or (container.format.name == "avi" and bool(stream.codec_context.has_b_frames))
    if counted:
        ticks = np.sort(stamps) if len(stamps) == len(rows) else np.arange(len(rows)) * frame_ticks
        order = np.arange(len(rows))
        keys[:] = order == 0
    else:
        ticks, order = np.unique(np.array(stamps, dtype=np.int64), return_index=True)
        keys = keys[order]
        if keys.any():  # what precedes the first key frame cannot be decoded
            first = order[keys].min()
            kept = (order >= first) & (ticks >= ticks[order == first])
            ticks, order, keys = ticks[kept], order[kept], keys[kept]
        else:
            keys[0] = True
    key = np.maximum.accumulate(np.where(keys, np.arange(len(keys)), 0))

    times = (ticks - ticks[0]) * tick
    stop = float(times[-1]) + int(durations[order[-1]] or frame_ticks) * tick
    if stop > MAX_SECONDS:
        raise DecodeError(f"{path}: damaged: its time stamps span {stop / 86400:.0f} days")
    promised = _promised_seconds(container, stream, stop / len(rows))
    cut = promised is not None and 1.05 * stop + 0.5 < promised < MAX_SECONDS
    timeline = Timeline(times, stop, promised if cut and promised else stop, slack=min(tick / 2, 5e-4))
    return Packets(ticks, order, key, counted, timeline, fault)


def _promised_seconds(container: InputContainer, stream: VideoStream, frame_seconds: float) -> float | None:
    """The stream's length by its header; None for formats where FFmpeg estimates it from the file or bit rate."""
    if container.format.name == "avi":  # FFmpeg scales the duration of a cut file down, but not the number of frames
        return stream.frames * frame_seconds
    if container.format.name.startswith("mov") and stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.format.name.startswith("matroska"):
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", ""))
        if tag:
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        if len(container.streams) == 1 and container.duration:
            return container.duration / av.time_base
    return None
