"""Own data: a table of videos and captions, and a folder of videos; see docs/own_data.md.

captions.csv        video,caption,split,...   one row per caption, or one row per video with a list of captions
videos/**           files at any depth, whatever their endings

The only file of `rows.FORMATS` in the folder is the table, or `train.csv`, `val.csv` and `test.csv` are; columns have
usual names (`columns.USUAL`). All of it can be said in settings instead.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tvr_lightning.data.annotations.base import TEST, TRAIN, VALIDATION, Annotations, describe_folder
from tvr_lightning.data.annotations.cells import SPLIT_WORDS, captions_of, classes_of, seconds_of, split_of, text_of
from tvr_lightning.data.annotations.columns import Role, find_columns
from tvr_lightning.data.annotations.layouts import SyntheticDataset, SyntheticVideo, write_json
from tvr_lightning.data.annotations.rows import FORMATS, TableRows, read_rows
from tvr_lightning.data.annotations.video_tree import VIDEO_EXTENSIONS, VideoTree, nfc
from tvr_lightning.errors import ConfigError, DataError, few
from tvr_lightning.types import Record

_Place = tuple[str, Path, str]  # see `_place_of`
SplitBy = Literal["auto", "column", "draw", "test"]
ORDER = (TRAIN, VALIDATION, TEST)
FOLDERS = ("videos", "clips")  # where videos lie, if one of them is there; else anywhere below the root
_USUAL_STEMS = ("captions", "annotations", "metadata", "clips", "videos", "data", "table")


@dataclass
class _Entry:
    """A record while its rows are read: captions and labels grow."""

    video_id: str
    path: Path
    drawn_by: str
    split: str | None
    start: float | None
    end: float | None
    captions: list[str] = field(default_factory=list)
    labels: set[int] = field(default_factory=set)

    def record(self, split: str, source: str) -> Record:
        whole = self.start is None and self.end is None
        labels = tuple(sorted(self.labels))
        return Record(
            self.video_id, self.path, tuple(self.captions), labels, self.start, self.end, None if whole else source
        )


@dataclass(frozen=True)
class _Content:
    """What the tables say, read once."""

    splits: Mapping[str, tuple[Record, ...]]
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


class Table(Annotations):
    """Reader of own data: one table, or one a split, and a folder of videos.

    Rows of one video (and one segment of it) are one record, whose captions stand in the order of the rows. Without a
    column of splits, a seeded share of the videos is drawn: by file, so that segments of one video stay together, and
    by name, so that neither the order of rows nor other videos change where a video goes, but at a share's edge.

    Args:
        root: the folder of the table.
        file: the table, inside the root; null for the only one there.
        videos: the folder of the videos, inside the root or absolute; null for `videos`, `clips` or the root itself.
        name: what results call the dataset; null for the name of the root's folder.
        video_column: the column of paths or ids; null, as for the others, for one with a usual name.
        caption_column: the column of captions: a text, or a list of texts.
        split_column: the column that says `train`, `validation` or `test`.
        start_column: where a segment begins: seconds, mm:ss or hh:mm:ss.
        end_column: where it ends.
        labels_column: class labels: a list, or names with `|`, `;` or `,` in between.
        split: `column`; `draw` for a seeded share; `test` for a table that is a test set as a whole, which needs no
            training data; `auto` for a column, or files called after splits, where there are such, else `draw`.
        test_share: the share of the videos that is drawn for the test.
        validation_share: likewise for validation; 0 for none.
        split_seed: of the draw.
        outside: whether absolute paths may lead out of the folder of the videos.
        separator: between cells of a CSV file; null to see it from the header.
        encoding: of a text file; null for UTF-8 or UTF-16.

    Raises:
        ConfigError: shares that leave nothing to train on, or an unknown way to split.
    """

    def __init__(
        self,
        root: str | Path,
        file: str | None = None,
        videos: str | None = None,
        name: str | None = None,
        video_column: str | None = None,
        caption_column: str | None = None,
        split_column: str | None = None,
        start_column: str | None = None,
        end_column: str | None = None,
        labels_column: str | None = None,
        split: SplitBy = "auto",
        test_share: float = 0.1,
        validation_share: float = 0.05,
        split_seed: int = 0,
        outside: bool = False,
        separator: str | None = None,
        encoding: str | None = None,
    ) -> None:
        self.root = Path(root)
        self.name = name or self.root.absolute().name or "own"
        self.file, self.videos = file, videos
        self.columns: dict[Role, str | None] = {
            "video": video_column, "caption": caption_column, "split": split_column, "start": start_column,
            "end": end_column, "labels": labels_column,
        }  # fmt: skip
        if not (0 < test_share < 1 and 0 <= validation_share < 1 and test_share + validation_share < 1):
            raise ConfigError(
                f"data.annotations: test_share {test_share} and validation_share {validation_share} must leave videos "
                "to train on: between 0 and 1, their sum below 1 (a table that is only a test set: split=test)"
            )
        if split_column is not None and split in ("draw", "test"):
            raise ConfigError(
                f"data.annotations: split={split} reads no split_column ('{split_column}'): leave one out"
            )
        self.split: SplitBy = split
        self.shares = {TEST: test_share, VALIDATION: validation_share}
        self.split_seed = split_seed
        self.outside = outside
        self.separator, self.encoding = separator, encoding
        self.protocol = {"draw": self._drawn(), "test": "all test"}.get(split, "own split")
        self._read: _Content | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the table names or that are drawn; reads it."""
        return tuple(split for split in ORDER if split in self._content().splits)

    def load(self, split: str) -> list[Record]:
        """Reads one split.

        Raises:
            DataError: no table, several, a broken one, a column that is not there, a row that has two meanings, or
                the split does not exist.
        """
        content = self._content()
        if split not in content.splits and split in ORDER:
            raise DataError(
                f"{self.name} ({self.protocol}) has no {split} split: {few(map(str, content.files))} gives "
                f"{few(self.splits)} only. To train, it needs rows whose split is train; to draw splits from all rows: "
                "--data.annotations.split=draw"
            )
        self.check_split(split)
        for text in content.warnings:
            warnings.warn(text, stacklevel=2)
        return list(content.splits[split])

    def notes(self) -> Sequence[str]:
        """What was found, and how it was read."""
        return self._content().notes

    def annotation_files(self) -> Sequence[Path]:
        """The tables."""
        return self._content().files

    def _content(self) -> _Content:
        if self._read is None:
            self._read = self._parse()
        return self._read

    def _parse(self) -> _Content:
        tables = [(read_rows(path, self.separator, self.encoding), split) for path, split in self._tables()]
        folder = self._folder()
        tree = VideoTree(folder, self.outside)
        entries: dict[tuple[Any, ...], _Entry] = {}
        places: dict[str, _Place] = {}
        notes, silent, classes = [], [], self._classes(tables)
        for table, of_file in tables:
            columns = self._columns(table)
            notes.append(_described(table, columns))
            for row, cells in enumerate(table.rows):
                where = table.where(row)
                own = {role: cells[place] for role, place in columns.items()}
                entry = self._entry(entries, places, tree, own, of_file, where)
                captions = captions_of(cells[columns["caption"]], where)
                if not captions:
                    silent.append(where)
                entry.captions += captions
                entry.labels |= set(next(classes) if "labels" in columns else ())
        if not entries:
            raise DataError(f"{few(str(t.path) for t, _ in tables)}: a header without rows: no video is listed")
        splits, how = self._split(list(entries.values()))
        notes += [how, f"{folder}: {len(tree.files):,} files"]
        said = []
        if silent:
            said.append(
                f"{self.name}: {len(silent)} rows have no caption: {few(silent, 3)}. A video that has none at all is "
                "never trained on, and is in a test's gallery without being searched for."
            )
        source = f"{self.name}:"
        records = {name: tuple(e.record(name, source + e.drawn_by) for e in part) for name, part in splits.items()}
        return _Content(records, tuple(table.path for table, _ in tables), tuple(notes), tuple(said))

    def _tables(self) -> list[tuple[Path, str | None]]:
        """The table, or one a split with the split that it holds."""
        if self.file is not None:
            return [(self.require(self.file), None)]
        try:
            found = sorted(p for p in self.root.iterdir() if p.suffix[1:].lower() in FORMATS and p.is_file())
        except OSError:
            found = []
        tables = [p for p in found if p.suffix.lower() != ".json"] or found  # JSON holds many other things
        by_split = [(p, SPLIT_WORDS[p.stem.lower()]) for p in tables if p.stem.lower() in SPLIT_WORDS]
        if len(by_split) > 1 and len({split for _, split in by_split}) == len(by_split):
            return [(path, split) for path, split in by_split] if self.split in ("auto", "column") else [
                (path, None) for path, _ in by_split
            ]  # fmt: skip
        usual = [p for p in tables if p.stem.lower() in _USUAL_STEMS]
        chosen = tables if len(tables) == 1 else usual
        if len(chosen) == 1:
            return [(chosen[0], None)]
        what = f"{len(tables)} tables ({few([p.name for p in tables])})" if tables else "no table"
        raise DataError(
            f"{self.name}: {what} in {self.root} ({describe_folder(self.root)}). Put one file with a column for "
            f"videos and one for captions there ({', '.join(FORMATS)}), or name it: --data.annotations.file=NAME; "
            "another folder: --data.annotations.root=FOLDER. See docs/own_data.md."
        )

    def _folder(self) -> Path:
        if self.videos is not None:
            folder = self.root / self.videos
            if not folder.is_dir():
                raise DataError(
                    f"{self.name}: no folder {folder} for the videos ({describe_folder(self.root)} in {self.root}); "
                    "set --data.annotations.videos, or leave it out to look everywhere below the root"
                )
            return folder
        return next((self.root / name for name in FOLDERS if (self.root / name).is_dir()), self.root)

    def _columns(self, table: TableRows) -> dict[Role, int]:
        columns = find_columns(table, self.columns, split=self.split in ("auto", "column"))
        if self.split == "column" and "split" not in columns:
            raise DataError(
                f"{table.path} has no column of splits (columns: {few(table.columns, 12)}): name it with "
                "--data.annotations.split_column, or draw splits: --data.annotations.split=draw"
            )
        return columns

    def _classes(self, tables: Sequence[tuple[TableRows, str | None]]) -> Iterator[tuple[int, ...]]:
        """Labels of every row of the tables that have them, numbered over all tables together."""
        cells, wheres = [], []
        for table, _ in tables:
            place = self._columns(table).get("labels")
            if place is not None:
                cells += [row[place] for row in table.rows]
                wheres += [table.where(row) for row in range(len(table.rows))]
        return iter(classes_of(cells, wheres)[0])

    def _entry(
        self, entries: dict[tuple[Any, ...], _Entry], places: dict[str, _Place], tree: VideoTree,
        cells: Mapping[Role, Any], of_file: str | None, where: str,
    ) -> _Entry:  # fmt: skip
        """The entry that a row belongs to; a new one for a video or segment that no row before named."""
        name = text_of(cells["video"], where, "video")
        if not name:
            raise DataError(f"{where}: names no video. Fill in the path or id, or remove the row.")
        split = split_of(cells["split"], where) if "split" in cells else of_file
        start = seconds_of(cells.get("start"), where, "start")
        end = seconds_of(cells.get("end"), where, "end")
        if end is not None and end <= (start or 0.0):
            raise DataError(f"{where}: the segment of {name} ends at {end:g} s, not after its start, {start or 0:g} s")
        seen = entries.get((name, start, end, split))
        if seen is not None:
            return seen
        if name not in places:
            places[name] = _place_of(tree, name, where)
        own, path, by = places[name]
        key = (path, start, end, split)
        if key not in entries:
            entries[key] = _Entry(own + _span(start, end), path, by, split, start, end)
        entries[name, start, end, split] = entries[key]
        return entries[key]

    def _split(self, named: Sequence[_Entry]) -> tuple[dict[str, list[_Entry]], str]:
        """Entries by split, and in words how they came there."""
        entries = list({id(entry): entry for entry in named}.values())
        if self.split == "test":
            return {TEST: entries}, "split: all rows are the test set"
        if all(entry.split is not None for entry in entries):
            splits = {name: [e for e in entries if e.split == name] for name in ORDER}
            self.protocol = "own split"
            if not splits[TEST]:
                raise DataError(
                    f"{self.name}: no row is for testing (found: {few([n for n in ORDER if splits[n]])}); a result "
                    "needs a test set. Set some rows' split to test, or draw one: --data.annotations.split=draw"
                )
            return {name: part for name, part in splits.items() if part}, "split: as the table says"
        self.protocol = self._drawn()
        videos = sorted({entry.drawn_by for entry in entries}, key=self._lot)
        split_of_video, at = dict.fromkeys(videos, TRAIN), 0
        for name, share in self.shares.items():
            count = max(1, round(share * len(videos))) if share else 0
            split_of_video.update(dict.fromkeys(videos[at : at + count], name))
            at += count
        if at >= len(videos):
            raise DataError(
                f"{self.name}: {len(videos)} videos are too few to draw splits from: {at} would be taken out and none "
                "left to train on. Add videos, set --data.annotations.validation_share=0, or take all as a test set: "
                "--data.annotations.split=test"
            )
        parts = {name: [e for e in entries if split_of_video[e.drawn_by] == name] for name in ORDER}
        return {name: part for name, part in parts.items() if part}, f"split: {self.protocol}, by video"

    def _lot(self, video: str) -> bytes:
        return hashlib.sha256(f"{self.split_seed}\0{video}".encode()).digest()

    def _drawn(self) -> str:
        shares = ", ".join(f"{100 * share:g} % {name}" for name, share in self.shares.items() if share)
        return f"drawn: {shares}, seed {self.split_seed}"

    def write_layout(self, root: Path, dataset: SyntheticDataset) -> list[str]:
        """Writes a table under the settings' names, its rows shuffled: two captions a video, one in the test."""
        folder = self.videos or FOLDERS[0]
        places = [_place(video) for video in dataset.videos]
        named: dict[Role, str] = {
            role: name or role for role, name in self.columns.items() if role not in ("start", "end")
        }
        if self.split in ("draw", "test"):
            del named["split"]
        rows = []
        for number in range(2):
            for video, place in zip(dataset.videos, places, strict=True):
                if number < (1 if video.split == TEST else 2):
                    name = place if number else place.rpartition("/")[2].rpartition(".")[0]
                    labels = "|".join(dataset.classes[label] for label in video.labels)
                    split = "val" if video.split == VALIDATION else video.split
                    caption = f"{video.captions[number].capitalize()}."
                    cells = {"video": name, "caption": caption, "split": split, "labels": labels}
                    rows.append({title: cells[role] for role, title in named.items()})
        _write_table(root / (self.file or "captions.csv"), rows, self.separator or ",", self.encoding or "utf-8-sig")
        return [f"{folder}/{unicodedata.normalize('NFD', place)}" for place in places]


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]], separator: str, encoding: str) -> None:
    kind = path.suffix.lower()
    if kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif kind == ".json":
        write_json(path, list(rows))
    elif kind in (".jsonl", ".ndjson"):
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding=encoding)
    else:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if kind == ".tsv" else separator)
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(text.getvalue().encode(encoding))


def _place(video: SyntheticVideo) -> str:
    """Where a clip lies, as people name them: in sub-folders, with spaces, accents and dashes."""
    word = ("clip", "-take", "séance", "clip no.")[video.number % 4]
    return (
        f"{('', 'day 1/', 'day 2/raw/')[video.number % 3]}{word} {video.number:03}.{('mp4', 'MP4')[video.number % 2]}"
    )


def _place_of(tree: VideoTree, name: str, where: str) -> _Place:
    """A video's id, its file or where that would lie, and the name that it is drawn by."""
    found, own = tree.find(name, where), nfc(tree.inside(name, where))
    stem, dot, ending = own.rpartition(".")
    return own, found or tree.missing(name, where), stem if dot and ending.lower() in VIDEO_EXTENSIONS else own


def _span(start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return ""
    return "@" + "-".join("" if x is None else repr(x).removesuffix(".0") for x in (start or 0.0, end))


def _described(table: TableRows, columns: Mapping[Role, int]) -> str:
    used = ", ".join(f"{role} = '{table.columns[place]}'" for role, place in columns.items())
    rest = [f"'{name}'" for place, name in enumerate(table.columns) if place not in columns.values()]
    return f"{table.path}: {table.form}, {len(table.rows):,} rows; {used}" + (
        f"; not read: {few(rest)}" if rest else ""
    )
