"""One disk store: what one run has computed, no later epoch, process or run computes again.

An entry is a file of named tensors. Its key hashes everything that they depend on, so what is computed from something
else finds nothing, and nothing is ever out of date. Readers take no lock. Writers take turns under the lock of the
folder: one temporary name is enough then, what a killed process left under it is overwritten by the next writer, and
the bound holds however many processes write. Every entry carries a checksum: a torn or foreign file is none.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import mmap
import os
import struct
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tvr_lightning.data.stores.beneath import file_beneath, folder_beneath, write_all
from tvr_lightning.data.stores.files import cache_folder
from tvr_lightning.data.stores.use import ENTRY, GRACE_S, mark_use, turn
from tvr_lightning.errors import ConfigError

Kind = Literal["frames", "features"]  # the later may push out what this run has used of the earlier

_log = logging.getLogger(__name__)

_MAGIC = b"tvrstore"
_HEADER = struct.Struct("<8s32sII")  # magic, key, bytes of the JSON table, checksum that begins with them
_ALIGN = 64
_DTYPES = {name: np.dtype(name) for name in ("bool", "uint8", "int64", "float32", "float64")}
_INCOMING = "incoming"  # the one temporary name
_CHUNK = 1 << 18  # bytes of a file that are checked at a time


class StoreFullError(Exception):
    """All that the bound allows is in use."""


class Store:
    """Entries in a folder of bounded size; those that went unused longest make room, those that this run uses never.

    Args:
        folder: where the store lies, None for the user's cache folder; made when the first entry is written.
        gib: bound of the total size in GiB.

    Raises:
        ConfigError: the bound is not positive, or there is no folder to use.
    """

    def __init__(self, folder: str | Path | None, gib: float) -> None:
        if not 0 < gib < float("inf"):
            raise ConfigError(f"data.cache_gib is {gib}; it must be above 0")
        self.folder = cache_folder(folder)
        self.gib = gib
        self.bound = int(gib * 2**30)
        # The age of an entry is the start of the last run that used it: one comparison tells what this run has used
        self.started = int(time.time())
        self._marked = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_marked": False}  # a process that is started afresh marks for itself

    def _mark(self) -> None:
        """Marks the folder as used by this run: `tvr cache prune` leaves alone what it uses."""
        if not self._marked:
            self._marked = True
            if (handle := mark_use(self.folder, self.started)) is not None:
                weakref.finalize(self, os.close, handle)

    def path(self, kind: Kind, key: bytes) -> Path:
        """Where an entry lies, if it exists."""
        return Path(f"{self.folder}/{_name(kind, key)}")

    def read(self, kind: Kind, key: bytes, mapped: bool = False) -> dict[str, Tensor] | None:
        """Reads an entry; None where there is none that is whole.

        Args:
            kind: what it is.
            key: 32 bytes.
            mapped: tensors lie in the file as long as nobody writes to them, instead of in memory of their own; they
                stay although the entry is removed.

        Raises:
            OSError: the folder cannot be read.
        """
        name = _name(kind, key)
        try:
            with file_beneath(self.folder, name, os.O_RDONLY) as file:
                entry = os.fstat(file)
                if entry.st_size < _HEADER.size:
                    return None
                rest: Iterable[bytes | memoryview]
                if mapped:  # read for the checksum only: pages that are looked at in the map would stay in memory
                    data = np.frombuffer(mmap.mmap(file, entry.st_size, access=mmap.ACCESS_COPY), np.uint8)
                    os.lseek(file, _HEADER.size, os.SEEK_SET)
                    rest = iter(lambda: os.read(file, _CHUNK), b"")
                else:
                    data = np.empty(entry.st_size, dtype=np.uint8)
                    if os.readv(file, [data.data]) != entry.st_size:
                        return None
                    rest = (data.data[_HEADER.size :],)
                tensors = _unpacked(key, data, rest)
                if tensors and entry.st_mtime < self.started:
                    with suppress(OSError):  # a folder of somebody else may be read, what is old there is theirs to say
                        os.utime(file, (self.started, self.started))
        except FileNotFoundError:
            return None
        if tensors:
            self._mark()
        return tensors

    def write(self, kind: Kind, key: bytes, tensors: Mapping[str, Tensor]) -> None:
        """Writes an entry, whole or not at all; one that is there is replaced.

        Raises:
            OSError: the folder or the disk does not take it.
            StoreFullError: nothing that it could replace is left within the bound.
        """
        content = _packed(key, tensors)
        *parts, name = _name(kind, key).split("/")
        temporary = self.folder / _INCOMING
        with folder_beneath(self.folder, parts, make=True) as place, turn(self.folder) as lock:
            try:
                before = os.stat(name, dir_fd=place, follow_symlinks=False).st_size
            except FileNotFoundError:
                before = 0
            self._reserve(lock, len(content) - before, kind)
            try:
                temporary.unlink(missing_ok=True)  # what a kill has left
                with file_beneath(self.folder, _INCOMING, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                    write_all(file, content)
                    os.utime(file, (self.started, self.started))
                os.replace(temporary, name, dst_dir_fd=place)
                self._mark()
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def _reserve(self, lock: int, need: int, kind: Kind) -> None:
        """Makes room; notes the new total in the lock's file before the write: a kill leaves it too large at most."""
        noted = os.pread(lock, 20, 0)
        total = int(noted) if len(noted) == 20 and noted.isdigit() else None
        if total is None or total + need > self.bound:
            # a twentieth more than is needed, so that not every entry makes the whole folder be listed
            total = self._evict(self.bound - max(need, self.bound // 20), kind)
        if total + need > self.bound:
            raise StoreFullError
        os.pwrite(lock, b"%020d" % (total + need), 0)

    def _evict(self, goal: int, kind: Kind) -> int:
        """Removes what went unused longest until `goal` bytes are left; returns how many are."""
        entries = []
        kinds: tuple[Kind, ...] = get_args(Kind)
        for other in kinds:
            # frames are decoded again where they lack, so those in use give way to features, never the other way round
            spared = self.started - GRACE_S if kinds.index(other) >= kinds.index(kind) else float("inf")
            for path in self._entries(other):
                if ENTRY.fullmatch(path.name):
                    status = path.lstat()
                    entries.append((status.st_mtime, path, status.st_size, spared))
        total = before = sum(size for _, _, size, _ in entries)
        for used, path, size, spared in sorted(entries):
            if total > goal and used < spared:
                path.unlink(missing_ok=True)
                total -= size
        if total < before:
            _log.info("%s: %.2f GiB of the oldest entries removed, %.2f left", self.folder, (before - total) / 2**30,
                      total / 2**30)  # fmt: skip
        return total

    def _entries(self, kind: Kind) -> Iterator[Path]:
        """All files of a kind, in no folder behind a link."""
        for folder in (self.folder / kind).glob("??"):
            if not folder.parent.is_symlink() and not folder.is_symlink():
                yield from folder.iterdir()


def key_of(*parts: object) -> bytes:
    """Hashes what an entry depends on, 32 bytes."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=32).digest()


def _name(kind: Kind, key: bytes) -> str:
    name = key.hex()
    return f"{kind}/{name[:2]}/{name}.{kind}"


def _packed(key: bytes, tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of an entry: header, table of names, types and shapes, then each tensor at a round place."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    table = json.dumps({name: [str(array.dtype), array.shape] for name, array in arrays.items()}).encode()
    parts = [table + b" " * (-(_HEADER.size + len(table)) % _ALIGN)]
    for array in arrays.values():
        parts += [array.tobytes(), bytes(-array.nbytes % _ALIGN)]
    content = b"".join(parts)
    return _HEADER.pack(_MAGIC, key, len(parts[0]), zlib.crc32(content, len(parts[0]))) + content


def _unpacked(key: bytes, data: NDArray[np.uint8], rest: Iterable[bytes | memoryview]) -> dict[str, Tensor] | None:
    """The tensors of an entry, views of its bytes; None when they are not those of the key, or not whole.

    Args:
        key: the entry's.
        data: its bytes.
        rest: those after the header, in whatever pieces.
    """
    magic, owner, length, checksum = _HEADER.unpack_from(data.data)
    actual = length
    for part in rest:
        actual = zlib.crc32(part, actual)
    if (magic, owner, checksum) != (_MAGIC, key, actual):
        return None
    places = _places(data[_HEADER.size : _HEADER.size + length].tobytes())
    # one call a tensor; it raises where the bytes do not suffice
    return {n: torch.from_numpy(np.ndarray(shape, dtype, data.data, place)) for n, dtype, shape, place in places}


@functools.lru_cache(maxsize=256)
def _places(table: bytes) -> list[tuple[str, np.dtype[Any], list[int], int]]:
    """Name, type, shape and first byte of each tensor; remembered, because most entries have one of a few tables."""
    places = []
    place = _HEADER.size + len(table)
    for name, (dtype, shape) in json.loads(table).items():
        places.append((name, _DTYPES[dtype], shape, place))
        place += prod(shape) * _DTYPES[dtype].itemsize
        place += -place % _ALIGN
    return places
