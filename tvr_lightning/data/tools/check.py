"""What is on disk of a dataset: which listed videos have a file that decodes, which files nobody lists.

This module imports no torch; its functions run in worker processes.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tvr_lightning.data.stores.files import is_file
from tvr_lightning.data.tools.parallel import map_in_processes
from tvr_lightning.data.video.container import OpenVideo, first_that_decodes
from tvr_lightning.data.video.examination import examine
from tvr_lightning.errors import DataError, DecodeError

if TYPE_CHECKING:
    from tvr_lightning.data.annotations.base import Annotations
    from tvr_lightning.types import Record

KINDS = ("missing", "undecodable", "damaged", "without_captions", "duplicates", "unlisted", "errors")
Segment = tuple[float | None, float | None]  # start and end, as a record has them
_HASHED = 1 << 20  # bytes read at a time


class FileStatus(NamedTuple):
    """What a file turned out to be.

    Attributes:
        kind: `ok`, `undecodable` (no frame decodes) or `damaged` (some do; the file is cut off or frames are broken).
        reason: the decoder's, empty for `ok`.
    """

    kind: str
    reason: str = ""


@dataclass
class SplitCheck:
    """Counts of one split.

    Attributes:
        name: the split.
        listed: videos that the annotation files name.
        found: those with a file.
        missing: those without.
        undecodable: files of which no frame decodes.
        damaged: files that are cut off, or in a full check have broken frames.
        without_captions: videos that no caption describes.
        duplicates: videos that share their file or its content with another id, of this split or another.
        error: why the annotations cannot be read, if they cannot.
    """

    name: str
    listed: int = 0
    found: int = 0
    missing: int = 0
    undecodable: int = 0
    damaged: int = 0
    without_captions: int = 0
    duplicates: int = 0
    error: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every listed video has captions and a file that decodes."""
        return not (self.error or self.missing or self.undecodable or self.damaged or self.without_captions)


@dataclass
class Check:
    """A dataset's check.

    Attributes:
        dataset: its name and protocol.
        splits: counts of each split.
        lists: for each of `KINDS` what was found, as JSON objects.
        notes: what the reader warned of.
        files: number of files decoded.
        seconds: wall time of decoding and comparing them.
    """

    dataset: str
    splits: list[SplitCheck] = field(default_factory=list)
    lists: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    notes: list[str] = field(default_factory=list)
    files: int = 0
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every split is."""
        return all(split.complete for split in self.splits)


def check_dataset(
    annotations: Annotations, splits: Sequence[str] = (), full: bool = False, workers: int | None = None
) -> Check:
    """Compares a dataset's annotation files with its video files.

    Args:
        annotations: the dataset's reader.
        splits: those to check; all when none is named. The others are read too, to know which files nobody lists.
        full: decode every frame; else only read all packets, as reading does, and decode the first frame.
        workers: processes that decode; None for one per core.

    Raises:
        DataError: a named split does not exist.
    """
    for name in splits:
        annotations.check_split(name)
    every = annotations.splits  # own data learn their protocol here
    check = Check(f"{annotations.name} ({annotations.protocol})")
    wanted: dict[str, list[Record]] = {}
    named: set[Path] = set()
    known = True
    check.notes += annotations.notes()
    for name in every:
        chosen = not splits or name in splits
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                records = annotations.load(name)
            except DataError as error:
                known = False
                if chosen:
                    check.splits.append(SplitCheck(name, error=str(error)))
                    check.lists["errors"].append({"split": name, "reason": str(error)})
                continue
        check.notes += [str(w.message) for w in caught if chosen]
        named.update(record.video_path for record in records)
        if chosen:
            wanted[name] = records
    began = time.perf_counter()
    files = sorted({r.video_path for records in wanted.values() for r in records if is_file(r.video_path)})
    verdicts = dict(zip(files, map_in_processes(_Inspect(full), files, workers, "decoding", chunk=4), strict=True))
    twins = _duplicates(wanted, verdicts, workers)
    check.files, check.seconds = len(files), time.perf_counter() - began
    if known:  # with a split's list unknown, its files would stand here by mistake
        unlisted = _unlisted(named, set(annotations.annotation_files()))
    else:
        unlisted = []
        check.notes.append("a split cannot be read, so files that no id names were not looked for")
    check.lists["unlisted"] = [{"file": str(path)} for path in unlisted]
    check.lists["duplicates"] = twins
    shared = {(member["split"], member["id"]) for group in twins for member in group["videos"]}
    near = _by_stem(unlisted)
    for name, records in wanted.items():
        check.splits.append(_check_split(name, records, verdicts, near, check.lists))
        check.splits[-1].duplicates = sum((name, record.video_id) in shared for record in records)
    check.splits.sort(key=lambda split: every.index(split.name))
    return check


def _check_split(
    name: str,
    records: Sequence[Record],
    verdicts: dict[Path, FileStatus],
    near: dict[str, list[str]],
    lists: dict[str, list[dict[str, Any]]],
) -> SplitCheck:
    split = SplitCheck(name, listed=len(records))
    for record in records:
        about = {"split": name, "id": record.video_id, "file": str(record.video_path)}
        if not record.captions:
            split.without_captions += 1
            lists["without_captions"].append(about)
        verdict = verdicts.get(record.video_path)
        if verdict is None:
            split.missing += 1
            lists["missing"].append(about | {"similar": near.get(_plain(record.video_path.stem), [])})
            continue
        split.found += 1
        if verdict.kind != "ok":
            setattr(split, verdict.kind, getattr(split, verdict.kind) + 1)
            lists[verdict.kind].append(about | {"reason": verdict.reason})
    return split


@dataclass(frozen=True)
class _Inspect:
    """`inspect_file` with its option, in a form that goes to another process."""

    full: bool

    def __call__(self, path: Path) -> FileStatus:
        return inspect_file(path, self.full)


def inspect_file(path: Path, full: bool = False) -> FileStatus:
    """Reads the packets of a video and decodes its first frame, or all; says what is wrong instead of raising."""
    try:
        return first_that_decodes(path, lambda video: _inspect_stream(video, full))
    except DecodeError as error:
        return FileStatus("undecodable", str(error).removeprefix(f"{path}: "))


def _inspect_stream(video: OpenVideo, full: bool) -> FileStatus:
    found = examine(video, full)
    damage = found.cut or found.broken
    return FileStatus("damaged", damage) if damage else FileStatus("ok")


def _duplicates(wanted: dict[str, list[Record]], verdicts: Iterable[Path], workers: int | None) -> list[dict[str, Any]]:
    """Groups ids that show the same: of the same file, or of files of equal content, the same segment.

    Only files of equal size are read.
    """
    videos: dict[Path, list[tuple[Segment, dict[str, str]]]] = defaultdict(list)
    for name, records in wanted.items():
        for record in records:
            about = {"split": name, "id": record.video_id}
            videos[record.video_path].append(((record.start, record.end), about))
    files: dict[tuple[int, int], list[Path]] = defaultdict(list)  # links to one file count as that file
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in verdicts:
        status = path.stat()
        if (status.st_dev, status.st_ino) not in files and status.st_size:
            sizes[status.st_size].append(path)
        files[status.st_dev, status.st_ino].append(path)
    alike = [path for paths in sizes.values() if len(paths) > 1 for path in paths]
    digests = dict(zip(alike, map_in_processes(_digest, alike, workers, "comparing", chunk=8), strict=True))
    groups: dict[tuple[object, Segment], list[tuple[Path, dict[str, str]]]] = defaultdict(list)
    for paths in files.values():
        for path in paths:
            for part, about in videos[path]:
                groups[digests.get(paths[0]) or paths[0], part].append((path, about))
    return [
        {"videos": [about for _, about in members], "files": list(dict.fromkeys(str(path) for path, _ in members))}
        for members in groups.values()
        if len(members) > 1
    ]


def _digest(path: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_HASHED):
                digest.update(block)
    except OSError:  # reported as undecodable already
        return None
    return digest.hexdigest()


def _unlisted(named: set[Path], others: set[Path]) -> list[Path]:
    """What lies beside named files: files that nobody names, and folders without any named file at any depth."""
    folders = {path.parent for path in named}
    known = named | others | {above for folder in folders for above in (folder, *folder.parents)}
    return sorted(p for folder in folders if folder.is_dir() for p in folder.iterdir() if p not in known)


def _by_stem(files: Sequence[Path]) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = defaultdict(list)
    for path in files:
        stems[_plain(path.stem)].append(path.name)
    return stems


def _plain(stem: str) -> str:
    """A stem as careless tools keep it: without capitals, prefix, leading dashes or zeros, or outer spaces."""
    return stem.strip().lower().removeprefix("v_").lstrip("-_ 0")
