"""Frames by their numbers: in order from where a file stands, or only what the wanted ones need, by seeking.

A frame counts as intact when neither it nor anything that it may refer to is damaged: from a frame that the decoder
flags, or a packet that it refuses, until the next key frame nothing does.

Decoding by seeking jumps to a key frame where that spares more than `MIN_PACKETS_TO_SEEK` packets and passes over
frames that no other frame refers to. Where it does not turn out exactly as the packets promise, everything is decoded
from the start.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tvr_lightning.data.video.container import OpenVideo, demux, ends_stream, reason
from tvr_lightning.data.video.packets import MAX_REORDERED, Packets

_log = logging.getLogger(__name__)

MIN_PACKETS_TO_SEEK = 12
"""Packets that a seek must spare: emptying and refilling a decoder that reorders frames costs about as much."""

_MOST_HELD = 2 * MAX_REORDERED  # frames that may wait for one they may refer to

_HARMLESS = (
    "mmco: unref short failure"  # a cut at an open group lacks a frame that is to be forgotten, none that is used
)

_SKIPPING = ("h264", "hevc")  # decoders known to heed `skip_frame` packet by packet; dav1d, for one, does not

_Picture = TypeVar("_Picture")


def numbered_frames(
    video: OpenVideo, packets: Packets, faults: list[str], *, listen: bool = False
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yields every intact frame with its number, from where the file stands; what goes wrong is noted in `faults`.

    Where not `Packets.seekable`, the file must stand at its beginning. Where it does not, and `faults` is not empty
    afterwards, frames after a fault may be taken for intact or for damaged by mistake.

    Args:
        video: the stream.
        packets: what `scan` found.
        faults: takes the reasons.
        listen: an error that the decoder reports counts as a fault too, though it flags nothing; slower, and for one
            thread of a process at a time.
    """
    intact = _Intact(packets)
    position = 0  # among all packets
    for packet in demux(video):
        if isinstance(packet, str):
            faults.append(packet)
            intact.spoil(position, position - 1)
            continue
        try:
            with _errors_heard(video, listen) as heard:
                frames = _decode(packet)
        except Exception as error:  # PyAV's, of whatever class
            heard, frames = [reason(error)], []
        if heard and intact.concerns(position, packet.pts):
            faults.append(heard[0])
            intact.spoil(position, position)
        for frame in frames:
            yield from intact.add(frame, faults)
        position += bool(packet.size)
    yield from intact.rest()


class _Intact:
    """Numbers frames as the decoder gives them and passes on those that refer to nothing damaged.

    A frame waits until all that it may refer to has come out: damage in a frame that is shown later spoils it too.
    """

    def __init__(self, packets: Packets) -> None:
        self.packets = packets
        self.spoilt = np.zeros(len(packets.ticks), dtype=bool)
        self.reach: list[int] = packets.reach().tolist()
        self.held: deque[tuple[int, av.VideoFrame]] = deque()
        self.count = 0
        self.piece = 0
        self.latest: int | None = None
        self.lost = False  # where frames are counted: since the last key frame

    def concerns(self, position: int, pts: int | None) -> bool:
        """Whether a packet must decode: it is shown, or hidden without leading an open group of pictures."""
        if self.packets.counted or pts is None or position in self.packets.order:
            return True
        begin = self.packets.key_ticks[0], self.packets.key_order[0]
        return len(self.packets.pieces) == 1 and pts >= begin[0] and position >= begin[1]

    def spoil(self, position: int, last_read: int) -> None:
        """Takes packets from `position` up to the next key frame after `last_read` for damaged."""
        self.lost = True
        group = np.searchsorted(self.packets.key_order, last_read, side="right") - 1
        if not self.packets.counted:
            self.spoilt |= (self.packets.order >= position) & (self.packets.key <= group)

    def add(self, frame: av.VideoFrame, faults: list[str]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Takes a frame and yields those that are known to be intact now; notes in `faults` what is wrong with it."""
        number = self._number(frame)
        if number is None:
            return
        if frame.is_corrupt:
            faults.append("a frame is incomplete")
        if self.packets.counted:
            self.lost = frame.is_corrupt or (self.lost and not frame.key_frame)
            if not self.lost:
                yield number, frame
            return
        if not frame.is_corrupt:
            self.held.append((number, frame))
        elif not self.spoilt[number]:
            place = int(self.packets.order[number])
            self.spoil(place, place)
        while self.held and (self.reach[self.held[0][0]] <= number or len(self.held) > _MOST_HELD):
            yield from self._first()

    def rest(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields what still waits, after the last frame."""
        while self.held:
            yield from self._first()

    def _first(self) -> Iterator[tuple[int, av.VideoFrame]]:
        number, frame = self.held.popleft()
        if not self.spoilt[number]:
            yield number, frame

    def _number(self, frame: av.VideoFrame) -> int | None:
        """The number of the next frame; None where it stands outside what the packets promise."""
        if self.packets.counted:
            self.count += 1
            return self.count - 1
        if frame.pts is None:
            return None
        pieces = self.packets.pieces
        if self.latest is not None and frame.pts < self.latest and self.piece + 1 < len(pieces):
            self.piece += 1
        self.latest = frame.pts
        begin, shift = pieces[self.piece]
        if frame.pts < begin:
            return None
        return int(np.searchsorted(self.packets.ticks, frame.pts + shift, side="right")) - 1


@contextmanager
def _errors_heard(video: OpenVideo, listen: bool) -> Iterator[list[str]]:
    """Collects the errors that the decoder reports inside the block, if it is to be listened to."""
    said: list[str] = []
    if not listen:
        yield said
        return
    level, skipped = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as entries:
            yield said
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skipped)
    decoder = video.stream.codec_context.name
    said += [text.strip() for _, name, text in entries if name == decoder and not text.startswith(_HARMLESS)]


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
    if seek and packets.seekable:
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
    reach = packets.reach()
    for key, run in _runs(packets, wanted):
        missing = {int(packets.ticks[frame]): frame for frame in run}
        targets = frozenset(missing)
        latest = int(packets.ticks[reach[run].max()])  # once it is out, the run can refer to nothing that is not
        begin = int(packets.key_ticks[key])
        try:
            video.container.seek(begin, stream=video.stream)
        except Exception as error:  # PyAV's, of whatever class
            _log.debug("a seek failed (%s); decoding from the start", reason(error))
            return None
        landed = False
        for packet in demux(video):
            if isinstance(packet, str):
                _log.debug("reading after a seek failed (%s); decoding from the start", packet)
                return None
            if packet.is_corrupt:  # the container's word; what a decoder draws of it hangs on what came before
                _log.debug("a packet is incomplete; decoding from the start")
                return None
            if not landed:
                if not packet.is_keyframe or packet.pts is None or packet.pts > begin:
                    _log.debug("a seek to %d landed at %s; decoding from the start", begin, packet.pts)
                    return None
                landed = True
            if skips:
                codec.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
            try:
                frames = _decode(packet)
            except Exception as error:  # PyAV's, of whatever class
                _log.debug("decoding by seeking failed (%s); decoding from the start", reason(error))
                return None
            for frame in frames:
                if frame.is_corrupt:
                    _log.debug("a frame is incomplete; decoding from the start")
                    return None
                if frame.pts in missing:
                    found[missing.pop(frame.pts)] = draw(frame)
            if frames and (frames[-1].pts is None or frames[-1].pts >= latest):
                break
        if missing:
            _log.debug("%d frames did not come out after seeking; decoding from the start", len(missing))
            return None
    return found


def _runs(packets: Packets, wanted: NDArray[np.int64]) -> Iterator[tuple[int, list[int]]]:
    """Groups wanted frames into runs that are decoded without a seek, each with its key frame."""
    key, run, reached = 0, list[int](), 0
    for frame in wanted.tolist():
        if run and packets.key_order[packets.key[frame]] - reached > MIN_PACKETS_TO_SEEK:
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
        since = packets.key_ticks[packets.key[missing]]
        if latest and packets.ticks[latest[0]] >= since and latest[0] not in found:
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
    return [] if not packet.size and not ends_stream(packet) else packet.decode()
