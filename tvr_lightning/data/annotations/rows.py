"""Tables as people have them, read into rows: CSV, TSV, JSON Lines, JSON and Parquet.

Nobody's spreadsheet is asked to be tidy: byte order marks, UTF-16, semicolons, quoted line ends, lines of empty cells
and the marks that Excel leaves are read for what they mean. What has two meanings is refused with its line.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_lightning.data.annotations.readers import read_bytes, read_json
from tvr_lightning.errors import DataError, few, one_line

SEPARATORS = (",", ";", "\t", "|")
FORMATS = ("csv", "tsv", "jsonl", "ndjson", "parquet", "json")  # by which a table is known, in order of preference
_SPREADSHEETS = ("xlsx", "xls", "xlsm", "ods", "numbers")
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_FORCED_TEXT = re.compile(r'="((?:[^"]|"")*)"')  # how spreadsheets keep 0007 from becoming 7
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # Excel's own first line


@dataclass(frozen=True)
class TableRows:
    """A table.

    Attributes:
        path: the file.
        columns: names as they are written, without outer spaces.
        rows: the cells of each row, one a column; texts in CSV and TSV, any JSON value elsewhere, None for none.
        numbers: where each row stands in the file.
        unit: what `numbers` counts: `line` or `row`.
        form: how the file was read, for people: `CSV separated by ;, UTF-16`.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    numbers: Sequence[int]
    unit: str
    form: str

    def where(self, row: int) -> str:
        """Names a row in a message: `captions.csv: line 7`."""
        return f"{self.path}: {self.unit} {self.numbers[row]}"


def read_rows(path: Path, separator: str | None = None, encoding: str | None = None) -> TableRows:
    r"""Reads a table of any of `FORMATS`.

    Args:
        path: the file; its extension says what it is.
        separator: between the cells of a CSV file; None to see it from the header.
        encoding: of a text file; None for UTF-8, or UTF-16 where the file begins or looks like it.

    Raises:
        DataError: the file cannot be read, is broken, empty, or of another kind.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "clips.csv")
    ...     _ = file.write_bytes("video;caption\r\na.mp4;\"a dog, asleep\"\r\n;\r\n".encode("utf-16"))
    ...     table = read_rows(file)
    >>> table.columns, table.rows, table.form
    (('video', 'caption'), [['a.mp4', 'a dog, asleep']], "CSV separated by ';', UTF-16")
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind in _SPREADSHEETS:
        raise DataError(f"{path}: spreadsheets are not read; save it as `CSV UTF-8` (File, Save As) and name that file")
    if kind == "parquet":
        return _read_parquet(path)
    if kind == "json":
        return _of_objects(path, _entries(path), "row", "JSON")
    text, form = _decode(path, encoding)
    if kind in ("jsonl", "ndjson"):
        return _read_json_lines(path, text, form)
    return _read_separated(path, text, separator, kind, form)


def _decode(path: Path, encoding: str | None) -> tuple[str, str]:
    """The text of a file, and the name of its encoding for people."""
    data = read_bytes(path)
    mark, found = next(((m, name) for m, name in _BYTE_ORDER_MARKS if data.startswith(m)), (b"", "utf-8"))
    if not mark and encoding is None and len(data) > 3 and b"\0" in data[:4]:
        found = "utf-16-be" if data[0] == 0 else "utf-16-le"
    name = encoding or found
    try:
        text = data[len(mark) if found == codecs.lookup(name).name else 0 :].decode(name)
    except LookupError:
        raise DataError(f"{path}: there is no encoding '{name}'; examples: utf-8, utf-16, cp1252, gb18030") from None
    except UnicodeDecodeError as error:  # before UnicodeError, which is its kind
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: not {name.upper()}: byte 0x{data[error.start]:02x} at offset {error.start} (line {line}). "
            "Save it as `CSV UTF-8`, or say what it is, e.g. --data.annotations.encoding=cp1252 (Excel in Western "
            "Europe and the Americas)"
        ) from error
    except UnicodeError as error:
        raise DataError(
            f"{path}: cannot be read as {name}: {one_line(error)}. Examples: utf-8, utf-16, cp1252"
        ) from error
    if "\0" in text:
        raise DataError(f"{path}: holds NUL characters: not text, or in another encoding than {name.upper()}")
    return text.removeprefix("\ufeff"), name.upper().removesuffix("-LE").removesuffix("-BE")


def _read_separated(path: Path, text: str, separator: str | None, kind: str, encoding: str) -> TableRows:
    stated = _SEPARATOR_LINE.match(text)
    if stated:
        text = text[stated.end() :]
    skipped = 1 if stated else 0
    if separator is None:
        separator = stated[1] if stated else _separator(text, kind)
    plain = _plain_lines(text, separator) if separator == "\t" else None
    numbered = plain if plain is not None else _quoted_lines(path, text, separator)
    if not numbered:
        raise DataError(f"{path}: the file is empty. It needs a header, then a row for every video or caption.")
    header = _trimmed([name.strip() for name in numbered[0][1]])
    if not all(header):
        place = header.index("") + 1
        raise DataError(f"{path}: column {place} of {len(header)} has no name in the header; give it one")
    rows, numbers = [], []
    for number, cells in numbered[1:]:
        if len(cells) != len(header):
            cells = _fitted(cells, len(header), f"{path}: line {number + skipped}", separator)
        cells = [_plain_cell(cell) for cell in cells]
        if any(cells):
            rows.append(cells)
            numbers.append(number + skipped)
    form = f"{'TSV' if separator == chr(9) else f'CSV separated by {separator!r}'}, {encoding}"
    return TableRows(path, tuple(header), rows, numbers, "line", form)


def _separator(text: str, kind: str) -> str:
    """The character that cuts the header into most cells."""
    order = ("\t", *SEPARATORS) if kind == "tsv" else SEPARATORS
    header = text.lstrip("\r\n").split("\n", 1)[0]
    counts = {each: len(next(csv.reader([header], delimiter=each), [])) for each in order}
    return max(counts, key=counts.__getitem__)


def _plain_lines(text: str, separator: str) -> list[tuple[int, list[str]]] | None:
    """Lines as rows, whatever quotation marks they hold; None where a line does not have the header's cells."""
    lines = [(n, line.split(separator)) for n, line in enumerate(text.splitlines(), 1) if line.strip(" \t\r")]
    if not lines or any(len(cells) != len(lines[0][1]) for _, cells in lines):
        return None
    return [(n, [_unquoted(cell) for cell in cells]) for n, cells in lines]


def _unquoted(cell: str) -> str:
    inner = cell.strip()
    whole = len(inner) > 1 and inner[0] == inner[-1] == '"' and '"' not in inner[1:-1].replace('""', "")
    return inner[1:-1].replace('""', '"') if whole else cell


def _quoted_lines(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    except TypeError:
        raise DataError(
            f"{path}: {separator!r} cannot separate cells; it must be one character, such as ; or |"
        ) from None
    rows, begins = [], 1
    try:
        for cells in reader:
            if cells:
                rows.append((begins, cells))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: broken at line {begins}: {error}. A text that contains the separator, a quotation mark or a line "
            "end stands in double quotes, and quotation marks inside are doubled."
        ) from error
    return rows


def _trimmed(cells: list[str]) -> list[str]:
    while cells and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def _fitted(cells: list[str], width: int, where: str, separator: str) -> list[str]:
    """Cells as many as columns: spreadsheets leave out the last empty ones, or add some."""
    found = _trimmed(cells)
    if len(found) > width:
        raise DataError(
            f"{where} has {len(found)} cells but the header has {width} (the last: {found[-1][:40]!r}). A text that "
            f"contains {separator!r} must be in double quotes."
        )
    return found + [""] * (width - len(found))


def _plain_cell(cell: str) -> str:
    forced = _FORCED_TEXT.fullmatch(cell.strip()) if "=" in cell else None
    return (forced[1].replace('""', '"') if forced else cell).strip()


def _read_json_lines(path: Path, text: str, encoding: str) -> TableRows:
    entries: list[tuple[int, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                entries.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}: line {number} is not JSON: {error}. In JSON Lines every line is an object of its own: "
                    '{"video": "a.mp4", "caption": "a dog sleeps"}'
                ) from error
    return _of_objects(path, entries, "line", f"JSON Lines, {encoding}")


def _entries(path: Path) -> list[tuple[int, Any]]:
    """Rows of a JSON file: a list of objects, or an object {video: captions}."""
    content = read_json(path)
    if isinstance(content, dict):
        whole = all(isinstance(value, str | list) for value in content.values())
        if not content or not whole:
            raise DataError(
                f"{path}: expected a list of objects, or an object {{video: [captions]}}; found an object with the "
                f"keys {few(content, 8) or 'none'}. Write one object a video or caption, in a list."
            )
        content = [{"video": video, "caption": captions} for video, captions in content.items()]
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of objects, found {type(content).__name__}")
    return list(enumerate(content, 1))


def _of_objects(path: Path, entries: Sequence[tuple[int, Any]], unit: str, form: str) -> TableRows:
    for number, entry in entries:
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {unit} {number}: expected an object, found {type(entry).__name__} {entry!r:.60}")
    names = dict.fromkeys(name for _, entry in entries for name in entry)
    if not names:
        raise DataError(f"{path}: the file is empty. It needs an object for every video or caption.")
    rows = [[entry.get(name) for name in names] for _, entry in entries]
    return TableRows(path, tuple(name.strip() for name in names), rows, [n for n, _ in entries], unit, form)


def _read_parquet(path: Path) -> TableRows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        columns: list[Callable[[], Any]] = [column.to_pylist() for column in table.columns]
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}). Write the file again.") from error
    rows = [list(cells) for cells in zip(*columns, strict=True)]
    names = tuple(str(name).strip() for name in table.column_names)
    return TableRows(path, names, rows, range(1, len(rows) + 1), "row", "Parquet")
