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
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tvr_lightning.data.stores.files import atomic_write, save_tensors, write_json
from tvr_lightning.errors import SearchError, few, one_line
from tvr_lightning.names import CONFIG
from tvr_lightning.search.manifest import MANIFEST, PART, SHARD, SHARDS, Manifest, Shard, read_manifest, unreachable
from tvr_lightning.search.table import Table, check_table
from tvr_lightning.search.vectors import LISTS

if TYPE_CHECKING:
    from torch import Tensor

LOCK = "lock"
MERGED = 16
VECTOR = "vector"  # among the tensors of a shard; the others are the fields of the method's features
LARGEST_PICTURE = 8 << 20
_HALF = r"\.[0-9a-f]{16}"  # ends the name of a file that a kill left half-written
_OWN = re.compile(rf"{SHARD.pattern}\.(parquet|safetensors)")
_OWN_HALF = re.compile(rf"\.{_OWN.pattern}{_HALF}")
_TOP_HALF = re.compile(rf"\.({re.escape(MANIFEST)}|{re.escape(CONFIG)}|{re.escape(LISTS)}|{PART.pattern}){_HALF}")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Holds an index for one writer; the system lets it go when the process ends in whatever way.

    A folder that is made for it, and in which nothing is written, does not stay.

    Raises:
        SearchError: the folder is another program's, another process writes to it, or it cannot be used.
    """
    try:
        new = not os.path.lexists(folder)
        _check_ours(folder)
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise SearchError(f"cannot write an index to {folder}: {error.strerror}") from None
    except ValueError:
        raise SearchError(f"cannot write an index to {folder}: the name holds a zero byte") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SearchError(
                f"another process is writing the index {folder}: wait for it, or end it; what it has done is kept"
            ) from None
        try:
            yield
        finally:
            if new and {p.name for p in folder.iterdir()} == {SHARDS, LOCK} and not any((folder / SHARDS).iterdir()):
                (folder / SHARDS).rmdir()
                (folder / LOCK).unlink()
                folder.rmdir()
    finally:
        os.close(handle)


def _check_ours(folder: Path) -> None:
    """Refuses a folder that holds what no index has: the writer would replace and remove files of others."""
    if (folder / SHARDS).is_symlink():
        raise SearchError(
            f"{folder / SHARDS} is a link: an index writes and removes files there, and follows no links. Put the "
            "folder "
            "itself in its place"
        )
    if os.path.lexists(folder / MANIFEST):
        read_manifest(folder)
        return
    if not folder.exists():
        return
    others = [p.name for p in folder.iterdir() if p.name not in (SHARDS, LOCK)]
    others = sorted(name for name in others if not PART.fullmatch(name) and not _TOP_HALF.fullmatch(name))
    if (folder / SHARDS).is_dir():
        inside = sorted(p.name for p in (folder / SHARDS).iterdir())
        others += [f"{SHARDS}/{name}" for name in inside if not _OWN.fullmatch(name) and not _OWN_HALF.fullmatch(name)]
    if others:
        raise SearchError(
            f"{folder} is not an index and holds other files ({few(others)}), which an index would mix with its own: "
            "name a folder that is empty or does not exist yet"
        )


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
            SearchError: its file is damaged or is gone.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        text, number, seconds = pa.binary(), pa.int64(), pa.float64()
        types = {"id": number, "file": text, "start": seconds, "end": seconds, "duration": seconds, "content": text}
        if pictures:
            types["picture"] = text
        path = self.path(shard.name, "parquet")
        try:
            if shard.rows > _size(self.path(shard.name, "safetensors")):
                raise ValueError(f"{MANIFEST} says {shard.rows} rows, more than its tensors have bytes")
            _size(path)
            with pq.ParquetFile(path) as file:
                if file.metadata.num_rows != shard.rows:
                    raise ValueError(f"{file.metadata.num_rows} rows instead of {shard.rows}")
                columns = file.read(columns=list(types))
            for name, kind in types.items():
                if columns[name].type != kind or columns[name].null_count:
                    raise ValueError(
                        f"{name} is {columns[name].type} with {columns[name].null_count} nulls, not {kind}"
                    )
            found = {name: columns[name] for name in types}
            table = Table(
                found["id"].to_numpy(),
                [os.fsdecode(name) for name in found["file"].to_pylist()],
                found["start"].to_numpy(),
                found["end"].to_numpy(),
                found["duration"].to_numpy(),
                found["content"].to_pylist(),
                found["picture"].to_pylist() if pictures else (),
            )
            check_table(table)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise self._damaged(path, error) from error
        return table

    def tensors(self, shard: Shard, manifest: Manifest) -> dict[str, Tensor]:
        """Maps a shard's tensors; what is not looked at is not read.

        Raises:
            SearchError: its file is damaged or is gone, or holds other vectors than the manifest says.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path(shard.name, "safetensors")
        try:
            _size(path)
            tensors = load_file(path)
            vector = tensors.get(VECTOR)
            if vector is None or any(x.ndim < 1 or len(x) != shard.rows for x in tensors.values()):
                raise ValueError(f"it holds other rows than {MANIFEST} says")
            types = {"code": (torch.int8,), "float": (torch.float32, torch.float16)}[manifest.kind]
            if vector.shape != (shard.rows, manifest.width) or vector.dtype not in types:
                raise ValueError(
                    f"its vectors are {vector.dtype} {tuple(vector.shape)}, not {shard.rows} {manifest.kind} of "
                    f"{manifest.width}"
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise self._damaged(path, error) from error
        return tensors

    def all_tensors(self, shards: Sequence[Shard], manifest: Manifest) -> list[dict[str, Tensor]]:
        """Tensors of several shards, which can be joined.

        Raises:
            SearchError: as `tensors`, or one shard's have other names, shapes or types than another's.
        """
        found = [self.tensors(shard, manifest) for shard in shards]
        for shard, tensors in zip(shards, found, strict=True):
            if (mine := _form(tensors)) != (first := _form(found[0])):
                path = self.path(shard.name, "safetensors")
                raise self._damaged(path, ValueError(f"it holds {mine}, {shards[0].name} {first}"))
        return found

    def windows(self, manifest: Manifest) -> tuple[Table, NDArray[np.int64]]:
        """All windows that count, and (N, 2) in which shard and row they lie.

        Raises:
            SearchError: as `table`, or two windows have one number.
        """
        parts = [(number, s, self.table(s)) for number, s in enumerate(manifest.shards) if s.size]
        if not parts:
            return Table.empty(), np.empty((0, 2), dtype=np.int64)
        table = Table.cat([held.take(s.kept) for _, s, held in parts])
        places = [np.stack([np.full(s.size, number), s.kept], axis=1) for number, s, _ in parts]
        if len(np.unique(table.ids)) < len(table):
            raise self._damaged(self.folder, ValueError("two of its windows have one number"))
        if table.ids.max() >= manifest.next_id:
            raise self._damaged(
                self.folder / MANIFEST, ValueError(f"next_id is {manifest.next_id}, which a window has already")
            )
        return table, np.concatenate(places).astype(np.int64)

    def vectors(self, manifest: Manifest) -> NDArray[Any]:
        """The vectors of all windows that count, (N, width), in the order of `windows`.

        Raises:
            SearchError: as `tensors`, or a number is none.
        """
        parts = []
        for shard in manifest.shards:
            if shard.size:
                held = self.tensors(shard, manifest)[VECTOR].numpy()[shard.kept]
                if not (np.abs(held) == 1).all() if manifest.kind == "code" else not np.isfinite(held).all():
                    what = "codes besides -1 and +1" if manifest.kind == "code" else "vectors that are not finite"
                    raise self._damaged(self.path(shard.name, "safetensors"), ValueError(f"it holds {what}"))
                parts.append(held)
        return np.concatenate(parts)

    def picture(self, shard: Shard, row: int) -> bytes:
        """The picture of a window, as JPEG.

        Raises:
            SearchError: the shard's file is damaged or is gone.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path(shard.name, "parquet")
        try:
            _size(path)
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if row < rows:
                        found = file.read_row_group(group, columns=["picture"])["picture"][row].as_py()
                        if not isinstance(found, bytes) or not found.startswith(b"\xff\xd8\xff"):
                            raise ValueError("a picture is not a JPEG")
                        if len(found) > LARGEST_PICTURE:
                            raise ValueError(f"a picture has {len(found)} bytes")
                        return found
                    row -= rows
            raise ValueError(f"it has fewer rows than {MANIFEST} says")
        except (OSError, ValueError, KeyError, IndexError, TypeError, pa.ArrowException) as error:
            raise self._damaged(path, error) from None

    def _damaged(self, path: Path, error: Exception) -> SearchError:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
            return unreachable(path, error)
        return SearchError(
            f"{path} is damaged or gone ({one_line(error)[:200]}): remove {self.folder} and make the index again"
        )

    def merged(self, manifest: Manifest) -> Manifest:
        """Joins shards of about one size, as often as `MERGED` of them follow each other, and those mostly deleted.

        The caller writes the manifest, then calls `clean`.
        """
        while (found := _to_merge(manifest.shards)) is not None:
            parts = [s for s in manifest.shards[found] if s.size]
            tables = [self.table(s, pictures=True).take(s.kept) for s in parts]
            tensors = [(x, s.kept) for x, s in zip(self.all_tensors(parts, manifest), parts, strict=True)]
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
        """Removes files that no state needs any more; of names that a writer gives, and no others."""
        named = {shard.name for shard in manifest.shards}
        self._remove(self.folder, lambda name: bool(_TOP_HALF.fullmatch(name)))
        self._remove(
            self.folder / SHARDS,
            lambda name: bool(_OWN_HALF.fullmatch(name) or (_OWN.fullmatch(name) and Path(name).stem not in named)),
        )

    def _remove(self, folder: Path, needless: Callable[[str], bool]) -> None:
        with os.scandir(folder) as entries:
            for name in [e.name for e in entries if e.is_file(follow_symlinks=False) and needless(e.name)]:
                (folder / name).unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Bytes of a regular file.

    Raises:
        OSError: it is gone.
        ValueError: it is something else, also a link.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    return status.st_size


def _form(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{str(x.dtype).removeprefix('torch.')} {[*x.shape[1:]]}" for name, x in sorted(tensors.items())}


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
