"""Files that runs left, read back: JSON, YAML and tables, each value held against what its place may hold.

A file may be cut off, changed by hand, or come from someone else.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tvr_lightning.config.text import parse_yaml, plain
from tvr_lightning.errors import RunError, one_line, short

LARGEST = 10**9  # of a count of queries or items
MOST_TIED = 10**5  # own items of one query: hits are counted one by one
SLACK = 1e-6  # by which a share may lie above 1: means of float32
AGAIN = "remove it, or test the run again"


class Cells(NamedTuple):
    """What a column of a run's tables may hold.

    Attributes:
        said: in words.
        kind: `text`, `whole` (numbers) or `number`.
        fits: of one value.
    """

    said: str
    kind: str
    fits: Callable[[Any], bool]


_TEXT = Cells("text", "text", lambda value: True)
_COUNT = Cells("counts", "whole", lambda value: 0 <= value <= LARGEST)
COLUMNS: Mapping[str, Cells] = {
    **dict.fromkeys(("direction", "query", "video", "metric"), _TEXT),
    **dict.fromkeys(("greater", "tied_other"), _COUNT),
    "tied_own": Cells("counts from 1 on", "whole", lambda value: 1 <= value <= MOST_TIED),
    "rank": Cells("ranks", "number", lambda value: 1 <= value <= LARGEST),
    "average_precision": Cells("shares", "number", lambda value: 0 <= value <= 1 + SLACK),
    "value": Cells("figures", "number", lambda value: math.isnan(value) or abs(value) <= LARGEST),
}


def damaged(path: Path, why: object, then: str = AGAIN) -> RunError:
    """The error for a file of a run that is damaged.

    >>> str(damaged(Path("a/metrics.json"), "no figures"))
    'a/metrics.json is damaged (no figures); remove it, or test the run again'
    """
    return RunError(f"{path} is damaged ({short(str(why), 200)}); {then}")


def read_json(path: Path, then: str = AGAIN) -> Any:
    """Reads a JSON file of a run.

    Args:
        path: of the file.
        then: what a damaged one asks for.

    Raises:
        RunError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise damaged(path, "its values are nested too deeply", then) from None
    except (OSError, ValueError) as error:  # no UTF-8, no JSON, a number with thousands of digits
        raise damaged(path, one_line(error), then) from None


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a run's `config.yaml` as plain values, dates as text; empty where there is none.

    Raises:
        RunError: it is damaged.
    """
    import yaml

    try:
        settings = plain(parse_yaml(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise damaged(path, one_line(error)) from None
    return settings if isinstance(settings, dict) else {}


def read_columns(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Reads columns of a Parquet file that a run left.

    Args:
        path: of the file.
        columns: of `COLUMNS`.

    Raises:
        RunError: there is none, or it is damaged: a cell is missing or holds what its column cannot.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            # each row has an id of its own: a file that says it has more rows than bytes would fill the memory
            if (rows := file.metadata.num_rows) > (size := path.stat().st_size):
                raise pa.ArrowInvalid(f"{rows:,} rows in {size:,} bytes")
            table = file.read(columns=list(columns))
            found = {name: _cells(table.column(name), name) for name in columns}
    except FileNotFoundError:
        raise RunError(f"{path.parent} has no {path.name}; test the run again") from None
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise damaged(path, one_line(error)) from None
    return found


def _cells(column: Any, name: str) -> list[Any]:
    """A column's values.

    Raises:
        ValueError: one does not belong there.
    """
    from pyarrow import types

    may = {
        "text": (types.is_string, types.is_large_string),
        "whole": (types.is_integer,),
        "number": (types.is_floating, types.is_integer),
    }
    holds = COLUMNS[name]
    if not any(is_kind(column.type) for is_kind in may[holds.kind]):
        raise ValueError(f"{name} holds {column.type}, not {holds.said}")
    if column.null_count:
        raise ValueError(f"{name} has {column.null_count} cells without a value")
    values: list[Any] = column.to_pylist()
    if (wrong := next((value for value in values if not holds.fits(value)), None)) is not None:
        raise ValueError(f"{name} holds {wrong}: these are {holds.said}")
    return values


# what `metrics.json` holds in places that its readers compute with or print as figures
TEXT, COUNT, GROUP = "text", "a whole number", "a group of values"
_KINDS: Mapping[str, type] = {TEXT: str, COUNT: int, GROUP: dict}
_PLACES: Mapping[tuple[str, ...], str] = {
    **dict.fromkeys([("experiment",), ("dataset",), ("split",), ("v2t",)], TEXT),
    **dict.fromkeys(
        [("metrics",), ("intervals",), ("data",), ("trained",), ("trained", "limits"), ("hashing",)], GROUP
    ),
    **dict.fromkeys([("selected_by",), ("padding",), ("data", "relevance")], TEXT),
    **dict.fromkeys([("seed",), *(("data", name) for name in ("videos", "captions", "left_out", "subset"))], COUNT),
    **dict.fromkeys([("data", name) for name in ("repeats", "distractors", "trained_on")], COUNT),
    **dict.fromkeys([("hashing", name) for name in ("bits", "texts", "videos")], COUNT),
}
_MAY_LACK = {"trained", "hashing", "selected_by", "padding", "relevance", "subset", "repeats", "distractors"}
_MAY_LACK |= {"trained_on", "limits"}
_COSTS = ("train_time_s", "peak_memory_mib", "parameters")


def misfits(content: Mapping[str, Any]) -> Iterator[str]:
    """What of a result is not text, figure or group where those who read it count on one.

    >>> list(misfits({"experiment": 1, "metrics": {"test/SumR": "high"}}))[0]
    'experiment is 1, not text'
    """
    for place, said in _PLACES.items():
        around: Any = content
        for name in place[:-1]:
            around = around.get(name) if isinstance(around, Mapping) else None
        if not isinstance(around, Mapping):
            continue  # it has a line of its own, or may be absent
        value = around.get(place[-1])
        if value is None and (place[-1] in _MAY_LACK):
            continue
        if not isinstance(value, _KINDS[said]):
            yield f"{'.'.join(place)} is {value!r}, not {said}"
    figures = [
        *_inside(content, "metrics"),
        *((name, content[name]) for name in _COSTS if content.get(name) is not None),
    ]
    yield from (f"{name} is {value!r}, not a figure" for name, value in figures if not _is_figure(value))
    for name, value in _inside(content, "intervals"):
        if not isinstance(value, list) or len(value) != 2 or not all(map(_is_figure, value)):
            yield f"the interval of {name} is {value!r}, not two figures"


def _inside(content: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    found = content.get(name)
    return list(found.items()) if isinstance(found, Mapping) else []


def _is_figure(value: Any) -> bool:
    """Whether a value is a number that a float holds; NaN is one, where there was nothing to count."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value != value or abs(value) <= sys.float_info.max  # an integer may be larger than any float
