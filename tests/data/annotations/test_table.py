"""Own data: tables as people have them, videos wherever they lie."""

from __future__ import annotations

import json
import time
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tvr_lightning.data.annotations.table import Table
from tvr_lightning.data.tools.check import check_dataset
from tvr_lightning.errors import ConfigError, DataError

Own = Callable[..., Table]
ROWS = ("video,caption,split", "a.mp4,a dog sleeps,train", "b.mp4,a cat runs,test", "a.mp4,the dog,train")


@pytest.fixture
def own(tmp_path: Path) -> Own:
    """Writes a table and empty video files; returns the reader."""

    def make(
        content: str | bytes = "\n".join(ROWS), files: tuple[str, ...] = ("videos/a.mp4", "videos/b.mp4"),
        name: str = "captions.csv", **settings: Any,
    ) -> Table:  # fmt: skip
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(b"")
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return Table(tmp_path, **settings)

    return make


def told(table: Table) -> dict[str, dict[str, tuple[str, ...]]]:
    return {split: {r.video_id: r.captions for r in table.load(split)} for split in table.splits}


SAID = {"train": {"a.mp4": ("a dog sleeps", "the dog")}, "test": {"b.mp4": ("a cat runs",)}}


def test_rows_of_a_video_are_one_record(own: Own, tmp_path: Path) -> None:
    table = own()
    assert told(table) == SAID
    assert table.load("train")[0].video_path == tmp_path / "videos/a.mp4"
    assert (table.name, table.protocol) == (tmp_path.name, "own split")


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(ROWS).encode("utf-8-sig"),
        "\r\n".join(ROWS).encode("utf-16"),
        "\r\n".join(ROWS).encode("utf-16-le"),
        "\n".join(ROWS).replace(",", ";").encode(),
        ("sep=|\r\n" + "\r\n".join(ROWS).replace(",", "|")).encode(),
        "\n".join(f'"{row}"'.replace(",", '","') for row in ROWS).encode(),
        ("\n".join(ROWS) + "\n,,\n\n,,\n").encode(),
        "\n".join(f"{row},," for row in ROWS).encode(),
        "\n".join(f"{row},{'note' * (i == 0)}" for i, row in enumerate(ROWS)).encode(),
        "\n".join(ROWS).replace("a.mp4", '"=""a.mp4"""').encode(),
        "\n".join(ROWS).replace("video,caption,split", " Video Path , Text,SUBSET ").encode(),
    ],
    ids=["bom", "utf-16", "no-bom", "semicolons", "sep-line", "quotes", "empty-rows", "empty-cells", "empty-column",
         "forced-text", "other-names"],
)  # fmt: skip
def test_what_spreadsheets_write(own: Own, content: bytes) -> None:
    assert told(own(content)) == SAID


def objects() -> list[dict[str, Any]]:
    header, *rows = (row.split(",") for row in ROWS)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_other_formats_say_the_same(own: Own, tmp_path: Path) -> None:
    (tmp_path / "t.parquet").parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(objects()), tmp_path / "t.parquet")
    for name, text in {
        "t.jsonl": "\n".join(json.dumps(row) for row in objects()) + "\n\n",
        "t.json": json.dumps(objects()),
        "t.tsv": "\n".join(ROWS).replace(",", "\t"),
    }.items():
        assert told(own(text, name=name, file=name)) == SAID, name
    assert told(Table(tmp_path, file="t.parquet")) == SAID


def test_captions_of_a_row_may_be_a_list(own: Own) -> None:
    rows = [{"video": "a", "captions": ["one dog", " two  dogs "]}, {"video": "b", "captions": "a cat"}]
    assert told(own(json.dumps(rows), name="t.json", split="test"))["test"] == {
        "a": ("one dog", "two dogs"),
        "b": ("a cat",),
    }
    mapping = json.dumps({"a": ["one dog"], "b": "a cat"})
    assert told(own(mapping, name="t.json", split="test"))["test"] == {"a": ("one dog",), "b": ("a cat",)}
    written = 'video;captions\na;"[\'one dog\', ""two""]"\nb;[a cat]\n'
    assert told(own(written, name="u.csv", file="u.csv", split="test"))["test"] == {
        "a": ("one dog", "two"),
        "b": ("[a cat]",),
    }


def test_tabs_take_quotation_marks_as_they_are(own: Own) -> None:
    text = 'video\tcaption\na\t"hello" he says\nb\tsix" long\nc\t"all ""of"" it"\n'
    assert told(own(text, name="t.tsv", file="t.tsv", split="test"))["test"] == {
        "a": ('"hello" he says',), "b": ('six" long',), "c": ('all "of" it',),
    }  # fmt: skip


def test_quoted_line_ends_and_commas_stay_one_caption(own: Own) -> None:
    text = 'video,caption\r\na,"a dog,\r\n asleep"\r\nb,"she says ""hi"""\r\n'
    assert told(own(text, split="test"))["test"] == {"a": ("a dog, asleep",), "b": ('she says "hi"',)}


FILES = ("videos/one.mp4", "videos/deep/er/two.MKV", "videos/deep/three.part.avi", "videos/deep/three.part.srt",
         "videos/four.weird", "videos/-five.m2ts", "videos/sub/a/x.mp4", "videos/sub/b/x.mp4")  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "file"),
    [
        ("one", FILES[0]), ("one.mp4", FILES[0]), ("./one.mp4", FILES[0]), ("one.avi", FILES[0]), ("ONE", FILES[0]),
        ("two", FILES[1]), ("deep/er/two", FILES[1]), (r"deep\er\two.MKV", FILES[1]), ("two.mkv", FILES[1]),
        ("three.part", FILES[2]), ("deep/three.part.mp4", FILES[2]), ("four.weird", FILES[3 + 1]), ("-five", FILES[5]),
        ("sub/a/x", FILES[6]), ("sub/b/x.mp4", FILES[7]),
        ("nowhere", "videos/nowhere.mp4"), ("four", "videos/four.mp4"),
        ("{root}/videos/one.mp4", FILES[0]),
    ],
)  # fmt: skip
def test_videos_are_found_however_they_are_named(own: Own, tmp_path: Path, cell: str, file: str) -> None:
    table = own(f"path,text\n{cell.format(root=tmp_path)},a dog\n", files=FILES, split="test")
    assert [r.video_path for r in table.load("test")] == [tmp_path / file]


def test_accents_in_either_form(own: Own, tmp_path: Path) -> None:
    for there, here in (("NFC", "NFD"), ("NFD", "NFC")):
        file = f"videos/{unicodedata.normalize(there, 'séance à Köln')}.mp4"
        cell = unicodedata.normalize(here, "séance à Köln")
        table = own(f"video,caption\n{cell},ein Hund\n", files=(file,), split="test")
        (record,) = table.load("test")
        assert record.video_path.is_file()
        assert record.video_id == unicodedata.normalize("NFC", cell)
        record.video_path.unlink()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("../secret", "not a file name inside"), ("a/../../b", "not a file name inside"), ("/etc/passwd", "not inside"),
        (r"C:\clips\a.mp4", "not a file name inside"), ("https://example.org/a.mp4", "is an address"),
        ("x", "means 2 files.*sub/a/x.mp4, sub/b/x.mp4"), ("#NAME?", "a spreadsheet took it for a formula"),
        ("", "line 2: names no video"),
    ],
)  # fmt: skip
def test_what_leads_elsewhere_is_refused(own: Own, cell: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        own(f"path,text\n{cell},a dog\n", files=FILES, split="test").load("test")


def test_paths_outside_where_they_are_allowed(own: Own, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.mp4"
    other.write_bytes(b"")
    table = own(f"path,text\n{other},a dog\n", outside=True, split="test")
    assert table.load("test")[0].video_path == other
    with pytest.raises(DataError, match="not a file name inside"):
        own(f"path,text\n{tmp_path}/videos/../../x,a dog\n", outside=True, split="test").load("test")


def test_links_in_circles_end(own: Own, tmp_path: Path) -> None:
    table = own(split="test")
    (tmp_path / "videos" / "again").symlink_to(tmp_path / "videos")
    assert len(table.load("test")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("film,words\na,a dog sleeps\n", "no column for videos.*film, words.*video_column='film'"),
        ("video,woorden\na,een hond\n", "no column for captions.*'woorden' looks like it"),
        ("video,caption,caption\na,a,b\n", "2 columns are called 'caption' .the 2nd, 3rd"),
        ("video,,caption\na,b,c\n", "column 2 of 3 has no name"),
        ("video,caption\na,a dog, asleep\n", "line 2 has 3 cells but the header has 2"),
        ('video,caption\na,"a dog\n', "broken at line 2"),
        ("video,caption\n", "a header without rows"),
        ("", "the file is empty"),
        ("video,caption,split\na,x,holdout\n", "line 2: 'holdout' is not a split"),
        ("video,caption,split\na,x,train\n", "no row is for testing"),
        ("video,caption,start\na,x,soon\n", "line 2: the start is 'soon'"),
        ("video,caption,start,end\na,x,9,3\n", "ends at 3 s, not after its start, 9 s"),
        ("video,caption\na,x\n", "1 videos are too few"),
    ],
)
def test_faults_name_their_place(own: Own, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        own(text).load("test")


def test_other_files_are_refused_with_what_to_do(own: Own, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2.*--data.annotations.encoding=cp1252"):
        own("video,caption\na,café\n".encode("cp1252"), split="test").load("test")
    assert own("video,caption\na,café\n".encode("cp1252"), split="test", encoding="cp1252").load("test")[
        0
    ].captions == ("café",)
    with pytest.raises(DataError, match="no encoding 'nonsense'"):
        own(encoding="nonsense").load("test")
    with pytest.raises(DataError, match="cannot be read as undefined"):
        own(encoding="undefined").load("test")
    with pytest.raises(DataError, match="CSV UTF-8"):
        own(name="t.xlsx", file="t.xlsx").load("test")
    with pytest.raises(DataError, match="line 2 is not JSON"):
        own('{"video": "a", "caption": "x"}\n{"video"\n', name="t.jsonl", file="t.jsonl").load("test")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        own("no table", name="t.parquet", file="t.parquet").load("test")
    with pytest.raises(DataError, match="no column 'text' for the caption"):
        own(caption_column="text").load("test")
    (tmp_path / "captions.csv").rename(tmp_path / "a.csv")
    several = own(name="b.csv")
    with pytest.raises(DataError, match=r"4 tables \(a.csv, b.csv, t.jsonl, t.parquet\)"):
        several.load("test")
    with pytest.raises(ConfigError, match="must leave videos to train on"):
        Table(tmp_path, test_share=0.7, validation_share=0.3)


def test_a_table_a_split(own: Own) -> None:
    own("video,caption\na,a dog\n", name="train.csv")
    own("video,caption\nc,a cow\n", name="val.csv", files=("videos/c.mp4",))
    table = own("video,caption\nb,a cat\n", name="test.csv")
    assert told(table) == {"train": {"a": ("a dog",)}, "validation": {"c": ("a cow",)}, "test": {"b": ("a cat",)}}


def test_segments_and_their_moments(own: Own) -> None:
    text = 'video,caption,start,end\na,x,1.5,"0:00:04,5"\na,y,1:05,\na,z,1.5,4.5\nb,w,,\n'
    records = own(text, split="test").load("test")
    assert [(r.video_id, r.start, r.end, r.captions) for r in records] == [
        ("a@1.5-4.5", 1.5, 4.5, ("x", "z")), ("a@65-", 65.0, None, ("y",)), ("b", None, None, ("w",)),
    ]  # fmt: skip
    assert records[0].source == records[1].source != records[2].source


def test_labels_are_numbered_over_all_splits(own: Own) -> None:
    text = "video;caption;split;labels\na;x;train;dog|park\nb;y;test;['cat', 'dog']\n"
    table = own(text)
    assert table.load("train")[0].labels == (1, 2)
    assert table.load("test")[0].labels == (0, 1)
    numbers = own("video,caption,label\na,x,7\nb,y,\n", split="test").load("test")
    assert [r.labels for r in numbers] == [(7,), ()]


def many(count: int) -> str:
    rows = (f"clip{i // 2},caption {i},{i % 2 * 5},{i % 2 * 5 + 5}" for i in range(2 * count))
    return "\n".join(["video,caption,start,end", *rows])


def test_drawn_splits_keep_videos_whole_whatever_the_order(own: Own) -> None:
    def ids(table: Table) -> dict[str, set[str]]:
        return {split: {r.video_id for r in table.load(split)} for split in table.splits}

    first = ids(own(many(100), split="draw"))
    assert {split: len(members) for split, members in first.items()} == {"train": 170, "validation": 10, "test": 20}
    videos = [{name.split("@")[0] for name in members} for members in first.values()]
    assert sum(map(len, videos)) == len(set.union(*videos)) == 100
    header, *rows = many(100).split("\n")
    assert ids(own("\n".join([header, *reversed(rows)]), split="draw")) == first
    assert ids(own(many(100), split="draw", split_seed=1)) != first
    table = own(many(100), split="draw", validation_share=0.0, test_share=0.25)
    assert {split: len(members) for split, members in ids(table).items()} == {"train": 150, "test": 50}
    assert table.protocol == "drawn: 25 % test, seed 0"


def test_a_test_set_alone(own: Own) -> None:
    table = own("video,caption\na,a dog\nb,a cat\n", split="test")
    assert table.splits == ("test",)
    with pytest.raises(DataError, match=r"has no train split.*split=draw"):
        table.load("train")


def test_rows_without_caption_are_named(own: Own) -> None:
    table = own("video,caption\na,a dog\na,\nb, \n", split="test")
    with pytest.warns(UserWarning, match="2 rows have no caption: .*line 3"):
        assert [r.captions for r in table.load("test")] == [("a dog",), ()]


def test_the_check_says_how_the_table_was_read(own: Own, tmp_path: Path) -> None:
    text = "video;caption;split;mood\na;x;train;1\nlost;y;test;2\na;z;test;3\n"
    check = check_dataset(own(text, files=("videos/a.mp4", "videos/extra.mp4", "videos/007.mp4")), workers=1)
    assert any(
        "CSV separated by ';', UTF-8, 3 rows; video = 'video'" in note and "not read: 'mood'" in note
        for note in check.notes
    )
    assert [entry["id"] for entry in check.lists["missing"]] == ["lost"]
    assert check.lists["in_training"] == [{"split": "test", "id": "a", "same_as": "a"}]
    assert {Path(entry["file"]).name for entry in check.lists["unlisted"]} == {"extra.mp4", "007.mp4"}
    assert not check.complete


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_seconds(own: Own) -> None:
    table = own(many(50_000), split="draw")
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(len(table.load(split)) for split in table.splits) == 100_000
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "settings", [{"caption_column": "video"}, {"start_column": "caption"}, {"end_column": "start"}]
)
def test_one_column_has_one_role(own: Own, settings: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"is taken for the \w+ and for the \w+. Name another"):
        own("video,caption,start\na,one,1\n", split="test", **settings).load("test")
