"""Videos that cannot be read, or even looked for, are found before training and cost no more than themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.data.annotations.base import VideoFolder
from tvr_lightning.data.galleries import check_galleries
from tvr_lightning.data.stores.files import is_file
from tvr_lightning.errors import DataError

from ..small_runs import run_arguments


@pytest.fixture
def data_root(shapes_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes_root, tmp_path / "data"))


def ids_of(root: Path) -> list[str]:
    return [line.split(",")[2] for line in (root / "MSRVTT_JSFUSION_test.csv").read_text().splitlines()[1:]]


def test_a_test_video_that_cannot_be_read_stops_before_training(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = ids_of(data_root)[3]
    (data_root / "videos" / f"{broken}.mp4").write_bytes(b"not a video")
    words = run_arguments(data_root, tmp_path / "runs", "--trainer.max_epochs=1")
    assert main(["fit", *words]) == 1
    error = capsys.readouterr().err
    assert f"shapes test: 1 videos cannot be decoded ({broken}); the first: " in error
    assert "--data.on_decode_error=skip --data.allow_missing=true" in error
    assert not list((tmp_path / "runs").glob("*/*"))
    assert main(["fit", *words, "--data.on_decode_error=skip", "--data.allow_missing=true", "--run_id=s"]) == 0


def test_whole_galleries_pass(make_data: Callable[..., Any]) -> None:
    data = make_data()
    data.setup("fit")
    check_galleries(data)
    data = make_data(root=data.annotations.root, on_decode_error="skip")
    data.setup("test")
    check_galleries(data)


@pytest.mark.parametrize("content", [b"", b"\0" * 100])
def test_every_split_that_is_evaluated(make_data: Callable[..., Any], data_root: Path, content: bytes) -> None:
    data = make_data(root=data_root)
    data.setup("fit")
    record = data.splits["validation"].records[0]
    record.video_path.write_bytes(content)
    with pytest.raises(DataError, match=f"validation: 1 videos cannot be decoded .{record.video_id}."):
        check_galleries(data)


def test_a_loop_of_links_is_one_missing_video(make_data: Callable[..., Any], data_root: Path) -> None:
    video = next((data_root / "videos").glob("*.mp4"))
    video.unlink()
    video.symlink_to(video.name)
    assert not is_file(video)
    files = VideoFolder(data_root / "videos")
    others = [p for p in (data_root / "videos").glob("*.mp4") if p != video]
    assert all(files.path(p.stem) == p for p in others)
    data = make_data(root=data_root, allow_missing=True)
    with pytest.warns(UserWarning, match="1 of .* listed videos have no file"):
        data.setup("fit")
    assert sum(len(split.missing) for split in data.splits.values()) == 1


def test_an_id_that_is_too_long_is_one_missing_video(
    make_data: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(allow_missing=True)
    load = data.annotations.load

    def long(split: str) -> list[Any]:
        first, *rest = load(split)
        return [replace(first, video_id="x" * 300, video_path=first.video_path.with_name("x" * 300)), *rest]

    monkeypatch.setattr(data.annotations, "load", long)
    with pytest.warns(UserWarning, match="1 of .* listed videos have no file"):
        data.setup("test")
    assert data.splits["test"].missing == ("x" * 300,)
