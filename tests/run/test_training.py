"""Whole runs through the command line, on a dataset of 24 tiny videos."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tvr_lightning.commands.main import main

from ..kinds import first_fast
from ..small_runs import run_arguments

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(shapes_root: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs a command on the tiny dataset, with run folders below the test's own folder."""

    def run(name: str, *more: str) -> int:
        return main([name, *run_arguments(shapes_root, tmp_path / "runs", *more)])

    return run


@pytest.fixture(scope="module")
def trained(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run."""
    runs = tmp_path_factory.mktemp("trained")
    assert main(["fit", *run_arguments(shapes_root, runs, "--run_id=a")]) == 0
    return runs / "clip4clip_shapes" / "a"


def metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def test_a_run_leaves_what_the_specification_names(trained: Path, shapes_root: Path) -> None:
    assert {p.name for p in trained.iterdir()} == {
        *("config.yaml", "metrics.json", "ranks.parquet", "values.parquet", "checkpoints", "curves.csv"),
        "gallery.json",
    }
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    content = metrics(trained)
    assert content["dataset"] == "shapes"
    assert content["data"]["videos"] == content["data"]["captions"] == 8
    assert content["data"]["left_out"] == 0
    trained_how = content["trained"]
    assert trained_how["selection"] == "validation"
    assert (trained_how["seed"], trained_how["subset"]) == (0, None)
    assert trained_how["steps"] == 3 * trained_how["epochs"]  # of the epoch that validation chose
    assert not content["selected_on_test"]
    assert content["selected_by"] == "SumR"
    assert not content["partial"]
    assert content["seed"] == 0
    assert content["parameters"] > 1e6
    assert content["v2t"] == "sets"
    assert {"torch", "python", "tvr_lightning"} <= content["versions"].keys()
    assert content["peak_memory_mib"] > 0
    for name in ("test/t2v/R@1", "test/v2t/MnR", "test/SumR", "test/t2v/mAP", "test/probe/order"):
        assert name in content["metrics"]
    low, high = content["intervals"]["test/t2v/R@1"]
    assert low <= content["metrics"]["test/t2v/R@1"] <= high
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["experiment"] == "clip4clip_shapes"
    assert "defaults" not in config


def test_ranks_say_which_videos_each_query_found(trained: Path) -> None:
    rows = pq.read_table(trained / "ranks.parquet").to_pylist()
    assert len(rows) == 16
    content = metrics(trained)["metrics"]
    for direction in ("t2v", "v2t"):
        ours = [r for r in rows if r["direction"] == direction]
        assert sum(r["rank"] for r in ours) / 8 == pytest.approx(content[f"test/{direction}/MnR"])
        for row in ours:
            assert len(row["top_ids"]) == len(row["top_scores"]) == 8
            own = row["video"] if direction == "t2v" else f"{row['video']}#0"
            if row["tied_other"] == 0:
                assert row["top_ids"].index(own) + 1 == row["rank"]


def test_checkpoints_hold_no_code(trained: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["method"] == "tvr_lightning.methods.clip4clip.CLIP4Clip"
    assert content["trained"]["selection"] == "validation"
    assert content["optimizer_states"]


def test_a_seed_fixes_a_run_and_its_configuration_repeats_it(
    trained: Path, command: Callable[..., int], tmp_path: Path
) -> None:
    assert main(["fit", "--config", str(trained / "config.yaml"), f"--runs_dir={tmp_path}", "--run_id=again"]) == 0
    again = tmp_path / "clip4clip_shapes" / "again"
    assert metrics(again)["metrics"] == metrics(trained)["metrics"]
    a, b = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for r in (trained, again))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert command("fit", "--seed_everything=1", "--run_id=other") == 0
    other = torch.load(tmp_path / "runs/clip4clip_shapes/other/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(other["encoder.clip.visual.proj"], a["encoder.clip.visual.proj"])


@pytest.mark.parametrize("weights", ["best.ckpt", "run"])
def test_testing_a_checkpoint_gives_the_run_s_own_figures(
    trained: Path, command: Callable[..., int], tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained if weights == "run" else trained / "checkpoints" / weights
    assert command("test", f"--ckpt_path={path}", "--run_id=test") == 0
    content = metrics(tmp_path / "runs" / "clip4clip_shapes" / "test")
    assert content["metrics"] == metrics(trained)["metrics"]
    assert content["checkpoint"] == str(trained / "checkpoints" / "best.ckpt")
    assert "text -> video" in capsys.readouterr().out


def test_last_weights_are_the_last_and_nobody_s_choice(
    trained: Path, command: Callable[..., int], tmp_path: Path
) -> None:
    last = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["trained"]["steps"] == 6
    assert command("test", f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}", "--run_id=l") == 0
    content = metrics(tmp_path / "runs" / "clip4clip_shapes" / "l")
    assert content["trained"]["selection"] == "last"


def test_resuming_goes_on_from_the_last_epoch(trained: Path, command: Callable[..., int], tmp_path: Path) -> None:
    assert command("fit", f"--ckpt_path={trained}", "--trainer.max_epochs=3", "--run_id=r") == 0
    run = tmp_path / "runs" / "clip4clip_shapes" / "r"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["trained"]["steps"] == 9
    assert str(run) in metrics(run)["checkpoint"]


@pytest.mark.slow
def test_without_validation_the_last_weights_are_tested(command: Callable[..., int], tmp_path: Path) -> None:
    assert command("fit", "--data.selection=last", "--trainer.max_epochs=1", "--run_id=n") == 0
    run = tmp_path / "runs" / "clip4clip_shapes" / "n"
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert metrics(run)["trained"]["selection"] == "last"
    assert metrics(run)["selected_by"] is None
    assert command("test", "--data.selection=last", "--ckpt_path=best", "--run_id=t") == 0
    assert metrics(run.parent / "t")["metrics"] == metrics(run)["metrics"]
    assert command("validate", "--data.selection=last", "--ckpt_path=best") == 2


def test_words_mean_the_newest_run(trained: Path, shapes_root: Path) -> None:
    runs = trained.parents[1]
    assert main(["predict", *run_arguments(shapes_root, runs, "--ckpt_path=last", "--run_id=predicted")]) == 0
    rows = pq.read_table(runs / "clip4clip_shapes" / "predicted" / "predictions.parquet")
    assert rows.num_rows == 16


def test_validate(trained: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("validate", f"--ckpt_path={trained}") == 0
    out = capsys.readouterr().out
    assert out.count("val/SumR") == 1
    assert "DataLoader" not in out


@pytest.mark.parametrize(
    ("change", "code", "message"),
    first_fast(
        [
            (["--ckpt_path={tmp}/none.ckpt"], 1, "no checkpoint"),
            (["--ckpt_path={tmp}/text.ckpt"], 1, "cannot be read as a checkpoint"),
            (["--ckpt_path={tmp}/half.ckpt"], 1, "cannot be read as a checkpoint"),
            (["--ckpt_path={tmp}/other.ckpt"], 1, "is not a run's checkpoint"),
            (["--ckpt_path={run}", "--model.similarity=tightTransf"], 1, "of another size: cross"),
            (["--ckpt_path={run}", "--model.num_layers=1"], 1, "not part of the model"),
            (["--ckpt_path={method}"], 1, "the checkpoint holds x.Other"),
            (["--runs_dir={tmp}"], 2, "needs weights, and no run in "),
            (["--ckpt_path=best", "--runs_dir={tmp}"], 1, "has weights; train first"),
        ],
        3,
    ),
)
def test_wrong_weights(
    trained: Path, command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: list[str], code: int, message: str,
) -> None:  # fmt: skip
    (tmp_path / "text.ckpt").write_text("hello")
    best = trained / "checkpoints" / "best.ckpt"
    (tmp_path / "half.ckpt").write_bytes(best.read_bytes()[: best.stat().st_size // 2])
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    content = torch.load(best, weights_only=True)
    torch.save({**content, "method": "x.Other"}, tmp_path / "method.ckpt")
    places = {"tmp": tmp_path, "run": trained, "method": tmp_path / "method.ckpt"}
    assert command("test", *(c.format(**places) for c in change), "--run_id=t") == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs" / "clip4clip_shapes" / "t").exists()


def test_a_run_never_writes_over_another(trained: Path, shapes_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    assert main(["fit", *run_arguments(shapes_root, trained.parents[1], "--run_id=a")]) == 1
    assert "a run never overwrites another" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before


def test_a_loss_that_is_no_number_stops_with_step_and_videos(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("fit", "--model.optimizer.lr=1e30", "--trainer.gradient_clip_val=null", "--run_id=x") == 1
    error = capsys.readouterr().err
    assert "the loss of step 1 is not finite; its batch holds the videos video" in error
    assert not (tmp_path / "runs" / "clip4clip_shapes" / "x").exists()


def test_accumulation_says_that_negatives_do_not_grow(command: Callable[..., int]) -> None:
    with pytest.warns(UserWarning, match="negatives do not grow with accumulation"):
        command("fit", "--trainer.accumulate_grad_batches=2", "--trainer.fast_dev_run=2")


def test_selecting_on_test_marks_the_result(command: Callable[..., int], tmp_path: Path) -> None:
    assert command("fit", "--data.selection=test", "--trainer.max_epochs=1", "--run_id=s") == 0
    run = tmp_path / "runs" / "clip4clip_shapes" / "s"
    assert metrics(run)["selected_on_test"]
    assert command("test", f"--ckpt_path={run}", "--run_id=t") == 0
    assert metrics(run.parent / "t")["selected_on_test"]


def test_an_undecodable_gallery_video_stops_even_when_training_skips_such(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shapes_root, tmp_path / "data")
    ids = [line.split(",")[2] for line in (tmp_path / "data/MSRVTT_JSFUSION_test.csv").read_text().splitlines()[1:]]
    (tmp_path / "data" / "videos" / f"{ids[3]}.mp4").write_bytes(b"not a video")
    more = ["--data.on_decode_error=skip", "--trainer.max_epochs=1", "--run_id=s"]
    assert main(["fit", *run_arguments(tmp_path / "data", tmp_path, *more)]) == 1
    assert f"1 videos cannot be decoded ({ids[3]})" in capsys.readouterr().err
    assert (
        main(["fit", *run_arguments(tmp_path / "data", tmp_path, *more[:2], "--run_id=t", "--data.allow_missing=true")])
        == 0
    )
    content = metrics(tmp_path / "clip4clip_shapes" / "t")
    assert content["data"]["left_out"] == 1
    assert content["data"]["videos"] == 7


@pytest.mark.slow
@pytest.mark.parametrize(("tracker", "trace"), [("csv", "csv/metrics.csv"), ("tensorboard", "tensorboard/events*")])
def test_other_trackers(command: Callable[..., int], tmp_path: Path, tracker: str, trace: str) -> None:
    assert command("fit", f"--tracker={tracker}", "--trainer.max_epochs=1", "--run_id=r") == 0
    assert list((tmp_path / "runs" / "clip4clip_shapes" / "r").glob(trace))


@pytest.mark.slow
def test_wandb_is_offline_without_a_key(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert command("fit", "--tracker=wandb", "--trainer.max_epochs=1", "--run_id=r") == 0
    kept = list((tmp_path / "runs/clip4clip_shapes/r/wandb").glob("offline-run-*/run-*.wandb"))
    assert len(kept) == 1
    assert kept[0].stat().st_size > 0
    assert f"wandb sync {kept[0].parent}" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_keeps_the_weights(shapes_root: Path, tmp_path: Path) -> None:
    words = run_arguments(shapes_root, tmp_path, "--trainer.max_epochs=100000", "--run_id=c", "--data.selection=last")
    process = subprocess.Popen(
        [sys.executable, "-m", "tvr_lightning", "fit", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    last = tmp_path / "clip4clip_shapes" / "c" / "checkpoints" / "last.ckpt"
    try:
        deadline = time.monotonic() + 120
        while not last.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert "interrupted at step" in error
    assert torch.load(last, weights_only=True)["global_step"] > 0
