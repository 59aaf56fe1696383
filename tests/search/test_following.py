"""Which videos an index follows: what it finds, what it refuses, and that it loses none by mistake."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.data.clips import write_clip
from tests.search import made
from tvr_lightning.errors import ConfigError, DataError, DecodeError, SearchError
from tvr_lightning.run.load import Experiment
from tvr_lightning.search import videos as module
from tvr_lightning.search.manifest import read_manifest
from tvr_lightning.search.videos import MOST_WINDOWS, check_windows, list_videos, windows


def names_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.mp4"))


def test_another_folder_with_a_name_in_common(run: Experiment, videos: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "index", tmp_path / "other"
    made.build(run, videos, folder)
    before = read_manifest(folder)
    other.mkdir()
    same = next(videos.glob("*.mp4"))
    write_clip(other / same.name, 6)
    with pytest.raises(SearchError, match=rf"{before.size} of its {before.size} windows would go.*follows one folder"):
        made.build(run, other, folder)
    shutil.copy(same, other)  # the very file: the others would still go
    with pytest.raises(SearchError, match=rf"{before.size - 1} of its {before.size} windows would go.*--forget"):
        made.build(run, other, folder)
    assert read_manifest(folder) == before
    built = made.build(run, other, folder, forget=True)
    assert (built.videos, built.removed, built.added) == (1, before.size - 1, 0)
    assert read_manifest(folder).root == str(other)


def test_most_videos_do_not_leave_by_themselves(run: Experiment, videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    made.build(run, videos, folder)
    before = read_manifest(folder)
    kept, *gone = sorted(videos.glob("*.mp4"))
    away = tmp_path / "away"
    away.mkdir()
    for path in gone:
        path.rename(away / path.name)
    with pytest.raises(SearchError, match="Is the disk mounted"):
        made.build(run, videos, folder)
    assert read_manifest(folder) == before
    for path in gone[: len(gone) // 2 + 1]:
        (away / path.name).rename(path)
    assert made.build(run, videos, folder).removed == len(gone) - len(gone) // 2 - 1
    kept.write_bytes(kept.read_bytes() + b"\0")  # changed files are not a loss
    assert made.build(run, videos, folder).added == 1


def test_files_that_cannot_be_read_are_no_reason_to_drop_them(
    run: Experiment, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.build(run, videos, tmp_path / "index")
    before = read_manifest(tmp_path / "index")
    monkeypatch.setattr(run.data.frame_cache.contents, "digest", lambda path: None)  # as with a disk that fails
    with pytest.raises(SearchError, match=f"{before.size} of {before.size} files cannot be read"):
        made.build(run, videos, tmp_path / "index")
    assert read_manifest(tmp_path / "index") == before


def test_a_folder_that_cannot_be_listed(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(DataError, match=r"cannot list .*/more: Permission denied"):
            list_videos(videos)
    look = Path.stat

    def unseen(self: Path, **settings: Any) -> os.stat_result:
        if self.parent.name == "more":
            raise PermissionError(13, "Permission denied", str(self))
        return look(self, **settings)

    monkeypatch.setattr(Path, "stat", unseen)  # a folder that can be listed, and not entered
    with pytest.raises(DataError, match=r"cannot list .*/more/.*: Permission denied"):
        list_videos(videos)


def test_links_that_lead_nowhere_are_no_videos(videos: Path) -> None:
    (videos / "gone.mp4").symlink_to(videos / "nothing")
    (videos / "round.mp4").symlink_to(videos / "round.mp4")
    os.mkfifo(videos / "pipe.mp4")
    (videos / "named.mp4").symlink_to(next(videos.glob("video*.mp4")))
    listed = list_videos(videos)
    assert listed.others == ["gone.mp4", "pipe.mp4", "round.mp4"]
    assert "named.mp4" in listed.files


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with two files and a link, beside a third."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "b.mp4").touch()
    (tmp_path / "lists" / "a.mp4").touch()
    (tmp_path / "lists" / "link.mp4").symlink_to("a.mp4")
    return tmp_path / "lists"


@pytest.mark.parametrize(
    ("content", "files", "repeats"),
    [
        (b"a.mp4\n", ["a.mp4"], 0),
        (b"\xef\xbb\xbfa.mp4\r\n", ["a.mp4"], 0),
        (b"\xef\xbb\xbf# mine\na.mp4\n", ["a.mp4"], 0),
        (b"a.mp4\n./a.mp4\nx/../a.mp4\n{here}/a.mp4\nlink.mp4\n", ["a.mp4"], 4),
        (b"../b.mp4\n", ["{above}/b.mp4"], 0),
        (b"../b.mp4\n{above}/b.mp4\n", ["{above}/b.mp4"], 1),
        (b"  a.mp4  \n\n", ["a.mp4"], 0),
        (b"\xe9.mp4", ["\udce9.mp4"], 0),
    ],
)
def test_lists(content: bytes, files: list[str], repeats: int, here: Path) -> None:
    places = {"here": str(here), "above": str(here.parent)}
    for name, place in places.items():
        content = content.replace(f"{{{name}}}".encode(), place.encode())
    (here / "list.txt").write_bytes(content)
    listed = list_videos(here / "list.txt")
    assert list(listed.files) == [file.format(**places) for file in files]
    assert listed.repeats == repeats


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "names no video"), (b"\xef\xbb\xbf", "names no video"), ("a.mp4\n".encode("utf-16"), "text file in UTF-8"),
     (b"a.mp4\n" * 20 + b"b\0.mp4", "neither a folder"), (bytes(100), "neither a folder")],
)  # fmt: skip
def test_lists_that_are_none(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(DataError, match=said):
        list_videos(tmp_path / "list")


@pytest.mark.parametrize("name", ["x\0y", "x" * 300, "/dev/null/x"])
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(DataError, match="no folder of videos and no list at"):
        list_videos(Path(name))


def test_copies_are_said(run: Experiment, videos: Path, tmp_path: Path) -> None:
    first = next(videos.glob("*.mp4"))
    shutil.copy(first, videos / "copy.mp4")
    built = made.build(run, videos, tmp_path / "index")
    assert (built.copies, built.repeats) == (1, 0)
    assert built.videos == len(names_in(videos))
    (tmp_path / "list").write_text(f"{first}\nvideos/{first.name}\n")
    assert made.build(run, tmp_path / "list", tmp_path / "other").repeats == 1


@pytest.mark.parametrize(
    ("window", "stride", "said"),
    [(1e-300, None, "--window is 1e-300; it must be at least 0.1 seconds"), (0.01, None, "--window is 0.01"),
     (float("nan"), None, "--window is nan"), (float("inf"), None, "--window is inf"), (1e300, None, "--window is 1e"),
     (-1.0, None, "--window is -1"), (10.0, 1e-9, "--stride is 1e-09; it must be at least 0.1 seconds"),
     (10.0, float("nan"), "--stride is nan"), (10.0, 0.0, "--stride is 0.0"), (2.0, 3.0, "would never be found")],
)  # fmt: skip
def test_windows_out_of_range(window: float, stride: float | None, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_windows(window, stride)


def test_windows_in_range() -> None:
    assert check_windows(0.1, None) == (0.1, 0.1)
    assert check_windows(10.0, None) == (10.0, 5.0)
    assert check_windows(0.0, None) == (None, 1.0)
    assert check_windows(None, 3.0) == (None, 3.0)


@pytest.mark.parametrize("duration", [1e6, 1e18, 1e300, float("inf")])
def test_a_video_has_a_bound_of_windows(duration: float) -> None:
    with pytest.raises(DecodeError, match=f"more than {MOST_WINDOWS:,}"):
        windows(duration, 10.0, 5.0)
    assert windows(duration, None, 5.0) == [(None, None)]
    assert len(windows(86_400.0, 10.0, 1.0)) == 86_391


def test_one_video_of_too_many_windows_does_not_stop_the_others(
    run: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / "long.mp4", 120, fps=12)
    write_clip(tmp_path / "videos" / "short.mp4", 12, fps=12)
    monkeypatch.setattr(module, "MOST_WINDOWS", 4)
    built = made.build(run, tmp_path / "videos", tmp_path / "index", window=2.0, stride=1.0)
    assert (built.videos, built.windows) == (1, 1)
    [unreadable] = built.unreadable
    assert "a longer --stride" in unreadable.reason
    assert unreadable.file == "long.mp4"
