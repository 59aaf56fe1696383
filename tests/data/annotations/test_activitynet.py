import json
import shutil

import pytest

from tvr_lightning.data.annotations import activitynet as module
from tvr_lightning.data.annotations.activitynet import ActivityNet
from tvr_lightning.errors import ConfigError, DataError

from ..layouts import activitynet, write_activitynet, write_json

V12, V13 = "activity_net.v1-2.min.json", "activity_net.v1-3.min.json"


@pytest.fixture
def root(tmp_path):
    write_activitynet(tmp_path)
    return tmp_path


def labelled(labels):
    """ActivityNet's own file: ids without `v_`, several segments a video, none for the testing subset."""
    return {
        "version": "VERSION 1.3",
        "taxonomy": [{"nodeId": 0, "nodeName": "Root", "parentId": None, "parentName": "None"}],
        "database": {
            video: {
                "duration": 82.7,
                "subset": "training" if names else "testing",
                "resolution": "640x360",
                "url": "https://example.org",
                "annotations": [{"label": name, "segment": [0.5, 9.0]} for name in names],
            }
            for video, names in labels.items()
        },
    }


def test_records(root):
    records = ActivityNet(root).load("train")
    assert [(r.video_id, r.captions) for r in records] == [
        ("v_QOlSCBRmfWY", ("First. Second. Third now.",)),
        ("v_ehGHCYKzyZ8", ("Reversed. After.",)),
        ("v_-nwznKOuZM0", ("Alone.",)),
    ]
    assert {(r.labels, r.start, r.end) for r in records} == {((), None, None)}
    assert ActivityNet(root).splits == ("train", "test")
    assert [r.video_id for r in ActivityNet(root).load("test")] == ["v_uqiMw7tQ1Cc", "v_bXdq2zI1Ms0"]
    others = ActivityNet(root, references="val_2").load("test")
    assert [(r.video_id, r.captions) for r in others] == [("v_uqiMw7tQ1Cc", ("Other words.",))]


def test_unknown_choices(root):
    with pytest.raises(ConfigError, match="'hash': did you mean hashing"):
        ActivityNet(root, "hash")
    with pytest.raises(ConfigError, match="'val1': did you mean val_"):
        ActivityNet(root, references="val1")


def test_files_with_and_without_the_prefix(root):
    (root / "videos").mkdir()
    for name in ("QOlSCBRmfWY.mp4", "v_ehGHCYKzyZ8.mkv", "ehGHCYKzyZ8.mp4", "-nwznKOuZM0.webm"):
        (root / "videos" / name).touch()
    names = [r.video_path.name for r in ActivityNet(root).load("train")]
    assert names == ["QOlSCBRmfWY.mp4", "v_ehGHCYKzyZ8.mkv", "-nwznKOuZM0.webm"]


def test_id_files(root):
    write_json(root / "train_ids.json", ["v_-nwznKOuZM0", "v_ehGHCYKzyZ8", "v_QOlSCBRmfWY"])
    write_json(root / "val_ids.json", ["v_bXdq2zI1Ms0", "v_uqiMw7tQ1Cc"])
    assert [r.video_id[2:] for r in ActivityNet(root).load("train")] == ["-nwznKOuZM0", "ehGHCYKzyZ8", "QOlSCBRmfWY"]
    assert [r.video_id for r in ActivityNet(root).load("test")] == ["v_bXdq2zI1Ms0", "v_uqiMw7tQ1Cc"]
    assert len(ActivityNet(root, references="val_2").load("test")) == 1
    for value, message in [({"a": 1}, "expected a list of video ids, found dict"), ([3], "must be texts, found 3"),
                           ([], "found an empty list"), (["v_a", "v_a"], "more than once: v_a")]:  # fmt: skip
        write_json(root / "train_ids.json", value)
        with pytest.raises(DataError, match=message):
            ActivityNet(root).load("train")


LABELS = {"QOlSCBRmfWY": ["Zumba", "BMX", "Zumba"], "ehGHCYKzyZ8": ["Archery"], "absent00000": ["Cricket"],
          "uqiMw7tQ1Cc": ["BMX"], "testing0000": []}  # fmt: skip


def test_labels(root):
    write_json(root / V12, labelled({"QOlSCBRmfWY": ["Zumba"]}))
    assert [r.labels for r in ActivityNet(root).load("train")] == [(0,), (), ()]
    write_json(root / V13, labelled(LABELS))  # Archery, BMX, Cricket, Zumba
    assert [r.labels for r in ActivityNet(root).load("train")] == [(1, 3), (0,), ()]
    assert [r.labels for r in ActivityNet(root).load("test")] == [(1,), ()]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"taxonomy": []}, r"expected an object with database \(dict\)"),
        ({"database": {"a": {"label": "x"}}}, r"a: expected an object with annotations \(list\)"),
        ({"database": {"a": {"annotations": [{"segment": [0, 1]}]}}}, r"a: annotation 0: .*label \(str\)"),
    ],
)
def test_broken_labels(root, value, message):
    write_json(root / V13, value)
    with pytest.raises(DataError, match=message):
        ActivityNet(root).load("train")


def test_hashing(root, monkeypatch):
    with pytest.raises(DataError, match=f"no '{V12}' in"):
        ActivityNet(root, "hashing").load("train")
    write_json(root / V13, labelled(LABELS))
    write_json(root / V12, labelled(LABELS))
    with pytest.warns(UserWarning, match="train: 2 videos have captions and a label of v1.2, where SPTCH draws 4816"):
        records = ActivityNet(root, "hashing").load("train")
    assert [(r.video_id, r.labels) for r in records] == [("v_QOlSCBRmfWY", (1, 3)), ("v_ehGHCYKzyZ8", (0,))]
    write_json(root / V12, labelled({"QOlSCBRmfWY": ["Zumba"]}))
    with pytest.raises(DataError, match=r"v1-2.min.json labels no video of test"):
        ActivityNet(root, "hashing").load("test")


def test_hashing_draws_with_a_seed(root, monkeypatch, recwarn):
    monkeypatch.setattr(module, "HASHING_SIZES", {"train": 5, "test": 2})
    ids = [f"v_{n:011d}" for n in range(40)]
    write_json(root / "train.json", {i: activitynet([[0, 1]], ["a"]) for i in ids})
    write_json(root / V12, labelled({i[2:]: ["BMX"] for i in ids[:30]}))
    drawn = [tuple(r.video_id for r in ActivityNet(root, "hashing", seed=s).load("train")) for s in (0, 0, 1, 2)]
    assert not recwarn
    assert {len(set(d)) for d in drawn} == {5}
    assert all(set(d) <= set(ids[:30]) and list(d) == sorted(d) for d in drawn)
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3
    write_json(root / "train.json", {i: activitynet([[0, 1]], ["a"]) for i in reversed(ids)})
    assert sorted(r.video_id for r in ActivityNet(root, "hashing").load("train")) == list(drawn[0])


FAULTS = [
    (activitynet([[0, 1]], ["a", "b"]), "v_a: 1 timestamps and 2 sentences"),
    (activitynet([], []), "v_a: 0 timestamps and 0 sentences"),
    (activitynet([[0, 1]], [" \n"]), "v_a: caption 0 is empty"),
    (activitynet([[0]], ["a"]), r"v_a: timestamp 0: expected \[start, end\] in seconds, found \[0\]"),
    (activitynet([[0, "1"]], ["a"]), r"expected \[start, end\]"),
    (activitynet([3], ["a"]), r"expected \[start, end\]"),
    ({"timestamps": []}, r"v_a: expected an object with timestamps \(list\), sentences \(list\)"),
    (["a"], "v_a: expected an object"),
]


@pytest.mark.parametrize(("entry", "message"), FAULTS)
def test_broken_content(root, entry, message):
    write_json(root / "train.json", {"v_a": entry})
    with pytest.raises(DataError, match=message):
        ActivityNet(root).load("train")


@pytest.mark.parametrize(
    ("references", "file", "videos", "sentences", "moved"),
    [
        ("val_1", "val_1", 4_917, 17_505, 131),
        ("val_2", "val_2", 4_885, 17_031, 171),
        (None, "train", 10_009, 37_421, 245),
    ],
)
def test_real_files(real_annotations, references, file, videos, sentences, moved):
    folder = real_annotations("activitynet")
    reader = ActivityNet(folder, references=references or "val_1")
    records = reader.load("test" if references else "train")
    assert len(records) == videos
    assert {len(r.captions) for r in records} == {1}
    content = json.loads((folder / f"{file}.json").read_text())
    assert [r.video_id for r in records] == list(content)
    assert sum(len(v["sentences"]) for v in content.values()) == sentences
    changed = 0
    for record in records:
        entry = content[record.video_id]
        assert record.video_id.startswith("v_")
        pairs = [(min(t), n, s) for n, (t, s) in enumerate(zip(entry["timestamps"], entry["sentences"], strict=True))]
        assert record.captions == (" ".join(" ".join(s for _, _, s in sorted(pairs)).split()),)
        starts = [t[0] for t in entry["timestamps"]]
        changed += starts != sorted(starts)
    assert changed == moved


def test_real_quirks(real_annotations):
    folder = real_annotations("activitynet")
    files = [json.loads((folder / f"{n}.json").read_text()) for n in ("train", "val_1", "val_2")]
    entries = [e for f in files for e in f.values()]
    segments = [(t, e["duration"]) for e in entries for t in e["timestamps"]]
    assert sum(a > b for (a, b), _ in segments) == 2
    assert sum(a == b for (a, b), _ in segments) == 2
    assert sum(e["timestamps"] != sorted(e["timestamps"]) for e in entries) == 1_222
    assert sum("\n" in s for e in entries for s in e["sentences"]) == 10
    assert set(files[2]) < set(files[1])
    assert not set(files[0]) & set(files[1])


def test_real_hashing_sizes(real_annotations, tmp_path, recwarn):
    """Labels are written here, because the real ones lie not beside the captions."""
    folder = real_annotations("activitynet")
    for name in ("train", "val_1"):
        shutil.copyfile(folder / f"{name}.json", tmp_path / f"{name}.json")
    ids = [list(json.loads((folder / f"{n}.json").read_text())) for n in ("train", "val_1")]
    write_json(tmp_path / V12, labelled({i[2:]: ["BMX"] for i in ids[0][:4_819] + ids[1][:2_383]}))
    reader = ActivityNet(tmp_path, "hashing")
    train, test = reader.load("train"), reader.load("test")
    assert not recwarn
    assert (len(train), len(test)) == (4_816, 2_382)
    assert {r.labels for r in train + test} == {(0,)}


def test_real_class_names(real_annotations, tmp_path):
    folder = real_annotations("activitynet")
    names = (folder / "action_name_v1-3.csv").read_text().splitlines()[1:]
    videos = list(json.loads((folder / "train.json").read_text()))[:200]
    shutil.copyfile(folder / "train.json", tmp_path / "train.json")
    write_json(tmp_path / V13, labelled({v[2:]: [n] for v, n in zip(videos, names, strict=True)}))
    labels = [r.labels for r in ActivityNet(tmp_path).load("train")]
    assert labels[:200] == [(sorted(names).index(n),) for n in names]
    assert sorted(labels[:200]) == [(k,) for k in range(200)]
    assert set(labels[200:]) == {()}
