"""What the packets of a stream say before anything is decoded: which frames there are, when, and what each rests on."""

from __future__ import annotations

import re
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tvr_lightning.data.video.container import OpenVideo, demux
from tvr_lightning.errors import DecodeError

MAX_SECONDS = 10 * 24 * 3600.0
"""Time stamps and headers that claim more than this are damaged, not long."""

MAX_REORDERED = 16
"""Frames that a codec may show after one that it decodes later."""


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
    """The frames that a stream shows as its packets announce them, in order of presentation.

    What an edit list hides is none of them, but may be what they are decoded from.

    Attributes:
        ticks: (N,) int64, presentation time stamps in units of the stream's time base, strictly increasing.
        order: (N,) int64, position of each frame's packet among all packets of the stream.
        key: (N,) int64, index into `key_ticks` of the key frame that a frame's decoding begins with.
        key_ticks: (K,) int64, time stamps of the key frames in decoding order, those before the first shown frame too.
        key_order: (K,) int64, position of each key frame's packet among all packets, increasing.
        pieces: (P, 2) int64, one row for each run of time stamps: its first shown frame's own time stamp, and what is
            to be added to the time stamps of that run to give `ticks`. More than one row where they run back.
        counted: True where the file stores no presentation times: the k-th decoded frame then is frame k.
        timeline: the same in seconds.
        fault: why reading stopped early, if it did.
    """

    ticks: NDArray[np.int64]
    order: NDArray[np.int64]
    key: NDArray[np.int64]
    key_ticks: NDArray[np.int64]
    key_order: NDArray[np.int64]
    pieces: NDArray[np.int64]
    counted: bool
    timeline: Timeline
    fault: str | None

    @property
    def seekable(self) -> bool:
        """Whether a time stamp names one place of the file."""
        return not self.counted and len(self.pieces) == 1

    def reach(self) -> NDArray[np.int64]:
        """Returns (N,) the last frame in presentation whose packet is not later than the frame's own.

        Once that one has come out, everything that a frame can refer to has.
        """
        decoding = np.argsort(self.order)
        reach = np.empty_like(decoding)
        reach[decoding] = np.maximum.accumulate(decoding)
        return reach


class _Row(NamedTuple):
    """What a packet says, in ticks."""

    pts: int | None
    duration: int
    key: bool
    hidden: bool


class _Frames(NamedTuple):
    """The fields of `Packets` of these names."""

    ticks: NDArray[np.int64]
    order: NDArray[np.int64]
    key: NDArray[np.int64]
    key_ticks: NDArray[np.int64]
    key_order: NDArray[np.int64]


_scanned: dict[tuple[object, ...], Packets] = {}
"""The packets of the stream that was read last: many segments of one long video are asked for one after another."""


def scan(video: OpenVideo) -> Packets:
    """Reads every packet of a stream without decoding; headers are used only to notice what a cut file lacks.

    Raises:
        DecodeError: the stream has no packets, shows none of them, or has time stamps that cannot be.
    """
    entry = video.path.stat()
    key = (video.path, entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns, entry.st_ino, video.stream.index)
    found = _scanned.get(key)
    if found is None:
        found = _scan(video)
        _scanned.clear()
        _scanned[key] = found
    return found


def _scan(video: OpenVideo) -> Packets:
    """Reads them from the file.

    Raises:
        DecodeError: the stream has no packets, shows none of them, or has time stamps that cannot be.
    """
    container, stream, path = video.container, video.stream, video.path
    fault = None
    rows: list[_Row] = []  # in decoding order
    # A fragmented file's edit list only shifts time stamps; FFmpeg leaves it to us to hide what comes before 0
    listed = container.format.name.startswith("mov")
    for packet in demux(video):
        if isinstance(packet, str):
            fault = packet
        elif packet.size:
            early = listed and packet.pts is not None and packet.pts < 0
            hidden = packet.is_discard or early
            rows.append(_Row(packet.pts, packet.duration or 0, packet.is_keyframe, hidden))
    shown = np.array([not row.hidden for row in rows], dtype=bool)
    if not rows or stream.time_base is None:
        raise DecodeError(f"{path}: the video stream has no packets ({fault or 'the file ends before them'})")
    if not shown.any():
        raise DecodeError(f"{path}: the edit list shows none of {len(rows)} frames; cut the clip again")

    tick = float(stream.time_base)
    durations = np.array([row.duration for row in rows], dtype=np.int64)
    known = durations[shown & (durations > 0)]
    frame_ticks = max(int(np.median(known)) if len(known) else round(1 / float(stream.guessed_rate or 25) / tick), 1)
    stamps = [row.pts for row in rows if row.pts is not None]
    # AVI stores decoding times only, raw streams none; FFmpeg's guesses are wrong once frames are reordered
    counted = len(stamps) < len(rows) or (container.format.name == "avi" and bool(stream.codec_context.has_b_frames))
    origin = 0  # the first frame's own time stamp
    if counted:
        order = np.flatnonzero(shown)
        ticks = np.sort(stamps)[shown] if len(stamps) == len(rows) else np.arange(len(order)) * frame_ticks
        key_ticks, key_order = ticks[:1], order[:1]
        key, pieces = np.zeros(len(order), dtype=np.int64), np.zeros((1, 2), dtype=np.int64)
    else:
        pts = np.array(stamps, dtype=np.int64)
        keys = np.array([row.key for row in rows])
        pieces, shift, undecodable = _pieces(pts, keys, shown, frame_ticks)
        ticks, order, key, key_ticks, key_order = _shown_frames(pts + shift, keys, shown & ~undecodable)
        origin = pieces[0, 0] = ticks[0]

    times = (ticks - ticks[0]) * tick
    stop = float(times[-1]) + int(durations[order[-1]] or frame_ticks) * tick
    if stop > MAX_SECONDS:
        raise DecodeError(f"{path}: damaged: its time stamps span {stop / 86400:.0f} days")
    promised = promised_seconds(container, stream, stop / len(ticks), origin * tick)
    cut = promised is not None and 1.05 * stop + 0.5 < promised < MAX_SECONDS
    timeline = Timeline(times, stop, promised if cut and promised else stop, slack=min(tick / 2, 5e-4))
    return Packets(ticks, order, key, key_ticks, key_order, pieces, counted, timeline, fault)


def _pieces(
    pts: NDArray[np.int64], keys: NDArray[np.bool_], shown: NDArray[np.bool_], frame_ticks: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Finds where time stamps run back, as where two recordings were joined: a key frame is earlier than what precedes.

    Returns:
        `Packets.pieces`; (R,) what is to be added to each packet's time stamp, so that each piece follows the one
        before; (R,) True where a packet refers to a frame that its recording has lost: before a piece's key frame.
    """
    pieces, shift, undecodable = [(int(pts[shown][0]), 0)], np.zeros_like(pts), np.zeros_like(shown)
    before = np.maximum.accumulate(np.where(shown, pts, pts[shown].min()))
    if (pts[1:] < before[:-1])[(keys & shown)[1:]].any():
        latest, begin, added, lost = int(before[0]), 0, 0, False
        for place in np.flatnonzero(shown).tolist():
            if keys[place] and pts[place] < latest:
                begin, added, latest = place, added + latest + frame_ticks - int(pts[place]), int(pts[place])
                pieces.append((int(pts[place]), added))
                shift[place:] = added
            lost = not keys[place] and (lost or pts[place] < latest - MAX_REORDERED * frame_ticks)
            undecodable[place] = lost or (begin > 0 and pts[place] < pts[begin])
            latest = latest if lost else max(latest, int(pts[place]))
    return np.array(pieces, dtype=np.int64), shift, undecodable


def _shown_frames(pts: NDArray[np.int64], keys: NDArray[np.bool_], shown: NDArray[np.bool_]) -> _Frames:
    """Puts the shown packets (R,) into order of presentation and finds the key frame of each."""
    ticks, first = np.unique(pts[shown], return_index=True)
    order = np.flatnonzero(shown)[first]
    key_order = np.flatnonzero(keys)
    # What precedes the first key frame cannot be decoded
    kept = (order >= key_order[0]) & (ticks >= pts[key_order[0]]) if len(key_order) else np.zeros(len(order), bool)
    if kept.any():
        ticks, order = ticks[kept], order[kept]
    else:
        key_order = order[:1]
    key_ticks = pts[key_order]
    key = np.searchsorted(key_order, order, side="right") - 1
    key = np.maximum(key, 0)
    while (later := (key > 0) & (key_ticks[key] > ticks)).any():  # frames that lead an open group of pictures
        key[later] -= 1
    return _Frames(ticks, order, key, key_ticks, key_order)


def promised_seconds(
    container: InputContainer, stream: VideoStream, frame_seconds: float, origin: float
) -> float | None:
    """Gives the seconds from the first frame to the end of the stream by its header.

    Args:
        container: the file.
        stream: its stream.
        frame_seconds: how long a frame lasts.
        origin: when the first frame is shown, in seconds on the file's own clock.

    Returns:
        None for formats where FFmpeg estimates it from the file or bit rate.
    """
    if container.format.name == "avi":  # FFmpeg scales the duration of a cut file down, but not the number of frames
        return stream.frames * frame_seconds
    if container.format.name.startswith("mov") and stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin
    if container.format.name.startswith("matroska"):  # what it calls a duration is an end
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", ""))
        if tag:
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) - origin
        if len(container.streams) == 1 and container.duration:
            return container.duration / av.time_base - origin
    return None
