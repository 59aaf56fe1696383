"""Whether reading was right: held against a decoder that knows no seeking, no time stamps of ours and no repair."""

from __future__ import annotations

import os
from bisect import bisect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
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
Picture = NDArray[np.uint8]
Outcome = Literal["right", "unseen", "refused", "wrong"]


@dataclass(frozen=True)
class Verdict:
    """What became of a file.

    Attributes:
        outcome: refused with a `DecodeError` that has the path; right in all that was read; right but for pictures
            whose damage the decoder itself does not see; or wrong.
        why: what is wrong, or the message.
    """

    outcome: Outcome
    why: str = ""


@dataclass(frozen=True)
class Sequence:
    """A film decoded from its first packet to its last.

    Attributes:
        times: (N,) seconds from its first frame.
        pictures: (N,) of (3, SIDE, SIDE).
        decoded: the pictures as they came out.
        loose: stamps say no times: none are stored, or they run back, as where recordings were joined.
        alone: (time, picture) of those that a decoder gives which has seen nothing before: a Motion JPEG whose tables
            are damaged is drawn with those of the picture before, where there was one.
    """

    times: list[float]
    pictures: list[Picture]
    decoded: list[Picture]
    loose: bool = False
    alone: tuple[tuple[float, Picture], ...] = ()

    def on_screen(self, time: float) -> list[Picture]:
        """The pictures of a time; several where stamps are closer than the coarsest clock can tell."""
        last = bisect(self.times, time + TICK_S) - 1
        pairs = [*zip(self.times, self.pictures, strict=True), *self.alone]
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
        found: list[tuple[float, Picture]] = []
        loose = video.container.format.name == "avi"
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
                    loose |= frame.time is None
                    stamp = len(found) / rate if frame.time is None else float(frame.time)
                    try:
                        found.append((stamp, np.asarray(resize(frame))))
                    except (DecodeError, av.FFmpegError, ValueError):  # a broken head may say of any size
                        continue
        decoded = [picture for _, picture in found]
        alone = _each_alone(path, video, resize) if video.stream.codec_context.name == "mjpeg" else []
        latest = list(accumulate((stamp for stamp, _ in found), max))
        loose |= any(stamp < before - TICK_S for (stamp, _), before in zip(found, latest, strict=True))
        found.sort(key=lambda pair: pair[0])
        first = found[0][0] if found else 0.0
        times, pictures = [time - first for time, _ in found], [picture for _, picture in found]
        return Sequence(times, pictures, decoded, loose, tuple((time - first, picture) for time, picture in alone))

    return first_that_decodes(path, read)


def _each_alone(path: Path, video: OpenVideo, resize: Resizer) -> list[tuple[float, Picture]]:
    """Each packet's picture by a decoder of its own, with its time."""
    found = []
    with av.open(f"file:{path}", metadata_errors="replace") as file:
        stream = file.streams[video.stream.index]
        for packet in file.demux(stream):
            if packet.pts is None or packet.time_base is None or not packet.size:
                continue
            decoder = av.CodecContext.create(stream.codec_context.name, "r")
            assert isinstance(decoder, VideoCodecContext)
            try:
                frames = [*decoder.decode(packet), *decoder.decode(None)]
                found += [(float(packet.pts * packet.time_base), np.asarray(resize(f))) for f in frames]
            except (DecodeError, av.FFmpegError, ValueError):
                continue
    return found


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
        if strange := _strange(frames, truth):
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
        plain = in_order(path)
    except DecodeError:
        plain = Sequence([], [], [])
    refused: dict[str, str] = {}
    unseen = ""
    for what, read in _readings(path, sound.times[-1]).items():
        try:
            frames = read()
        except DecodeError as error:
            if str(path) not in str(error):
                return Verdict("wrong", f"{what}: the message has no path: {error}")
            refused[what] = str(error)
            continue
        verdict = _compared(frames, sound, plain)
        if verdict.outcome == "wrong":
            return Verdict("wrong", f"{what}: {verdict.why}")
        unseen = unseen or verdict.why
    quick, full = inspect_file(path), inspect_file(path, full=True)
    said = f"checks say {quick.kind} ({quick.reason}) and {full.kind} ({full.reason})"
    refused.pop("a segment", None)  # of a film that is shorter now it may lie outside
    if full.kind == "ok" and (refused or quick.kind != "ok"):
        return Verdict("wrong", f"{said}, but reading refuses {refused}")
    if quick.kind == "undecodable" and full.kind != "undecodable":
        return Verdict("wrong", said)
    if full.kind == "undecodable" and "every frame" not in refused:
        return Verdict("wrong", f"{said}, but reading gives frames")
    if "every frame" in refused:
        return Verdict("refused", refused["every frame"])
    return Verdict("unseen" if unseen else "right", unseen)


def judge_refusal(path: Path) -> Verdict:
    """What is not a film is refused, by reading and by the check, with its path."""
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


def _strange(frames: VideoFrames, film: Sequence) -> str:
    """The first frame that a sound film does not show at its time, in words."""
    times = frames.times[frames.mask].tolist()
    if any(b <= a for a, b in pairwise(times)):
        return f"times {times} do not grow"
    for time, picture in zip(times, frames.frames[frames.mask].numpy(), strict=True):
        if not _among(picture, film.on_screen(time)):
            return f"the frame at {time:.3f} s is another; it is shown at {_shown(picture, film)[:4] or 'no time'}"
    return ""


def _compared(frames: VideoFrames, sound: Sequence, plain: Sequence) -> Verdict:
    """Holds the frames of a damaged film against the sound one and against what a plain decoder makes of the damage.

    A frame may differ from the sound film's only where the plain decoder has none that is right either. Where stamps
    say no times (none are stored, or they run back), frames may come in the order of decoding instead.
    """
    times = frames.times[frames.mask].tolist()
    pictures = list(frames.frames[frames.mask].numpy())
    if any(b <= a for a, b in pairwise(times)):
        return Verdict("wrong", f"times {times} do not grow")
    ahead = _ahead(sound, plain)
    # the clock begins with the first frame that is read: later than in the sound film where the beginning is lost,
    # be it to both, or to reading alone, which passes over what precedes the first key frame
    began = [shown - time for time, first in zip(times, pictures, strict=True) for shown in _shown(first, sound)]
    shifts = {0.0, ahead, *(shift for shift in began[:1] if shift > 0)}
    verdicts = [_on_clock(times, pictures, sound, plain, shift, ahead) for shift in sorted(shifts)]
    if plain.loose:
        verdicts.append(_in_their_order(pictures, sound, plain))
    return min(verdicts, key=lambda v: ("right", "unseen", "wrong").index(v.outcome))


def _on_clock(
    times: list[float], pictures: list[Picture], sound: Sequence, plain: Sequence, shift: float, ahead: float
) -> Verdict:
    """The same for one difference between the clocks.

    Args:
        times: of the frames that were read.
        pictures: theirs.
        sound: the film before.
        plain: the damaged film.
        shift: what added to `times` gives times of the sound film.
        ahead: likewise for those of `plain`.
    """
    lags = (there - time for time, picture in zip(times, pictures, strict=True) for there in _shown(picture, plain))
    lag = next(lags, 0.0)  # of the plain decoder's clock, which begins with what reading passes over
    unseen = ""
    for time, picture in zip(times, pictures, strict=True):
        right = sound.on_screen(time + shift)
        there = [*plain.on_screen(time + shift - ahead), *plain.on_screen(time + lag)]
        if _among(picture, right):
            continue
        said = f"at {time:.3f} s; it is shown at {_shown(picture, sound)[:4] or 'no time'}"
        if not _among(picture, there) and any(_among(p, right) for p in there):
            return Verdict("wrong", f"another frame {said}")
        unseen = unseen or f"a damaged frame {said}"
    return Verdict("unseen" if unseen else "right", unseen)


def _in_their_order(pictures: list[Picture], sound: Sequence, plain: Sequence) -> Verdict:
    """Whether pictures come one after another as they were decoded; damage to pictures or to stamps is not seen."""
    place, unseen = 0, ""
    for number, picture in enumerate(pictures):
        if not _among(picture, sound.pictures):
            unseen = unseen or f"frame {number} is damaged"
            continue
        later = [at for at in range(place, len(plain.decoded)) if _among(picture, [plain.decoded[at]])]
        if later:
            place = later[0]
        else:
            unseen = unseen or f"frame {number} was decoded before those that it follows, or not at all"
    return Verdict("unseen" if unseen else "right", unseen)


def _ahead(sound: Sequence, plain: Sequence) -> float:
    """How much later the sound film shows what a damaged one shows, as most of its pictures say."""
    shifts: Counter[float] = Counter()
    for here, picture in zip(plain.times, plain.pictures, strict=True):
        found = [round(there - here, 2) for there in _shown(picture, sound)]
        shifts.update(sorted(found, key=abs)[:1])
    return shifts.most_common(1)[0][0] if shifts else 0.0


def _among(picture: Picture, others: list[Picture]) -> bool:
    return any(float(np.abs(picture.astype(int) - other).mean()) <= CLOSE for other in others)


def _shown(picture: Picture, film: Sequence) -> list[float]:
    """The times at which a film shows a picture."""
    return [t for t, p in zip(film.times, film.pictures, strict=True) if _among(picture, [p])]
