"""The classes that a configuration names by `class_path`, imported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pydoc import ErrorDuringImport, locate
from typing import Any

_CLASS_PATH = re.compile(r"(\w+\.)+[A-Z]\w*")


def class_of(value: Any) -> type | None:
    """The class that a setting names, as `{class_path: ...}` or as a path alone.

    None where it names none, or one that cannot be imported: the parser says why.
    """
    path = value.get("class_path") if isinstance(value, Mapping) else value
    if not isinstance(path, str) or not _CLASS_PATH.fullmatch(path):
        return None
    try:
        found = locate(path)
    except ErrorDuringImport:
        return None
    return found if isinstance(found, type) else None


def smallest_parts(config: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Settings that put the smallest ones, with random weights, in the place of an experiment's encoders and tokeniser.

    Args:
        config: a composed experiment, or a part of it.
        where: the keys that lead to the part, each followed by a dot.

    Yields:
        `--model.init_args.encoder.init_args.from_pretrained=null` and the like: what the classes declare as `smallest`.
    """
    for key, value in config.items():
        if key == "class_path":  # of the part itself
            continue
        smallest = getattr(class_of(value), "smallest", {})
        yield from (f"--{where}{key}.init_args.{name}={json.dumps(setting)}" for name, setting in smallest.items())
        if isinstance(value, Mapping):
            yield from smallest_parts(value, f"{where}{key}.")
