"""Decoded frames on disk: what one run has decoded, no later epoch, process or run decodes again.

One file holds one clip. Its name is a hash of everything that the pixels depend on: the video's content, the segment,
the sampling, the size, the code and the libraries that decode; so a changed video or setting finds no old frames, and
a copy of a video finds the frames of the original. Readers take no lock. Writers take turns under the lock of the
folder: one temporary name is enough then, what a killed process left under it is overwritten by the next writer, and
the bound holds however many processes write. Every file carries a checksum: a torn or foreign one is decoded anew.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import logging
import os
import platform
import stat
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch

from tvr_lightning.data.stores.code import code_fingerprint
from tvr_lightning.data.stores.files import cache_folder
from tvr_lightning.data.video import frames as video
from tvr_lightning.data.video.frames import VideoFrames
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.errors import ConfigError
from tvr_lightning.types import Record

GRACE_S = 600
"""What was used this long before a run's start counts as its own, because ranks of one run start one after another."""

SETTLE_S = 2
"""A file that changed just now can change again without another time stamp: its fingerprint is not remembered yet."""

LOCK_S = 60
"""How long a writer waits for another one, which may be a stopped process."""

_log = logging.getLogger(__name__)
_decoder_log = logging.getLogger(video.__name__)

_HEADER = struct.Struct("<8s32sIIII")  # magic, key, frames, size, bytes of the damage text, checksum of what follows
_MAGIC = b"tvrfrm01"
_SLOT = struct.Struct("<16s32s16s")  # which state of which file, its content's fingerprint, checksum of both
_SLOTS = 1 << 20
_MAX_TEXT = 1 << 12


@functools.cache
def pixel_version() -> str:
    """Names the code that turns a file into pixels: changed code or another FFmpeg never meets frames of the old."""
    code = code_fingerprint(Path(video.__file__).parent.glob("*.py"))
    return repr((code, av.__version__, av.library_versions, platform.machine()))


class _State(NamedTuple):
    """What the file system says of a video; the change time cannot be set back by hand."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int


class FrameCache:
    """Decoded clips in a folder of bounded size; the oldest go first, those that this run has used never.

    A cache that cannot be written (disk full, no permission) or that is full of the run's own clips warns once and
    takes nothing more; what it holds is read on, the rest is decoded each time.

    Args:
        folder: where the cache lies, None for the user's cache folder; made when the first clip is kept.
        gib: bound of the clips' total size in GiB.

    Attributes:
        stopped: (1,) bool in shared memory, True once nothing more is written.

    Raises:
        ConfigError: the bound is not positive, or there is no folder to use.
    """

    def __init__(self, folder: str | Path | None, gib: float) -> None:
        if not 0 < gib < float("inf"):
            raise ConfigError(f"data.cache_gib is {gib}; it must be above 0")
        self.folder = cache_folder(folder) / "frames"
        self.gib = gib
        self.bound = int(gib * 2**30)
        # The age of a clip is the start of the last run that used it: one comparison tells what this run has used
        self.started = int(time.time())
        self.stopped = torch.zeros(1, dtype=torch.bool).share_memory_()
        self._known: dict[Path, tuple[_State, bytes]] = {}

    def fetch(
        self, record: Record, options: FrameOptions, decode: Callable[[], VideoFrames]
    ) -> tuple[VideoFrames, bool]:
        """Gives the frames of a record from the cache, else decodes and keeps them.

        What the decoder says of a damaged file is kept too, and said again.

        Returns:
            the frames, bit for bit those of `decode`, and whether the cache holds them now.

        Raises:
            DecodeError: from `decode`; nothing is kept then.
        """
        path = record.video_path
        known = self._fingerprint(path)
        if known is None:
            return decode(), False  # the decoder says what is wrong with the file
        state, content = known
        key = _hash(repr((pixel_version(), content, options, record.start, record.end)).encode())
        name = key.hex()
        file = Path(f"{self.folder}/{name[:2]}/{name}.frames")
        found = self._read(file, key, options.num_frames, options.size)
        if found:
            clip, damage = found
            if damage:
                _decoder_log.warning("%s: %s", path, damage)
            return clip, True
        with _heard(_decoder_log) as said:
            clip = decode()
        if _state(path) != state:  # replaced meanwhile: these are the frames of another content
            return clip, False
        damage = "; ".join(text.removeprefix(f"{path}: ") for text in said)
        return clip, self._write(file, key, clip, damage)

    def content(self, path: Path) -> bytes | None:
        """Hashes what a video file holds, once for each state of the file; None when it cannot be read."""
        known = self._fingerprint(path)
        return known and known[1]

    def _fingerprint(self, path: Path) -> tuple[_State, bytes] | None:
        """The state and the hashed content of a video, hashed once for each state; None when it cannot be read."""
        state = _state(path)
        if state is None:
            return None
        known = self._known.get(path)
        if known and known[0] == state:
            return known
        label = _hash(repr((str(path.absolute()), state)).encode())
        content = self._recall(label)
        if content is None:
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, _hasher).digest()
            except OSError:
                return None
            if time.time() - state.changed_ns / 1e9 < SETTLE_S or _state(path) != state:
                return state, content
            self._remember(label, content)
        self._known[path] = state, content
        return state, content

    def _recall(self, label: bytes) -> bytes | None:
        try:
            with (self.folder / "fingerprints").open("rb", buffering=0) as file:
                slot = os.pread(file.fileno(), _SLOT.size, _place(label))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._stop(error)
            return None
        if len(slot) < _SLOT.size:
            return None
        name, content, check = _SLOT.unpack(slot)
        return bytes(content) if name == label[:16] and check == _hash(name + content)[:16] else None

    def _remember(self, label: bytes, content: bytes) -> None:
        """Writes to the label's slot of a sparse table of fixed size; a fingerprint that was there is forgotten."""
        if self.stopped:
            return
        slot = _SLOT.pack(label[:16], content, _hash(label[:16] + content)[:16])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / "fingerprints", os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.pwrite(handle, slot, _place(label))
            finally:
                os.close(handle)
        except OSError as error:
            self._stop(error)

    def _read(self, path: Path, key: bytes, num_frames: int, size: int) -> tuple[VideoFrames, str] | None:
        """One clip and what the decoder said of it; None when it is not there or not whole."""
        after_times = _HEADER.size + num_frames * 8
        after_mask = after_times + num_frames
        after_frames = after_mask + num_frames * 3 * size * size
        try:
            with path.open("rb", buffering=0) as file:
                entry = os.fstat(file.fileno())
                if not after_frames <= entry.st_size <= after_frames + _MAX_TEXT:
                    return None
                data = np.empty(entry.st_size, dtype=np.uint8)
                if file.readinto(data.data) != entry.st_size:
                    return None
                if entry.st_mtime < self.started and not self.stopped:
                    os.utime(file.fileno(), (self.started, self.started))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._stop(error)
            return None
        text = entry.st_size - after_frames
        header = (_MAGIC, key, num_frames, size, text, zlib.crc32(data[_HEADER.size :].data))
        if _HEADER.unpack_from(data.data) != header:
            return None
        times = data[_HEADER.size : after_times].view(np.float64).copy()
        mask = data[after_times:after_mask].astype(np.bool_)
        frames = data[after_mask:after_frames].reshape(num_frames, 3, size, size)
        clip = VideoFrames(torch.from_numpy(frames), torch.from_numpy(mask), torch.from_numpy(times))
        return clip, data[after_frames:].tobytes().decode()

    def _write(self, path: Path, key: bytes, clip: VideoFrames, damage: str) -> bool:
        """Keeps a clip; False when the cache takes nothing more."""
        if self.stopped:
            return False
        text = damage.encode()[:_MAX_TEXT].decode(errors="ignore").encode()
        num_frames, _, size, _ = clip.frames.shape
        content = b"".join(t.numpy().tobytes() for t in (clip.times, clip.mask, clip.frames)) + text
        header = _HEADER.pack(_MAGIC, key, num_frames, size, len(text), zlib.crc32(content))
        temporary = self.folder / "incoming"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked() as lock:
                before = path.stat().st_size if path.exists() else 0
                if not self._reserve(lock, len(header) + len(content) - before):
                    return False
                try:
                    temporary.write_bytes(header + content)
                    os.utime(temporary, (self.started, self.started))
                    temporary.replace(path)
                except OSError:
                    temporary.unlink(missing_ok=True)
                    raise
        except OSError as error:
            self._stop(error)
            return False
        return True

    def _reserve(self, lock: int, need: int) -> bool:
        """Makes room; notes the new total in the lock's file before the write: a kill leaves it too large at most."""
        if self.stopped:
            return False
        noted = os.pread(lock, 20, 0)
        total = int(noted) if len(noted) == 20 and noted.isdigit() else None
        if total is None or total + need > self.bound:
            # a twentieth more than is needed, so that not every clip makes the whole folder be listed
            total = self._evict(self.bound - max(need, self.bound // 20))
        if total + need > self.bound:
            self._stop(None)
            return False
        os.pwrite(lock, b"%020d" % (total + need), 0)
        return True

    def _evict(self, goal: int) -> int:
        """Removes the clips that went unused longest until `goal` bytes are left; returns how many are."""
        clips = []
        for folder in (f for f in os.scandir(self.folder) if len(f.name) == 2 and f.is_dir()):
            for entry in (e for e in os.scandir(folder) if e.name.endswith(".frames")):
                clips.append((entry.stat().st_mtime, entry.path, entry.stat().st_size))
        total = before = sum(size for _, _, size in clips)
        for used, name, size in sorted(clips):
            if total <= goal or used >= self.started - GRACE_S:
                break
            Path(name).unlink(missing_ok=True)
            total -= size
        if total < before:
            _log.info("%s: %.2f GiB of the oldest clips removed, %.2f left", self.folder, (before - total) / 2**30,
                      total / 2**30)  # fmt: skip
        return total

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Holds the folder's lock, which the system lets go when a process ends in whatever way; gives its handle."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            deadline = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        why = f"another process has held the lock of the folder for {LOCK_S} s; is one stopped?"
                        raise TimeoutError(errno.ETIMEDOUT, why) from None
                    time.sleep(0.002)
            yield handle
        finally:
            os.close(handle)

    def _stop(self, error: OSError | None) -> None:
        """Warns once and writes nothing more; without an error the cache is full of what this run uses."""
        if self.stopped:
            return
        self.stopped.fill_(True)
        if error is None:
            what = (
                f"frame cache {self.folder} is full: data.cache_gib={self.gib:g} holds only clips that this run uses "
                f"(or one of the last {GRACE_S // 60} minutes). They stay, the rest is decoded each time. Raise "
                "--data.cache_gib"
            )
        else:
            what = (
                f"frame cache {self.folder} cannot be used: {error.strerror or error}. What it does not hold is "
                "decoded each time. Free space or mend the folder, set --data.cache_dir to another one"
            )
        warnings.warn(f"{what}, or set --data.cache_frames=false.", stacklevel=2)


def _state(path: Path) -> _State | None:
    try:
        entry = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(entry.st_mode):
        return None
    return _State(entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns, entry.st_ino)


def _hasher() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=32)


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def _place(label: bytes) -> int:
    return int.from_bytes(label[:8], "little") % _SLOTS * _SLOT.size


@contextmanager
def _heard(logger: logging.Logger) -> Iterator[list[str]]:
    """Collects the warnings of a logger; a filter, because a handler would keep them from where they go otherwise."""
    said: list[str] = []

    def listen(entry: logging.LogRecord) -> bool:
        if entry.levelno >= logging.WARNING:
            said.append(entry.getMessage())
        return True

    logger.addFilter(listen)
    try:
        yield said
    finally:
        logger.removeFilter(listen)
