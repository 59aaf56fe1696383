"""What lies in a cache folder, and taking out of it what nobody uses: `tvr cache`.

Only files of the names that the suite gives are looked at, in folders that are no links, so nothing outside the folder
and nothing of somebody else's in it can be removed. What a run that is going on uses stays (see `use`).
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

from tvr_lightning.data.stores.beneath import file_beneath, folder_beneath
from tvr_lightning.data.stores.use import ENTRY, GRACE_S, turn, used_since

Part = Literal["frames", "features", "triples", "fingerprints", "wordnet"]
PARTS: tuple[Part, ...] = get_args(Part)
HELD = {
    "frames": "decoded frames",
    "features": "what frozen encoders made",
    "triples": "parsed captions",
    "fingerprints": "hashes of files",
    "wordnet": "WordNet, from make wordnet",
}
"""What lies in each."""

NOTED: tuple[Part, ...] = ("frames", "features")  # runs note when they use these
NOT_MADE_AGAIN: tuple[Part, ...] = ("wordnet",)  # nothing computes it: it goes where it is named and not otherwise
BATCH = 1000  # entries that are removed in one turn: writers wait for a minute and no longer
_BESIDE = ("-journal", "-wal", "-shm")  # files of SQLite's, which belong to the one of the name before


@dataclass(frozen=True)
class Entry:
    """Something that is kept.

    Attributes:
        part: what it is.
        name: below the folder.
        size: bytes on the disk.
        used: when a run last used it, in seconds; where no run notes that, when it was last written.
        beside: names of files that belong to it.
    """

    part: Part
    name: str
    size: int
    used: float
    beside: tuple[str, ...] = ()


@dataclass
class Pruned:
    """What became of the entries.

    Attributes:
        removed: those that went, or would.
        in_use: those that would have gone, and that a running process uses.
        left: bytes of the parts that were looked at, afterwards.
        failed: for each that could not be removed why.
    """

    removed: list[Entry] = field(default_factory=list)
    in_use: list[Entry] = field(default_factory=list)
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def entries_of(folder: Path, parts: Collection[Part] = PARTS) -> list[Entry]:
    """What lies in a cache folder; empty where there is none.

    Raises:
        OSError: it cannot be read.
    """
    found: list[Entry] = []
    for part in PARTS:
        if part in parts:
            with suppress(FileNotFoundError):
                found += _FINDERS[part](folder, part)
    return found


def _blocks(folder: Path, part: Part) -> Iterator[Entry]:
    """Entries of a store, in folders by the beginning of their names."""
    for place in _names(folder, [part], stat.S_ISDIR):
        if len(place) == 2:
            for name, status in _names(folder, [part, place], stat.S_ISREG).items():
                if ENTRY.fullmatch(name):
                    yield Entry(part, f"{part}/{place}/{name}", _size(status), status.st_mtime)


def _databases(folder: Path, part: Part) -> Iterator[Entry]:
    files = _names(folder, [part], stat.S_ISREG)
    for name, status in files.items():
        if name.endswith(".sqlite"):
            names = [*(name + end for end in _BESIDE), name.removesuffix(".sqlite") + ".lock"]
            beside = [other for other in names if other in files]
            size = sum(map(_size, [status, *(files[other] for other in beside)]))
            yield Entry(part, f"{part}/{name}", size, status.st_mtime, tuple(f"{part}/{other}" for other in beside))


def _one_file(folder: Path, part: Part) -> Iterator[Entry]:
    if status := _names(folder, [], stat.S_ISREG).get(part):
        yield Entry(part, part, _size(status), status.st_mtime)


def _one_folder(folder: Path, part: Part) -> Iterator[Entry]:
    files = _names(folder, [part], stat.S_ISREG)
    if files:
        first, *others = sorted(files)
        used = max(status.st_mtime for status in files.values())
        size = sum(map(_size, files.values()))
        yield Entry(part, f"{part}/{first}", size, used, tuple(f"{part}/{other}" for other in others))


_FINDERS = {
    "frames": _blocks,
    "features": _blocks,
    "triples": _databases,
    "fingerprints": _one_file,
    "wordnet": _one_folder,
}


def _names(folder: Path, parts: Sequence[str], kind: object) -> dict[str, os.stat_result]:
    """Names in a folder beneath another and what they are, those of one kind; links are of none."""
    found = {}
    with folder_beneath(folder, parts) as place, os.scandir(place) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # gone meanwhile
                status = entry.stat(follow_symlinks=False)
                if kind(status.st_mode):  # type: ignore[operator]
                    found[entry.name] = status
    return found


def _size(status: os.stat_result) -> int:
    return status.st_blocks * 512  # tables of fixed size are mostly holes


def prune(
    folder: Path, parts: Collection[Part], older_than: float | None = None, max_size: int | None = None,
    dry_run: bool = False,
) -> Pruned:  # fmt: skip
    """Removes entries, those that went unused longest first.

    Args:
        folder: the cache.
        parts: what may go; what nothing makes again goes only where no other part is named besides.
        older_than: seconds for which an entry went unused; None for any.
        max_size: bytes that the parts may keep; None for none.
        dry_run: says what would go, and removes nothing.

    Raises:
        OSError: the folder cannot be read or locked.
    """
    entries = sorted(entries_of(folder, parts), key=lambda entry: entry.used)
    total = sum(entry.size for entry in entries)
    result = Pruned(left=total)
    since = used_since(folder) if entries else None
    goal = -1 if max_size is None else max_size
    before = time.time() - older_than if older_than is not None else float("inf")
    chosen: list[Entry] = []
    for entry in entries:
        if total <= goal or entry.used > before:
            continue
        if _is_used(entry, since):
            result.in_use.append(entry)
            continue
        chosen.append(entry)
        total -= entry.size
    if dry_run:
        result.removed, result.left = chosen, total
        return result
    for first in range(0, len(chosen), BATCH):
        with turn(folder) as lock:
            # a run may have begun to use one since
            since = used_since(folder)
            for entry in chosen[first : first + BATCH]:
                _remove(folder, entry, since, result)
            os.ftruncate(lock, 0)  # the total that is noted there is counted anew by the next writer
    result.left -= sum(entry.size for entry in result.removed)
    return result


def _is_used(entry: Entry, since: int | None) -> bool:
    """Whether a run that began then may use an entry; what does not note its use counts as used by each."""
    return since is not None and entry.part != "triples" and (
        entry.part not in NOTED or entry.used >= since - GRACE_S
    )  # fmt: skip


def _remove(folder: Path, entry: Entry, since: int | None, result: Pruned) -> None:
    *parts, name = entry.name.split("/")
    try:
        with folder_beneath(folder, parts) as place:
            now = os.stat(name, dir_fd=place, follow_symlinks=False)
            if _is_used(Entry(entry.part, entry.name, entry.size, now.st_mtime), since) or (
                entry.part == "triples" and not _is_free(folder, entry.name)
            ):
                result.in_use.append(entry)
                return
            for own in [name, *(other.rpartition("/")[2] for other in entry.beside)]:
                with suppress(FileNotFoundError):
                    os.unlink(own, dir_fd=place)
        if entry.part == "wordnet":
            with folder_beneath(folder) as place, suppress(OSError):  # others' files in it stay
                os.rmdir(entry.part, dir_fd=place)
    except FileNotFoundError:  # another writer's turn was before
        pass
    except OSError as error:
        result.failed[entry.name] = error.strerror or str(error)
        return
    result.removed.append(entry)


def _is_free(folder: Path, name: str) -> bool:
    """Whether no process is reading or writing a database; one that is none is free."""
    with file_beneath(folder, name, os.O_RDONLY):
        pass
    try:
        with closing(sqlite3.connect(f"file:{quote(str(folder / name))}?mode=rw", timeout=0, uri=True)) as file:
            file.execute("BEGIN EXCLUSIVE")
            file.rollback()
    except sqlite3.OperationalError as error:
        return getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    except sqlite3.DatabaseError:
        return True
    return True


def sizes_of(entries: Iterable[Entry]) -> dict[Part, tuple[int, int, float | None]]:
    """For each part its files, its bytes and its last use, None where it is empty."""
    found: dict[Part, tuple[int, int, float | None]] = dict.fromkeys(PARTS, (0, 0, None))
    for entry in entries:
        files, size, used = found[entry.part]
        last = entry.used if used is None else max(used, entry.used)
        found[entry.part] = (files + 1 + len(entry.beside), size + entry.size, last)
    return found


def in_words(size: int) -> str:
    """A size on the disk.

    >>> in_words(0), in_words(5000), in_words(5 << 20), in_words(3 << 29)
    ('0.0 MiB', '5 KiB', '5.0 MiB', '1.5 GiB')
    """
    if 0 < size < 1 << 17:  # would round to nothing
        return f"{-(-size >> 10)} KiB"
    return f"{size / 2**30:.1f} GiB" if size >= 1 << 30 else f"{size / 2**20:.1f} MiB"
