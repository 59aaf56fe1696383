"""YAML, read to a bounded depth and size: its parsers have no bounds, and the one in C dies of a deep file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

DEEPEST, MOST = 40, 20_000  # how deep settings are nested, and how many values there are
INSIDE = 2  # how often text of a value is read once more: the full parser takes a quoted list for one
LONG_NUMBER = re.compile(r"[-+]?[0-9][0-9_.:]{300,}")  # reading one takes the square of its length


class RefusedError(yaml.YAMLError):
    """YAML that is deeper or larger than settings are, or has a value that its tag does not fit."""


def parse_yaml(text: str, load: Callable[[str], Any] | None = None) -> Any:
    """Values of YAML.

    Args:
        text: the YAML.
        load: another library's parser.

    Raises:
        RefusedError: it is beyond what settings are.
        yaml.YAMLError: it is no YAML.

    >>> parse_yaml("a: [1, x]")
    {'a': [1, 'x']}
    """
    check_bounds(text)
    try:
        return yaml.load(text, Loader=_loader()) if load is None else load(text)
    except yaml.YAMLError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # `!!bool x`, a month 13
        raise RefusedError(f"a value cannot be read as what it is said or seems to be ({error})") from None


def plain(value: Any) -> Any:
    """What JSON knows: keys are text, and so is what is neither number nor list, such as a date.

    >>> import datetime
    >>> plain({1: (2, datetime.date(2026, 1, 2))})
    {'1': [2, '2026-01-02']}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return list(map(plain, value))
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def check_bounds(text: str, inside: int = 0) -> None:
    """Checks that YAML is no deeper and no larger than settings are, aliases written out, and so the text in it.

    Args:
        text: the YAML.
        inside: how often it has been a value of other YAML.

    Raises:
        RefusedError: it is, or an alias stands inside what it names.
        yaml.YAMLError: it is no YAML.
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
            within = any(name == event.anchor for name, _ in begun)
            size, height = (MOST, DEEPEST) if within else named.get(str(event.anchor), (1, 0))
            count += size
        elif isinstance(event, yaml.ScalarEvent):
            count, height = count + 1, 0
            _check_scalar(event.value, text, inside)
            if event.anchor:
                named[event.anchor] = 1, 0
        if heights:
            heights[-1] = max(heights[-1], height)
        if count > MOST or len(heights) + height > DEEPEST:
            raise _beyond()


def _check_scalar(value: str, text: str, inside: int) -> None:
    if LONG_NUMBER.fullmatch(value):
        raise RefusedError(f"a number of {len(value):,} digits")
    if value.count(".") > DEEPEST and re.fullmatch(r"[\w.+-]+", value):  # a key, each dot of which is a level
        raise _beyond()
    if len(value) > DEEPEST and inside < INSIDE and value != text:
        try:
            check_bounds(value, inside + 1)
        except RefusedError:
            raise
        except yaml.YAMLError:
            return  # text that is no YAML is text


def _events(text: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=_loader())
    except yaml.YAMLError as error:
        if "maximum nesting" not in str(error):  # some builds of the parser in C have a bound of their own
            raise
        raise _beyond() from None


def _beyond() -> RefusedError:
    return RefusedError(f"nested deeper than {DEEPEST} levels, or more than {MOST:,} values")


def _loader() -> Any:
    """The parser in C is some eight times as fast; libraries are also built without it."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
