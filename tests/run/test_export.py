"""Features and scores of a run as files: they are the evaluator's own, and are read back as the docs say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

import tvr_lightning.metrics
from tvr_lightning import load_run
from tvr_lightning.commands.main import main
from tvr_lightning.config.compose import compose, experiments_in
from tvr_lightning.config.objects import class_of
from tvr_lightning.data.stores.files import atomic_folder
from tvr_lightning.errors import RunError, ScoreError
from tvr_lightning.evaluation import encode_split, score_all
from tvr_lightning.methods.alternating import AlternatingPasses
from tvr_lightning.methods.clip4clip import CLIP4Clip

from ..kinds import slow_unless
from ..small_runs import short_run

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "exporting.md").read_text(), re.DOTALL | re.MULTILINE)
# one experiment of each method, on the embedded dataset
NAMES = {
    method.stem: next(n for n in experiments_in(ROOT / "experiments") if n.startswith(f"{method.stem}_shapes"))
    for method in (ROOT / "experiments" / "method").glob("*.yaml")
}


@pytest.fixture(scope="module")
def run(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert main(["fit", *short_run("clip4clip_shapes", shapes_root, runs)]) == 0
    return runs / "clip4clip_shapes" / "a"


def read(
    block: str, folder: Path, monkeypatch: pytest.MonkeyPatch, known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What a block of the docs gives, run in a folder."""
    monkeypatch.chdir(folder)
    names = {"safetensors": safetensors, "pq": pq, "np": np, "torch": torch, "tvr_lightning": tvr_lightning}
    names |= known or {}
    exec(block, names)  # what the docs tell people to type
    return names


@pytest.mark.parametrize("method", slow_unless(sorted(NAMES), ["clip4clip"]))
def test_scores_give_the_run_s_figures(
    method: str, shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = NAMES[method]
    words = short_run(name, shapes_root, tmp_path, "--trainer.limit_train_batches=1")
    kind = class_of(compose(ROOT / "experiments" / f"{name}.yaml")["model"])
    if kind is not None and issubclass(kind, AlternatingPasses):  # trains its two networks in turn
        words.append("--trainer.max_epochs=2")
    assert main(["fit", *words]) == 0
    run = tmp_path / name / "a"
    assert main(["scores", str(run)]) == 0
    assert "scores.npy: 8 texts x 8 videos" in capsys.readouterr().out
    found = read(BLOCKS[1] + BLOCKS[2], run, monkeypatch)
    reported = json.loads((run / "metrics.json").read_text())["metrics"]
    assert len(found["figures"]) > 10
    assert {f"test/{n}": x for n, x in found["figures"].items()} == {
        f"test/{n}": reported[f"test/{n}"] for n in found["figures"]
    }
    assert found["texts"]["caption_id"][0].as_py().endswith("#0")


@pytest.mark.slow
def test_features_are_the_encoder_s(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["features", str(run), "--split", "train", "--out", str(run / "features-test")]) == 0
    assert "texts.safetensors: sentence (120, 128)" in capsys.readouterr().out
    assert main(["features", str(run)]) == 0  # in the place of the first
    assert sorted(p.name for p in (run / "features-test").iterdir()) == [
        "texts.parquet", "texts.safetensors", "videos.parquet", "videos.safetensors"
    ]  # fmt: skip
    found = read(BLOCKS[0], run, monkeypatch)
    exp = load_run(run)
    exp.data.setup("test")
    split = exp.data.split_of("test")
    encoded = encode_split(exp.model, split, exp.data.evaluation_loaders(split))
    for rows, tensors in ((encoded.texts, found["texts"]), (encoded.videos, found["videos"])):
        assert tensors.keys() == rows.tensors().keys()
        assert all(torch.equal(tensors[name], x) for name, x in rows.tensors().items())
    assert found["ids"]["caption"].to_pylist() == [c for r in split.records for c in r.captions]
    assert found["names"]["video_id"].to_pylist() == [r.video_id for r in split.records]
    assert found["names"]["path"].to_pylist() == [str(r.video_path) for r in split.records]
    assert main(["scores", str(run)]) == 0
    scores = read(BLOCKS[1], run, monkeypatch)["scores"]
    assert isinstance(scores, np.memmap)
    assert np.array_equal(scores, score_all(exp.model, encoded.texts, encoded.videos).numpy())


def test_nothing_half_written_is_left(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    assert main(["scores", str(run), "--out", str(tmp_path / "gone" / "x")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert main(["features", str(run), "--out", str(run)]) == 1
    assert "is the run's own folder" in capsys.readouterr().err
    assert main(["scores", str(run), "--split", "validation", "--out", str(out)]) == 0
    before = (out / "scores.npy").read_bytes()
    (out / "mine.txt").write_text("keep")
    assert main(["scores", str(run), "--out", str(out)]) == 1
    assert "exists and holds other things (mine.txt): give another --out" in capsys.readouterr().err
    (out / "mine.txt").unlink()
    monkeypatch.setattr(
        CLIP4Clip, "score", lambda self, texts, videos: torch.full((len(texts), len(videos)), torch.nan)
    )
    assert main(["scores", str(run), "--out", str(out)]) == 1
    assert "scored text 0 with video 0 as nan" in capsys.readouterr().err
    assert (out / "scores.npy").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["scores"]
    assert main(["scores", str(tmp_path)]) == 1
    assert "is not a run" in capsys.readouterr().err


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "x").write_text("1")
            raise ScoreError("no")

    with pytest.raises(ScoreError):
        fail()
    assert list(tmp_path.iterdir()) == []
    for text in ("1", "2"):
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "x").write_text(text)
    assert (tmp_path / "a" / "x").read_text() == "2"
    (tmp_path / "b").write_text("a file")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    for name in "bc":
        with pytest.raises(RunError, match="holds other things"), atomic_folder(tmp_path / name):
            pass
    with pytest.raises(RunError, match="cannot write"), atomic_folder(tmp_path / "none" / "a"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]
