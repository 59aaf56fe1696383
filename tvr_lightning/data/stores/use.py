"""Who is at work in a cache folder: writers, who take turns, and runs that use what lies there.

A run's mark is a lock on one byte of the file `in_use`, shared, at the second in which the run began: the system takes
it off when the last process of the run ends in whatever way, and asking for the first byte that is locked tells since
when all that are at work have been. Nothing is written.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tvr_lightning.data.stores.beneath import file_beneath

GRACE_S = 600
"""What was used this long before a run's start counts as its own, because ranks of one run start one after another."""

LOCK_S = 60
"""How long a writer waits for another one, which may be a stopped process."""

ENTRY = re.compile(r"[0-9a-f]{40,}\..+")  # names of entries, also those of earlier versions, which nobody reads
IN_USE = "in_use"
TURNS = "lock"

_log = logging.getLogger(__name__)
_LOCK = struct.Struct("hhqqi4x")  # the system's own: kind, from where, first byte, bytes (0: all later ones), process


@contextmanager
def turn(folder: Path) -> Iterator[int]:
    """Holds the folder's lock, which the system lets go when a process ends in whatever way; gives its handle.

    Raises:
        OSError: the folder does not take it, or another process does not let it go.
    """
    with file_beneath(folder, TURNS, os.O_RDWR | os.O_CREAT) as handle:
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


def mark_use(folder: Path, started: int) -> int | None:
    """Marks a folder as used by a run, until the handle that comes back is closed, in forked processes too.

    None where that cannot be done: the file system has no such locks, or the folder is another's, who then has to know.

    Args:
        folder: the cache.
        started: when the run began, in seconds.
    """
    if not _knows_marks():
        return None
    try:
        try:
            return _marked(folder, started, os.O_RDONLY)
        except FileNotFoundError:
            return _marked(folder, started, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        _log.info("%s is not marked as used: %s", folder, error.strerror or error)
        return None


def _knows_marks() -> bool:
    """Whether the system has locks of open files; Linux does."""
    return hasattr(fcntl, "F_OFD_SETLK")


def _marked(folder: Path, started: int, flags: int) -> int:
    with file_beneath(folder, IN_USE, flags) as handle:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, started, 1, 0))
        return os.dup(handle)  # the lock is of the open file, which both handles mean


def used_since(folder: Path) -> int | None:
    """When the first of the runs began that use a folder now; None where none does.

    Raises:
        OSError: the mark cannot be read, or the system has none.
    """
    if not _knows_marks():
        raise OSError(errno.ENOSYS, "this system does not tell what runs use it; when none does, remove it yourself")
    first = None
    try:
        with file_beneath(folder, IN_USE, os.O_RDONLY) as handle:
            while first != 0:
                asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, first or 0, 0)
                kind, _, start, _, _ = _LOCK.unpack(fcntl.fcntl(handle, fcntl.F_OFD_GETLK, asked))
                if kind == fcntl.F_UNLCK:
                    break
                first = start
    except FileNotFoundError:
        return None
    return first
