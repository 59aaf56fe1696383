"""Reading annotation files: JSON, CSV, pickles, ids and captions, with the place of every fault in its message."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tvr_lightning.data.annotations.base import check_relative
from tvr_lightning.errors import DataError, few

Kind = type | tuple[type, ...]


def read_bytes(path: Path) -> bytes:
    """Reads a file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the file and its permissions.") from error


def read_text(path: Path) -> str:
    """Reads a UTF-8 file, with or without a byte order mark, leaving its line ends alone.

    Raises:
        DataError: the file cannot be read, or holds bytes that are not UTF-8 (the first one's position is given).
    """
    data = read_bytes(path)
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
        DataError: the file cannot be read or is not JSON (line and column are given), or an object has a key twice,
            of which JSON readers would drop one.
    """
    text = read_text(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
            raise DataError(f"{path}: {len(twice)} keys of an object occur more than once: {few(twice)}.")
        return result

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg} "
            f"({len(text)} characters were read). Is the download complete? Fetch the file again."
        ) from error
    except (RecursionError, ValueError) as error:  # nesting or a number beyond what Python reads
        raise DataError(f"{path}: this JSON cannot be read: {error}. Fetch the file again.") from error


def read_csv(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Reads the named columns of a CSV file with a header, outer spaces removed; empty lines are skipped.

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
                    f"{path}: line {reader.line_num} has {len(cells)} cells but the header has {len(header)}. "
                    "A text that contains a comma must be in double quotes."
                )
            row = dict(zip(header, cells, strict=True))
            rows.append((reader.line_num, {name: row[name].strip() for name in columns}))
    except csv.Error as error:
        raise DataError(
            f"{path}: broken CSV at line {reader.line_num}: {error}. Correct its quotation marks."
        ) from error
    return rows


class _Unpickler(pickle.Unpickler):
    """Builds containers, str and int from opcodes; everything that a pickle would import is refused."""

    source = ""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset"):
            return super().find_class(module, name)
        raise DataError(
            f"{self.source}: the pickle refers to {module}.{name}; only builtin containers, str and int are read, "
            "because a pickle can run any code. Do not open it elsewhere; fetch the file from its authors."
        )


def read_pickle(path: Path) -> Any:
    """Reads a pickle of builtin containers, str and int; it is data from the internet and runs nothing.

    Raises:
        DataError: the file cannot be read, is not a pickle, holds other types or text that is not UTF-8.
    """
    data = read_bytes(path)
    unpickler = _Unpickler(io.BytesIO(data), encoding="utf-8")
    unpickler.source = str(path)
    try:
        value = unpickler.load()
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a text in the pickle is not UTF-8: {error}. Fetch the file again.") from error
    except Exception as error:  # broken opcodes end in almost any exception
        raise DataError(
            f"{path}: broken pickle: {error or type(error).__name__} ({len(data)} bytes were read). "
            "Is the download complete? Fetch the file again."
        ) from error
    _check_builtin(value, path)
    return value


def _check_builtin(value: Any, path: Path) -> None:
    seen: set[int] = set()  # a pickle may hold a container inside itself
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list | tuple | set | frozenset):
            if id(item) not in seen:
                seen.add(id(item))
                waiting.extend([*item, *item.values()] if isinstance(item, dict) else item)
        elif type(item) not in (str, int):
            raise DataError(f"{path}: the pickle holds {type(item).__name__}; expected containers, str and int only.")


def read_list(path: Path) -> list[str]:
    """Reads ids, one a line; ids may hold spaces, empty lines are skipped, the last line may lack its end.

    Raises:
        DataError: the file cannot be read, lists nothing, an id twice, or one that would leave the folder.
    """
    return check_ids([line.strip() for line in read_text(path).split("\n") if line.strip()], str(path))


def check_kind(value: Any, where: str, kind: type, holds: str) -> Any:
    """Returns `value` if it is of the kind, e.g. `list`, that a file should hold.

    Raises:
        DataError: it is not, or it is empty.
    """
    if isinstance(value, kind) and value:
        return value
    found = f"an empty {type(value).__name__}" if isinstance(value, kind) else type(value).__name__
    raise DataError(f"{where}: expected {holds}, found {found}. Is it a file of another dataset or version?")


def caption_table(value: Any, source: str) -> dict[str, tuple[str, ...]]:
    """Returns the cleaned captions of `{id: [caption]}`, where a caption is a text or a list of tokens.

    Raises:
        DataError: another shape, an id that would leave the folder, or an empty caption.
    """
    check_kind(value, source, dict, "an object {video id: [captions]}")
    wrong = [i for i in value if not isinstance(i, str)]
    if wrong:
        raise DataError(f"{source}: video ids must be texts, found {repr(wrong[0])[:60]}.")
    check_ids(list(value), source)
    return {i: clean_captions(texts, f"{source}: {i}") for i, texts in value.items()}


def clean_captions(texts: Any, where: str) -> tuple[str, ...]:
    """Returns the cleaned captions of one video, each a text or a list of tokens.

    Raises:
        DataError: no list, a caption of another type, or an empty one.
    """
    if not isinstance(texts, list | tuple):
        _refuse(texts, where, "a list of captions")
    captions = []
    for number, text in enumerate(texts):
        if isinstance(text, list | tuple) and all(isinstance(token, str) for token in text):
            text = " ".join(text)
        if not isinstance(text, str):
            _refuse(text, f"{where}: caption {number}", "a text or a list of tokens")
        captions.append(clean(text))
        if not captions[-1]:
            raise DataError(f"{where}: caption {number} is empty. Fetch the file again.")
    return tuple(captions)


def _refuse(value: Any, where: str, wanted: str) -> NoReturn:
    raise DataError(f"{where}: expected {wanted}, found {type(value).__name__} {repr(value)[:60]}.")


def pick(
    captions: Mapping[str, tuple[str, ...]], ids: Sequence[str], what: str, source: str
) -> dict[str, tuple[str, ...]]:
    """Returns the captions of the listed videos, in the order of the list.

    Args:
        captions: what the annotation file describes.
        ids: the listed videos.
        what: the dataset and split, for messages.
        source: the annotation file, for messages.

    Raises:
        DataError: a listed video is not in the file or has no caption.
    """
    unknown = [i for i in ids if i not in captions]
    if unknown:
        raise DataError(
            f"{what}: {len(unknown)} of {len(ids)} listed videos are not in {source}: {few(unknown)}. "
            "Do list and captions belong to the same dataset?"
        )
    silent = [i for i in ids if not captions[i]]
    if silent:
        raise DataError(
            f"{what}: {len(silent)} of {len(ids)} videos have no caption in {source}: {few(silent)}. "
            "Is the file complete? Fetch it again."
        )
    return {i: captions[i] for i in ids}


def warn_unlisted(captions: Iterable[str], listed: Iterable[str], what: str, source: str) -> None:
    """Warns of described videos that no list names: they take part in nothing, and that must be seen."""
    known = set(listed)
    left = [i for i in captions if i not in known]
    if left:
        warnings.warn(
            f"{what}: {len(left)} videos of {source} are in no list and are left out: {few(left)}", stacklevel=3
        )


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


def clean(caption: str) -> str:
    """Returns a caption without outer spaces, every run of white space as one space."""
    return " ".join(caption.split())


def natural_key(name: str) -> tuple[str | int, ...]:
    """Sort key that orders the numbers in names by value: video2 before video10."""
    parts = re.split(r"([0-9]+)", name)  # text and digits in turn
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))
