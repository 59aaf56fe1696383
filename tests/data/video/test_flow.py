"""A path is opened once, and what is open flows down: container -> frames at times -> pixels."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from tvr_lightning.data import video
from tvr_lightning.data.tools.check import inspect_file
from tvr_lightning.data.tools.stats import seconds_of
from tvr_lightning.data.video import container
from tvr_lightning.data.video.frames import probe_video, read_frames
from tvr_lightning.data.video.key_frames import read_key_frames

from ..clips import grainy, write_clip

CHAIN = ("container", "packets", "sampling", "decoding", "pixels", "examination", "frames", "key_frames", "records")
ROOM = Path(video.__file__).parent


def imported(source: str) -> set[str]:
    """Modules of the room that a source imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    prefix = f"{video.__name__}."
    return {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)} & set(CHAIN)


def test_every_module_has_its_place() -> None:
    assert {path.stem for path in ROOM.glob("*.py")} == {"__init__", *CHAIN}


@pytest.mark.parametrize("place", range(len(CHAIN)), ids=CHAIN)
def test_imports_go_up_the_stream_only(place: int) -> None:
    assert imported((ROOM / f"{CHAIN[place]}.py").read_text()) <= set(CHAIN[:place])


def test_both_forms_of_import_are_seen() -> None:
    name = video.__name__
    source = (
        f"import {name}.frames as f\ndef g():\n from {name} import pixels\n from {name}.sampling import choose_frames"
    )
    assert imported(source) == {"frames", "pixels", "sampling"}


def test_only_the_container_opens_files() -> None:
    opening = {path.stem for path in ROOM.glob("*.py") if "av.open(" in path.read_text()}
    assert opening == {"container"}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    original = av.open

    def counting(name: str, *args: Any, **kwargs: Any) -> Any:
        names.append(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(container.av, "open", counting)
    return names


@pytest.mark.parametrize(
    ("read", "times"),
    [
        (lambda path: read_frames(path, 3, size=32), 1),
        (lambda path: read_key_frames(path, 3, 32, start=5.0), 1),  # measured and drawn after one seek each
        (lambda path: read_key_frames(path, 3, 32), 2),  # measured from the start
        (probe_video, 2),
        (inspect_file, 2),
        (seconds_of, 1),
    ],
    ids=["frames", "key frames of a far segment", "key frames", "probe", "inspect", "seconds"],
)
def test_a_file_is_opened_again_only_to_decode_from_its_start(
    tmp_path: Path, opened: list[str], read: Callable[[Path], Any], times: int
) -> None:
    path = write_clip(tmp_path / "a.mp4", 96, options={"g": "12"}, paint=grainy)
    opened.clear()
    read(path)
    assert opened == [f"file:{path}"] * times


def test_a_video_without_time_stamps_is_decoded_from_its_start(tmp_path: Path, opened: list[str]) -> None:
    path = write_clip(tmp_path / "raw.h264", 24)
    opened.clear()
    read_frames(path, 3, size=32)
    assert opened == [f"file:{path}"] * 2
