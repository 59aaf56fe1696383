"""What runs lack is all said at once, each in a sentence, by the rules under which training would go on."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path

import pytest

from tvr_lightning.data.stores.files import write_json
from tvr_lightning.data.tools.check import Check, SplitCheck
from tvr_lightning.run import readiness
from tvr_lightning.run.ablation import Point
from tvr_lightning.run.reader import reader_of
from tvr_lightning.run.readiness import check_ready
from tvr_lightning.run.smoke import small_arguments, smoke_data

ROOT = Path(__file__).parents[2]
TINY = ("--model.encoder.model=tiny", "--model.encoder.from_pretrained=null", "--trainer.accelerator=cpu")
Usage = namedtuple("Usage", "total used free")


def point(name: str, home: Path, *words: str) -> Point:
    return Point("seed-0", home / name, ("--config", f"experiments/{name}.yaml", f"--runs_dir={home}", *words))


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smoke_data(ROOT / "experiments" / "clip4clip_msvd.yaml", tmp_path_factory.mktemp("data"))


def small(generated: Path, tmp_path: Path, *words: str) -> Point:
    """A run on a copy of the generated data."""
    data = tmp_path / "data"
    if not data.exists():
        shutil.copytree(generated, data)
    file = ROOT / "experiments" / "clip4clip_msvd.yaml"
    return Point("seed-0", tmp_path / "runs", (*small_arguments(file, data, tmp_path / "runs"), *words))


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "cuda_devices", lambda *_: [])
    monkeypatch.setattr(readiness, "_other_accelerator", lambda: False)
    monkeypatch.setattr(readiness.shutil, "disk_usage", lambda _: Usage(10, 9, 1))
    weights = ("--model.encoder.model=tiny", f"--model.encoder.from_pretrained={tmp_path / 'none.bin'}")
    root = f"--data.annotations.root={tmp_path / 'nothing'}"
    msvd = point("clip4clip_msvd", tmp_path / "runs", *weights, root)
    didemo = point("clip4clip_didemo", tmp_path / "runs", *weights, root)
    found = check_ready([msvd, didemo])
    assert not found.ready
    kinds = [text.partition(":")[0] for text in found.missing]
    assert kinds == sorted(kinds, key=("data", "weights", "disk", "devices").index)
    assert set(kinds) == {"data", "weights", "disk", "devices"}
    data = [text for text in found.missing if text.startswith("data: ")]
    assert any("MSVD" in text and str(tmp_path / "nothing") in text for text in data)
    assert any("DiDeMo" in text for text in data)
    (lacking,) = (text for text in found.missing if text.startswith("weights: "))  # of both, said once
    assert "none.bin" in lacking
    (disk,) = (text for text in found.missing if text.startswith("disk: "))
    assert "weights of 2 runs" in disk
    assert "make room, or set --runs_dir" in disk
    (devices,) = (text for text in found.missing if text.startswith("devices: "))
    assert "2 runs of clip4clip_msvd, clip4clip_didemo would train on the CPU" in devices
    assert "tvr rehearse --config experiments/clip4clip_msvd.yaml" in devices
    assert all(text.count("\n") == 0 for text in found.missing)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_ready_and_what_is_finished_needs_nothing(generated: Path, tmp_path: Path) -> None:
    run = small(generated, tmp_path)
    found = check_ready([run], workers=1)
    assert found.missing == []
    assert any(note.startswith("disk: weights of 1 runs") for note in found.notes)
    lost = point("clip4clip_msvd", tmp_path / "runs", f"--data.annotations.root={tmp_path / 'nothing'}", *TINY)
    assert check_ready([lost]).missing
    (lost.home / lost.name).mkdir(parents=True)
    write_json(lost.home / lost.name / "metrics.json", {})
    assert check_ready([lost]).missing == []


def test_the_estimate_of_a_checkpoint_is_what_it_takes(generated: Path, tmp_path: Path) -> None:
    import torch

    from tvr_lightning.config.arguments import read_arguments
    from tvr_lightning.run.build import build_cli

    run = small(generated, tmp_path)
    sizes: dict[str, int] = {}
    config = read_arguments(run.words)[0]
    readiness._build(readiness._Wanted(run, config), [], sizes, readiness.Readiness())
    model = build_cli(config).model
    trained = [p for p in model.parameters() if p.requires_grad]
    moments = {i: {"exp_avg": p.clone(), "exp_avg_sq": p.clone()} for i, p in enumerate(trained)}
    torch.save({"state_dict": model.state_dict(), "optimizer_states": [moments]}, tmp_path / "x.ckpt")
    assert next(iter(sizes.values())) == pytest.approx((tmp_path / "x.ckpt").stat().st_size, rel=0.05)


def files_of(data: Path, words: Sequence[str], split: str) -> list[Path]:
    from tvr_lightning.config.arguments import read_arguments
    from tvr_lightning.config.objects import build_reader

    return [r.video_path for r in build_reader(read_arguments(words)[0]["data"]["annotations"]).load(split)]


@pytest.mark.slow
def test_training_videos_may_be_missing_and_a_gallery_s_may_not(generated: Path, tmp_path: Path) -> None:
    run = small(generated, tmp_path)
    files_of(tmp_path / "data", run.words, "train")[0].unlink()
    found = check_ready([run], workers=1)
    assert found.missing == []
    (note,) = (note for note in found.notes if note.startswith("data: "))
    assert "train: 1 of 12 videos have no file (" in note
    tested = files_of(tmp_path / "data", run.words, "test")
    tested[0].unlink()
    tested[1].write_bytes(b"no video")
    missing = check_ready([run], workers=1).missing
    assert any("test: 1 of 8 videos have no file" in text for text in missing)
    assert any("test: 1 of 8 videos cannot be decoded" in text for text in missing)
    allowed = small(generated, tmp_path, "--data.allow_missing=true", "--data.on_decode_error=skip")
    assert check_ready([allowed], workers=1).missing == []


@pytest.mark.parametrize(("allowed", "refused"), [(False, True), (True, False)])
def test_records_that_repeat_a_video_are_refused_as_training_refuses_them(allowed: bool, refused: bool) -> None:
    found = readiness.Readiness()
    check = Check("Foo (9k)")
    check.lists["repeats"] = [{"split": "test", "id": "b", "same_as": "a"}]
    check.lists["damaged"] = [{"split": "test", "id": "c"}]
    reader = reader_of(ROOT / "experiments" / "clip4clip_msvd.yaml")
    split = SplitCheck("test", listed=9, found=9, repeats=1, damaged=1)
    readiness._judge(split, check, reader, {"allow_duplicates": allowed}, found)
    repeated = "data: Foo (9k) in data/msvd, test: 1 of 9 videos repeat another one of the split (b); `tvr data check`"
    assert any(text.startswith(repeated) for text in (found.missing if refused else found.notes))
    assert found.ready is not refused
    assert any("are damaged: parts of them decode (c)" in note for note in found.notes)


def test_a_video_of_the_test_that_is_trained_on(generated: Path, tmp_path: Path) -> None:
    run = small(generated, tmp_path)
    shutil.copy(files_of(tmp_path / "data", run.words, "train")[0], files_of(tmp_path / "data", run.words, "test")[0])
    (text,) = check_ready([run], workers=1).missing
    assert "test: 1 of 8 videos are training videos too" in text
    assert check_ready([small(generated, tmp_path, "--data.allow_duplicates=true")], workers=1).ready


def test_a_folder_that_cannot_be_written(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small(generated, tmp_path)
    monkeypatch.setattr(readiness.os, "access", lambda *_: False)
    (text,) = check_ready([run], workers=1).missing
    assert "is not writable; set --runs_dir" in text
