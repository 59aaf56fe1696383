import csv
import json
import warnings
from pathlib import Path

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.config.objects import build_reader
from tvr_lightning.data.annotations.activitynet import ActivityNet
from tvr_lightning.data.annotations.base import Annotations
from tvr_lightning.data.annotations.charades import Charades
from tvr_lightning.data.annotations.didemo import DiDeMo
from tvr_lightning.data.annotations.msvd import MSVD
from tvr_lightning.data.annotations.vatex import VATEX
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.run.reader import known_readers
from tvr_lightning.run.smoke import smoke_data
from tvr_lightning.synthetic.plan import plan_shapes
from tvr_lightning.synthetic.shapes import export_shapes

READERS = known_readers()


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    for class_path in READERS:
        root = folder / class_path.rpartition(".")[2].lower()
        export_shapes(build_reader({"class_path": class_path, "init_args": {"root": str(root)}}))
    return {root.name: root for root in folder.iterdir()}


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.slow
def test_details_of_each_layout(roots):
    msvd = MSVD(roots["msvd"])
    ids = [r.video_id for split in msvd.splits for r in msvd.load(split)]
    assert sum(i.startswith(("-", "_")) for i in ids) == 8
    assert all(r.video_path.suffix == ".avi" and len(r.captions) == 10 for r in msvd.load("test"))
    assert not (roots["msvd"] / "train_list.txt").read_bytes().endswith(b"\n")

    root = roots["didemo"]
    entries = {split: json.loads((root / f"{split}_data.json").read_text()) for split in ("train", "val", "test")}
    names = {e["video"] for split in entries.values() for e in split}
    assert any(name.endswith(".") for name in names)
    assert len(names) == 24 + 2  # one of val and one of test has two
    assert {Path(name).suffix for name in names} >= {".mov", ".avi", ".MPG", ".3gp"}
    assert all(r.end == 30.0 and len(r.captions) == 1 for r in DiDeMo(root).load("test"))

    vatex = VATEX(roots["vatex"], language="zh")
    assert all("个" in caption for r in vatex.load("validation") for caption in r.captions)

    root = roots["activitynet"]
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

    root = roots["charades"]
    data = (root / "Charades_v1_train.csv").read_bytes()
    assert data.count(b"\r\n") == data.count(b"\n") == 17
    with (root / "Charades_v1_train.csv").open(newline="") as file:
        assert {len(row["id"]) for row in csv.DictReader(file)} == {5}
    assert {len(r.labels) for r in Charades(root).load("train")} == {0, 1, 2}
    assert all('"slowly"' in r.captions[0] for r in Charades(root, text="script").load("test"))


def test_labels_are_those_of_the_scenes(roots):
    by_captions = {caption: v for v in plan_shapes(24).videos for caption in v.captions}
    for record in Charades(roots["charades"]).load("test"):
        owner = next(v for caption, v in by_captions.items() if record.captions[0].startswith(caption))
        if record.labels:
            assert owner.scene.category in record.labels


def test_same_seed_same_bytes(tmp_path):
    for reader in (DiDeMo, Charades):
        roots = [tmp_path / f"{reader.__name__}{i}" for i in range(3)]
        for root, seed in zip(roots, (3, 3, 4), strict=True):
            export_shapes(reader(root), 6, seed)
        one, same, other = ({p.relative_to(r): p.read_bytes() for p in r.rglob("*") if p.is_file()} for r in roots)
        assert one == same
        assert one.keys() != other.keys()
        (roots[0] / "left over").touch()
        export_shapes(reader(roots[0]), 6, 3)
        assert {p.relative_to(roots[0]) for p in roots[0].rglob("*") if p.is_file()} == one.keys()


def test_settings_of_the_reader_are_followed(tmp_path):
    reader = MSVD(tmp_path / "x", captions="captions.json", videos="clips")
    export_shapes(reader, 6)
    assert {p.name for p in (tmp_path / "x").iterdir()} >= {"captions.json", "clips"}
    assert all(record.video_path.is_file() for record in reader.load("test"))


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tvr_lightning.synthetic.shapes.write_video", full)
    with pytest.raises(OSError, match="No space"):
        export_shapes(MSVD(tmp_path / "x"), 6)
    assert list(tmp_path.iterdir()) == []


class Mute(MSVD):
    write_layout = Annotations.write_layout


class Short(MSVD):
    def write_layout(self, root, dataset):
        return super().write_layout(root, dataset)[1:]


class Same(MSVD):
    def write_layout(self, root, dataset):
        return ["videos/one.avi" for _ in dataset.videos]


class Outside(MSVD):
    def write_layout(self, root, dataset):
        return [f"../{place}" for place in super().write_layout(root, dataset)]


def test_refusals(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="in use by something else"):
        export_shapes(VATEX(tmp_path), 6)
    with pytest.raises(ConfigError, match="too few"):
        export_shapes(VATEX(tmp_path / "x"), 5)
    with pytest.raises(ConfigError, match=r"Mute cannot be tried .*write_layout.* see docs/add_a_dataset\.md"):
        export_shapes(Mute(tmp_path / "x"), 6)
    with pytest.raises(ConfigError, match=r"Short\.write_layout returned 5 places, 5 different ones, for 6 videos"):
        export_shapes(Short(tmp_path / "x"), 6)
    with pytest.raises(ConfigError, match=r"Same\.write_layout returned 6 places, 1 different ones, for 6 videos"):
        export_shapes(Same(tmp_path / "x"), 6)
    with pytest.raises(DataError, match=r"Outside\.write_layout: '\.\./videos/.*' is not a file name inside"):
        export_shapes(Outside(tmp_path / "x"), 6)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_readers_by_class_path(tmp_path):
    arguments = {"root": str(tmp_path)}
    msvd = {"class_path": "tvr_lightning.data.annotations.msvd.MSVD", "init_args": arguments}
    assert build_reader(msvd).name == "MSVD"
    for other in ("nowhere.YouCook", "pathlib.Path", "tvr_lightning.data.annotations.msvd.MSVDD", "msvd"):
        with pytest.raises(ConfigError, match=r"data\.annotations"):
            build_reader({"class_path": other, "init_args": arguments})


def test_command(tmp_path, capsys):
    assert main(["data", "export-shapes", "--layout", "charades", str(tmp_path / "c"), "--num_videos", "6"]) == 0
    assert "4 train, 2 test" in capsys.readouterr().out
    class_path = "tvr_lightning.data.annotations.msvd.MSVD"
    assert main(["data", "export-shapes", "--layout", class_path, str(tmp_path / "m"), "--num_videos", "6"]) == 0
    assert "MSVD in" in capsys.readouterr().out
    assert main(["data", "export-shapes", "--layout", "charade", str(tmp_path / "d")]) == 2
    assert "did you mean charades" in capsys.readouterr().err


def test_smoke_makes_a_dataset_for_each_setting_of_a_reader(tmp_path):
    path = tmp_path / "x.yaml"
    annotations = {"class_path": "tvr_lightning.data.annotations.msvd.MSVD", "init_args": {"root": "data/nowhere"}}
    path.write_text(json.dumps({"data": {"annotations": annotations}}))
    root = smoke_data(path, tmp_path / "data")
    assert MSVD(root).load("test")
    assert smoke_data(path, tmp_path / "data") == root
    annotations["init_args"] |= {"videos": "clips", "root": "data/elsewhere"}
    path.write_text(json.dumps({"data": {"annotations": annotations}}))
    other = smoke_data(path, tmp_path / "data")
    assert other != root
    assert (other / "clips").is_dir()
