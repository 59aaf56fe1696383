"""Contact sheets: any query and any name on them, in bounded time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.search import made
from tvr_lightning.errors import SearchError
from tvr_lightning.run.load import Experiment
from tvr_lightning.search import sheet
from tvr_lightning.search.index import Index
from tvr_lightning.search.sheet import write_sheet


@pytest.fixture(scope="module")
def index(run: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Of two videos whose names are not plain words."""
    place = tmp_path_factory.mktemp("sheets")
    (place / "videos").mkdir()
    records = run.data.split_of("test").records
    shutil.copy(records[0].video_path, os.fsencode(place / "videos") + b"/caf\xe9 \x1b[2J.mp4")
    shutil.copy(records[1].video_path, place / "videos" / r"a $\frac{1} [b] c$.mp4")
    made.build(run, place / "videos", place / "index")
    return Index(place / "index")


@pytest.mark.parametrize(
    "title",
    ["a red circle", "", "$x$", r"costs $5 and $\frac{1}$", "$" * 500, "word " * 20_000, "a" * 100_000, "caf\udce9",
     "\0\x1b[2J", "一只红色的狗" * 100, "a\nb\n" * 1000],
    ids=range(11),
)  # fmt: skip
def test_any_query_is_a_title(title: str, index: Index, tmp_path: Path) -> None:
    hits = [index.hit(window, 1, 0.5) for window in index.table.ids.tolist()]
    write_sheet(tmp_path / "a.png", title, index, hits)
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.format, picture.width) == ("PNG", round(5 * 2.2 * 110))


def test_many_hits_are_bounded(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "MOST_HITS", 3)
    hit = index.hit(int(index.table.ids[0]), 1, 0.5)
    notes = write_sheet(tmp_path / "a.png", "a", index, [replace(hit, rank=i + 1) for i in range(1200)])
    assert notes[0] == "the sheet shows the first 3 of 1,200 hits"


def test_a_damaged_picture_is_said(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hit = index.hit(int(index.table.ids[0]), 1, 0.5)
    whole: Callable[[int], bytes] = index.picture
    for content in (b"\xff\xd8\xff", whole(hit.window)[:300]):
        monkeypatch.setattr(index, "picture", lambda window, content=content: content)
        with pytest.raises(SearchError, match="holds a picture that is damaged"):
            write_sheet(tmp_path / "a.png", "a", index, [hit])
    assert not (tmp_path / "a.png").exists()
