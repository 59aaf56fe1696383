"""Decoding a video from its start, frame by frame, without torch: what worker processes of the data commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from tvr_lightning.data.video.container import demux, open_video, reason, video_streams
from tvr_lightning.errors import DecodeError

_Result = TypeVar("_Result")


def first_that_decodes(path: Path, read: Callable[[InputContainer, int], _Result]) -> _Result:
    """Returns what `read` makes of the first video stream that it does not refuse.

    Args:
        path: the video file.
        read: takes the file, opened afresh, and a stream's index.

    Raises:
        DecodeError: of the first stream, when `read` raises it for all of them.
    """
    refusals: list[DecodeError] = []
    while True:
        with open_video(path) as container:
            indices = video_streams(container, path)
            try:
                return read(container, indices[len(refusals)])
            except DecodeError as refusal:
                refusals.append(refusal)
        if len(refusals) == len(indices):
            raise refusals[0]


def stream_of(container: InputContainer, index: int) -> VideoStream:
    """Returns a video stream, its decoder set to one thread: parallel processes use the cores already."""
    stream = container.streams[index]
    assert isinstance(stream, VideoStream)
    stream.codec_context.thread_count = 1
    return stream


def intact_frames(container: InputContainer, stream: VideoStream, faults: list[str]) -> Iterator[av.VideoFrame]:
    """Yields every intact frame in order and notes in `faults` what went wrong."""
    for packet in demux(container, stream):
        if isinstance(packet, str):
            faults.append(packet)
            continue
        if not packet.size and packet.dts is not None:  # an empty packet with a time stamp only says "as before"
            continue
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            faults.append(reason(error))
            continue
        for frame in frames:
            if frame.is_corrupt:
                faults.append("a frame is incomplete")
            else:
                yield frame
