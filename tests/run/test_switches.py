"""Lightning's own switches: each ends in a right result, or in one line of error before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from tvr_lightning.commands.main import main
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.clip4clip import CLIP4Clip
from tvr_lightning.run.accelerators import ExperimentTrainer
from tvr_lightning.run.build import build_cli, resolved_config, with_defaults
from tvr_lightning.run.results import read_run
from tvr_lightning.run.switches import check_nodes, check_selection, check_switches

from ..kinds import first_fast
from ..small_runs import run_arguments, short_run

EARLY = "--trainer.callbacks+=EarlyStopping"
CHECKPOINT = "--trainer.callbacks+=ModelCheckpoint"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Puts back what switches set for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)
    torch.backends.cudnn.benchmark = False


def fit(data: Path, runs: Path, *more: str) -> tuple[int, dict[str, Any] | None]:
    """The exit code of a run and its result, None where it left none."""
    code = main(["fit", *run_arguments(data, runs, "--run_id=a", *more)])
    file = runs / "clip4clip_shapes" / "a" / "metrics.json"
    return code, json.loads(file.read_text()) if file.is_file() else None


WORKS: dict[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "share_of_training": (("limit_train_batches=0.5",), {"limits": {"train": 0.5, "val": 1.0}, "steps": {1, 2}}),
    "one_batch": (("limit_train_batches=1",), {"limits": {"train": 1, "val": 1.0}, "steps": {1, 2}}),
    "max_steps": (("max_steps=2",), {"selection": "last", "steps": {2}}),
    "late_validation": (("check_val_every_n_epoch=5",), {"selection": "last", "steps": {6}}),
    "steps_alone": (("max_steps=4", "max_epochs=-1"), {}),
    "max_time": (("max_time=00:01:00:00",), {}),
    "validation_by_steps": (("val_check_interval=2", "check_val_every_n_epoch=null"), {"steps": {2, 4, 6}}),
    "clipping_by_value": (("gradient_clip_algorithm=value",), {}),
    "no_clipping": (("gradient_clip_val=null",), {}),
    "accumulation": (("accumulate_grad_batches=2",), {"steps": {2, 4}}),
    "anomalies": (("detect_anomaly=true",), {}),
    "deterministic": (("deterministic=true", "benchmark=true"), {}),
    "profiler": (("profiler=simple",), {}),
    "bf16": (("precision=bf16",), {}),
    "no_logger": (("logger=false", "log_every_n_steps=0"), {}),
    "sanity": (("num_sanity_val_steps=-1", "reload_dataloaders_every_n_epochs=1"), {}),
    "unchanged": (("use_distributed_sampler=true", "inference_mode=true", "sync_batchnorm=true", "devices=auto"), {}),
    "no_checkpoints": (("enable_checkpointing=false",), {"selection": "last", "steps": {6}}),
    "no_summary": (("enable_model_summary=false", "enable_progress_bar=false", "min_epochs=1"), {}),
}


# what a fast run of the tests sees; each of the others takes as long
FAST = ("max_steps",)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in WORKS])
def test_a_switch_works(name: str, shapes_root: Path, tmp_path: Path) -> None:
    switches, expected = WORKS[name]
    code, result = fit(shapes_root, tmp_path, *(f"--trainer.{switch}" for switch in switches))
    assert code == 0
    assert result is not None
    assert result["data"]["captions"] == 8  # the whole test split
    assert not result["partial"]
    for key, value in expected.items():
        found = result["trained"][key]
        assert found in value if isinstance(value, set) else found == value, key


REFUSED = {
    "limit_train_batches=0.1": "limit_train_batches",  # found when the base of methods asks for the number of steps
    "overfit_batches=1": "data.subset",
    "overfit_batches=0.1": "data.subset",
    "barebones=true": "barebones",
    "default_root_dir=x": "--runs_dir",
    "model_registry=x": "model_registry",
    "precision=16": "for GPUs",
    "precision=half": "known: 16, 16-mixed",
    "accelerator=gpu": "accelerator=cpu",
    "accelerator=nothing": "Available names",
    "devices=0": "devices",
    "devices=-1": "devices",
    "strategy=dp": "strategy='dp'",
    "strategy=ddp_spawn": "Use ddp",
    "strategy=fsdp": "Use ddp",
    "strategy=deepspeed": "Use ddp",
    "num_nodes=0": "at least 1",
    "num_nodes=2": "torchrun",
    "profiler=nothing": "simple",
    "fast_dev_run=-1": "fast_dev_run",
    "limit_train_batches=0": "limit_train_batches",
    "limit_train_batches=1.5": "limit_train_batches",
    "limit_val_batches=0": "data.selection=last",
    "limit_val_batches=0.5": "of validation leaves none",
    "limit_test_batches=0": "without a result",
    "limit_test_batches=0.5": "of test leaves none",
    "max_epochs=0": "nothing would be trained",
    "max_epochs=-1": "set trainer.max_epochs",
    "max_steps=0": "nothing would be trained",
    "min_epochs=3": "more than trainer.max_epochs",
    "max_time=soon": "DD:HH:MM:SS",
    "val_check_interval=100": "val_check_interval",
    "check_val_every_n_epoch=0": "at least 1",
    "accumulate_grad_batches=0": "at least 1",
    "gradient_clip_val=-1": "at least 0",
    "gradient_clip_algorithm=foo": "['value', 'norm']",
    "logger=": "'' names no class",
    "logger=nothing": "names no class",
    "plugins=x": "names no class",
    "callbacks+=Nothing": "names no class",
    "callbacks+=EarlyStopping": "monitor",
}


@pytest.mark.parametrize("switch", first_fast(REFUSED, 6))
def test_a_switch_is_refused_in_one_line(
    switch: str, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = fit(shapes_root, tmp_path, f"--trainer.{switch}")
    error = capsys.readouterr().err
    assert (code, result) == (2, None)
    assert "Traceback" not in error
    said = error[error.rindex("tvr: ") :].strip()
    assert "\n" not in said
    assert REFUSED[switch] in said
    assert not list(tmp_path.glob("clip4clip_shapes/*"))  # nothing half-written


def test_a_share_without_a_batch_is_one_line_in_a_method_with_its_own_optimisers_too(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = short_run(
        "sptch_shapes_16", shapes_root, tmp_path, "--trainer.max_epochs=2", "--trainer.limit_train_batches=0.0001"
    )
    assert main(["fit", *words]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "tvr: trainer: You requested to check 0.0001" in error


def test_a_loss_that_a_method_names_as_their_sum_keeps_its_traceback(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        CLIP4Clip, "compute_losses", lambda self, *_: dict.fromkeys(("loss", "x"), self.logit_scale.log)
    )
    with pytest.raises(MisconfigurationException, match="twice"):
        fit(shapes_root, tmp_path)


def test_a_batch_is_never_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser makes 1 a float where a library wrote Optional[Union[float, int]] before Lightning wrote it turned."""

    def with_floats(name: str) -> None:
        plain = getattr(LightningArgumentParser, name)

        def changed(self: Any, *args: Any, **options: Any) -> Any:
            config = plain(self, *args, **options)
            if "trainer" in config:  # not a part of it
                config.trainer.limit_test_batches = float(config.trainer.limit_test_batches)
            return config

        monkeypatch.setattr(LightningArgumentParser, name, changed)

    with_floats("parse_args")
    with_floats("instantiate")
    words = ["--config=experiments/clip4clip_shapes.yaml", "--trainer.limit_test_batches=1"]
    cli = build_cli(read_arguments([*words, "--trainer.limit_val_batches=1.0"])[0])
    for config in (cli.config, cli.config_init):
        assert repr(config.trainer.limit_test_batches) == "1"
        assert repr(config.trainer.limit_val_batches) == "1.0"
    written = LightningArgumentParser.dump

    def dumped(self: Any, *args: Any, **options: Any) -> str:
        return str(written(self, *args, **options)).replace("limit_test_batches: 1\n", "limit_test_batches: 1.0\n")

    monkeypatch.setattr(LightningArgumentParser, "dump", dumped)
    content = resolved_config(cli)
    for settings in (content, with_defaults(cli, content)):
        assert repr(settings["trainer"]["limit_test_batches"]) == "1"
        assert repr(settings["trainer"]["limit_val_batches"]) == "1.0"
    for broken in (None, 3, [1]):
        with pytest.raises(ConfigError, match="trainer is"):
            with_defaults(cli, {**content, "trainer": broken})


def test_a_part_of_the_gallery_does_not_look_like_the_whole(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ("--trainer.limit_test_batches=1", "--trainer.limit_val_batches=1", "--trainer.limit_train_batches=2")
    code, result = fit(shapes_root, tmp_path, "--data.eval_batch_size=3", *limits)
    assert code == 0
    assert result is not None
    assert result["partial"]
    marks = read_run(tmp_path / "clip4clip_shapes" / "a").marks
    assert marks == ["not all batches", "not all training batches", "selected on a part"]
    assert "a part of the test split" in capsys.readouterr().out


def test_a_checkpoint_of_the_users_is_not_taken_for_the_selected_one(shapes_root: Path, tmp_path: Path) -> None:
    code, result = fit(shapes_root, tmp_path, CHECKPOINT, EARLY, "--trainer.callbacks.monitor=train/loss")
    assert code == 0
    assert result is not None
    assert Path(result["checkpoint"]).name == "best.ckpt"


def test_training_that_ends_before_a_validation_says_so(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(shapes_root, tmp_path, "--trainer.max_steps=1")[0] == 0
    assert "the last weights are tested" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("callback", "selection", "said"),
    [
        (EarlyStopping("val/SumR"), "validation", "set mode=max"),
        (EarlyStopping("val/t2v/MnR", mode="max"), "validation", "set mode=min"),
        (EarlyStopping("val/SumR", mode="max"), "last", "nothing validates"),
        (EarlyStopping("val_loss"), "validation", "did you mean|known"),
        (ModelCheckpoint(monitor="val/t2v/R@3", mode="max"), "validation", "val/t2v/R@"),
    ],
)
def test_a_callback_that_waits_for_the_wrong_figure_is_refused(callback: Any, selection: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_selection({"callbacks": [callback]}, selection)


@pytest.mark.parametrize("name", ["val/SumR", "val/leaky/t2v/R@1", "val/hash/t2v/mAP", "train/loss"])
def test_figures_that_exist_can_be_monitored(name: str) -> None:
    check_selection({"callbacks": [EarlyStopping(name, mode="max")]}, "validation")


def test_copies_of_this_process_are_refused_as_an_object_too() -> None:
    with pytest.raises(ConfigError, match="Use ddp"):
        check_switches({"strategy": DDPStrategy(start_method="fork")}, "fit")


def test_machines_that_were_started_by_hand_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = ExperimentTrainer(accelerator="cpu", devices=1, num_nodes=2, logger=False)
    with pytest.raises(ConfigError, match="torchrun"):
        check_nodes(trainer)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    check_nodes(trainer)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_each_command_refuses_its_own_limit(command: str) -> None:
    part = {"validate": "val"}.get(command, command)
    with pytest.raises(ConfigError, match=f"limit_{part}_batches is 0"):
        check_switches({f"limit_{part}_batches": 0, "accelerator": "cpu"}, command)


@pytest.mark.parametrize("similarity", first_fast(["seqTransf", "tightTransf"]))
def test_more_frames_than_positions(
    similarity: str, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = (f"--model.similarity={similarity}", "--data.num_frames=9", "--trainer.max_epochs=1")
    assert fit(shapes_root, tmp_path, *many, "--model.max_frames=8")[0] == 2
    assert "data.num_frames is 9" in capsys.readouterr().err
    assert fit(shapes_root, tmp_path, *many, "--model.max_frames=9")[0] == 0


@pytest.mark.slow
def test_frames_without_positions_have_no_limit(shapes_root: Path, tmp_path: Path) -> None:
    many = ("--model.similarity=meanP", "--data.num_frames=9", "--model.max_frames=8", "--trainer.max_epochs=1")
    assert fit(shapes_root, tmp_path, *many)[0] == 0
