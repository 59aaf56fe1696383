"""Decoded frames in the disk store: what one run has decoded, no later epoch, process or run decodes again.

The key of a clip is everything that its pixels depend on: the video's content, the segment, the sampling, the size, the
code and the libraries that decode; so a copy of a video finds the frames of the original.
"""

from __future__ import annotations

import functools
import logging
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from av import __version__ as pyav_version
from av import library_versions
from torch import Tensor

from tvr_lightning.data.stores.code import code_fingerprint, files_behind
from tvr_lightning.data.stores.contents import Contents, file_state
from tvr_lightning.data.stores.store import Store, StoreFullError, key_of
from tvr_lightning.data.stores.use import GRACE_S
from tvr_lightning.data.video import frames as video
from tvr_lightning.data.video.frames import VideoFrames
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.types import Record

_decoder_log = logging.getLogger(video.__name__)


@functools.cache
def pixel_version() -> str:
    """Names the code that turns a file into pixels: changed code or another FFmpeg never meets frames of the old.

    That is the room that reads videos and what its modules import of the suite.
    """
    code = code_fingerprint(files_behind(Path(video.__file__).parent))
    return repr((code, pyav_version, library_versions, sysconfig.get_platform()))


class FrameCache:
    """Decoded clips in the disk store.

    A store that cannot be written (disk full, no permission) or that is full of what the run uses warns once and is
    given nothing more; what it holds is read on, the rest is decoded each time.

    Args:
        store: where they lie.

    Attributes:
        stopped: (1,) bool in shared memory, True once nothing more is written.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stopped = torch.zeros(1, dtype=torch.bool).share_memory_()
        self.contents = Contents(store.folder, self._stop)

    def fetch(
        self, record: Record, options: FrameOptions, decode: Callable[[], VideoFrames]
    ) -> tuple[VideoFrames, bool]:
        """Gives the frames of a record from the store, else decodes and keeps them.

        What the decoder says of a damaged file is kept too, and said again.

        Returns:
            the frames, bit for bit those of `decode`, and whether the store holds them now.

        Raises:
            DecodeError: from `decode`; nothing is kept then.
        """
        path = record.video_path
        known = self.contents.look_up(path)
        if known is None:
            return decode(), False  # the decoder says what is wrong with the file
        state, content = known
        key = key_of(pixel_version(), content, options, record.start, record.end)
        found = self._read(key)
        if found is not None:
            damage = found.pop("damage").numpy().tobytes().decode()
            if damage:
                _decoder_log.warning("%s: %s", path, damage)
            return VideoFrames(**found), True
        with _heard(_decoder_log) as said:
            clip = decode()
        if file_state(path) != state:  # replaced meanwhile: these are the frames of another content
            return clip, False
        damage = "; ".join(text.removeprefix(f"{path}: ") for text in said)
        return clip, self._write(key, clip, damage)

    def _read(self, key: bytes) -> dict[str, Tensor] | None:
        try:
            return self.store.read("frames", key)
        except OSError as error:
            self._stop(error)
            return None

    def _write(self, key: bytes, clip: VideoFrames, damage: str) -> bool:
        """Keeps a clip; False when nothing more is written."""
        if self.stopped:
            return False
        text = torch.tensor(list(damage.encode()), dtype=torch.uint8)
        try:
            self.store.write("frames", key, {**clip._asdict(), "damage": text})
        except (OSError, StoreFullError) as error:
            self._stop(error)
            return False
        return True

    def _stop(self, error: OSError | StoreFullError) -> None:
        """Warns once and writes nothing more."""
        if self.stopped:
            return
        self.stopped.fill_(True)
        if isinstance(error, StoreFullError):
            what = (
                f"frame cache {self.store.folder} is full: data.cache_gib={self.store.gib:g} holds only what this run "
                f"uses (or one of the last {GRACE_S // 60} minutes). That stays, the rest is decoded each time. Raise "
                "--data.cache_gib"
            )
        else:
            what = (
                f"frame cache {self.store.folder} cannot be used: {error.strerror or error}. What it does not hold is "
                "decoded each time. Free space or mend the folder, set --data.cache_dir to another one"
            )
        warnings.warn(f"{what}, or set --data.cache_frames=false.", stacklevel=2)


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
