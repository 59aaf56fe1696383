"""What an index lacks of its videos, and what it holds of videos that are gone or moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tvr_lightning.errors import SearchError, few
from tvr_lightning.run.load import Experiment
from tvr_lightning.search.folder import Shards
from tvr_lightning.search.manifest import MANIFEST, PART, Manifest, Source, read_manifest, read_part
from tvr_lightning.search.progress import progress
from tvr_lightning.search.source import black_features, check_source
from tvr_lightning.search.table import Table
from tvr_lightning.search.vectors import Kind, check_vectors
from tvr_lightning.search.videos import Listed


@dataclass(frozen=True)
class IndexOptions:
    """How an index is made.

    Attributes:
        window: seconds, None for videos as a whole.
        stride: seconds.
        dtype: of features, `float32` or `float16`.
        vectors_at: a place of Milvus; None for FAISS.
        forget: lets most videos of an index go, or any when it follows another folder.
    """

    window: float | None = 10.0
    stride: float = 5.0
    dtype: str = "float32"
    vectors_at: str | None = None
    forget: bool = False


class Job(NamedTuple):
    """What has to be done, for all ranks."""

    manifest: Manifest
    todo: list[tuple[str, str]]  # file and content
    moved: int
    removed: int
    listed: Listed
    copies: int  # files that hold the same as another


def make_plan(run: Experiment, source: Source, listed: Listed, folder: Path, options: IndexOptions) -> Job:
    """Compares the index with the videos; takes out what is gone, renames what has moved.

    Raises:
        SearchError: the index is damaged, or of something else; or its vectors cannot be kept where they should.
    """
    shards = Shards(folder)
    manifest = Manifest(
        source, str(listed.root), options.window, options.stride, options.dtype, "float", 0, options.vectors_at
    )
    if (folder / MANIFEST).exists():
        found = read_manifest(folder)
        check_source(found, source, str(folder))
        _check_options(found, options, folder)
        manifest = replace(found, source=source)
    if options.vectors_at is not None:  # before anything is encoded
        vectors = run.model.vectors(black_features(run))
        kind: Kind = "code" if vectors.dtype == torch.int8 else "float"
        check_vectors(options.vectors_at, kind, vectors.shape[1])
    manifest = adopt(folder, manifest)
    table, places = shards.windows(manifest)
    contents = _contents(run, listed)
    if not options.forget:
        _check_loss(table, contents, folder, manifest.root, listed)
    manifest = replace(manifest, root=str(listed.root))
    rows_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, (name, held) in enumerate(zip(table.files, table.contents, strict=True)):
        rows_of[name, held.hex()].append(row)
    wanted = {(file, contents[file]) for file in listed.files}
    gone = [key for key in rows_of if key not in wanted]
    by_content = {content: rows_of[file, content] for file, content in gone}
    refused = {(u.file, u.content): u for u in manifest.unreadable if (u.file, u.content) in wanted and u.content}
    todo: list[tuple[str, str]] = []
    moved: list[tuple[str, str]] = []
    for file, content in sorted(wanted - rows_of.keys() - refused.keys()):
        (moved if content in by_content else todo).append((file, content))
    manifest = replace(manifest, unreadable=tuple(refused[key] for key in sorted(refused)))
    if moved:
        rows = [(file, by_content[content]) for file, content in moved]
        manifest = _renamed(shards, manifest, table, places, rows)
    if gone:
        deleted = np.concatenate([rows_of[key] for key in gone]).astype(np.int64)
        manifest = _without(manifest, places[deleted])
    if moved or gone:
        shards.save(manifest)
    shards.clean(manifest)
    removed = len({file for file, _ in gone} - set(listed.files)) - len(moved)
    readable = [content for content in contents.values() if content]
    return Job(manifest, todo, len(moved), max(0, removed), listed, len(readable) - len(set(readable)))


def _check_loss(table: Table, contents: Mapping[str, str], folder: Path, root: str, listed: Listed) -> None:
    """Refuses a call that would empty an index: of another folder, or of one that is not all there.

    Of its own folder, files that hold something else now are not a loss, unless they cannot be read.
    """
    there, other = set(contents.values()) - {""}, str(listed.root) != root
    kept = [
        held.hex() in there or (not other and bool(contents.get(name)))
        for name, held in zip(table.files, table.contents, strict=True)
    ]
    lost = sorted({name for name, stays in zip(table.files, kept, strict=True) if not stays})
    if not lost or (not other and 2 * sum(kept) >= len(kept)):
        return
    count = f"{len(kept) - sum(kept):,} of its {len(kept):,} windows would go ({few(lost)})"
    if other:
        raise SearchError(
            f"{folder} indexes the videos of {root}; with those of {listed.root} {count}. An index follows one folder: "
            "index the other one in another folder, or remove them with --forget"
        )
    unread = sum(name in contents for name in lost)
    raise SearchError(
        f"{count}: {unread} of {len(lost)} files cannot be read, the others are not in {root} any more. Is the disk "
        "mounted, and the list whole? If they are to leave the index, add --forget"
    )


def _check_options(found: Manifest, options: IndexOptions, folder: Path) -> None:
    wrong = [
        f"--{name} {getattr(found, field)}, not {getattr(options, field)}"
        for name, field in (("window", "window"), ("stride", "stride"), ("dtype", "dtype"), ("index", "vectors_at"))
        if getattr(found, field) != getattr(options, field)
    ]
    if wrong:
        raise SearchError(f"{folder} was made with {few(wrong)}: leave the setting out, or make another index")


def _contents(run: Experiment, listed: Listed) -> dict[str, str]:
    """What each file holds, as a hash; empty where it cannot be read."""
    known = run.data.frame_cache.contents
    found = {}
    with progress("reading", len(listed.files)) as advance:
        for file in listed.files:
            found[file] = (known.digest(listed.root / file) or b"").hex()
            advance(1)
    return found


def _renamed(
    shards: Shards, manifest: Manifest, table: Table, places: NDArray[np.int64], moved: Sequence[tuple[str, list[int]]]
) -> Manifest:
    """Writes windows of known content once more, under the names that their files have now."""
    rows = np.array([row for _, rows in moved for row in rows], dtype=np.int64)
    names = [file for file, rows in moved for _ in rows]
    numbers = np.unique(places[rows, 0]).tolist()
    held = dict(zip(numbers, shards.all_tensors([manifest.shards[n] for n in numbers], manifest), strict=True))
    pictures = {number: shards.table(manifest.shards[number], pictures=True).pictures for number in held}
    where = [(int(number), int(row)) for number, row in places[rows]]
    tensors = {
        name: torch.stack([held[number][name][row] for number, row in where]) for name in next(iter(held.values()))
    }
    old = table.take(rows)
    ids = manifest.next_id + np.arange(len(rows))
    new = replace(old, ids=ids, files=names, pictures=[pictures[number][row] for number, row in where])
    shard = shards.write(f"{manifest.next_shard:06d}", tensors, new)
    return replace(
        manifest,
        shards=(*manifest.shards, shard),
        next_id=manifest.next_id + len(rows),
        next_shard=manifest.next_shard + 1,
    )


def _without(manifest: Manifest, places: NDArray[np.int64]) -> Manifest:
    changed = list(manifest.shards)
    for number in np.unique(places[:, 0]).tolist():
        shard = changed[number]
        rows = places[places[:, 0] == number, 1].tolist()
        changed[number] = replace(shard, deleted=tuple(sorted({*shard.deleted, *rows})))
    return replace(manifest, shards=tuple(changed))


def adopt(folder: Path, manifest: Manifest) -> Manifest:
    """Takes over what ranks above 0 have written, also those of a run that was killed.

    Raises:
        SearchError: what one wrote is damaged.
    """
    files = sorted(file for file in folder.iterdir() if PART.fullmatch(file.name))
    shards = Shards(folder)
    for file in files:
        part = read_part(file)
        known = {shard.name for shard in manifest.shards}
        new = tuple(shard for shard in part.shards if shard.name not in known)
        manifest = replace(
            manifest,
            shards=(*manifest.shards, *new),
            unreadable=(*manifest.unreadable, *part.unreadable),
            next_id=max(manifest.next_id, part.next_id),
            next_shard=max(manifest.next_shard, part.next_shard),
            kind=part.kind if part.shards else manifest.kind,
            width=part.width if part.shards else manifest.width,
        )
        for shard in new:  # whole, before the index names them
            shards.table(shard)
            shards.tensors(shard, manifest)
    if manifest.shards:
        shards.save(manifest)
    for file in files:
        file.unlink()
    return manifest
