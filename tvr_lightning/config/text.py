"""YAML, read to a bounded depth and size: its parsers have no bounds, and the one in C dies of a deep file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

DEEPEST, MOST = 40, 200_000  # how deep settings are nested, and how many values there are


class BeyondError(yaml.YAMLError):
    """YAML that is deeper or larger than settings are."""

    def __init__(self) -> None:
        super().__init__(f"nested deeper than {DEEPEST} levels, or more than {MOST:,} values")


def parse_yaml(text: str) -> Any:
    """Plain values of YAML.

    Raises:
        BeyondError: it is deeper or larger than settings are.
        yaml.YAMLError: it is no YAML.

    >>> parse_yaml("a: [1, x]")
    {'a': [1, 'x']}
    """
    return yaml.load(bounded(text), Loader=_loader())


def bounded(text: str) -> str:
    """Returns YAML as it is, once it is known to be no deeper and no larger than settings are, aliases written out.

    Raises:
        BeyondError: it is, or an alias stands inside what it names.
        yaml.YAMLError: it is no YAML.

    >>> bounded("a: [1, x]")
    'a: [1, x]'
    """
    count, height = 0, 0  # of the values so far; of what was read last
    named: dict[str, tuple[int, int]] = {}  # the size and height of what an alias may stand for
    heights: list[int] = []  # of the collections that are open, as far as they are read
    begun: list[tuple[str | None, int]] = []  # the names of these, and the count before each
    for event in _events(text):
        if isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, count))
            heights.append(0)
            count, height = count + 1, 0
        elif isinstance(event, yaml.CollectionEndEvent):
            (name, before), height = begun.pop(), heights.pop() + 1
            if name:
                named[name] = count - before, height
        elif isinstance(event, yaml.AliasEvent):
            inside = any(name == event.anchor for name, _ in begun)
            size, height = (MOST, DEEPEST) if inside else named.get(str(event.anchor), (1, 0))
            count += size
        elif isinstance(event, yaml.ScalarEvent):
            count, height = count + 1, 0
            if event.anchor:
                named[event.anchor] = 1, 0
        if heights:
            heights[-1] = max(heights[-1], height)
        if count > MOST or len(heights) + height > DEEPEST:
            raise BeyondError
    return text


def _events(text: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=_loader())
    except yaml.YAMLError as error:
        if "maximum nesting" not in str(error):  # some builds of the parser in C have a bound of their own
            raise
        raise BeyondError from None


def _loader() -> Any:
    """The parser in C is some eight times as fast; libraries are also built without it."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
