"""What files hold, as hashes: each state of a file is hashed once, for all processes and runs."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tvr_lightning.data.stores.beneath import file_beneath
from tvr_lightning.data.stores.store import key_of

SETTLE_S = 2
"""A file that changed just now can change again without another time stamp: its hash is not remembered yet."""

_SLOT = struct.Struct("<16s32s16s")  # which state of which file, its content's hash, checksum of both
_SLOTS = 1 << 20


class FileState(NamedTuple):
    """What the file system says of a file; the change time cannot be set back by hand."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int


class Contents:
    """Hashes of files, remembered in a sparse table of fixed size.

    Args:
        folder: where the table lies; made when the first hash is remembered.
        report: is told when the table cannot be used; files are hashed all the same.
    """

    def __init__(self, folder: Path, report: Callable[[OSError], None]) -> None:
        self.table = folder / "fingerprints"
        self.report = report
        self._known: dict[Path, tuple[FileState, bytes]] = {}

    def look_up(self, path: Path) -> tuple[FileState, bytes] | None:
        """The state and the hashed content of a file, hashed once for each state; None when it cannot be read."""
        state = file_state(path)
        if state is None:
            return None
        known = self._known.get(path)
        if known and known[0] == state:
            return known
        label = key_of(str(path.absolute()), state)
        content = self._recall(label)
        if content is None:
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).digest()
            except OSError:
                return None
            if time.time() - state.changed_ns / 1e9 < SETTLE_S or file_state(path) != state:
                return state, content
            self._remember(label, content)
        self._known[path] = state, content
        return state, content

    def digest(self, path: Path) -> bytes | None:
        """The hashed content of a file; None when it cannot be read."""
        known = self.look_up(path)
        return known and known[1]

    def _recall(self, label: bytes) -> bytes | None:
        try:
            with file_beneath(self.table.parent, self.table.name, os.O_RDONLY) as file:
                slot = os.pread(file, _SLOT.size, _place(label))
        except FileNotFoundError:
            return None
        except OSError as error:
            self.report(error)
            return None
        if len(slot) < _SLOT.size:
            return None
        name, content, check = _SLOT.unpack(slot)
        return bytes(content) if name == label[:16] and check == key_of(name, content)[:16] else None

    def _remember(self, label: bytes, content: bytes) -> None:
        """Writes to the label's slot; a hash that was there is forgotten."""
        slot = _SLOT.pack(label[:16], content, key_of(label[:16], content)[:16])
        try:
            with file_beneath(self.table.parent, self.table.name, os.O_WRONLY | os.O_CREAT) as file:
                os.pwrite(file, slot, _place(label))
        except OSError as error:
            self.report(error)


def folder_digest(path: Path) -> bytes | None:
    """A hash of a folder's files, by their names, sizes and times; None where it cannot be read."""
    try:
        with os.scandir(path) as entries:
            files = [(e.name, e.stat()) for e in entries if e.is_file()]
    except OSError:
        return None
    return key_of(sorted((name, status.st_size, status.st_mtime_ns) for name, status in files))


def file_state(path: Path) -> FileState | None:
    """The state of a regular file; None where there is none."""
    try:
        entry = path.stat()
    except (OSError, ValueError):  # the latter: letters that no name has
        return None
    if not stat.S_ISREG(entry.st_mode):
        return None
    return FileState(entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns, entry.st_ino)


def _place(label: bytes) -> int:
    return int.from_bytes(label[:8], "little") % _SLOTS * _SLOT.size
