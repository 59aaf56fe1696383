import json
from collections import defaultdict

import pytest

from tvr_lightning.data.annotations.didemo import DiDeMo, stem
from tvr_lightning.errors import DataError

from ..layouts import didemo, write_didemo, write_json


@pytest.fixture
def root(tmp_path):
    write_didemo(tmp_path)
    return tmp_path


def test_records(root):
    records = DiDeMo(root).load("train")
    assert [(r.video_id, r.captions) for r in records] == [
        ("1@N00_1_a", ("first runs away last.",)),  # both names, in the order of the file
        ("2@N01_2_b", ("a dog",)),
        ("3@N02_3_c", ("a cat",)),
    ]
    assert {(r.labels, r.start, r.end) for r in records} == {((), None, 30.0)}
    assert records[1].video_path == root / "videos" / "2@N01_2_b.mp4"
    assert [r.video_id for r in DiDeMo(root).load("validation")] == ["4@N00_4_d"]
    assert [r.video_id for r in DiDeMo(root).load("test")] == ["5@N00_5_e", "6@N00_6_f"]


def test_the_list_gives_order(root):
    (root / "train_list.txt").write_text("3@N02_3_c.mp4\n2@N01_2_b.\n1@N00_1_a.mp4")
    assert [r.video_id for r in DiDeMo(root).load("train")] == ["3@N02_3_c", "2@N01_2_b", "1@N00_1_a"]
    (root / "train_list.txt").write_text("1@N00_1_a.mov\n1@N00_1_a.mp4\n")
    with pytest.raises(DataError, match=r"train_list.txt: 1 ids occur more than once: 1@N00_1_a"):
        DiDeMo(root).load("train")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("1_a.mov", "1_a"), ("1_a.", "1_a"), ("1_a", "1_a"), ("1_a.m2ts", "1_a"), ("-1_a.mp4", "-1_a")],
)
def test_stem(name, expected):
    assert stem(name) == expected


@pytest.mark.parametrize(
    "file",
    ["5@N00_5_e.MPG", "5@N00_5_e.mpg", "5@N00_5_e.mp4", "5@N00_5_e.MPG.mp4", "5@N00_5_e.", "5@N00_5_e..mp4",
     "5@N00_5_e", "5@N00_5_e.3gp", "5@N00_5_e.null"],
)  # fmt: skip
def test_files_under_any_extension(root, file):
    (root / "videos").mkdir()
    (root / "videos" / file).touch()
    (root / "videos" / "5@N00_5_e.json").touch()
    assert DiDeMo(root).load("test")[0].video_path == root / "videos" / file


FAULTS = [
    ([didemo("a.mp4", " ")], r"entry 0 \(a.mp4\): caption 0 is empty"),
    ([didemo("a.mp4", "x"), {"video": "b.mp4"}], r"entry 1: expected .*description \(str\); found the keys video"),
    ([didemo("a.mp4", 3)], r"description \(int\)"),
    ([didemo("", "x")], "'' is not a file name"),
    ([didemo(".mp4", "x")], "'' is not a file name"),
]


@pytest.mark.parametrize(("value", "message"), FAULTS)
def test_broken_content(root, value, message):
    write_json(root / "test_data.json", value)
    with pytest.raises(DataError, match=message):
        DiDeMo(root).load("test")


REAL = [("validation", "val", 4_180, 1_094, 1_065, 14, 29), ("test", "test", 4_021, 1_037, 1_004, 31, 33)]


@pytest.mark.parametrize(("split", "file", "descriptions", "names", "videos", "dots", "twice"), REAL)
def test_real_files(real_annotations, split, file, descriptions, names, videos, dots, twice, recwarn):
    folder = real_annotations("didemo")
    records = DiDeMo(folder).load(split)
    assert not recwarn
    assert len(records) == len({r.video_id for r in records}) == videos
    assert {len(r.captions) for r in records} == {1}
    assert [r.video_id for r in records] == [stem(n) for n in (folder / f"{file}_list.txt").read_text().split()]

    entries = json.loads((folder / f"{file}_data.json").read_text())
    found = {e["video"] for e in entries}
    assert (len(entries), len(found), sum(n.endswith(".") for n in found)) == (descriptions, names, dots)
    own = defaultdict(set)
    for name in found:
        own[name[: name.rindex(".")]].add(name)
    assert sum(len(v) > 1 for v in own.values()) == twice
    for record in (records[0], records[videos // 2], next(r for r in records if len(own[r.video_id]) > 1)):
        words = " ".join(e["description"] for e in entries if e["video"] in own[record.video_id]).split()
        assert record.captions == (" ".join(words),)


def test_real_splits_share_no_video(real_annotations):
    reader = DiDeMo(real_annotations("didemo"))
    assert len(reader.load("validation") + reader.load("test")) == 2_069


def test_real_training_list(real_annotations, tmp_path):
    """Descriptions are written here, because the real ones lie not beside the list: three more than are listed."""
    names = (real_annotations("didemo") / "train_list.txt").read_text().split()
    (tmp_path / "train_list.txt").write_text("\n".join(names))
    extra = [f"extra_{n}.mp4" for n in range(3)]
    write_json(tmp_path / "train_data.json", [didemo(name, "a dog") for name in names + extra])
    with pytest.warns(UserWarning, match=r"DiDeMo train: 3 videos of .* left out: extra_0, extra_1, extra_2$"):
        assert len(DiDeMo(tmp_path).load("train")) == 8_392
    (tmp_path / "train_list.txt").unlink()
    assert len(DiDeMo(tmp_path).load("train")) == 8_395
