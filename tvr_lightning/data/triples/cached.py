"""Triples on disk: each caption is parsed once for each extractor, by whatever process."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tvr_lightning.data.stores.beneath import file_beneath
from tvr_lightning.data.stores.files import cache_folder
from tvr_lightning.data.triples.base import Phrase, Triple, TripleExtractor

_log = logging.getLogger(__name__)


_KEYS = 500  # of one query: SQLite bounds the number of parameters


_BLOCK = 2000  # captions between two writes: what an interrupted run loses at most


_LOCK_S = 60.0


_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}  # the last: a table of another shape


class CachedTriples(TripleExtractor):
    """Triples on disk: each caption is parsed once for each extractor, by whatever process.

    One SQLite file holds what one fingerprint gave, by the hash of the caption. A file or an entry that cannot be read
    is made anew, and that is logged; a folder that cannot be written only costs the parsing, and a warning.

    Args:
        extractor: finds what the file lacks.
        folder: where the cache lies, None for the user's cache folder.

    Raises:
        ConfigError: there is no folder to use.
    """

    def __init__(self, extractor: TripleExtractor, folder: str | Path | None = None) -> None:

        self.extractor = extractor
        name = hashlib.blake2b(extractor.fingerprint.encode(), digest_size=16).hexdigest()
        self.folder = cache_folder(folder)
        self.path = self.folder / "triples" / f"{name}.sqlite"

    @property
    def fingerprint(self) -> str:
        """The extractor's: the cache changes nothing."""
        return self.extractor.fingerprint

    def extract(self, captions: Sequence[str]) -> list[tuple[Triple, ...]]:
        """Reads the triples of each caption; finds and keeps those that are not there."""
        keys = {caption: _key(caption) for caption in captions}
        known = self._read(keys)
        missing = [caption for caption in keys if caption not in known]
        for start in range(0, len(missing), _BLOCK):
            block = missing[start : start + _BLOCK]
            found = dict(zip(block, self.extractor.extract(block), strict=True))
            self._write([(keys[caption], encoded(triples)) for caption, triples in found.items()])
            known |= found
        return [known[caption] for caption in captions]

    def _read(self, keys: dict[str, bytes]) -> dict[str, tuple[Triple, ...]]:
        if not self.path.exists():
            return {}
        rows: dict[bytes, Any] = {}
        wanted = list(keys.values())
        try:
            with self._open(os.O_RDONLY) as file:
                for start in range(0, len(wanted), _KEYS):
                    block = wanted[start : start + _KEYS]
                    marks = ",".join("?" * len(block))
                    rows |= dict(file.execute(f"SELECT key, triples FROM triples WHERE key IN ({marks})", block))
        except sqlite3.Error as error:
            self._repair(error)
            return {}
        except OSError as error:
            _log.warning("cached triples are not read: %s", error.strerror)
            return {}
        known, broken = {}, 0
        for caption, key in keys.items():
            if key in rows:
                try:
                    known[caption] = decoded(rows[key], len(caption))
                except (TypeError, ValueError):
                    broken += 1
        if broken:
            _log.warning("%s: %d entries cannot be read; their captions are parsed again", self.path, broken)
        return known

    def _write(self, rows: list[tuple[bytes, str]]) -> None:
        try:
            with self._open() as file, file:
                file.executemany("INSERT OR REPLACE INTO triples VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            self._repair(error)
        except OSError as error:
            _log.warning("triples are not kept: %s: %s", self.path, error.strerror)

    @contextmanager
    def _open(self, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[sqlite3.Connection]:
        # SQLite would follow links, and leave the umask out; it finds the files that are looked at and made here
        name = f"{self.path.parent.name}/{self.path.name}"
        with file_beneath(self.folder, name, flags):
            pass
        for beside in ("-journal", "-wal", "-shm"):
            with suppress(FileNotFoundError), file_beneath(self.folder, name + beside, os.O_RDONLY):
                pass
        # opened for each use: a connection must not cross a fork
        with closing(sqlite3.connect(self.path, timeout=_LOCK_S)) as file:
            file.execute("CREATE TABLE IF NOT EXISTS triples (key BLOB PRIMARY KEY, triples TEXT) WITHOUT ROWID")
            yield file

    def _repair(self, error: sqlite3.Error) -> None:
        """Removes a file that is not a cache, unless another process has done so."""
        if not _is_broken(error):
            _log.warning("triples are not kept: %s: %s", self.path, error)
            return
        try:
            name = f"{self.path.parent.name}/{self.path.with_suffix('.lock').name}"
            with file_beneath(self.folder, name, os.O_RDWR | os.O_CREAT) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                try:
                    with self._open() as file:
                        file.execute("SELECT key, triples FROM triples LIMIT 1").fetchall()
                        sound = file.execute("PRAGMA quick_check").fetchone() == ("ok",)
                except sqlite3.Error as again:
                    sound = not _is_broken(again)
                if not sound:
                    _log.warning("%s is broken (%s); it is removed and made again", self.path, error)
                    # its journal belongs to it: SQLite would play it into the new file
                    self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
                    self.path.unlink(missing_ok=True)
        except OSError as failed:
            _log.warning("triples are not kept: %s: %s", self.path, failed.strerror)


def _is_broken(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN


def _key(caption: str) -> bytes:
    return hashlib.blake2b(caption.encode(errors="surrogatepass"), digest_size=32).digest()


def encoded(triples: Sequence[Triple]) -> str:
    """Triples as compact JSON."""
    return json.dumps(triples, separators=(",", ":"))


def decoded(text: str, length: int) -> tuple[Triple, ...]:
    """Triples from JSON.

    Raises:
        TypeError, ValueError: it is nothing that `encoded` has made of a caption of this length.
    """
    triples = []
    for members in json.loads(text):
        phrases = [Phrase(str(said), tuple((int(a), int(b)) for a, b in spans)) for said, spans in members]
        if any(not 0 <= a < b <= length for phrase in phrases for a, b in phrase.spans):
            raise ValueError("a word outside the caption")
        subject, relation, object_ = phrases
        triples.append(Triple(subject, relation, object_))
    return tuple(triples)
