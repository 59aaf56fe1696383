"""What cells of people's tables mean: moments, lists of captions, classes, splits."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from tvr_lightning.data.annotations.base import TEST, TRAIN, VALIDATION
from tvr_lightning.data.annotations.readers import clean
from tvr_lightning.errors import DataError

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "tr"), TRAIN),
    **dict.fromkeys(("validation", "validate", "valid", "val", "dev", "development"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst", "te", "eval", "evaluation"), TEST),
}
LABEL_SEPARATORS = ("|", ";", ",")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d*)?)")
_SPREADSHEET_ERRORS = ("#NAME?", "#REF!", "#VALUE!", "#N/A", "#NULL!", "#DIV/0!", "#NUM!", "#ERROR!")


def text_of(cell: Any, where: str, what: str) -> str:
    """A cell as a text without outer spaces; whole numbers come without `.0`.

    Raises:
        DataError: a list, an object or another value that is not text, or what a spreadsheet writes for an error.

    >>> text_of(7.0, "clips.csv: line 2", "video"), text_of(None, "clips.csv: line 3", "video")
    ('7', '')
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        raise DataError(f"{where}: expected a text for the {what}, found {type(cell).__name__} {cell!r:.60}")
    text = str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
    if text in _SPREADSHEET_ERRORS:
        raise DataError(
            f"{where}: the {what} is {text}: a spreadsheet took it for a formula, as it does with what begins with - "
            "or =. Format the column as text, then enter it again."
        )
    return text


def captions_of(cell: Any, where: str) -> tuple[str, ...]:
    """Captions of a cell: a text, a list of texts, or a list written as text; empty ones are left out.

    Raises:
        DataError: a caption of another type.

    >>> captions_of('["a dog sleeps", "a  dog"]', "clips.csv: line 2"), captions_of(" a dog sleeps ", "line 3")
    (('a dog sleeps', 'a dog'), ('a dog sleeps',))
    """
    listed = listed_in(cell)
    texts = [text_of(each, where, "caption") for each in ([cell] if listed is None else listed)]
    return tuple(filter(None, map(clean, texts)))


def listed_in(cell: Any) -> Sequence[Any] | None:
    """The items of a list, also of one that is written as JSON or as Python prints it; None for anything else."""
    if isinstance(cell, list | tuple):
        return cell
    if not isinstance(cell, str) or not (cell.startswith("[") and cell.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) else None
    return None


def seconds_of(cell: Any, where: str, what: str) -> float | None:
    """A moment in seconds, from seconds, `mm:ss` or `hh:mm:ss`; None for an empty cell.

    Raises:
        DataError: it is none of them, negative or not finite.

    >>> seconds_of("0:01:05,5", "clips.csv: line 2", "start"), seconds_of("12.25", "clips.csv: line 2", "end")
    (65.5, 12.25)
    """
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        value = float(cell)
        if math.isnan(value):  # how data frames write an empty cell
            return None
    else:
        text = text_of(cell, where, what)
        if not text:
            return None
        clock = _CLOCK.fullmatch(text)
        try:
            if clock:
                hours, minutes, seconds = clock[1] or 0, clock[2], clock[3].replace(",", ".")
                value = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
            else:
                value = float(text.removesuffix("s").replace(",", "."))
        except ValueError:
            value = math.nan
    if not 0 <= value < math.inf:
        raise DataError(f"{where}: the {what} is {cell!r}; expected seconds (12.5), mm:ss or hh:mm:ss, not negative")
    return value


def split_of(cell: Any, where: str) -> str:
    """The split that a word means, in any case.

    Raises:
        DataError: it means none.
    """
    word = text_of(cell, where, "split")
    if word.lower() not in SPLIT_WORDS:
        raise DataError(
            f"{where}: '{word}' is not a split; write train, validation (or val) or test. To leave the column out "
            "of account: --data.annotations.split=draw"
        )
    return SPLIT_WORDS[word.lower()]


def classes_of(cells: Sequence[Any], wheres: Sequence[str]) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """Class labels of all rows as numbers.

    A cell holds a list, a list written as text, or names with `|`, `;` or `,` in between: the first of these that the
    column has anywhere. Where all labels are whole numbers they stay, else names are numbered in alphabetical order.

    Args:
        cells: the column.
        wheres: names each row in messages.

    Returns:
        For every row its labels, ascending; and the names by number, empty where labels are numbers.

    Raises:
        DataError: a label that is not text.

    >>> classes_of(["dog|park", '["cat"]', ""], ["line 2", "line 3", "line 4"])
    ([(1, 2), (0,), ()], ('cat', 'dog', 'park'))
    """
    plain = [cell for cell in cells if isinstance(cell, str) and listed_in(cell) is None]
    separator = next((s for s in LABEL_SEPARATORS if any(s in cell for cell in plain)), LABEL_SEPARATORS[0])
    rows = []
    for cell, where in zip(cells, wheres, strict=True):
        found = listed_in(cell)
        if found is None:
            found = text_of(cell, where, "labels").split(separator)
        rows.append([name for name in (text_of(each, where, "label") for each in found) if name])
    names = sorted({name for row in rows for name in row})
    if all(name.isascii() and name.isdigit() for name in names):
        return [tuple(sorted({int(name) for name in row})) for row in rows], ()
    number = {name: i for i, name in enumerate(names)}
    return [tuple(sorted({number[name] for name in row})) for row in rows], tuple(names)
