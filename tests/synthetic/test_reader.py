"""The reader of `shapes`, which makes the dataset that it reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tvr_lightning.data.annotations.msrvtt import MSRVTT
from tvr_lightning.errors import DataError
from tvr_lightning.run.training import check_annotations
from tvr_lightning.synthetic import reader
from tvr_lightning.synthetic.reader import Shapes
from tvr_lightning.synthetic.shapes import MANIFEST, VERSION, make_shapes


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Makes 24 videos where another number is not asked for, and notes what was asked."""
    calls: list[dict[str, Any]] = []

    def small(root: Path, num_videos: int = 24, seed: int = 0, **options: Any) -> Any:
        calls.append({"num_videos": num_videos, "seed": seed})
        return make_shapes(root, num_videos, seed)

    monkeypatch.setattr(reader, "make_shapes", small)
    return calls


def test_a_missing_dataset_is_made_once(tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "deep" / "shapes"
    experiment = {"data": {"annotations": {"class_path": "tvr_lightning.synthetic.reader.Shapes",
                                           "init_args": {"root": str(root)}}}}  # fmt: skip
    check_annotations(experiment)
    assert f"shapes: made 24 videos in {root}" in capsys.readouterr().out
    check_annotations(experiment)
    assert capsys.readouterr().out == ""
    assert len(asked) == 1
    shapes = Shapes(root)
    assert (shapes.name, shapes.protocol, shapes.splits) == ("shapes", "9k", ("train", "validation", "test"))
    assert shapes.load("test") == MSRVTT(root, name="shapes").load("test")
    empty = tmp_path / "empty"
    empty.mkdir()
    Shapes(empty).prepare()
    assert len(asked) == 2


def test_what_is_there_stays(shapes_root: Path, tmp_path: Path, asked: list[Any]) -> None:
    """Also where a video is missing: that is for the run to say."""
    root = Path(shutil.copytree(shapes_root, tmp_path / "shapes"))
    (root / "videos" / "video3.mp4").unlink()
    Shapes(root).prepare()
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    Shapes(other).prepare()
    with pytest.raises(DataError, match=r"found: notes\.txt"):
        Shapes(other).load("test")
    assert not asked


def test_an_older_version_is_made_again_in_its_size(shapes_root: Path, tmp_path: Path, asked: list[Any]) -> None:
    root = Path(shutil.copytree(shapes_root, tmp_path / "shapes"))
    manifest = json.loads((root / MANIFEST).read_text())
    (root / MANIFEST).write_text(json.dumps(manifest | {"version": VERSION - 1, "num_videos": 30, "seed": 2}))
    Shapes(root).prepare()
    assert asked == [{"num_videos": 30, "seed": 2}]
    assert json.loads((root / MANIFEST).read_text())["version"] == VERSION


@pytest.mark.parametrize("text", ["{}", "[", '{"version": "2", "num_videos": 24, "seed": 0}'])
def test_a_manifest_that_says_something_else(text: str, tmp_path: Path, asked: list[Any]) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DataError, match=MANIFEST):
        Shapes(tmp_path).prepare()
    assert not asked


def test_other_readers_prepare_nothing(tmp_path: Path) -> None:
    MSRVTT(tmp_path / "none").prepare()
    assert list(tmp_path.iterdir()) == []
