"""Reading annotation files: JSON, CSV, ids and captions, with the place of every fault in its message."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tvr_lightning.data.annotations.base import check_relative
from tvr_lightning.errors import DataError

Kind = type | tuple[type, ...]


def read_text(path: Path) -> str:
    """Reads a UTF-8 file, with or without a byte order mark, leaving its line ends alone.

    Raises:
        DataError: the file cannot be read, or holds bytes that are not UTF-8 (the first one's position is given).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the file and its permissions.") from error
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} (line {line}). "
            "Fetch the file again or convert it to UTF-8."
        ) from error


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: the file cannot be read or is not JSON (line and column are given).
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg} "
            f"({len(text)} characters were read). Is the download complete? Fetch the file again."
        ) from error
    except (RecursionError, ValueError) as error:  # nesting or a number beyond what Python reads
        raise DataError(f"{path}: JSON that cannot be read: {error}. Fetch the file again.") from error


def read_csv(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Reads the named columns of a CSV file with a header, outer spaces removed; empty lines are passed over.

    Returns:
        For every row the number of its (last) line and its cells by column.

    Raises:
        DataError: the file cannot be read, lacks a column, or a row does not have as many cells as the header.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if not set(columns) <= set(header):
            raise DataError(
                f"{path}: expected the columns {few(columns, len(columns))}, found {few(header, 8) or 'no header'}. "
                "Is it a file of another dataset, or separated by something else than commas?"
            )
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}: line {reader.line_num} has {len(cells)} cells where the header has {len(header)}. "
                    "A text that contains a comma must stand in double quotes."
                )
            row = dict(zip(header, cells, strict=True))
            rows.append((reader.line_num, {name: row[name].strip() for name in columns}))
    except csv.Error as error:
        raise DataError(f"{path}: broken CSV at line {reader.line_num}: {error}. Mend its quotation marks.") from error
    return rows


def check_fields(entry: Any, where: str, kinds: Mapping[str, Kind]) -> tuple[Any, ...]:
    """Returns the named fields of a JSON object, in the order of `kinds`.

    Args:
        entry: what the JSON file holds at this place.
        where: file and place, for the message.
        kinds: the type or types of every field; a bool is not taken for an int.

    Raises:
        DataError: no object, or a field is missing or of another type.
    """
    if isinstance(entry, dict):
        values = tuple(entry.get(name) for name in kinds)
        if all(isinstance(v, k) and not isinstance(v, bool) for v, k in zip(values, kinds.values(), strict=True)):
            return values
        found = "the keys " + few([f"{k} ({type(v).__name__})" for k, v in entry.items()], 8) if entry else "no key"
    else:
        found = f"{type(entry).__name__} {repr(entry)[:60]}"
    wanted = ", ".join(f"{name} ({_kind_name(kind)})" for name, kind in kinds.items())
    raise DataError(
        f"{where}: expected an object with {wanted}; found {found}. Is it a file of another dataset or version?"
    )


def _kind_name(kind: Kind) -> str:
    return kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)


def check_ids(ids: Sequence[str], source: str) -> list[str]:
    """Returns the ids if there are some, each once, each a name inside the dataset's folder.

    Raises:
        DataError: no id, an id that occurs twice, or one that would leave the folder.
    """
    if not ids:
        raise DataError(f"{source}: no video is listed. Fetch the file again.")
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(
            f"{source}: {len(repeated)} ids occur more than once: {few(repeated)}. Remove the repeated entries."
        )
    return [check_relative(name, source) for name in ids]


def few(items: Iterable[str], count: int = 3) -> str:
    """Returns `a, b, c and 5 more`: a list short enough for a message."""
    names = list(items)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def clean(caption: str) -> str:
    """Returns a caption without outer spaces, every run of white space as one space."""
    return " ".join(caption.split())


def natural_key(name: str) -> tuple[str | int, ...]:
    """Sort key that orders the numbers in names by value: video2 before video10."""
    parts = re.split(r"([0-9]+)", name)  # text and digits in turn
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))
