"""`index.json`: what an index is. It may come from elsewhere, so that every value is looked at when it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from tvr_lightning.data.stores.reading import read_regular
from tvr_lightning.errors import ConfigError, SearchError, one_line
from tvr_lightning.search.vectors import Kind, check_place
from tvr_lightning.search.videos import LONGEST

FORMAT = 1
MANIFEST, SHARDS = "index.json", "shards"
SHARD = re.compile(r"([0-9]{6,12})(?:-([0-9]{1,6}))?")  # a shard's name: its number, and the rank above 0 that wrote it
PART = re.compile(r"rank-([1-9][0-9]{0,5})\.json")  # what a rank above 0 has written, until rank 0 takes it over
DTYPES = ("float32", "float16")
LARGEST = 256 << 20  # bytes of `index.json`; 100,000 videos of which none can be read take 40 MB
MOST = 1 << 53  # numbers that are whole in every reader of JSON


@dataclass(frozen=True)
class Source:
    """What encoded the videos.

    Attributes:
        path: the run's folder, its checkpoint or the experiment, absolute where it is a path.
        experiment: its name.
        method: the method's class.
        weights: a hash of all weights.
        frames: how frames are taken, in words.
    """

    path: str
    experiment: str
    method: str
    weights: str
    frames: str


@dataclass(frozen=True)
class Shard:
    """Some windows.

    Attributes:
        name: of its two files.
        rows: how many windows they hold.
        deleted: rows that count no more.
    """

    name: str
    rows: int
    deleted: tuple[int, ...] = ()

    @property
    def kept(self) -> NDArray[np.int64]:
        """Rows that count."""
        return np.setdiff1d(np.arange(self.rows), np.array(self.deleted, dtype=np.int64))

    @property
    def size(self) -> int:
        """How many rows count."""
        return self.rows - len(self.deleted)


@dataclass(frozen=True)
class Unreadable:
    """A file, or a part of one, that gave no frames.

    Attributes:
        file: as `Window.file`.
        content: hash of what the file holds, hexadecimal.
        reason: the decoder's.
    """

    file: str
    content: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What `index.json` says.

    Attributes:
        source: what encoded the videos.
        root: the folder that files are named from.
        window: seconds of a window, None for videos as a whole.
        stride: seconds from one window's beginning to the next one's.
        dtype: of features in the shards, `float32` or `float16`.
        kind: of vectors.
        width: of vectors.
        vectors_at: a place of Milvus; None for FAISS.
        next_id: the number of the next window.
        next_shard: likewise.
        shards: in the order in which they were written.
        unreadable: what could not be indexed.
        suite: version that wrote the index last.
        format: of this file.
    """

    source: Source
    root: str
    window: float | None
    stride: float
    dtype: str
    kind: Kind
    width: int
    vectors_at: str | None = None
    next_id: int = 0
    next_shard: int = 0
    shards: tuple[Shard, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    suite: str = ""
    format: int = FORMAT

    @property
    def size(self) -> int:
        """How many windows count."""
        return sum(shard.size for shard in self.shards)


class Part(NamedTuple):
    """What a rank above 0 has written."""

    shards: tuple[Shard, ...]
    unreadable: tuple[Unreadable, ...]
    kind: Kind
    width: int
    next_id: int
    next_shard: int


def read_manifest(folder: Path) -> Manifest:
    """Reads what an index is.

    Raises:
        SearchError: there is none, it is another program's or damaged, it cannot be read, or a later version of the
            suite wrote it.
    """
    file = folder / MANIFEST
    again = f"remove {folder} and make the index again: tvr index RUN VIDEOS {folder}"
    try:
        content = _json(file)
    except FileNotFoundError:
        if (folder / SHARDS).is_dir():
            raise SearchError(
                f"{folder} is an index in which nothing was finished (no {MANIFEST}): make it: "
                f"tvr index RUN VIDEOS {folder}"
            ) from None
        raise SearchError(f"no index in {folder} (no {MANIFEST}); make one: tvr index RUN VIDEOS {folder}") from None
    except OSError as error:
        raise unreachable(file, error) from None
    except ValueError as error:
        raise SearchError(f"{file} is damaged ({one_line(error)[:200]}): {again}") from None
    if not isinstance(content, dict) or not content.keys() >= {"format", "source", "shards"}:
        raise SearchError(f"{file} is not an index of videos: something else wrote it. Name the folder of an index")
    version = content["format"]
    if type(version) is int and version > FORMAT:
        raise SearchError(
            f"{folder} was written by a later version of the suite ({content.get('suite')}; format {version}, this one "
            f"reads {FORMAT}): update tvr-lightning, or make the index again in another folder"
        )
    try:
        return _manifest(content)
    except _Wrong as error:
        raise SearchError(f"{file} is damaged ({error}): {again}") from None


def read_part(file: Path) -> Part:
    """Reads what a rank above 0 has written.

    Raises:
        SearchError: it is damaged or cannot be read.
    """
    rank = PART.fullmatch(file.name)
    assert rank is not None
    try:
        content = _json(file)
        if not isinstance(content, dict):
            raise _Wrong("it is not an object")
        part = Part(
            _shards(content), _unreadable(content), _kind(content), _count(content, "width", most=1 << 20),
            _count(content, "next_id"), _count(content, "next_shard"),
        )  # fmt: skip
        _check_shards(part.shards, part.next_shard, part.width)
        if any(shard.name.partition("-")[2] != rank[1] for shard in part.shards):
            raise _Wrong(f"it names shards that rank {rank[1]} did not write")
        return part
    except OSError as error:
        raise unreachable(file, error) from None
    except ValueError as error:
        raise SearchError(
            f"{file} is damaged ({one_line(error)[:200]}): remove that file; what it names is encoded again"
        ) from None


def unreachable(file: Path, error: OSError) -> SearchError:
    """What to say of a file that the system does not give; it may well be whole."""
    return SearchError(f"{file} cannot be read: {error.strerror}. Fix that and try again; nothing was changed")


class _Wrong(ValueError):
    """A value that no index has."""


def _json(file: Path) -> Any:
    """Raises ValueError for what is none, also where it is nested too deep, or holds a number of too many digits."""
    try:
        return json.loads(read_regular(file, LARGEST).decode("utf-8"))
    except RecursionError:
        raise ValueError("nested deeper than any index") from None


def _manifest(content: Mapping[str, Any]) -> Manifest:
    if type(content["format"]) is not int or content["format"] < 1:
        raise _wrong("format", content["format"])
    source = content["source"]
    names = [f.name for f in fields(Source)]
    if not isinstance(source, dict) or set(source) != set(names):
        raise _wrong("source", source)
    window = None if content.get("window") is None else _length(content, "window")
    stride, place = _length(content, "stride"), content.get("vectors_at")
    if content.get("dtype") not in DTYPES:
        raise _wrong("dtype", content.get("dtype"))
    if place is not None:
        try:
            check_place(_text(content, "vectors_at"))
        except ConfigError:
            raise _wrong("vectors_at", place) from None
    root = _text(content, "root")
    if not Path(root).is_absolute():
        raise _wrong("root", root)
    manifest = Manifest(
        Source(*(_text(source, name) for name in names)), root, window, stride, content["dtype"], _kind(content),
        _count(content, "width", most=1 << 20), place, _count(content, "next_id"), _count(content, "next_shard"),
        _shards(content), _unreadable(content), _text(content, "suite"), content["format"],
    )  # fmt: skip
    _check_shards(manifest.shards, manifest.next_shard, manifest.width)
    return manifest


def _shards(content: Mapping[str, Any]) -> tuple[Shard, ...]:
    found = []
    for entry in _objects(content, "shards"):
        name, rows, deleted = _text(entry, "name"), _count(entry, "rows", 1), entry.get("deleted")
        if not SHARD.fullmatch(name):
            raise _wrong("a shard's name", name)
        if not isinstance(deleted, list) or not all(type(row) is int and 0 <= row < rows for row in deleted):
            raise _wrong(f"deleted of shard {name}", deleted)
        if any(a >= b for a, b in pairwise(deleted)):
            raise _wrong(f"deleted of shard {name}, where each row stands once in order,", deleted)
        found.append(Shard(name, rows, tuple(deleted)))
    return tuple(found)


def _check_shards(shards: tuple[Shard, ...], next_shard: int, width: int) -> None:
    names = [shard.name for shard in shards]
    if len(set(names)) < len(names):
        raise _Wrong("it names a shard twice")
    if shards and not width:
        raise _wrong("width", width)
    if any(int(name.partition("-")[0]) >= next_shard for name in names):
        raise _wrong("next_shard, a number that no shard has yet,", next_shard)


def _unreadable(content: Mapping[str, Any]) -> tuple[Unreadable, ...]:
    found = []
    for entry in _objects(content, "unreadable"):
        one = Unreadable(_text(entry, "file"), _text(entry, "content"), str(entry.get("reason")))
        if not re.fullmatch("([0-9a-f]{64})?", one.content):
            raise _wrong("content", one.content)
        found.append(one)
    return tuple(found)


def _objects(content: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = content.get(name)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise _wrong(name, found)
    return found


def _kind(content: Mapping[str, Any]) -> Kind:
    found = content.get("kind")
    for kind in get_args(Kind):
        if found == kind:
            return cast(Kind, kind)
    raise _wrong("kind", found)


def _text(content: Mapping[str, Any], name: str) -> str:
    found = content.get(name)
    if not isinstance(found, str) or "\0" in found:
        raise _wrong(name, found)
    return found


def _count(content: Mapping[str, Any], name: str, least: int = 0, most: int = MOST) -> int:
    found = content.get(name)
    if type(found) is not int or not least <= found <= most:
        raise _wrong(name, found)
    return found


def _length(content: Mapping[str, Any], name: str) -> float:
    found = content.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < LONGEST:
        raise _wrong(name, found)
    return float(found)


def _wrong(name: str, value: object) -> _Wrong:
    shown = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else repr(value)
    return _Wrong(f"{name} is {shown if len(shown) < 60 else f'{shown[:60]}...'}")
