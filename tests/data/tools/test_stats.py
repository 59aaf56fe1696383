import json

import numpy as np
import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.data.annotations.charades import Charades
from tvr_lightning.data.annotations.msvd import MSVD
from tvr_lightning.data.tools.stats import QUANTITIES, _edges, describe_dataset, draw_histograms, seconds_of

from ..clips import cut_file, write_clip, write_silence
from ..layouts import CHARADES, write_charades, write_json, write_lines


@pytest.fixture
def dataset(tmp_path):
    """MSVD's layout: two training videos of 2 s and 1 s, one that is missing, one of sound only."""
    write_lines(tmp_path / "train_list.txt", ["a", "b", "gone", "sound"])
    for split in ("val", "test"):
        write_lines(tmp_path / f"{split}_list.txt", [split])
    captions = {"a": ["one", "one two"], "b": ["one two  three"], "gone": ["a b c d"], "sound": ["a"]}
    write_json(tmp_path / "captions.json", captions | {"val": ["x"], "test": ["y z"]})
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / "a.avi", 24)
    write_clip(tmp_path / "videos" / "b.mp4", 12)
    write_silence(tmp_path / "videos" / "sound.mp4")
    return MSVD(tmp_path, "captions.json")


def test_figures(dataset):
    train, validation, test = describe_dataset(dataset, workers=1)
    assert (train.videos, train.captions, train.missing, train.unreadable) == (4, 5, 1, 1)
    assert train.values["captions_per_video"].tolist() == [2, 1, 1, 1]
    assert train.values["words_per_caption"].tolist() == [1, 2, 3, 4, 1]
    assert train.values["duration"] == pytest.approx([2.0, 1.0], abs=0.01)
    assert len(train.values["labels_per_video"]) == 0
    assert (validation.missing, test.missing) == (1, 1)
    summary = train.summary()
    assert summary["words_per_caption"] == {"mean": 2.2, "median": 2.0, "min": 1.0, "max": 4.0, "sum": 11.0}
    assert "labels_per_video" not in summary


def test_labels(tmp_path):
    write_charades(tmp_path)
    train, test = describe_dataset(Charades(tmp_path), workers=1)
    assert train.values["labels_per_video"].tolist() == [2, 2, 0]
    assert test.values["labels_per_video"].tolist() == [1, 1]
    assert train.missing == len(CHARADES["train"])


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "x.webm", "x.h264"])
def test_seconds_by_header_or_packets(tmp_path, name):
    webm = {"codec": "libvpx", "container": "webm", "mux": {"live": "1"}, "options": {"b": "500k"}}
    path = write_clip(tmp_path / name, 36, **(webm if name == "x.webm" else {}))
    tolerance = 2.0 if name == "x.h264" else 0.1  # a raw stream stores no rate
    assert seconds_of(path) == pytest.approx(3.0, abs=tolerance)


def test_unreadable_files_have_no_length(tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert seconds_of(tmp_path / "empty.mp4") is None
    assert seconds_of(cut_file(write_clip(tmp_path / "cut.mp4", 24))) is None


@pytest.mark.parametrize("high", [0, 1, 7, 39, 40, 41, 1000])
def test_bins_hold_equally_many_whole_numbers(high):
    values = np.arange(high + 1, dtype=np.float64)
    edges = _edges(values, whole=True)
    counts, _ = np.histogram(values, edges)
    assert counts.sum() == high + 1
    assert len(set(counts[:-1].tolist())) <= 1
    assert len(counts) <= 41


def test_histograms(dataset):
    splits = describe_dataset(dataset, workers=1)
    figures = draw_histograms("MSVD", splits)
    assert figures.keys() == QUANTITIES.keys() - {"labels_per_video"}
    assert [len(figure.axes) for figure in figures.values()] == [3, 3, 1]
    heights = [bar.get_height() for bar in figures["words_per_caption"].axes[0].patches]
    assert heights == [2, 1, 1, 1]


def test_command(dataset, tmp_path, capsys):
    config = tmp_path / "x.yaml"
    reader = {"class_path": "tvr_lightning.data.annotations.msvd.MSVD",
              "init_args": {"root": str(tmp_path), "captions": "captions.json"}}  # fmt: skip
    config.write_text(json.dumps({"data": {"annotations": reader}}))
    out = tmp_path / "plots"
    assert main(["data", "stats", "--config", str(config), "--out", str(out), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "2.2 (1 to 4)" in printed
    assert sorted(p.name for p in out.iterdir()) == [
        *("captions_per_video.png", "duration.png", "statistics.json", "words_per_caption.png")
    ]
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in out.glob("*.png"))
    content = json.loads((out / "statistics.json").read_text())
    assert [split["videos"] for split in content["splits"]] == [4, 1, 1]
