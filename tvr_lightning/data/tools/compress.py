"""Small copies of videos: constant frame rate, short side, no sound; the preprocessing of the CLIP4Clip family.

This module imports no torch; its functions run in worker processes.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from tvr_lightning.data.tools.parallel import map_in_processes, stop_if_asked
from tvr_lightning.data.video.container import OpenVideo, first_that_decodes
from tvr_lightning.data.video.decoding import numbered_frames
from tvr_lightning.data.video.packets import scan
from tvr_lightning.data.video.pixels import FILTER, orientation, square_pixels
from tvr_lightning.errors import ConfigError, DataError, DecodeError

MANIFEST = "compress.json"
EXTENSIONS = (
    *("mp4", "avi", "webm", "mkv", "mov", "mpg", "3gp", "wmv", "m4v", "3g2", "mts", "m2ts", "ts", "mpeg", "qt"),
    *("3gpp", "asf", "divx", "flv", "ogv", "null", ""),
)
"""What videos are called, in order of preference; `""` is not an extension, or a bare dot."""

LOST = 0.05
"""Share of a video that may be damaged; more would hide in the copy that something is missing."""

_X264 = {"crf": "23", "preset": "medium"}
_PART = ".part"


@dataclass
class Compressed:
    """What `compress` did.

    Attributes:
        made: files written.
        skipped: files that were there already, newer than their source.
        failed: for each source without a copy, why.
        patched: for each copy of a source with a few broken frames, what was wrong.
        ignored: files of the source folder whose names are not video's.
        source_bytes: size of the sources of `made`.
        made_bytes: size of `made`.
    """

    made: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    patched: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    source_bytes: int = 0
    made_bytes: int = 0


class _Job(NamedTuple):
    source: Path
    target: Path
    fps: float
    short_side: int


class _Outcome(NamedTuple):
    failure: str = ""
    damage: str = ""


def compress(
    source: Path, destination: Path, fps: float = 3.0, short_side: int = 224, workers: int | None = None
) -> Compressed:
    """Copies every video below a folder at a lower frame rate and size; ids (paths and stems) stay.

    `a/x.avi` becomes `a/x.mp4`: H.264 at `fps` frames per second, each the one that was on screen at that moment,
    upright, with square pixels, the short side at most `short_side`, both sides even. A second call makes what is
    missing or older than its source. A video of which more than a twentieth is lost gets no copy and is reported.

    Args:
        source: the folder of the videos; nothing in it is changed.
        destination: a new folder, or one that an earlier call with the same settings made.
        fps: frames per second.
        short_side: pixels.
        workers: processes; None for one per core.

    Raises:
        ConfigError: a setting is out of range, or one folder lies in the other.
        DataError: no source, a destination with other content or settings, or one that is written to right now.
    """
    if not 0 < fps <= 1000 or not 2 <= short_side <= 8192:
        raise ConfigError(f"fps ({fps}) must be in (0, 1000], short_side ({short_side}) in [2, 8192]")
    source, destination = Path(source).resolve(), Path(destination).resolve()
    if not source.is_dir():
        raise DataError(f"{source}: no such folder of videos")
    if source == destination or source in destination.parents or destination in source.parents:
        raise ConfigError(
            f"{destination} and {source} are inside one another; the copies need a folder outside the source"
        )
    settings = {"fps": fps, "short_side": short_side, "codec": "libx264", **_X264, "source": str(source)}
    with _locked(destination, settings):
        return _compress(source, destination, fps, short_side, workers)


def _compress(source: Path, destination: Path, fps: float, short_side: int, workers: int | None) -> Compressed:
    done = Compressed()
    jobs: list[_Job] = []
    for path, target in _targets(source, destination, done):
        path_state = path.stat() if path.is_file() else None  # a link may lead nowhere
        if path_state and target.is_file() and target.stat().st_mtime >= path_state.st_mtime:
            done.skipped += 1
        else:
            jobs.append(_Job(path, target, fps, short_side))
    for folder in sorted({job.target.parent for job in jobs}):
        folder.mkdir(parents=True, exist_ok=True)
    for job, outcome in zip(
        jobs, map_in_processes(_work, jobs, workers, "compressing", jobs_per_worker=2), strict=True
    ):
        name = str(job.source.relative_to(source))
        if outcome.failure:
            done.failed[name] = outcome.failure
            continue
        done.made += 1
        done.source_bytes += job.source.stat().st_size
        done.made_bytes += job.target.stat().st_size
        if outcome.damage:
            done.patched[name] = outcome.damage
    return done


def _targets(source: Path, destination: Path, done: Compressed) -> Iterator[tuple[Path, Path]]:
    """Pairs every video with its copy; of several with one stem the first extension is taken, the others fail."""
    chosen: dict[Path, tuple[int, Path]] = {}
    for path in sorted(p for p in source.rglob("*") if not p.is_dir()):
        head, dot, extension = path.name.rpartition(".")
        stem, extension = (head, extension.lower()) if dot else (path.name, "")
        name = path.relative_to(source)
        if not stem or path.name.startswith(".") or extension not in EXTENSIONS:
            done.ignored.append(str(name))
            continue
        target = destination / name.parent / f"{stem}.mp4"
        rank = EXTENSIONS.index(extension), path
        if target in chosen:
            rank, (_, other) = min(rank, chosen[target]), max(rank, chosen[target])
            done.failed[str(other.relative_to(source))] = f"{rank[1].name} has the same id and was taken"
        chosen[target] = rank
    for target, (_, path) in chosen.items():
        yield path, target


@contextmanager
def _locked(destination: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Holds a destination's manifest while copies are made, written first where there is none."""
    manifest = destination / MANIFEST
    try:
        destination.mkdir(parents=True, exist_ok=True)
        if not manifest.exists():
            strange = sorted(p.name for p in destination.iterdir())
            if strange:
                raise DataError(
                    f"{destination} is in use by something else (found: {', '.join(strange[:3])}; no '{MANIFEST}'). "
                    "Choose an empty or new folder."
                )
            part = destination / f".{MANIFEST}{_PART}"
            part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
            part.replace(manifest)
        with manifest.open("r+", encoding="utf-8") as file:
            _hold(file, destination)
            _check_settings(file.read(), settings, manifest)
            for left in destination.rglob(f".*{_PART}"):
                left.unlink()
            yield
    except OSError as error:
        raise DataError(f"{error.filename or destination}: {error.strerror}") from error


def _hold(file: IO[str], destination: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"{destination}: another `tvr data compress` is writing there; wait until it ends") from None


def _check_settings(text: str, settings: dict[str, Any], manifest: Path) -> None:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(
            f"{manifest} is damaged, so it is unknown how the copies beside it were made. Use a new folder."
        )
    other = [f"{k} {found.get(k)}, not {v}" for k, v in settings.items() if found.get(k) != v]
    if other:
        raise DataError(
            f"{manifest.parent} was made with {'; '.join(other)}. Choose another folder for these settings"
            + (f", or, if the source has only moved, write its new place into {manifest.name}." if "source" in other[-1]
               else ".")
        )  # fmt: skip


def _work(job: _Job) -> _Outcome:
    part = job.target.with_name(f".{job.target.name}{_PART}")
    try:
        damage = first_that_decodes(job.source, lambda video: _convert(video, job, part))
        part.replace(job.target)
    except DecodeError as error:
        return _Outcome(failure=str(error).removeprefix(f"{job.source}: "))
    except (OSError, av.FFmpegError, ValueError, MemoryError) as error:
        return _Outcome(failure=f"{type(error).__name__}: {error}")
    finally:
        part.unlink(missing_ok=True)
    return _Outcome(damage=damage)


def _convert(video: OpenVideo, job: _Job, part: Path) -> str:
    """Writes a stream's copy and returns what was damaged.

    Raises:
        DecodeError: too little of it decodes.
    """
    packets = scan(video)
    times, stop, end, slack = packets.timeline
    if end > stop:
        raise DecodeError(f"{job.source}: cut off: the header promises {end:.1f} s, the file ends after {stop:.1f} s")
    moments = np.arange(max(math.ceil((stop - 2 * slack) * job.fps - 1e-6), 1)) / job.fps + slack
    faults: list[str] = [packets.fault] if packets.fault else []
    with video.reopened() as fresh, av.open(str(part), "w", format="mp4") as copy:
        writer = _Writer(copy, fresh, job)
        latest: av.VideoFrame | None = None
        pixels: NDArray[np.uint8] | None = None
        count = written = 0
        for number, frame in numbered_frames(fresh, packets, faults):
            stop_if_asked()
            time = times[min(number, len(times) - 1)]
            if latest is not None:
                while written < len(moments) and moments[written] < time:
                    pixels = writer.draw(latest) if pixels is None else pixels
                    writer.write(pixels)
                    written += 1
            latest, pixels, count = frame, None, count + 1
        if latest is None or count < (1 - LOST) * len(times):
            why = faults[0] if faults else "no reason given"
            raise DecodeError(f"{job.source}: only {count} of {len(times)} frames decode ({why})")
        for _ in moments[written:]:
            pixels = writer.draw(latest) if pixels is None else pixels
            writer.write(pixels)
        writer.end()
    return f"{count} of {len(times)} frames decode ({faults[0]})" if faults else ""


class _Writer:
    """Draws frames upright in the copy's size and encodes them."""

    def __init__(self, copy: av.container.OutputContainer, source: OpenVideo, job: _Job) -> None:
        self.copy = copy
        self.source = source
        self.job = job
        self.scaler, self.converter = VideoReformatter(), VideoReformatter()
        self.stream: Any = None
        self.size = (0, 0)
        self.count = 0

    def draw(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """Returns (height, width, 3) pixels, all frames in the size of the first."""
        transposed, mirrored, flipped = orientation(frame)
        if self.stream is None:
            self._start(frame, transposed)
        width, height = self.size[::-1] if transposed else self.size
        picture = self.scaler.reformat(
            frame, width, height, "rgb24", interpolation=FILTER, dst_color_range=ColorRange.JPEG, threads=1
        ).to_ndarray()
        if transposed:
            picture = picture.swapaxes(0, 1)  # (width, height, 3) to (height, width, 3)
        return np.ascontiguousarray(picture[:: -1 if flipped else 1, :: -1 if mirrored else 1])

    def _start(self, frame: av.VideoFrame, transposed: bool) -> None:
        sides = square_pixels(frame, self.source)
        scale = min(Fraction(1), Fraction(self.job.short_side) / min(sides))
        width, height = (max(2, math.floor(side * scale) // 2 * 2) for side in sides)
        self.size = (height, width) if transposed else (width, height)
        rate = Fraction(self.job.fps).limit_denominator(1001)
        self.stream = self.copy.add_stream("libx264", rate=rate, options=_X264)
        self.stream.width, self.stream.height = self.size
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = 1 / rate
        self.stream.codec_context.thread_count = 1

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Encodes the next frame."""
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = self.converter.reformat(picture, format="yuv420p", interpolation=FILTER, threads=1)
        frame.pts = self.count
        self.count += 1
        self.copy.mux(self.stream.encode(frame))

    def end(self) -> None:
        """Writes what the encoder holds back."""
        self.copy.mux(self.stream.encode(None))
