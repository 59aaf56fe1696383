import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tvr_lightning.data.annotations.msrvtt import MSRVTT
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.types import Probe

from ...kinds import first_fast

LABELS = {0: "train", 1: "train", 2: "validate", 10: "validate", 11: "test", 12: "test", 13: "test"}
TEST_CSV = 'key,vid_key,video_id,sentence\nret0,msr12,video12, a  cat sits\nret1,msr11,video11,"a dog, running"\n'


def video(number, label):
    return {
        "category": number,
        "url": "https://example.org",
        "video_id": f"video{number}",
        "start time": 1.5,
        "end time": 9.0,
        "split": label,
        "id": number,
    }


def sentences(numbers):
    """Three captions a video, dealt in turn and backwards, as the release is not in video order."""
    dealt = [
        {"caption": f" caption {k}  of {n} ", "video_id": f"video{n}", "sen_id": 100 * n + k}
        for k in (2, 0, 1)
        for n in numbers
    ]
    return dealt[::-1]


def release(labels):
    return {"info": {}, "videos": [video(n, x) for n, x in labels.items()], "sentences": sentences(labels)}


def captions_of(number):
    return tuple(f"caption {k} of {number}" for k in range(3))


def write_json(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def root(tmp_path):
    """The combined file; the 9k list takes a test video in, the 7k list also the validation videos."""
    write_json(tmp_path / "MSRVTT_data.json", release(dict(reversed(LABELS.items()))))
    (tmp_path / "MSRVTT_train.9k.csv").write_text("video_id\nvideo1\nvideo0\nvideo13\n")
    (tmp_path / "MSRVTT_train.7k.csv").write_text("video_id\nvideo10\nvideo2\nvideo1\nvideo0\n")
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text(TEST_CSV)
    return tmp_path


@pytest.fixture
def halves(root):
    """The same videos in the official release's two files."""
    (root / "MSRVTT_data.json").unlink()
    write_json(root / "train_val_videodatainfo.json", release({n: x for n, x in LABELS.items() if x != "test"}))
    write_json(root / "test_videodatainfo.json", release({n: x for n, x in LABELS.items() if x == "test"}))
    return root


def edit(root, change):
    path = root / "MSRVTT_data.json"
    data = json.loads(path.read_text())
    change(data)
    write_json(path, data)


EXPECTED = [
    ("9k", "train", [1, 0, 13]),
    ("9k", "validation", [2, 10]),
    ("9k", "test", [12, 11]),
    ("7k", "train", [10, 2, 1, 0]),
    ("7k", "test", [12, 11]),
    ("7k3k", "train", [10, 2, 1, 0]),
    ("7k3k", "test", [11, 12, 13]),
    ("full", "train", [0, 1]),
    ("full", "validation", [2, 10]),
    ("full", "test", [11, 12, 13]),
]


@pytest.mark.parametrize("layout", ["root", "halves"])
@pytest.mark.parametrize(("protocol", "split", "numbers"), EXPECTED)
def test_records(layout, protocol, split, numbers, request):
    folder = request.getfixturevalue(layout)
    records = MSRVTT(folder, protocol).load(split)
    assert [r.video_id for r in records] == [f"video{n}" for n in numbers]
    assert [r.labels for r in records] == [(n,) for n in numbers]
    assert [r.video_path for r in records] == [folder / "videos" / f"video{n}.mp4" for n in numbers]
    assert {(r.start, r.end) for r in records} == {(None, None)}
    if split == "test" and protocol in ("9k", "7k"):
        assert [r.captions for r in records] == [("a cat sits",), ("a dog, running",)]
    else:
        assert [r.captions for r in records] == [captions_of(n) for n in numbers]


@pytest.mark.parametrize("layout", ["root", "halves"])
def test_splits(layout, request):
    folder = request.getfixturevalue(layout)
    everything = ("train", "validation", "test")
    assert {p: MSRVTT(folder, p).splits for p in ("9k", "7k", "7k3k", "full")} == {
        "9k": everything,
        "7k": ("train", "test"),
        "7k3k": ("train", "test"),
        "full": everything,
    }
    with pytest.raises(DataError, match=r"MSR-VTT \(7k\) has no split 'validation'"):
        MSRVTT(folder, "7k").load("validation")
    with pytest.raises(DataError, match="did you mean test"):
        MSRVTT(folder).load("tests")


def test_video_files_of_other_extensions(root):
    (root / "clips").mkdir()
    for name in ("video0.webm", "video1.avi", "video1.mp4"):
        (root / "clips" / name).touch()
    paths = [r.video_path for r in MSRVTT(root, videos="clips").load("train")]
    assert paths == [root / "clips" / n for n in ("video1.mp4", "video0.webm", "video13.mp4")]


def test_repeated_captions_stay(root):
    edit(root, lambda d: d["sentences"].append({"caption": "caption 2 of 0", "video_id": "video0", "sen_id": 3}))
    records = {r.video_id: r for r in MSRVTT(root).load("train")}
    assert records["video0"].captions == (*captions_of(0), "caption 2 of 0")


def test_bom_and_crlf(root):
    plain = MSRVTT(root).load("train"), MSRVTT(root).load("test")
    for path in root.glob("*.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (root / "MSRVTT_data.json").write_bytes(b"\xef\xbb\xbf" + (root / "MSRVTT_data.json").read_bytes())
    again = MSRVTT(root)
    assert (again.load("train"), again.load("test")) == plain


def test_nothing_is_read_before_use_and_once(root, monkeypatch):
    read = Counter()
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.update([path.name]), original(path))[1])
    assert MSRVTT("no/such/folder").root == Path("no/such/folder")
    annotations = MSRVTT(root)
    assert not read
    for split in annotations.splits * 2:
        annotations.load(split)
    assert set(read) == {"MSRVTT_data.json", "MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"}
    assert set(read.values()) == {1}


@pytest.mark.parametrize(
    ("protocol", "split", "needed"),
    [
        ("9k", "test", {"MSRVTT_JSFUSION_test.csv", "test_videodatainfo.json"}),
        ("7k", "train", {"MSRVTT_train.7k.csv", "train_val_videodatainfo.json"}),
        ("9k", "train", {"MSRVTT_train.9k.csv", "train_val_videodatainfo.json", "test_videodatainfo.json"}),
        ("7k3k", "train", {"MSRVTT_train.7k.csv", "train_val_videodatainfo.json"}),
        ("7k3k", "test", {"test_videodatainfo.json"}),
        ("full", "train", {"train_val_videodatainfo.json"}),
        ("full", "test", {"test_videodatainfo.json"}),
    ],
)
def test_only_needed_files(halves, protocol, split, needed):
    for path in halves.iterdir():
        if path.name not in needed:
            path.unlink()
    assert MSRVTT(halves, protocol).load(split)
    for name in needed:
        held = (halves / name).read_bytes()
        (halves / name).unlink()
        with pytest.raises(DataError, match=re.escape(f"'{name}' in {halves}")):
            MSRVTT(halves, protocol).load(split)
        (halves / name).write_bytes(held)


def test_unknown_protocol():
    with pytest.raises(ConfigError, match="no protocol '9K': "):
        MSRVTT("data", "9K")
    with pytest.raises(ConfigError, match="did you mean full"):
        MSRVTT("data", "ful")


def test_probes(root):
    annotations = MSRVTT(root)
    assert annotations.probes("test") == []
    write_json(root / "probes.json", [{"kind": "order", "videos": ["video11", "video12"]}])
    assert annotations.probes("test") == [Probe("order", ("video11", "video12"))]
    assert annotations.probes("train") == annotations.probes("validation") == []
    with pytest.raises(DataError, match="no split 'dev'"):
        annotations.probes("dev")


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ({"kind": "order"}, "expected a list of probes, found dict"),
        (["order"], r"entry 0: expected an object with kind \(str\), videos \(list\); found str 'order'"),
        ([{"kind": "order"}], r"entry 0: expected an object .* found the keys kind \(str\)"),
        ([{"kind": 3, "videos": []}], r"found the keys kind \(int\), videos \(list\)"),
        ([{"kind": "a", "videos": ["video11"]}], "entry 0: 'videos' must be two different ids"),
        ([{"kind": "a", "videos": ["video11", "video11"]}], "two different ids"),
        ([{"kind": "a", "videos": ["video11", 12]}], "two different ids"),
        ([{"kind": "a", "videos": ["video11", "video0"]}], "not in the test split of protocol 9k: video0"),
    ],
)
def test_broken_probes(root, probes, message):
    write_json(root / "probes.json", probes)
    with pytest.raises(DataError, match=message):
        MSRVTT(root).probes("test")


JSON_FAULTS = {
    "no sentences": (lambda d: d.pop("sentences"), r"found the keys info \(dict\), videos \(list\)"),
    "other types": (lambda d: d.update(videos={}), r"videos \(dict\).*another dataset"),
    "empty": (lambda d: d["videos"].clear(), "no video is listed"),
    "twice": (lambda d: d["videos"].append(d["videos"][0]), "1 ids occur more than once: video13"),
    "absolute": (lambda d: d["videos"][0].update(video_id="/etc/passwd"), "'/etc/passwd' is not a file name inside"),
    "outside": (lambda d: d["videos"][0].update(video_id="../x"), "'../x' is not a file name inside"),
    "label": (lambda d: d["videos"][1].update(split="val"), r"videos\[1\] \(video12\): 'split' is 'val', expected"),
    "category": (lambda d: d["videos"][0].update(category="9"), r"videos\[0\]: expected .*category \(int\)"),
    "truth": (lambda d: d["videos"][0].update(category=True), r"category \(bool\)"),
    "no video": (lambda d: d["sentences"][4].pop("video_id"), r"sentences\[4\]: expected an object"),
    "no object": (lambda d: d["sentences"].append(7), r"sentences\[21\]: .* found int 7"),
    "unknown video": (
        lambda d: [s.update(video_id=f"x{i}") for i, s in enumerate(d["sentences"][:5])],
        "sentences describe 5 videos that 'videos' does not list: x0, x1, x2, x3, x4",
    ),
    "empty caption": (
        lambda d: d["sentences"][0].update(caption=" \n"),
        r"sentences\[0\]: the caption of video0 .* empty",
    ),
    "silent": (
        lambda d: d.update(sentences=[s for s in d["sentences"] if s["video_id"] not in ("video0", "video13")]),
        "2 of 3 train videos have no caption in .*MSRVTT_data.json: video0, video13",
    ),
    "not listed": (
        lambda d: (d["videos"].pop(0), d.update(sentences=sentences([0]))),
        "1 of 3 listed train videos are not in .*MSRVTT_data.json: video13",
    ),
}


@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_broken_json_content(root, fault):
    change, message = JSON_FAULTS[fault]
    edit(root, change)
    with pytest.raises(DataError, match=message):
        MSRVTT(root).load("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"videos": [],\n "sentences": [}', r"broken JSON at line 2, column 16"),
        (b"", "broken JSON at line 1, column 1: .*0 characters"),
        (b"[" * 100_000, "this JSON cannot be read: .*recursion"),
        (b"[1]", r"videos \(list\), sentences \(list\); found list \[1\]"),
        (b'{\n"a": "\xe9"}', "not UTF-8: byte 0xe9 at offset 8 .line 2"),
    ],
)
def test_broken_json_file(root, content, message):
    (root / "MSRVTT_data.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        MSRVTT(root).load("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,name\nvideo0,x\n", "expected the columns video_id, found id, name"),
        (b"", "expected the columns video_id, found no header"),
        (b"video_id\n\n", "MSRVTT_train.9k.csv: no video is listed"),
        (b"video_id\nvideo0\nvideo1\nvideo0\n", "1 ids occur more than once: video0"),
        (b"video_id\nvideo0\n/tmp/video1\n", "'/tmp/video1' is not a file name inside"),
        (b"video_id\na/../../b\n", "is not a file name inside"),
        (b"video_id\nvideo0\nvideo1,2\n", "line 3 has 2 cells but the header has 1"),
        (b'video_id\n"video0\n', "broken CSV at line 2"),
        (b"video_id\nvid\xffo0\n", "not UTF-8: byte 0xff at offset 12 .line 2"),
        (b"video_id\nvideo0\nvideo77\nvideo78\n", "2 of 3 listed train videos are not in .*: video77, video78"),
    ],
)
def test_broken_train_list(root, content, message):
    (root / "MSRVTT_train.9k.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        MSRVTT(root).load("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("video_id\nvideo11\n", "expected the columns video_id, sentence, found video_id"),
        (TEST_CSV + "ret2,msr13,video13,  \n", "the sentence at line 4 is empty"),
        (TEST_CSV + "ret2,msr11,video11,again\n", "1 ids occur more than once: video11"),
        (TEST_CSV + "ret2,msr13,video13,one, two\n", "line 4 has 5 cells .*double quotes"),
        ('video_id,sentence\nvideo11,"a\nvideo12,b\nvideo13,c"\n', "ends at line 4 spans several lines"),
    ],
)
def test_broken_test_sentences(root, content, message):
    (root / "MSRVTT_JSFUSION_test.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        MSRVTT(root).load("test")


def test_unreadable_file(root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"MSRVTT_train.9k.csv: cannot be read \(Permission denied\)"):
        MSRVTT(root).load("train")


def test_test_videos_in_the_train_list(root):
    (root / "MSRVTT_train.9k.csv").write_text("video_id\nvideo0\nvideo11\n")
    with pytest.raises(DataError, match=r"1 ids are in MSRVTT_train.9k.csv and in MSRVTT_JSFUSION_test.csv: video11"):
        _ = MSRVTT(root).splits


def test_videos_of_the_train_list_that_are_labelled_test(root):
    (root / "MSRVTT_train.7k.csv").write_text("video_id\nvideo0\nvideo13\nvideo11\n")
    with pytest.raises(DataError, match=r"2 ids .* MSRVTT_train.7k.csv and are labelled 'test': video11, video13"):
        MSRVTT(root, "7k3k").load("train")


def test_halves_that_overlap_or_are_swapped(halves):
    train, test = halves / "train_val_videodatainfo.json", halves / "test_videodatainfo.json"
    held = train.read_bytes()
    train.write_bytes(test.read_bytes())
    with pytest.raises(DataError, match="'split' is 'test', expected train or validate in this file"):
        MSRVTT(halves, "full").load("train")
    train.write_bytes(held)
    write_json(test, release({0: "test", 13: "test"}))
    with pytest.raises(DataError, match=r"1 videos are in both of .*train_val.* and .*test_videodata.*: video0"):
        MSRVTT(halves).load("train")


def test_full_without_a_label(root):
    write_json(root / "MSRVTT_data.json", release({0: "train", 1: "train"}))
    assert MSRVTT(root, "full").splits == ("train", "test")
    with pytest.raises(DataError, match=r"no video is labelled 'test' in .*MSRVTT_data.json"):
        MSRVTT(root, "full").load("test")


@pytest.mark.parametrize(
    ("protocol", "sizes"),
    first_fast(
        [
            ("9k", {"train": 9_000, "test": 1_000}),
            ("7k", {"train": 7_010, "test": 1_000}),
            ("7k3k", {"train": 7_010, "test": 2_990}),
            ("full", {"train": 6_513, "validation": 497, "test": 2_990}),
        ]
    ),
)
def test_real_files(real_annotations, protocol, sizes):
    annotations = MSRVTT(real_annotations("msrvtt"), protocol)
    splits = {split: annotations.load(split) for split in annotations.splits}
    assert {split: len(records) for split, records in splits.items()} == sizes
    ids = [r.video_id for records in splits.values() for r in records]
    assert len(set(ids)) == len(ids)
    everything = [r for records in splits.values() for r in records]
    assert {r.labels for r in everything} == {(c,) for c in range(20)}
    assert not [c for r in everything for c in r.captions if c != c.strip() or re.search(r"\s\s|[^\S ]", c) or not c]
    for split, records in splits.items():
        one = split == "test" and protocol in ("9k", "7k")
        assert {len(r.captions) for r in records} == {1 if one else 20}
        if one:
            assert len({r.captions for r in records}) == 995


@pytest.mark.slow
def test_real_full_lists_agree(real_annotations):
    folder = real_annotations("msrvtt")
    annotations = MSRVTT(folder, "full")
    for split, name in {"train": "train", "validation": "val", "test": "test"}.items():
        listed = (folder / f"{name}_list_full.txt").read_text().split()
        assert [r.video_id for r in annotations.load(split)] == listed


@pytest.mark.slow
def test_real_records_against_a_slow_reference(real_annotations):
    folder = real_annotations("msrvtt")
    files = [json.loads((folder / f"{n}_videodatainfo.json").read_text()) for n in ("train_val", "test")]
    with (folder / "MSRVTT_train.9k.csv").open() as file:
        wanted = [row["video_id"] for row in csv.DictReader(file)]
    records = MSRVTT(folder).load("train")
    assert [r.video_id for r in records] == wanted
    for position in (0, 1, 4_321, 8_999):
        own = [s for f in files for s in f["sentences"] if s["video_id"] == wanted[position]]
        texts = [re.sub(r"\s+", " ", s["caption"]).strip() for s in sorted(own, key=lambda s: s["sen_id"])]
        category = [v["category"] for f in files for v in f["videos"] if v["video_id"] == wanted[position]]
        assert (list(records[position].captions), list(records[position].labels)) == (texts, category)
