"""Frames by their numbers: in order from where a file stands, or only what the wanted ones need, by seeking.

Decoding by seeking jumps to a key frame where that spares more than `MIN_PACKETS_TO_SEEK` packets and passes over
frames that no other frame refers to. Where it does not turn out exactly as the packets promise, everything is decoded
from the start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tvr_lightning.data.video.container import OpenVideo, Packets, demux, reason

_log = logging.getLogger(__name__)

MIN_PACKETS_TO_SEEK = 12
"""Packets that a seek must spare: emptying and refilling a decoder that reorders frames costs about as much."""

_SKIPPING = ("h264", "hevc")  # decoders known to heed `skip_frame` packet by packet; dav1d, for one, does not

_Picture = TypeVar("_Picture")


def intact_frames(video: OpenVideo, faults: list[str]) -> Iterator[av.VideoFrame]:
    """Yields every intact frame from where the file stands and notes in `faults` what went wrong."""
    for packet in demux(video):
        if isinstance(packet, str):
            faults.append(packet)
            continue
        try:
            frames = _decode(packet)
        except av.FFmpegError as error:
            faults.append(reason(error))
            continue
        for frame in frames:
            if frame.is_corrupt:
                faults.append("a frame is incomplete")
            else:
                yield frame


def numbered_frames(video: OpenVideo, packets: Packets, faults: list[str]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yields every intact frame with its number, from where the file stands; what goes wrong is noted in `faults`.

    Where `packets.counted`, the file must stand at its beginning.
    """
    for count, frame in enumerate(intact_frames(video, faults)):
        if packets.counted:
            yield count, frame
        elif frame.pts is not None and frame.pts >= packets.ticks[0]:
            yield int(np.searchsorted(packets.ticks, frame.pts, side="right")) - 1, frame


def decode_frames(
    video: OpenVideo,
    packets: Packets,
    wanted: NDArray[np.int64],
    draw: Callable[[av.VideoFrame], _Picture],
    *,
    seek: bool = True,
) -> tuple[dict[int, _Picture], list[str]]:
    """Decodes frames of a stream.

    Args:
        video: the stream, wherever it stands.
        packets: what `scan` found.
        wanted: strictly increasing frame numbers below N.
        draw: makes a picture of a frame; frames themselves are not kept.
        seek: False decodes from the start, which gives the same.

    Returns:
        pictures by frame number, and what went wrong. Instead of a frame that does not come out stands the last one
        since its key frame, unless that is wanted itself.
    """
    if seek and not packets.counted:
        found = _decode_sparingly(video, packets, wanted, draw)
        if found is not None:
            return found, []
    faults: list[str] = []
    with video.reopened() as fresh:
        return _decode_in_order(fresh, packets, wanted, draw, faults), faults


def _decode_sparingly(
    video: OpenVideo, packets: Packets, wanted: NDArray[np.int64], draw: Callable[[av.VideoFrame], _Picture]
) -> dict[int, _Picture] | None:
    """Decodes what the wanted frames need; None when a seek or a frame does not turn out exactly as planned."""
    found: dict[int, _Picture] = {}
    codec = video.stream.codec_context
    skips = codec.name in _SKIPPING
    for key, run in _runs(packets, wanted):
        missing = {int(packets.ticks[frame]): frame for frame in run}
        targets = frozenset(missing)
        latest = max(targets)
        try:
            video.container.seek(int(packets.ticks[key]), stream=video.stream)
            landed = False
            for packet in demux(video):
                if isinstance(packet, str):
                    _log.debug("reading after a seek failed (%s); decoding from the start", packet)
                    return None
                if not landed:
                    if not packet.is_keyframe or packet.pts is None or packet.pts > packets.ticks[key]:
                        _log.debug("a seek to %d landed at %s; decoding from the start", packets.ticks[key], packet.pts)
                        return None
                    landed = True
                if skips:
                    codec.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
                for frame in _decode(packet):
                    if frame.pts in missing and not frame.is_corrupt:
                        found[missing.pop(frame.pts)] = draw(frame)
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
        if run and packets.order[packets.key[frame]] - reached > MIN_PACKETS_TO_SEEK:
            yield key, run
            run = []
        if not run:
            key = int(packets.key[frame])
        run.append(frame)
        reached = max(reached, int(packets.order[frame]))
    if run:
        yield key, run


def _decode_in_order(
    video: OpenVideo,
    packets: Packets,
    wanted: NDArray[np.int64],
    draw: Callable[[av.VideoFrame], _Picture],
    faults: list[str],
) -> dict[int, _Picture]:
    """Decodes from the start; instead of a frame that does not come out, gives the last one since its key frame."""
    found: dict[int, _Picture] = {}
    pending = wanted.tolist()[::-1]
    latest: tuple[int, av.VideoFrame] | None = None

    def stand_in(missing: int) -> None:
        if latest and latest[0] >= packets.key[missing] and latest[0] not in found:
            found[latest[0]] = draw(latest[1])

    for position, frame in numbered_frames(video, packets, faults):
        while pending and pending[-1] < position:
            stand_in(pending.pop())
        if pending and pending[-1] == position:
            found[pending.pop()] = draw(frame)
        if not pending:
            return found
        latest = position, frame
    for missing in pending:
        stand_in(missing)
    return found


def _decode(packet: Packet[VideoStream]) -> list[av.VideoFrame]:
    # An empty packet ends the stream for the decoder; one with a time stamp only says "as before"
    return [] if not packet.size and packet.dts is not None else packet.decode()
