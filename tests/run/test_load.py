"""A run comes back as objects that give its figures again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from tvr_lightning import load_experiment, load_run
from tvr_lightning.commands.main import main
from tvr_lightning.errors import CheckpointError, ConfigError, RunError
from tvr_lightning.evaluation import encode_texts, encode_videos, score_all
from tvr_lightning.metrics import ranking_metrics

from ..kinds import first_fast
from ..small_runs import EXPERIMENT, run_arguments


@pytest.fixture(scope="module")
def run(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, whose best weights are not its last."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(["fit", *run_arguments(shapes_root, runs, "--run_id=a", "--model.optimizer.lr=0.05")]) == 0
    return runs / "clip4clip_shapes" / "a"


def figures(path: Path) -> dict[str, float]:
    """Test figures by the public functions alone."""
    exp = load_run(path)
    exp.data.setup("test")
    split = exp.data.split_of("test")
    captions, videos = exp.data.evaluation_loaders(split)
    scores = score_all(exp.model, encode_texts(exp.model, captions), encode_videos(exp.model, videos))
    return {f"test/{name}": value for name, value in ranking_metrics(scores, split.caption_video).items()}


def reported(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())["metrics"]


@pytest.mark.parametrize("path", first_fast([".", "checkpoints/best.ckpt"]))
def test_figures_are_the_run_s_own(run: Path, path: str) -> None:
    found = figures(run / path)
    assert len(found) > 10
    assert found == pytest.approx({name: reported(run)[name] for name in found}, rel=1e-6)


def test_weights_and_configuration_are_the_run_s(run: Path) -> None:
    exp = load_run(str(run), device="cpu")
    assert not exp.model.training
    assert exp.name == "clip4clip_shapes"
    assert exp.config == yaml.safe_load((run / "config.yaml").read_text()) | {"run_id": None}  # the name is taken
    assert not exp.data.splits
    for name in ("best", "last"):
        stored = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        loaded = load_run(run / "checkpoints" / f"{name}.ckpt").model.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in stored.items())
    assert not all(torch.equal(loaded[key], value) for key, value in exp.model.state_dict().items())
    assert load_run(run, device="meta").model.device.type == "meta"


def test_other_tokens_are_refused_when_data_is_set_up(run: Path) -> None:
    exp = load_run(run)
    assert exp.data.trained_tokenizer == exp.model.trained["tokenizer"]
    exp.data.trained_tokenizer = "of other captions"
    with pytest.raises(CheckpointError, match="another vocabulary"):
        exp.data.setup("test")


def test_what_is_no_run(run: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", run / "metrics.json", run.parent, EXPERIMENT):
        with pytest.raises(RunError, match=r"is not a run: no config\.yaml"):
            load_run(path)
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*third\.ckpt"):
        load_run(run / "checkpoints" / "third.ckpt")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_text("hello")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_run(tmp_path)


def test_an_experiment_has_no_trained_weights(run: Path, tmp_path: Path) -> None:
    for key in ("ckpt_path", "weights", "resume"):
        with pytest.raises(ConfigError, match=rf"{key} is last.*load_run\(folder\)"):
            load_experiment(run / "config.yaml", [f"{key}=last"])
    config = yaml.safe_load((run / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"ckpt_path": str(run)}))
    with pytest.raises(ConfigError, match="load_run"):
        load_experiment(tmp_path / "config.yaml")
    assert load_experiment(tmp_path / "config.yaml", ["ckpt_path=null"]).name == "clip4clip_shapes"
    # a run that began with another's weights has its own
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    assert load_run(tmp_path).model.trained is not None


@pytest.mark.parametrize(
    "words", first_fast([["{run}"], ["--ckpt_path={run}"], ["--ckpt_path", "{run}/checkpoints/best.ckpt"]])
)
def test_a_run_is_tested_under_its_own_settings(run: Path, tmp_path: Path, words: list[str]) -> None:
    named = [word.format(run=run) for word in words]
    assert main(["test", *named, f"--runs_dir={tmp_path}", "--run_id=t"]) == 0
    assert reported(tmp_path / "clip4clip_shapes" / "t") == reported(run)
    assert main(["predict", *named, f"--runs_dir={tmp_path}"]) == 0  # the run's own name is not taken over
    assert len(list(tmp_path.glob("*/*/predictions.parquet"))) == 1


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_settings_of_any_part_go_over_a_run_s_own(run: Path, shapes_root: Path, tmp_path: Path, command: str) -> None:
    over = ("--model.evaluation.resamples=0", "--data.annotations.root", str(shapes_root), "--data.batch_size=5")
    assert main([command, str(run), *over, f"--runs_dir={tmp_path}", "--run_id=t"]) == 0
    if command == "test":
        assert not json.loads((tmp_path / "clip4clip_shapes" / "t" / "metrics.json").read_text())["intervals"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["test"], 2, "needs an experiment"),
        (["test", "best"], 2, "needs an experiment"),
        (["test", "--model.num_layers=2"], 2, "needs an experiment"),
        (["fit", "--data.annotations.root=x"], 2, "needs an experiment"),
        (["test", "{run}", "--model.num_layer=2"], 2, "num_layers"),
        (["test", "{run}", "--model.evaluation.resamples=-1"], 2, "model.evaluation.resamples is -1; from 0"),
        (["test", "{run}", "--weights=x"], 2, "leave one out"),
        (["predict", "{tmp}"], 1, "is not a run: no config.yaml"),
        (["test", "{run}", "--data.batch_sise=3"], 2, "did you mean batch_size"),
        (["fit", "{run}"], 2, "is not a setting"),
    ],
)
def test_wrong_calls(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert main([word.format(run=run, tmp=tmp_path) for word in words]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("device", ["nope", "cuda:99", "-1", ""])
def test_a_device_that_is_none_is_a_sentence(run: Path, device: str) -> None:
    with pytest.raises(ConfigError, match="Give cpu, cuda or cuda:N"):
        load_run(run, device=device)
