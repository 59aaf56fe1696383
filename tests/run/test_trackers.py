"""What a tracker is told of a run: its whole configuration, a name of its own, what it did and why it is marked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.offline_wandb import end_wandb, offline_file, read_items, records_of, wait_for_end
from tests.small_runs import run_arguments
from tvr_lightning.commands.main import main
from tvr_lightning.run.results import read_run
from tvr_lightning.run.trackers import Tracked, run_name
from tvr_lightning.run.wandb_account import wandb_has_key

KEYS = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_NOTES", "WANDB_BASE_URL")


@pytest.fixture(scope="module")
def runs(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run selected on test, `a`, tested again twice: tracked by W&B, `b`, and by TensorBoard, `c`."""
    end_wandb()
    runs = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        for name in KEYS:
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", str(runs / "netrc"))
        for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(variable, str(runs / variable))
        tracked = ["--tracker=wandb", "--run_id=a", "--data.selection=test", "--trainer.max_epochs=1"]
        assert main(["fit", *run_arguments(shapes_root, runs, *tracked)]) == 0
        end_wandb()
        home = runs / "clip4clip_shapes"
        patch.setenv("WANDB_NOTES", "second look")
        assert main(["test", str(home / "a"), "--tracker=wandb", "--run_id=b"]) == 0
        end_wandb()
        assert main(["test", str(home / "a"), "--tracker=tensorboard", "--run_id=c"]) == 0
    for name in "ab":
        wait_for_end(offline_file(home / name))
    yield home
    end_wandb()


def kept(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The last state of the run in W&B's file, and its configuration."""
    run, config = None, {}
    for record in records_of(offline_file(folder)):
        if record.WhichOneof("record_type") == "run":
            run = record.run
            config |= read_items(run.config.update)
        elif record.WhichOneof("record_type") == "config":
            config |= read_items(record.config.update)
    return run, config


def test_whole_configuration_is_the_hyperparameters(runs: Path) -> None:
    _, config = kept(runs / "a")
    resolved = yaml.safe_load((runs / "a" / "config.yaml").read_text())
    assert {key: config.get(key) for key in resolved} == resolved
    assert config["model"]["init_args"]["optimizer"]["lr"] == resolved["model"]["init_args"]["optimizer"]["lr"]


@pytest.mark.parametrize(("name", "job", "noted"), [("a", "train", ""), ("b", "test", "second look\n")])
def test_name_job_and_notes(runs: Path, name: str, job: str, noted: str) -> None:
    run, config = kept(runs / name)
    assert (run.display_name, run.job_type, run.run_group) == (f"clip4clip_shapes-0-{name}", job, "shapes")
    marks = "; ".join(read_run(runs / name).marks)
    assert "selected on test" in marks
    assert config["marks"] == marks
    assert run.notes == f"{noted}Not ranked with plain figures: {marks}. See docs/comparing.md."


def test_a_part_of_a_run_that_goes_on_has_a_name_of_its_own(runs: Path) -> None:
    run = Tracked("clip4clip_shapes", 0, {}, "shapes", "train", ())
    assert run_name(run, runs / "a") == "clip4clip_shapes-0-a-part2"


def test_tensorboard_has_hyperparameters_beside_the_figures(runs: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(runs / "c" / "tensorboard"))
    events.Reload()
    told = {}
    for tag in ("experiment", "session_start_info"):
        content = events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
        told[tag] = getattr(plugin_data_pb2.HParamsPluginData.FromString(content), tag)
    hparams = told["session_start_info"].hparams
    assert hparams["seed_everything"].number_value == 0
    assert hparams["model/class_path"].string_value == "tvr_lightning.methods.clip4clip.CLIP4Clip"
    assert hparams["data/selection"].string_value == "test"
    metrics = read_run(runs / "c").content["metrics"]
    assert {info.name.tag for info in told["experiment"].metric_infos} == metrics.keys()
    assert events.Scalars("test/SumR")[-1].value == pytest.approx(metrics["test/SumR"], rel=1e-5)
    assert "hp_metric" not in events.Tags()["scalars"]


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_online_without_a_key_is_a_sentence(
    no_key: Path, shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    assert main(["fit", *run_arguments(shapes_root, tmp_path / "runs", "--tracker=wandb")]) == 2
    error = capsys.readouterr().err
    assert "tvr: WANDB_MODE is online, and there is no W&B key: set WANDB_API_KEY" in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_online_with_a_key_that_is_refused_is_a_sentence(
    no_key: Path, shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    end_wandb()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert main(["fit", *run_arguments(shapes_root, tmp_path / "runs", "--tracker=wandb")]) == 2
    error = capsys.readouterr().err
    assert "tvr: WANDB_MODE is online, and W&B refuses the key" in error
    assert "Traceback" not in error
    assert not [*tmp_path.glob("runs/*/*")]


@pytest.mark.parametrize("host", ["api.wandb.ai", "api.forge.coreweave.com"])
def test_a_login_counts_under_either_of_the_hosts(no_key: Path, host: str) -> None:
    assert not wandb_has_key()
    no_key.write_text(f"machine {host} login user password {'x' * 40}\n")
    assert wandb_has_key()


def test_a_login_counts_for_its_own_server_alone(no_key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_key.write_text(f"machine api.wandb.ai login user password {'x' * 40}\n")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.lab.org")
    assert not wandb_has_key()
