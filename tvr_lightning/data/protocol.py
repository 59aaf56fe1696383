"""What a protocol adds to a test split of any dataset: videos that no query asks for, and further relevant ones."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tvr_lightning.data.annotations.cells import listed_in, text_of
from tvr_lightning.data.annotations.columns import plain_name
from tvr_lightning.data.annotations.readers import clean
from tvr_lightning.data.annotations.rows import read_rows
from tvr_lightning.data.annotations.video_tree import VIDEO_EXTENSIONS, VideoTree, nfc
from tvr_lightning.errors import DataError, few, nearest
from tvr_lightning.types import Record

DISTRACTOR = "distractor:"  # what their ids begin with


def read_distractors(place: Path, listed: Iterable[Path]) -> list[Record]:
    """Videos without captions, for a gallery.

    Args:
        place: a folder, of which every video at any depth is taken, or a text file with a path below its own folder on
            each line.
        listed: files of the dataset's own records; they are skipped.

    Returns:
        Records in the order of their paths or lines, called `distractor:PATH`.

    Raises:
        DataError: there is no such folder or file, or no video in it.
    """
    own = {path.resolve() for path in listed}
    if place.is_dir():
        names = [name for name in VideoTree(place).files if name.rpartition(".")[2].lower() in VIDEO_EXTENSIONS]
        folder = place
    elif place.is_file():
        folder = place.parent
        try:
            lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise DataError(
                f"data.distractors: {place} is not a text file; give a folder of videos, or a file that lists some"
            ) from error
        tree = VideoTree(folder)
        names = [tree.inside(line, f"{place}: line {n}") for n, line in enumerate(lines, 1) if line]
    else:
        raise DataError(f"data.distractors: there is no {place}; give a folder of videos, or a file that lists some")
    found = [Record(DISTRACTOR + nfc(name), folder / name, ()) for name in dict.fromkeys(names)]
    kept = [r for r in found if r.video_path.resolve() not in own]
    if not kept:
        why = f"all {len(found)} are the dataset's own" if found else "it holds none"
        raise DataError(f"data.distractors: no video of {place} can stand in the gallery: {why}")
    return kept


def read_relevance(place: Path, captions: Sequence[str], records: Sequence[Record]) -> tuple[Tensor, str]:
    """Further right videos of captions; a caption's own video is always right.

    Args:
        place: a table with the columns `query` and `video`, or JSON `{query: [videos]}`. A query is a caption's id as
            in a run's ranks (`video7#0`), or its text, which means every caption with that text.
        captions: of the split, the records' one after the other.
        records: of the split.

    Returns:
        (R, 2) int64, rows of captions and of records, ascending; and what names them in results.

    Raises:
        DataError: the file cannot be read, or names a query or video that the split does not have.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    owner: list[int] = []
    for i, record in enumerate(records):
        for number in range(len(record.captions)):
            rows[clean(captions[len(owner)])].append(len(owner))
            rows[f"{record.video_id}#{number}"].append(len(owner))
            owner.append(i)
    videos = {record.video_id: i for i, record in enumerate(records)}
    pairs = set()
    for query, video, where in _named(place):
        if query not in rows:
            raise DataError(f"{where}: the split has no caption '{query}'; {nearest(query, rows)}")
        if video not in videos:
            raise DataError(f"{where}: the split has no video '{video}'; {nearest(video, videos)}")
        pairs |= {(caption, videos[video]) for caption in rows[query] if owner[caption] != videos[video]}
    found = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)
    digest = hashlib.sha256(found.numpy().tobytes()).hexdigest()[:6]
    return found, f"{len(found):,} further right pairs ({digest})" if len(found) else ""


def _named(place: Path) -> Iterable[tuple[str, str, str]]:
    """Query, video and where they stand, of every pair that a file names."""
    if not place.is_file():
        raise DataError(f"data.relevance: there is no file {place}; see docs/own_data.md for what it holds")
    table = read_rows(place)
    names = [plain_name(name) for name in table.columns]
    # an object {query: [videos]} is read as rows of what own data call video and caption
    query, video = ("video", "caption") if names == ["video", "caption"] else ("query", "video")
    if any(names.count(name) != 1 for name in (query, video)):
        raise DataError(f"{place}: expected the columns query and video, found {few(table.columns)}")
    for row, cells in enumerate(table.rows):
        where, cell = table.where(row), cells[names.index(video)]
        listed = listed_in(cell)
        for each in [cell] if listed is None else listed:
            yield clean(text_of(cells[names.index(query)], where, "query")), nfc(text_of(each, where, "video")), where
