"""What an index lacks of its videos, and what it holds of videos that have gone or moved."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tvr_lightning.errors import SearchError, few
from tvr_lightning.run.load import Experiment
from tvr_lightning.search.folder import (
    MANIFEST,
    Manifest,
    Shard,
    Shards,
    Source,
    Table,
    Unreadable,
    read_manifest,
)
from tvr_lightning.search.progress import progress
from tvr_lightning.search.source import check_source
from tvr_lightning.search.videos import Listed

PARTS = "rank-{}.json"  # what a rank above 0 has written, until rank 0 takes it over


@dataclass(frozen=True)
class IndexOptions:
    """How an index is made.

    Attributes:
        window: seconds, None for videos as a whole.
        stride: seconds.
        dtype: of features, `float32` or `float16`.
        vectors_at: a place of Milvus; None for FAISS.
    """

    window: float | None = 10.0
    stride: float = 5.0
    dtype: str = "float32"
    vectors_at: str | None = None


class Job(NamedTuple):
    """What has to be done, for all ranks."""

    manifest: Manifest
    todo: list[tuple[str, str]]  # file and content
    moved: int
    removed: int
    listed: Listed


def make_plan(run: Experiment, source: Source, listed: Listed, folder: Path, options: IndexOptions) -> Job:
    """Compares the index with the videos; takes out what has gone, renames what has moved."""
    shards = Shards(folder)
    manifest = Manifest(
        source, str(listed.root), options.window, options.stride, options.dtype, "float", 0, options.vectors_at
    )
    if (folder / MANIFEST).exists():
        found = read_manifest(folder)
        check_source(found, source, str(folder))
        _check_options(found, options, folder)
        manifest = replace(found, source=source, root=str(listed.root))
    manifest = adopt(folder, manifest)
    contents = _contents(run, listed)
    table, places = _rows(shards, manifest)
    if len(table) and not set(table.files) & set(listed.files):
        raise SearchError(
            f"{folder} indexes the videos of {read_manifest(folder).root}; {listed.root} has none of them. An index "
            "follows one folder: index the other one in a folder of its own"
        )
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
    return Job(manifest, todo, len(moved), max(0, removed), listed)


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


def _rows(shards: Shards, manifest: Manifest) -> tuple[Table, NDArray[np.int64]]:
    """All windows that count, and (N, 2) in which shard and row they lie."""
    parts = [(number, s, shards.table(s)) for number, s in enumerate(manifest.shards) if s.size]
    if not parts:
        return Table.empty(), np.empty((0, 2), dtype=np.int64)
    table = Table.cat([held.take(s.kept) for _, s, held in parts])
    places = [np.stack([np.full(s.size, number), s.kept], axis=1) for number, s, _ in parts]
    return table, np.concatenate(places).astype(np.int64)


def _renamed(
    shards: Shards, manifest: Manifest, table: Table, places: NDArray[np.int64], moved: Sequence[tuple[str, list[int]]]
) -> Manifest:
    """Writes windows of known content once more, under the names that their files have now."""
    rows = np.array([row for _, rows in moved for row in rows], dtype=np.int64)
    names = [file for file, rows in moved for _ in rows]
    held = {number: shards.tensors(manifest.shards[number]) for number in np.unique(places[rows, 0]).tolist()}
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
    """Takes over what ranks above 0 have written, also those of a run that was killed."""
    for file in sorted(folder.glob(PARTS.format("*"))):
        part = json.loads(file.read_text(encoding="utf-8"))
        known = {shard.name for shard in manifest.shards}
        new = tuple(Shard(s["name"], s["rows"]) for s in part["shards"] if s["name"] not in known)
        manifest = replace(
            manifest,
            kind=part["kind"],
            width=part["width"] or manifest.width,
            shards=(*manifest.shards, *new),
            unreadable=(*manifest.unreadable, *(Unreadable(**u) for u in part["unreadable"])),
            next_id=max(manifest.next_id, part["next_id"]),
            next_shard=max(manifest.next_shard, part["next_shard"]),
        )
    if manifest.shards:
        Shards(folder).save(manifest)
    for file in folder.glob(PARTS.format("*")):
        file.unlink()
    return manifest
