"""Experiments that train nothing: encoders are tested as they are, and every result says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tvr_lightning import load_experiment, load_run
from tvr_lightning.commands.main import main
from tvr_lightning.config.compose import compose, experiments_in
from tvr_lightning.errors import ConfigError
from tvr_lightning.report.comparison import compare
from tvr_lightning.run.leakcheck import check_leak
from tvr_lightning.run.results import read_run
from tvr_lightning.search.source import load_source
from tvr_lightning.synthetic.noise import LeakProbe

from ..small_runs import run_arguments

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "experiments" / "clip_zero_shot_shapes.yaml"
ZERO_SHOT = [n for n in experiments_in(ROOT / "experiments") if n.startswith("clip_zero_shot_")]


@pytest.fixture
def command(shapes_root: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs a command on the zero-shot experiment over the tiny dataset."""

    def run(name: str, *more: str) -> int:
        words = [f"--data.annotations.root={shapes_root}", f"--runs_dir={tmp_path}", "--data.cache_frames=false"]
        return main([name, "--config", str(EXPERIMENT), *words, "--data.num_workers=0", "--tracker=none", *more])

    return run


def content_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def test_they_are_there_for_every_dataset() -> None:
    datasets = {path.stem for path in (ROOT / "experiments" / "data").glob("*.yaml")}
    assert {f"clip_zero_shot_{name}" for name in datasets} <= set(ZERO_SHOT)
    for name in ZERO_SHOT:
        assert compose(ROOT / "experiments" / f"{name}.yaml")["trains"] is False


def test_fit_and_test_are_the_same_and_train_nothing(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("fit", "--run_id=f") == 0
    shown = capsys.readouterr()
    said = [line for line in shown.err.splitlines() if line.startswith("tvr: ")]
    assert said == ["tvr: the experiment trains nothing (trains: false): it is tested as it is"]
    assert "zero-shot: nothing was trained" in shown.out
    assert command("test", "--run_id=t") == 0
    assert "tvr: " not in capsys.readouterr().err
    fit, tested = (tmp_path / "clip_zero_shot_shapes" / name for name in "ft")
    assert content_of(fit)["metrics"] == content_of(tested)["metrics"]
    left = {"config.yaml", "metrics.json", "ranks.parquet", "values.parquet", "gallery.json"}
    assert {path.name for path in fit.iterdir()} == left
    content = content_of(fit)
    assert content["trained"] == {"weights": None, "encoders_from": {}, "selection": "none"}
    assert (content["selected_on_test"], content["selected_by"], content["checkpoint"]) == (False, None, None)
    assert content["train_time_s"] == 0
    run = read_run(fit)
    assert run.untrained
    assert run.marks == []
    assert run.settings() == read_run(tested).settings()
    row = compare([run]).blocks[0].ranked[0]
    assert row.notes == ("zero-shot: nothing was trained",)
    assert main(["dashboard", "--runs_dir", str(tmp_path)]) == 0
    assert "zero-shot: nothing was trained" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_run_of_it_is_tested_predicted_and_loaded_again(command: Callable[..., int], tmp_path: Path) -> None:
    assert command("test", "--run_id=t") == 0
    run = tmp_path / "clip_zero_shot_shapes" / "t"
    assert main(["test", str(run), "--run_id=again"]) == 0
    assert content_of(run.with_name("again"))["metrics"] == content_of(run)["metrics"]
    assert command("predict", "--run_id=p") == 0
    assert (run.with_name("p") / "predictions.parquet").is_file()
    model = load_run(run).model
    assert not model.training
    assert [encoder.from_pretrained for encoder in model.encoders] == ["shapes"]
    assert load_source(str(run), "cpu").name == load_source(str(EXPERIMENT), "cpu").name == "clip_zero_shot_shapes"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fit", ["--resume=last"]),
        ("fit", ["--weights=best"]),
        ("fit", ["--ckpt_path=best"]),
        ("test", ["--ckpt_path=runs/x"]),
        ("predict", ["--ckpt_path=last"]),
    ],
)
def test_weights_are_refused_in_one_line(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: list[str]
) -> None:
    assert command(name, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tvr: {words[0]}: the experiment trains nothing")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "clip_zero_shot_shapes").exists()


@pytest.mark.slow
def test_any_experiment_can_be_told_not_to_train(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", *run_arguments(shapes_root, tmp_path, "--trains=false", "--run_id=a")]) == 0
    assert "random weights, that nothing trains, in encoder, temporal" in capsys.readouterr().err
    run = tmp_path / "clip4clip_shapes" / "a"
    assert content_of(run)["trained"]["selection"] == "none"
    assert yaml.safe_load((run / "config.yaml").read_text())["trains"] is False
    assert main(["test", *run_arguments(shapes_root, tmp_path, "--trains=perhaps")]) == 2


@pytest.mark.slow
def test_without_a_checkpoint_the_newest_run_s_best_weights_are_tested(shapes_root: Path, tmp_path: Path) -> None:
    assert main(["fit", *run_arguments(shapes_root, tmp_path, "--run_id=a")]) == 0
    assert main(["test", *run_arguments(shapes_root, tmp_path, "--run_id=t")]) == 0
    run = tmp_path / "clip4clip_shapes" / "a"
    content = content_of(run.with_name("t"))
    assert content["checkpoint"] == str(run / "checkpoints" / "best.ckpt")
    assert content["metrics"] == content_of(run)["metrics"]


def test_nothing_leaks_and_nothing_is_trained_on_noise() -> None:
    probe = LeakProbe(steps=2, pairs=64, videos=20, texts=40, batch_size=32)
    report = check_leak(["--config", str(EXPERIMENT)], probe)
    assert not report.leaks
    assert "The experiment trains nothing (trains: false): the method was tested untrained." in report.text()
    assert "Try another --lr" not in report.text()


def test_experiments_that_train_are_no_source_of_an_index() -> None:
    assert load_experiment(EXPERIMENT).config["trains"] is False
    with pytest.raises(ConfigError, match="weights have yet to be trained"):
        load_source("clip4clip_shapes", "cpu")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("words", "given"), [([], ""), (["CKPT=last"], " --ckpt_path=last")])
def test_make_names_a_checkpoint_only_where_it_is_given(tmp_path: Path, words: list[str], given: str) -> None:
    command = ["make", "-n", "-o", ".venv/.ready", "eval", "EXP=clip_zero_shot_shapes", *words]
    own = {name: value for name, value in os.environ.items() if name not in ("ARGS", "CKPT", "MAKEFLAGS")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60, env=own)
    printed = done.stdout
    line = next(line for line in printed.splitlines() if "tvr test" in line)
    assert " ".join(line.split()) == f".venv/bin/tvr test --config experiments/clip_zero_shot_shapes.yaml{given}"
