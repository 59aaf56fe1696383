"""An index on disk: shards of features, tables of windows, and one small file that says which of them count.

    INDEX/index.json            what the index is, and its shards; replaced whole: a kill leaves the state before
    INDEX/config.yaml           the configuration of the run that encoded the videos
    INDEX/shards/N.safetensors  features of windows, and one vector each
    INDEX/shards/N.parquet      their files, times and pictures

A batch of windows becomes a shard as soon as it is encoded. Whenever `MERGED` shards of about one size have gathered
they become one, so that an index of a million windows has some dozens. Files that `index.json` does not name are what a
kill left behind: the next writer removes them.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from tvr_lightning.data.stores.files import atomic_write, save_tensors, write_json
from tvr_lightning.errors import SearchError
from tvr_lightning.search.vectors import Kind

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
MANIFEST, SHARDS, LOCK = "index.json", "shards", "lock"
MERGED = 16
VECTOR = "vector"  # among the tensors of a shard; the others are the fields of the method's features


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


@dataclass(frozen=True)
class Table:
    """Windows, column by column.

    Attributes:
        ids: (N,) int64, increasing within a shard.
        files: names from the index's root, or absolute.
        starts: (N,) float64 seconds, NaN for the video's beginning.
        ends: (N,) float64 seconds, NaN for its end.
        durations: (N,) float64 seconds of the whole video.
        contents: hashes of the files.
        pictures: JPEG files; empty where they were not read.
    """

    ids: NDArray[np.int64]
    files: Sequence[str]
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    durations: NDArray[np.float64]
    contents: Sequence[bytes]
    pictures: Sequence[bytes] = field(default=(), repr=False)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> Table:
        """Some of the rows."""
        found = rows.tolist()
        return Table(
            self.ids[rows], [self.files[r] for r in found], self.starts[rows], self.ends[rows], self.durations[rows],
            [self.contents[r] for r in found], [self.pictures[r] for r in found] if self.pictures else (),
        )  # fmt: skip

    @classmethod
    def cat(cls, parts: Sequence[Table]) -> Table:
        """Joins tables."""

        def column(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])

        files = [file for part in parts for file in part.files]
        contents = [content for part in parts for content in part.contents]
        pictures = [picture for part in parts for picture in part.pictures]
        return cls(column("ids"), files, column("starts"), column("ends"), column("durations"), contents, pictures)

    @classmethod
    def empty(cls) -> Table:
        """No window."""
        none = np.empty(0, dtype=np.float64)
        return cls(np.empty(0, dtype=np.int64), [], none, none, none, [])


def read_manifest(folder: Path) -> Manifest:
    """Reads what an index is.

    Raises:
        SearchError: there is none, it is damaged, or a later version of the suite wrote it.
    """
    file = folder / MANIFEST
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (folder / SHARDS).is_dir():
            raise SearchError(
                f"{folder} is an index of which nothing was finished (no {MANIFEST}): make it: "
                f"tvr index RUN VIDEOS {folder}"
            ) from None
        raise SearchError(f"no index in {folder} (no {MANIFEST}); make one: tvr index RUN VIDEOS {folder}") from None
    except (OSError, ValueError) as error:
        raise SearchError(f"{file} is damaged ({error}): remove {folder} and make the index again") from None
    version = content.get("format") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise SearchError(
            f"{folder} was written by a later version of the suite ({content.get('suite')}; format {version}, this one "
            f"reads {FORMAT}): update tvr-lightning, or make the index again in another folder"
        )
    try:
        known = {f.name for f in fields(Manifest)}
        found = {name: value for name, value in content.items() if name in known}
        found["source"] = Source(**content["source"])
        found["shards"] = tuple(
            Shard(s["name"], int(s["rows"]), tuple(map(int, s["deleted"]))) for s in found["shards"]
        )
        found["unreadable"] = tuple(Unreadable(**u) for u in found["unreadable"])
        manifest = Manifest(**found)
        if any(Path(shard.name).name != shard.name or shard.name.startswith(".") for shard in manifest.shards):
            raise ValueError("a shard lies elsewhere")
        if manifest.kind not in get_args(Kind):
            raise ValueError(f"vectors of kind {manifest.kind!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SearchError(f"{file} is damaged ({error}): remove {folder} and make the index again") from None
    return manifest


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Holds an index for one writer; the system lets it go when the process ends in whatever way.

    Raises:
        SearchError: another process writes to it, or the folder cannot be used.
    """
    try:
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise SearchError(f"cannot write an index to {folder}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SearchError(
                f"another process is writing the index {folder}: wait for it, or end it; what it has done stays"
            ) from None
        yield
    finally:
        os.close(handle)


class Shards:
    """Reads and writes the files of an index.

    Args:
        folder: the index.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str, suffix: str) -> Path:
        """One of a shard's files."""
        return self.folder / SHARDS / f"{name}.{suffix}"

    def write(self, name: str, tensors: Mapping[str, Tensor], table: Table) -> Shard:
        """Writes a shard's files, each whole or not at all; it counts once `index.json` names it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = pa.table(
            {
                "id": pa.array(table.ids, pa.int64()),
                "file": pa.array([os.fsencode(file) for file in table.files], pa.binary()),  # a name may be no text
                "start": pa.array(table.starts, pa.float64()),
                "end": pa.array(table.ends, pa.float64()),
                "duration": pa.array(table.durations, pa.float64()),
                "content": pa.array(list(table.contents), pa.binary()),
                "picture": pa.array(list(table.pictures), pa.binary()),
            }
        )
        with atomic_write(self.path(name, "parquet")) as temporary:
            pq.write_table(columns, temporary, compression="zstd", row_group_size=256)
        with atomic_write(self.path(name, "safetensors")) as temporary:
            save_tensors(temporary, tensors)
        return Shard(name, len(table))

    def table(self, shard: Shard, pictures: bool = False) -> Table:
        """Reads which windows a shard holds, those that count no more too.

        Raises:
            SearchError: its file is damaged or has gone.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = ["id", "file", "start", "end", "duration", "content", *(["picture"] if pictures else [])]
        try:
            columns = pq.read_table(self.path(shard.name, "parquet"), columns=names)
            if len(columns) != shard.rows:
                raise ValueError(f"{len(columns)} rows instead of {shard.rows}")
            found = {name: columns[name] for name in names}
            return Table(
                found["id"].to_numpy(),
                [os.fsdecode(name) for name in found["file"].to_pylist()],
                found["start"].to_numpy(),
                found["end"].to_numpy(),
                found["duration"].to_numpy(),
                found["content"].to_pylist(),
                found["picture"].to_pylist() if pictures else (),
            )
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise self._damaged(shard, "parquet", error) from error

    def tensors(self, shard: Shard) -> dict[str, Tensor]:
        """Maps a shard's tensors; what is not looked at is not read.

        Raises:
            SearchError: its file is damaged or has gone.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(self.path(shard.name, "safetensors"))
            if any(len(x) != shard.rows for x in tensors.values()) or VECTOR not in tensors:
                raise ValueError("it holds other rows than index.json says")
            return tensors
        except (OSError, ValueError, SafetensorError) as error:
            raise self._damaged(shard, "safetensors", error) from error

    def _damaged(self, shard: Shard, suffix: str, error: Exception) -> SearchError:
        return SearchError(
            f"{self.path(shard.name, suffix)} is damaged or has gone ({' '.join(str(error).split())[:200]}): remove "
            f"{self.folder} and make the index again"
        )

    def merged(self, manifest: Manifest) -> Manifest:
        """Joins shards of about one size, as often as `MERGED` of them follow each other, and those mostly deleted.

        The caller writes the manifest, then calls `clean`.
        """
        while (found := _to_merge(manifest.shards)) is not None:
            parts = [s for s in manifest.shards[found] if s.size]
            tables = [self.table(s, pictures=True).take(s.kept) for s in parts]
            tensors = [(self.tensors(s), s.kept) for s in parts]
            joined = {
                key: _cat([held[key][kept.tolist()] for held, kept in tensors])
                for key in (tensors[0][0] if parts else ())
            }
            new: tuple[Shard, ...] = ()
            if parts:
                new = (self.write(f"{manifest.next_shard:06d}", joined, Table.cat(tables)),)
            before, after = manifest.shards[: found.start], manifest.shards[found.stop :]
            manifest = replace(manifest, shards=(*before, *new, *after), next_shard=manifest.next_shard + 1)
        return manifest

    def save(self, manifest: Manifest) -> None:
        """Makes a state of the index the one that counts."""
        write_json(self.folder / MANIFEST, asdict(manifest))

    def clean_up_to(self, manifest: Manifest, before: Manifest) -> None:
        """Removes the files of shards that a state had and the one after it has no more."""
        named = {shard.name for shard in manifest.shards}
        for shard in before.shards:
            if shard.name not in named:
                for suffix in ("parquet", "safetensors"):
                    self.path(shard.name, suffix).unlink(missing_ok=True)

    def clean(self, manifest: Manifest) -> None:
        """Removes files that no state needs any more."""
        named = {shard.name for shard in manifest.shards}
        for file in (self.folder / SHARDS).iterdir():
            if file.name.startswith(".") or file.stem not in named:
                file.unlink(missing_ok=True)


def _cat(parts: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.cat(list(parts))


def _to_merge(shards: Sequence[Shard]) -> slice | None:
    """Neighbouring shards to be joined: `MERGED` of which most are of one size and none larger; or one half deleted."""
    for place, shard in enumerate(shards):
        if shard.deleted and 2 * shard.size <= shard.rows:
            return slice(place, place + 1)
    orders = [_order(shard.rows) for shard in shards]
    for place in range(len(shards) - MERGED + 1):
        group = orders[place : place + MERGED]
        if 2 * group.count(max(group)) >= MERGED:
            return slice(place, place + MERGED)
    return None


def _order(rows: int) -> int:
    order = 0
    while rows > 1:
        rows //= MERGED
        order += 1
    return order
