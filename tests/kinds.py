"""Which cases of a test over all methods are fast, one of each kind of method, the others slow; their experiments."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tvr_lightning.config.compose import compose

# cosines of CLIP's features; noise, own encoders and pairs scored together; codes of two networks in turn; closed form
METHODS = ("clip4clip", "lean", "sptch", "stmh")

T = TypeVar("T")


@cache
def composed(file: Path) -> dict[str, Any]:
    """An experiment's configuration, composed once in a process: what changes it takes a copy."""
    return compose(file)


def is_fast(name: str) -> bool:
    """Whether a method, or its experiment on shapes, stands for its kind."""
    return name.partition("_shapes")[0] in METHODS


def slow_unless(cases: Iterable[T], fast: Iterable[T]) -> list[Any]:
    """Cases as parameters, a tuple as one for each name; those that are not among the fast ones are marked slow."""
    chosen = list(fast)
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if case in chosen else pytest.mark.slow)
        for case in cases
    ]


def first_fast(cases: Iterable[T], count: int = 1) -> list[Any]:
    """Cases of which the first ones are fast."""
    cases = list(cases)
    return slow_unless(cases, cases[:count])


def few_fast(names: Iterable[str]) -> list[Any]:
    """All methods, or their experiments on shapes, of which one of each kind is fast."""
    names = list(names)
    return slow_unless(names, filter(is_fast, names))
