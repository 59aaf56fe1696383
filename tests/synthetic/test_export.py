import csv
import json
import warnings
from pathlib import Path

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.data.annotations.activitynet import ActivityNet
from tvr_lightning.data.annotations.charades import Charades
from tvr_lightning.data.annotations.didemo import DiDeMo
from tvr_lightning.data.annotations.msrvtt import MSRVTT
from tvr_lightning.data.annotations.msvd import MSVD
from tvr_lightning.data.annotations.vatex import VATEX
from tvr_lightning.data.tools.check import check_dataset
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.run.smoke import smoke_data
from tvr_lightning.synthetic.export import LAYOUTS, export_shapes, layout_of
from tvr_lightning.synthetic.shapes import plan_shapes

READERS = {c.__name__.lower(): c for c in (MSRVTT, MSVD, DiDeMo, VATEX, ActivityNet, Charades)}
WORDS = {"validate": "validation", "val": "validation"}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    return {layout: (folder / layout, export_shapes(layout, folder / layout)) for layout in LAYOUTS}


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reader_reads_back_what_was_planned(roots, layout):
    root, counts = roots[layout]
    reader = READERS[layout](root)
    plan = {video.number: video for video in plan_shapes(24).videos}
    loaded = {split: reader.load(split) for split in reader.splits}
    found = [len(records) for records in loaded.values()]
    assert found == list(counts.values())
    assert sum(found) == 24
    records = [record for split in loaded.values() for record in split]
    assert len({record.video_id for record in records}) == 24
    # every caption says what some planned video's captions say; the test captions are those of the test videos
    told = {caption.lower(): video for video in plan.values() for caption in video.captions}
    for split, members in loaded.items():
        for record in members:
            first = record.captions[0].lower().replace(".", "")
            owners = {video.split for caption, video in told.items() if caption in first}
            assert ("test" in owners) == (split == "test"), record
    assert check_dataset(reader, workers=1).complete
    assert check_dataset(reader, workers=1).lists["unlisted"] == []


def test_details_of_each_layout(roots):
    msvd = MSVD(roots["msvd"][0])
    ids = [r.video_id for split in msvd.splits for r in msvd.load(split)]
    assert sum(i.startswith(("-", "_")) for i in ids) == 8
    assert all(r.video_path.suffix == ".avi" and len(r.captions) == 10 for r in msvd.load("test"))
    assert not (roots["msvd"][0] / "train_list.txt").read_bytes().endswith(b"\n")

    root = roots["didemo"][0]
    entries = {split: json.loads((root / f"{split}_data.json").read_text()) for split in ("train", "val", "test")}
    names = {e["video"] for split in entries.values() for e in split}
    assert any(name.endswith(".") for name in names)
    assert len(names) == 24 + 2  # one of val and one of test has two
    assert {Path(name).suffix for name in names} >= {".mov", ".avi", ".MPG", ".3gp"}
    assert all(r.end == 30.0 and len(r.captions) == 1 for r in DiDeMo(root).load("test"))

    vatex = VATEX(roots["vatex"][0], language="zh")
    assert all("个" in caption for r in vatex.load("validation") for caption in r.captions)

    root = roots["activitynet"][0]
    train = json.loads((root / "train.json").read_text())
    assert all(i.startswith("v_") for i in train)
    starts = [[min(t) for t in entry["timestamps"]] for entry in train.values()]
    assert any(s != sorted(s) for s in starts)
    one, two = (ActivityNet(root, references=name).load("test") for name in ("val_1", "val_2"))
    assert [r.video_id for r in one] == [r.video_id for r in two]
    assert all(a.captions != b.captions for a, b in zip(one, two, strict=True))
    assert {len(r.labels) for r in one} <= {1, 2}
    assert all(r.labels for r in one)
    with pytest.warns(UserWarning, match="16 videos have captions and a label"):
        hashing = ActivityNet(root, protocol="hashing").load("train")
    assert len(hashing) == 16

    root = roots["charades"][0]
    data = (root / "Charades_v1_train.csv").read_bytes()
    assert data.count(b"\r\n") == data.count(b"\n") == 17
    with (root / "Charades_v1_train.csv").open(newline="") as file:
        assert {len(row["id"]) for row in csv.DictReader(file)} == {5}
    assert {len(r.labels) for r in Charades(root).load("train")} == {0, 1, 2}
    assert all('"slowly"' in r.captions[0] for r in Charades(root, text="script").load("test"))


def test_labels_are_those_of_the_scenes(roots):
    by_captions = {caption: v for v in plan_shapes(24).videos for caption in v.captions}
    for record in Charades(roots["charades"][0]).load("test"):
        owner = next(v for caption, v in by_captions.items() if record.captions[0].startswith(caption))
        if record.labels:
            assert owner.scene.category in record.labels


def test_same_seed_same_bytes_and_nothing_is_made_twice(tmp_path):
    for layout in ("didemo", "charades"):
        roots = [tmp_path / f"{layout}{i}" for i in range(3)]
        for root, seed in zip(roots, (3, 3, 4), strict=True):
            export_shapes(layout, root, 6, seed)
        one, same, other = ({p.relative_to(r): p.read_bytes() for p in r.rglob("*") if p.is_file()} for r in roots)
        assert one == same
        assert one.keys() != other.keys()
        before = {p: p.stat().st_mtime_ns for p in roots[0].rglob("*")}
        export_shapes(layout, roots[0], 6, 3)
        assert {p: p.stat().st_mtime_ns for p in roots[0].rglob("*")} == before
        next((roots[0] / "shapes.json").parent.rglob("*.*4")).unlink()
        export_shapes(layout, roots[0], 6, 3)
        assert {p.relative_to(roots[0]) for p in roots[0].rglob("*") if p.is_file()} == one.keys()


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tvr_lightning.synthetic.export.write_video", full)
    with pytest.raises(OSError, match="No space"):
        export_shapes("msvd", tmp_path / "x", 6)
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="in use by something else"):
        export_shapes("vatex", tmp_path, 6)
    with pytest.raises(ConfigError, match="did you mean didemo"):
        export_shapes("didmo", tmp_path)
    with pytest.raises(ConfigError, match="too few"):
        export_shapes("vatex", tmp_path / "x", 5)
    with pytest.raises(ConfigError, match=r"no generated dataset in the layout that mine\.YouCook reads"):
        layout_of("mine.YouCook")


def test_command(tmp_path, capsys):
    assert main(["data", "export-shapes", "--layout", "charades", str(tmp_path / "c"), "--num_videos", "6"]) == 0
    assert "4 train, 2 test" in capsys.readouterr().out
    assert main(["data", "export-shapes", "--layout", "charade", str(tmp_path / "d")]) == 2
    assert "did you mean charades" in capsys.readouterr().err


@pytest.mark.parametrize("layout", LAYOUTS)
def test_smoke_finds_the_layout_of_an_experiment(tmp_path, layout):
    reader = READERS[layout]
    path = tmp_path / "x.yaml"
    path.write_text(
        json.dumps({"data": {"annotations": {"class_path": f"{reader.__module__}.{reader.__name__}",
                                             "init_args": {"root": "data/nowhere"}}}})
    )  # fmt: skip
    read_arguments(["--config", str(path)])
    root = smoke_data(path, tmp_path / "data")
    assert root == tmp_path / "data" / layout
    assert reader(root).load("test")
