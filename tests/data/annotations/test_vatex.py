import shutil

import pytest

from tvr_lightning.data.annotations.vatex import VATEX
from tvr_lightning.errors import ConfigError, DataError

from ..layouts import VATEX_IDS, vatex, write_json, write_lines, write_vatex

FILES = {"train": "vatex_training_v1.0.json", "test": "vatex_validation_v1.0.json"}
PUBLIC = "vatex_public_test_english_v1.1.json"


@pytest.fixture
def root(tmp_path):
    write_vatex(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("split", "name"), [("train", "train"), ("validation", "val"), ("test", "test")])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_records(root, split, name, language):
    records = VATEX(root, language).load(split)
    assert [r.video_id for r in records] == VATEX_IDS[name]
    text = "english {k} of {i}" if language == "en" else "中文 {k} {i}"
    assert [r.captions for r in records] == [tuple(text.format(k=k, i=r.video_id) for k in range(10)) for r in records]
    assert {(r.labels, r.start, r.end) for r in records} == {((), None, None)}


def test_unknown_language():
    with pytest.raises(ConfigError, match="no captions in 'cn': "):
        VATEX("data", "cn")


@pytest.mark.parametrize("official", ["neither", "training"])
def test_references_where_official_files_are_absent(root, official):
    plain = {s: VATEX(root).load(s) for s in ("train", "validation", "test")}
    write_json(root / "ref_captions.json", {i: vatex(i)["enCap"] for ids in VATEX_IDS.values() for i in ids})
    (root / FILES["test"]).unlink()
    if official == "neither":
        (root / FILES["train"]).unlink()
    reader = VATEX(root)
    assert {s: reader.load(s) for s in reader.splits} == plain
    with pytest.raises(DataError, match=r"no 'vatex_validation_v1.0.json' in"):
        VATEX(root, "zh").load("test")


def test_public_test_file_is_read_for_what_validation_lacks(root):
    other = "3c0hLqxvSSI_000000_000010"
    (root / PUBLIC).write_text("not read [")
    assert len(VATEX(root).load("test")) == 2
    with (root / "test_list.txt").open("a") as file:
        file.write(other)
    with pytest.raises(DataError, match=f"{PUBLIC}: broken JSON"):
        VATEX(root).load("test")
    write_json(root / PUBLIC, [{k: v for k, v in vatex(i).items() if k != "chCap"} for i in (other, "zzz")])
    with pytest.warns(UserWarning, match=rf"1 videos of .* and .*{PUBLIC} are in no list and are left out: zzz"):
        records = VATEX(root).load("test")
    assert [r.video_id for r in records] == [*VATEX_IDS["test"], other]
    assert records[-1].captions[0] == f"english 0 of {other}"
    with pytest.raises(DataError, match=rf"1 of 3 listed videos are not in .*validation_v1.0.json: {other}"):
        VATEX(root, "zh").load("test")


FAULTS = [
    ([vatex("a"), vatex("a")], "1 ids occur more than once: a"),
    ([{"videoID": "a"}], r"entry 0: expected an object with videoID \(str\), enCap \(list\)"),
    ([{"videoID": "a", "enCap": "x"}], r"enCap \(str\)"),
    ([{"videoID": "a", "enCap": ["x", ""]}], r"entry 0 \(a\): caption 1 is empty"),
    ([{"videoID": "a", "enCap": [3]}], "caption 0: expected a text or a list of tokens, found int 3"),
    ([{**vatex(i), "enCap": []} for i in VATEX_IDS["test"]], "2 of 2 videos have no caption in"),
]


@pytest.mark.parametrize(("value", "message"), FAULTS)
def test_broken_content(root, value, message):
    write_json(root / FILES["test"], value)
    with pytest.raises(DataError, match=message):
        VATEX(root).load("test")


def test_english_file_asked_for_chinese(root):
    write_json(root / FILES["test"], [{"videoID": "a", "enCap": ["x"]}])
    with pytest.raises(DataError, match=r"chCap \(list\); found the keys videoID \(str\), enCap \(list\)"):
        VATEX(root, "zh").load("test")


def test_real_lists(real_annotations, tmp_path, recwarn):
    """Captions are written here, because the real ones lie not beside the lists."""
    folder = real_annotations("vatex")
    lists = {}
    for name in ("train", "val", "test"):
        shutil.copyfile(folder / f"{name}_list.txt", tmp_path / f"{name}_list.txt")
        lists[name] = (folder / f"{name}_list.txt").read_text().split()
    captions = [f"caption {k}" for k in range(10)]
    write_json(tmp_path / FILES["train"], [{"videoID": i, "enCap": captions} for i in lists["train"]])
    write_json(tmp_path / FILES["test"], [{"videoID": i, "enCap": captions} for i in lists["test"] + lists["val"]])
    reader = VATEX(tmp_path)
    splits = {split: reader.load(split) for split in reader.splits}
    assert not recwarn
    assert {s: len(r) for s, r in splits.items()} == {"train": 25_991, "validation": 1_500, "test": 1_500}
    assert [[r.video_id for r in records] for records in splits.values()] == list(lists.values())
    assert sum(r.video_id[0] in "-_" for records in splits.values() for r in records) == 1_213


def test_the_other_real_list_mixes_validation_and_test(real_annotations, tmp_path):
    """Some code tests on `test1k5_sec_list.txt`: it must not be taken for HGR's."""
    folder = real_annotations("vatex")
    ids = {n: (folder / f"{n}_list.txt").read_text().split() for n in ("val", "test", "test1k5_sec")}
    other = set(ids["test1k5_sec"])
    assert (len(other), len(other & set(ids["val"])), len(other & set(ids["test"]))) == (1_500, 776, 724)
    write_lines(tmp_path / "val_list.txt", ids["val"])
    write_lines(tmp_path / "test_list.txt", ids["test1k5_sec"])
    write_json(tmp_path / "ref_captions.json", {i: ["a dog"] for i in {*ids["val"], *other}})
    reader = VATEX(tmp_path)
    reader.load("validation")
    with pytest.raises(DataError, match="776 videos are in validation and in test"):
        reader.load("test")
