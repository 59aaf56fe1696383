"""The embedded dataset on disk: layout, determinism, replacement."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from tvr_lightning.errors import DataError
from tvr_lightning.synthetic import shapes
from tvr_lightning.synthetic.plan import plan_shapes
from tvr_lightning.synthetic.rendering import render
from tvr_lightning.synthetic.scenes import FPS, PROBE_KINDS, SIDE, Scene
from tvr_lightning.synthetic.shapes import is_current, make_shapes

SMALL = 24


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, SMALL, workers=1)
    return root


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def annotation_bytes(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_have_the_layout_of_msrvtt(dataset):
    assert sorted(annotation_bytes(dataset)) == [
        "MSRVTT_JSFUSION_test.csv",
        "MSRVTT_data.json",
        "MSRVTT_train.7k.csv",
        "MSRVTT_train.9k.csv",
        "probes.json",
        "shapes.json",
    ]
    data = json.loads((dataset / "MSRVTT_data.json").read_text())
    assert list(data) == ["info", "videos", "sentences"]
    assert set(data["videos"][0]) == {"category", "url", "video_id", "start time", "end time", "split", "id"}
    assert [video["video_id"] for video in data["videos"]] == [f"video{i}" for i in range(SMALL)]
    assert Counter(video["split"] for video in data["videos"]) == {"train": 12, "validate": 4, "test": 8}
    assert [s["sen_id"] for s in data["sentences"]] == list(range(10 * SMALL))
    assert set(Counter(s["video_id"] for s in data["sentences"]).values()) == {10}

    by_split = {split: [v["video_id"] for v in data["videos"] if v["split"] == split] for split in ("train", "test")}
    for name in ("MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv"):
        assert [row["video_id"] for row in rows(dataset / name)] == by_split["train"]
    test = rows(dataset / "MSRVTT_JSFUSION_test.csv")
    assert list(test[0]) == ["key", "vid_key", "video_id", "sentence"]
    assert [row["video_id"] for row in test] == by_split["test"]
    assert [row["key"] for row in test] == [f"ret{i}" for i in range(8)]
    assert all(row["vid_key"] == row["video_id"].replace("video", "msr") for row in test)
    captions = {(s["video_id"], s["caption"]) for s in data["sentences"]}
    assert all((row["video_id"], row["sentence"]) in captions for row in test)

    probes = json.loads((dataset / "probes.json").read_text())
    assert Counter(probe["kind"] for probe in probes) == dict.fromkeys(PROBE_KINDS, 1)
    assert sorted(v for probe in probes for v in probe["videos"]) == sorted(by_split["test"])


def test_videos_are_h264_and_as_long_as_their_annotation_says(dataset):
    data = json.loads((dataset / "MSRVTT_data.json").read_text())
    for video in data["videos"][:4]:
        with av.open(str(dataset / "videos" / f"{video['video_id']}.mp4")) as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", SIDE, SIDE)
            assert stream.average_rate == FPS
            num_frames = sum(1 for _ in container.decode(stream))
        assert 3 <= num_frames / FPS <= 5
        assert video["end time"] == pytest.approx(num_frames / FPS, abs=0.005)


def test_decoded_pixels_are_the_rendered_ones(dataset):
    planned = plan_shapes(SMALL)
    for video in planned.videos[-4:]:
        drawn, decoded = render(video.scene), decode(dataset / "videos" / f"video{video.number}.mp4")
        assert decoded.shape == drawn.shape
        assert np.abs(decoded.astype(int) - drawn).mean() < 3


def test_averaging_over_time_hides_the_order(dataset):
    probes = json.loads((dataset / "probes.json").read_text())
    pair = next(probe["videos"] for probe in probes if probe["kind"] == "order")
    a, b = (decode(dataset / "videos" / f"{video}.mp4").astype(float) for video in pair)
    assert np.abs(a - b).max() > 50
    assert np.abs(a.mean(0) - b.mean(0)).max() < 1
    sampled = [(2 * i + 1) * len(a) // 16 for i in range(8)]
    assert np.abs(a[sampled].mean(0) - b[sampled].mean(0)).max() < 1


def test_same_seed_gives_same_dataset_whatever_the_workers(dataset, tmp_path):
    summary = make_shapes(tmp_path / "again", SMALL, workers=2)
    assert summary.created
    assert annotation_bytes(tmp_path / "again") == annotation_bytes(dataset)
    for path in sorted((dataset / "videos").iterdir())[::5]:
        np.testing.assert_array_equal(decode(tmp_path / "again" / "videos" / path.name), decode(path))
    assert plan_shapes(SMALL, seed=1).videos[0].scene != plan_shapes(SMALL, seed=0).videos[0].scene


def test_a_current_dataset_is_left_alone(dataset):
    before = (dataset / "shapes.json").stat().st_mtime_ns
    summary = make_shapes(dataset, SMALL)
    assert not summary.created
    assert summary.splits == {"train": 12, "validation": 4, "test": 8}
    assert summary.megabytes > 0
    assert (dataset / "shapes.json").stat().st_mtime_ns == before
    assert not is_current(dataset, SMALL + 1, seed=0)
    assert not is_current(dataset, SMALL, seed=1)


def damage_missing(root: Path) -> None:
    (root / "videos" / "video3.mp4").unlink()


def damage_empty(root: Path) -> None:
    (root / "videos" / "video3.mp4").write_bytes(b"")


def damage_list(root: Path) -> None:
    (root / "probes.json").unlink()


def damage_version(root: Path) -> None:
    manifest = json.loads((root / "shapes.json").read_text())
    (root / "shapes.json").write_text(json.dumps(manifest | {"version": 0}))


def damage_manifest(root: Path) -> None:
    (root / "shapes.json").write_text('{"version"')


def damage_files(root: Path) -> None:  # a manifest of before it listed them
    manifest = json.loads((root / "shapes.json").read_text())
    del manifest["files"]
    (root / "shapes.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage", [damage_missing, damage_empty, damage_list, damage_version, damage_manifest, damage_files]
)
def test_a_partial_or_older_dataset_is_replaced_as_a_whole(tmp_path, damage):
    root = tmp_path / "shapes"
    make_shapes(root, 6)
    before = annotation_bytes(root)
    damage(root)
    (root / "videos" / "video99.mp4").write_bytes(b"left over")
    assert not is_current(root, 6, seed=0)
    assert make_shapes(root, 6).created
    assert is_current(root, 6, seed=0)
    assert annotation_bytes(root) == before
    assert not (root / "videos" / "video99.mp4").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_a_users_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(DataError, match=r"thesis\.tex"):
        make_shapes(tmp_path, SMALL)
    assert (tmp_path / "thesis.tex").read_text() == "important"
    with pytest.raises(DataError, match="in use"):
        make_shapes(tmp_path / "thesis.tex", SMALL)


def test_an_empty_folder_is_filled(tmp_path):
    assert make_shapes(tmp_path / "new" / "shapes", 6).created
    (tmp_path / "empty").mkdir()
    assert make_shapes(tmp_path / "empty", 6).created


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_failure_keeps_the_old_dataset_and_leaves_nothing_behind(tmp_path, monkeypatch, error):
    root = tmp_path / "shapes"
    make_shapes(root, 6)
    before = annotation_bytes(root)

    def fail(scene: Scene, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(shapes, "write_video", fail)
    with pytest.raises(error):
        make_shapes(root, 6, seed=1)
    assert annotation_bytes(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_workers_start_without_torch():
    code = "import sys, tvr_lightning.synthetic.shapes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_current_dataset_is_found_without_torch(dataset):
    code = (
        "import sys; from tvr_lightning.synthetic.shapes import make_shapes; "
        f"made = make_shapes({str(dataset)!r}, {SMALL}); sys.exit(made.created or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
