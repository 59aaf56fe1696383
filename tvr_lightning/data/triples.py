"""Subject-relation-object triples of captions, and the words that they choose as textual nodes.

LEAN (Li et al. 2024) takes the words of a query's triples as the nodes of its hypergraph (Sec. 3.1.1, Eq. 3) and
compares them with the entities alone and with the whole text (Fig. 3).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import re
import sqlite3
import unicodedata
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from tvr_lightning.errors import ConfigError, nearest

Span: TypeAlias = tuple[int, int]
"""Characters of a caption, from the first to the one after the last."""

Nodes: TypeAlias = Literal["triples", "entities", "all"]
Backend: TypeAlias = Literal["offline", "spacy", "corenlp"]

_log = logging.getLogger(__name__)

# letters and digits, joined inside by apostrophes, hyphens, or a number's point or comma
_WORD = re.compile(r"[^\W_]+(?:['’\-\u2010\u2011][^\W_]+|(?<=\d)[.,]\d+)*")
_GROUP = re.compile(r"\S+")
_KEYS = 500  # of one query: SQLite bounds the number of parameters
_BLOCK = 2000  # captions between two writes: what an interrupted run loses at most
_LOCK_S = 60.0
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}  # the last: a table of another shape


class Phrase(NamedTuple):
    """One member of a triple.

    Attributes:
        text: the phrase without its articles.
        spans: the caption's words that it consists of, in their order, each as in `word_spans`; empty when the phrase
            has no word of the caption (a relation that is only implied, the object of an intransitive verb).
    """

    text: str
    spans: tuple[Span, ...]


class Triple(NamedTuple):
    """What a caption says of something.

    Attributes:
        subject: who or what.
        relation: the verb, the preposition, or both.
        object: of the relation; without text and words for an intransitive verb.
    """

    subject: Phrase
    relation: Phrase
    object: Phrase


def word_spans(caption: str) -> list[Span]:
    """Where the words of a caption are, in their order.

    A word is a run of letters and digits, in any script, with the apostrophes and hyphens inside it (`don't`,
    `t-shirt`); punctuation and symbols are none. A caption without any word gives its groups of other characters
    instead, so that only an empty caption has nothing.
    """
    # accents and vowel signs that follow their letter belong to it, which \w does not know
    plain = caption if caption.isascii() else "".join("a" if unicodedata.category(c)[0] == "M" else c for c in caption)
    return [m.span() for m in _WORD.finditer(plain)] or [m.span() for m in _GROUP.finditer(caption)]


def phrase_of(caption: str, pieces: Iterable[Span], words: Sequence[Span], text: str | None = None) -> Phrase:
    """Makes a phrase from pieces of a caption; a piece of a word (`'s`) stands for all of it.

    Args:
        caption: the caption.
        pieces: where a backend's tokens are.
        words: the caption's words, see `word_spans`.
        text: the phrase's text; the pieces themselves when there is none.
    """
    ordered = sorted(set(pieces))
    found: dict[Span, None] = {}
    for start, end in ordered:
        place = max(0, bisect(words, (start, len(caption))) - 1)
        while place < len(words) and words[place][0] < end:
            if words[place][1] > start:
                found[words[place]] = None
            place += 1
    said = " ".join(caption[start:end] for start, end in ordered) if text is None else text
    return Phrase(said, tuple(found))


def chosen_words(caption: str, triples: Sequence[Triple], nodes: Nodes) -> list[Span]:
    """The words of a caption that are textual nodes, in order of appearance.

    Args:
        caption: the caption.
        triples: its triples.
        nodes: `triples` for the words that occur in any of them, `entities` for those of subjects and objects only,
            `all` for all. A caption whose triples choose no word has all its words.
    """
    spans = word_spans(caption)
    if nodes == "all":
        return spans
    chosen = {
        span
        for triple in triples
        for phrase in (triple if nodes == "triples" else (triple.subject, triple.object))
        for span in phrase.spans
    }
    return [span for span in spans if span in chosen] or spans


class TripleExtractor(ABC):
    """Finds the triples of captions.

    Attributes:
        fingerprint: names the code, the model and its settings: equal ones give equal triples.
    """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Names what the triples depend on besides the caption."""

    @abstractmethod
    def extract(self, captions: Sequence[str]) -> list[tuple[Triple, ...]]:
        """Finds the triples of each caption; none where there are none."""

    def words(self, captions: Sequence[str], nodes: Nodes = "triples") -> list[list[Span]]:
        """The words of each caption that are textual nodes, in order of appearance; see `chosen_words`.

        Raises:
            ConfigError: `nodes` is none of the three.
        """
        if nodes not in get_args(Nodes):
            raise ConfigError(f"text nodes '{nodes}' do not exist; {nearest(nodes, get_args(Nodes))}")
        if nodes == "all":
            return [word_spans(caption) for caption in captions]
        found = self.extract(captions)
        return [chosen_words(c, triples, nodes) for c, triples in zip(captions, found, strict=True)]


def make_extractor(
    backend: Backend = "offline", model: str = "en_core_web_sm", url: str = "http://localhost:9000"
) -> TripleExtractor:
    """Makes an extractor; what it needs is loaded when it first works.

    Args:
        backend: `offline` needs nothing, `spacy` a model that is installed, `corenlp` a server that runs.
        model: spaCy's.
        url: CoreNLP's.

    Raises:
        ConfigError: there is no such backend.
    """
    if backend == "offline":
        from tvr_lightning.data.triples_offline import OfflineTriples

        return OfflineTriples()
    if backend == "spacy":
        from tvr_lightning.data.triples_spacy import SpacyTriples

        return SpacyTriples(model)
    if backend == "corenlp":
        from tvr_lightning.data.triples_corenlp import CoreNLPTriples

        return CoreNLPTriples(url)
    raise ConfigError(f"no backend '{backend}' for triples; {nearest(backend, get_args(Backend))}")


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
        from tvr_lightning.data.cache import cache_folder  # brings torch: a wrong call is answered without it

        self.extractor = extractor
        name = hashlib.blake2b(extractor.fingerprint.encode(), digest_size=16).hexdigest()
        self.path = cache_folder(folder) / "triples" / f"{name}.sqlite"

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
            self._write([(keys[caption], _encoded(triples)) for caption, triples in found.items()])
            known |= found
        return [known[caption] for caption in captions]

    def _read(self, keys: dict[str, bytes]) -> dict[str, tuple[Triple, ...]]:
        if not self.path.exists():
            return {}
        rows: dict[bytes, Any] = {}
        wanted = list(keys.values())
        try:
            with self._open() as file:
                for start in range(0, len(wanted), _KEYS):
                    block = wanted[start : start + _KEYS]
                    marks = ",".join("?" * len(block))
                    rows |= dict(file.execute(f"SELECT key, triples FROM triples WHERE key IN ({marks})", block))
        except sqlite3.Error as error:
            self._mend(error)
            return {}
        known, broken = {}, 0
        for caption, key in keys.items():
            if key in rows:
                try:
                    known[caption] = _decoded(rows[key], len(caption))
                except (TypeError, ValueError):
                    broken += 1
        if broken:
            _log.warning("%s: %d entries cannot be read; their captions are parsed again", self.path, broken)
        return known

    def _write(self, rows: list[tuple[bytes, str]]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as file, file:
                file.executemany("INSERT OR REPLACE INTO triples VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            self._mend(error)
        except OSError as error:
            _log.warning("triples are not kept: %s: %s", self.path, error.strerror)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # opened for each use: a connection must not cross a fork
        with closing(sqlite3.connect(self.path, timeout=_LOCK_S)) as file:
            file.execute("CREATE TABLE IF NOT EXISTS triples (key BLOB PRIMARY KEY, triples TEXT) WITHOUT ROWID")
            yield file

    def _mend(self, error: sqlite3.Error) -> None:
        """Removes a file that is no cache, unless another process has done so."""
        if not _is_broken(error):
            _log.warning("triples are not kept: %s: %s", self.path, error)
            return
        try:
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                try:
                    with self._open() as file:
                        file.execute("SELECT key, triples FROM triples LIMIT 1").fetchall()
                        sound = file.execute("PRAGMA quick_check").fetchone() == ("ok",)
                except sqlite3.Error as again:
                    sound = not _is_broken(again)
                if not sound:
                    _log.warning("%s is broken (%s); it is removed and made anew", self.path, error)
                    # its journal belongs to it: SQLite would play it into the new file
                    self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
                    self.path.unlink(missing_ok=True)
        except OSError as failed:
            _log.warning("triples are not kept: %s: %s", self.path, failed.strerror)


def _is_broken(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN


def _key(caption: str) -> bytes:
    return hashlib.blake2b(caption.encode(errors="surrogatepass"), digest_size=32).digest()


def _encoded(triples: Sequence[Triple]) -> str:
    return json.dumps(triples, separators=(",", ":"))


def _decoded(text: str, length: int) -> tuple[Triple, ...]:
    """Triples from JSON.

    Raises:
        TypeError, ValueError: it is nothing that `_encoded` has made of a caption of this length.
    """
    triples = []
    for members in json.loads(text):
        phrases = [Phrase(str(said), tuple((int(a), int(b)) for a, b in spans)) for said, spans in members]
        if any(not 0 <= a < b <= length for phrase in phrases for a, b in phrase.spans):
            raise ValueError("a word outside the caption")
        subject, relation, object_ = phrases
        triples.append(Triple(subject, relation, object_))
    return tuple(triples)
