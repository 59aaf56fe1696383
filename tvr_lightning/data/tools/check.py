"""What is on disk of a dataset: which listed videos have a file that decodes, which files are unlisted.

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
from tvr_lightning.data.twins import common, repeated
from tvr_lightning.data.video.container import OpenVideo, first_that_decodes
from tvr_lightning.data.video.examination import examine
from tvr_lightning.errors import DataError, DecodeError

if TYPE_CHECKING:
    from tvr_lightning.data.annotations.base import Annotations
    from tvr_lightning.types import Record

KINDS = (
    "missing",
    "undecodable",
    "damaged",
    "without_captions",
    "in_training",
    "repeats",
    "duplicates",
    "unlisted",
    "errors",
)
TRAIN, TEST = "train", "test"  # those of `annotations.base`, which brings torch
DISTRACTORS, RELEVANCE = "distractors", "relevance"  # rows of settings that belong to the test
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
        in_training: videos of an evaluated split that the training split holds too, by id, file or content.
        repeats: records that show what an earlier one of the split shows.
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
    in_training: int = 0
    repeats: int = 0
    duplicates: int = 0
    error: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every listed video has captions and a file that decodes, and none stands where it must not."""
        faults = (self.missing, self.undecodable, self.damaged, self.without_captions, self.in_training, self.repeats)
        return not (self.error or any(faults))


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
    annotations: Annotations,
    splits: Sequence[str] = (),
    full: bool = False,
    workers: int | None = None,
    distractors: Path | None = None,
    relevance: Path | None = None,
) -> Check:
    """Compares a dataset's annotation files with its video files.

    Args:
        annotations: the dataset's reader.
        splits: those to check; all when none is named. The others are read too, to know which files are unlisted.
        full: decode every frame; else only read all packets, as reading does, and decode the first frame.
        workers: processes that decode; None for one per core.
        distractors: `data.distractors`, which stand in the test's gallery; they are a row of their own.
        relevance: `data.relevance`, further right videos of test captions.

    Raises:
        DataError: a named split does not exist.
    """
    from tvr_lightning.data.protocol import read_distractors, read_relevance

    for name in splits:
        annotations.check_split(name)
    every = annotations.splits  # own data learn their protocol here
    check = Check(f"{annotations.name} ({annotations.protocol})")
    wanted: dict[str, list[Record]] = {}
    training: list[Record] = []
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
                    _refused(check, name, error)
                continue
        check.notes += [str(w.message) for w in caught if chosen]
        training = records if name == TRAIN else training
        named.update(record.video_path for record in records)
        if chosen:
            wanted[name] = records
    order = list(every)
    if TEST in wanted and distractors is not None:
        order.append(DISTRACTORS)
        try:
            wanted[DISTRACTORS] = read_distractors(distractors, named)
            named.update(record.video_path for record in wanted[DISTRACTORS])
        except DataError as error:
            _refused(check, DISTRACTORS, error)
    if TEST in wanted and relevance is not None:
        order.append(RELEVANCE)
        try:
            gallery = [*wanted[TEST], *wanted.get(DISTRACTORS, ())]
            found = read_relevance(relevance, [text for record in gallery for text in record.captions], gallery)[1]
            check.notes.append(f"{relevance}: {found or 'no further right pairs'}")
        except DataError as error:
            _refused(check, RELEVANCE, error)
    began = time.perf_counter()
    files = sorted({r.video_path for records in wanted.values() for r in records if is_file(r.video_path)})
    verdicts = dict(zip(files, map_in_processes(_Inspect(full), files, workers, "decoding", chunk=4), strict=True))
    same = _contents(verdicts, workers)
    twins = _duplicates(wanted, same)
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
        check.splits[-1].repeats = _note(check, "repeats", name, repeated(records))
        if name != TRAIN:
            check.splits[-1].in_training = _note(check, "in_training", name, common(training, records, same))
        check.splits[-1].duplicates = sum((name, record.video_id) in shared for record in records)
    check.splits.sort(key=lambda split: order.index(split.name))
    return check


def _refused(check: Check, name: str, error: DataError) -> None:
    check.splits.append(SplitCheck(name, error=str(error)))
    check.lists["errors"].append({"split": name, "reason": str(error)})


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
        if not record.captions and name != DISTRACTORS:
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


def _note(check: Check, kind: str, split: str, pairs: Sequence[tuple[str, str]]) -> int:
    check.lists[kind] += [{"split": split, "id": own, "same_as": other} for other, own in pairs]
    return len(pairs)


def _contents(files: Iterable[Path], workers: int | None) -> dict[Path, object]:
    """Something for every file that is equal where contents are; only files of equal size are read."""
    groups: dict[tuple[int, int], list[Path]] = defaultdict(list)  # links to one file count as that file
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in files:
        status = path.stat()
        if (status.st_dev, status.st_ino) not in groups and status.st_size:
            sizes[status.st_size].append(path)
        groups[status.st_dev, status.st_ino].append(path)
    alike = [path for paths in sizes.values() if len(paths) > 1 for path in paths]
    digests = dict(zip(alike, map_in_processes(_digest, alike, workers, "comparing", chunk=8), strict=True))
    return {path: digests.get(paths[0]) or paths[0] for paths in groups.values() for path in paths}


def _duplicates(wanted: dict[str, list[Record]], contents: dict[Path, object]) -> list[dict[str, Any]]:
    """Groups ids that show the same: of the same file, or of files of equal content, the same segment."""
    groups: dict[tuple[object, ...], list[tuple[Path, dict[str, str]]]] = defaultdict(list)
    for name, records in wanted.items():
        for r in records:
            if r.video_path in contents:
                about = {"split": name, "id": r.video_id}
                groups[contents[r.video_path], r.start, r.end].append((r.video_path, about))
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
