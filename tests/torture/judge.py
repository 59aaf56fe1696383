"""Whether reading was right: held against a decoder that knows no seeking, no time stamps of ours and no repair."""

from __future__ import annotations

import os
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from tvr_lightning.data.tools.check import inspect_file
from tvr_lightning.data.video.container import OpenVideo, first_that_decodes
from tvr_lightning.data.video.frames import VideoFrames, read_frames
from tvr_lightning.data.video.key_frames import read_key_frames
from tvr_lightning.data.video.pixels import Resizer
from tvr_lightning.errors import DecodeError

from ..data.clips import number_of

SIDE = 32
TICK_S = 2e-3  # Matroska and FLV count milliseconds
CLOSE = 1.0  # mean difference of two pictures that are the same one, in levels of 255
Outcome = Literal["right", "refused", "wrong"]


@dataclass(frozen=True)
class Verdict:
    """What became of a file.

    Attributes:
        outcome: refused with a `DecodeError` that has the path, right in all that was read, or wrong.
        why: what is wrong, or the message.
    """

    outcome: Outcome
    why: str = ""


@dataclass(frozen=True)
class Sequence:
    """A film decoded from its first packet to its last: (N,) seconds from its first frame, and its pictures."""

    times: list[float]
    pictures: list[NDArray[np.uint8]]

    def on_screen(self, time: float) -> list[NDArray[np.uint8]]:
        """The pictures of a time; several where stamps are closer than the coarsest clock can tell."""
        last = bisect(self.times, time + TICK_S) - 1
        pairs = zip(self.times, self.pictures, strict=True)
        return [picture for t, picture in pairs if last >= 0 and abs(t - self.times[last]) < TICK_S]

    def __len__(self) -> int:
        """Frames that are on screen: of several with one stamp there is one."""
        return 1 + sum(b - a >= TICK_S for a, b in pairwise(self.times)) if self.times else 0


def in_order(path: Path) -> Sequence:
    """Decodes all that a file gives, by PyAV alone; frames without a stamp follow at the stream's rate.

    Raises:
        DecodeError: the file cannot be opened, or has no film.
    """

    def read(video: OpenVideo) -> Sequence:
        resize = Resizer(SIDE, video)
        rate = float(video.stream.codec_context.framerate or video.stream.average_rate or 25)
        found: list[tuple[float, NDArray[np.uint8]]] = []
        with av.open(f"file:{path}", metadata_errors="replace") as file:
            stream = file.streams[video.stream.index]
            stream.codec_context.thread_count = 1
            packets = file.demux(stream)
            while True:
                try:
                    packet = next(packets)
                except (StopIteration, av.FFmpegError, ValueError, AssertionError, IndexError):
                    break
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    continue
                for frame in frames:
                    assert isinstance(frame, av.VideoFrame)
                    stamp = len(found) / rate if frame.time is None else float(frame.time)
                    try:
                        found.append((stamp, np.asarray(resize(frame))))
                    except (DecodeError, av.FFmpegError, ValueError):  # a broken head may say of any size
                        continue
        found.sort(key=lambda pair: pair[0])
        first = found[0][0] if found else 0.0
        return Sequence([time - first for time, _ in found], [picture for _, picture in found])

    return first_that_decodes(path, read)


def judge_sound(path: Path, number: Callable[[float], int] | None) -> Verdict:
    """A sound film gives its own frames, however it is read, and the check finds nothing."""
    truth = in_order(path)
    for what, read in _readings(path, truth.times[-1] if truth.times else 0.0).items():
        try:
            frames = read()
        except DecodeError as error:
            return Verdict("wrong", f"{what}: a sound film was refused: {error}")
        times = frames.times[frames.mask].tolist()
        pictures = frames.frames[frames.mask]
        if what == "every frame" and len(times) != len(truth):
            return Verdict("wrong", f"{len(times)} of {len(truth)} frames")
        if strange := _strange(frames, [truth]):
            return Verdict("wrong", f"{what}: {strange}")
        if number is not None:
            shown, wanted = [number_of(p) for p in pictures], [number(t) for t in times]
            if shown != wanted:
                return Verdict("wrong", f"{what}: frames {shown} at {[round(t, 2) for t in times]} s, not {wanted}")
    for full in (False, True):
        found = inspect_file(path, full)
        if found.kind != "ok":
            return Verdict("wrong", f"the {'full ' * full}check says {found.kind}: {found.reason}")
    return Verdict("right")


def judge_damaged(path: Path, sound: Sequence) -> Verdict:
    """A damaged film gives frames of their own times, as they were or as a plain decoder shows them, or is refused."""
    try:
        plain = [in_order(path)]
    except DecodeError:
        plain = []
    refused: dict[str, str] = {}
    for what, read in _readings(path, sound.times[-1]).items():
        try:
            frames = read()
        except DecodeError as error:
            if str(path) not in str(error):
                return Verdict("wrong", f"{what}: the message has no path: {error}")
            refused[what] = str(error)
            continue
        if strange := _strange(frames, [sound, *plain]):
            return Verdict("wrong", f"{what}: {strange}")
    quick, full = inspect_file(path), inspect_file(path, full=True)
    said = f"checks say {quick.kind} ({quick.reason}) and {full.kind} ({full.reason})"
    if full.kind == "ok" and (refused or quick.kind != "ok"):
        return Verdict("wrong", f"{said}, but reading refuses {refused}")
    if quick.kind == "undecodable" and full.kind != "undecodable":
        return Verdict("wrong", said)
    if full.kind == "undecodable" and "every frame" not in refused:
        return Verdict("wrong", f"{said}, but reading gives frames")
    if len(refused) == len(_readings(path, 0)) or "every frame" in refused:
        return Verdict("refused", next(iter(refused.values())))
    return Verdict("right")


def judge_refusal(path: Path) -> Verdict:
    """What is no film is refused, by reading and by the check, with its path."""
    for what, read in _readings(path, 1.0).items():
        try:
            read()
        except DecodeError as error:
            if str(path) not in str(error):
                return Verdict("wrong", f"{what}: the message has no path: {error}")
        else:
            return Verdict("wrong", f"{what}: gives frames")
    if os.path.lexists(path) and (found := inspect_file(path)).kind != "undecodable":
        return Verdict("wrong", f"the check says {found.kind}")
    return Verdict("refused")


def _readings(path: Path, seconds: float) -> dict[str, Callable[[], VideoFrames]]:
    start = seconds * 0.4
    end = start + max(seconds * 0.3, 0.1)
    return {
        "7 frames": lambda: read_frames(path, 7, size=SIDE),
        "every frame": lambda: read_frames(path, 300, size=SIDE),
        "2 a second": lambda: read_frames(path, 9, "head", 2.0, SIDE),
        "a segment": lambda: read_frames(path, 3, size=SIDE, start=start, end=end),
        "key frames": lambda: read_key_frames(path, 3, SIDE),
    }


def _strange(frames: VideoFrames, films: list[Sequence]) -> str:
    """The first frame that no film shows at its time, in words."""
    times = frames.times[frames.mask].tolist()
    if any(b <= a for a, b in pairwise(times)):
        return f"times {times} do not grow"
    for time, picture in zip(times, frames.frames[frames.mask].numpy(), strict=True):
        shown = [p for film in films for p in film.on_screen(time)]
        apart = min((float(np.abs(picture.astype(int) - p).mean()) for p in shown), default=255.0)
        if apart > CLOSE:
            elsewhere = [round(t, 3) for film in films for t, p in zip(film.times, film.pictures, strict=True)
                         if np.abs(picture.astype(int) - p).mean() <= CLOSE]  # fmt: skip
            return (
                f"the frame at {time:.3f} s differs by {apart:.0f} levels; it is shown at {elsewhere[:4] or 'no time'}"
            )
    return ""
