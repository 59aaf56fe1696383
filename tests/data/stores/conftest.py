from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tvr_lightning.types import Record

from ..clips import write_clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def videos(tmp_path: Path) -> list[Record]:
    paths = [write_clip(tmp_path / f"{i}.mp4", 10 + i, width=32, height=32) for i in range(6)]
    return [Record(path.stem, path, (path.stem,)) for path in paths]


@pytest.fixture
def strict() -> Iterator[None]:
    """A cache that gives up says so with a warning: no test may pass because it did unasked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="frame cache")
        yield
