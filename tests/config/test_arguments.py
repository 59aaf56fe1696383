"""Misspelt names are found without importing torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tvr_lightning.config.arguments import check_config, read_arguments
from tvr_lightning.config.compose import experiments_in
from tvr_lightning.errors import ConfigError

from ..kinds import composed

ANNOTATIONS = "tvr_lightning.data.annotations.msrvtt"
CLASS = "tvr_lightning.methods.clip4clip.CLIP4Clip"
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def read(*settings: str) -> dict[str, Any]:
    return read_arguments(["--config", str(EXPERIMENTS / "clip4clip_shapes.yaml"), *settings])[0]


@pytest.mark.parametrize("name", experiments_in(EXPERIMENTS))
def test_every_experiment_passes(name: str) -> None:
    check_config(composed(EXPERIMENTS / f"{name}.yaml"), name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dta": {}}, "unknown key 'dta'; did you mean data?"),
        ({"trainer": {"max_epoch": 1}}, "unknown key 'trainer.max_epoch'; did you mean max_epochs"),
        ({"data": {"batch_sise": 1}}, "unknown key 'data.batch_sise'; did you mean batch_size"),
        ({"data": {"batch_size": "many"}}, r"data.batch_size: 'many' does not fit; expected int"),
        ({"data": {"batch_size": True}}, r"data.batch_size: True does not fit"),
        ({"data": {"sampling": "unifrm"}}, "did you mean uniform"),
        ({"data": {"annotations": {"class_path": f"{ANNOTATIONS}.MSRVT"}}}, "did you mean MSRVTT"),
        ({"model": {"init_args": {}}}, "model has no class_path"),
        ({"model": [1, 2]}, r"model is \[1, 2\]; it holds names and values"),
        ({"model": "lean"}, "model is 'lean'; it holds"),
        ({"data": 3}, "data is 3; it holds"),
        ({"trainer": []}, r"trainer is \[\]; it holds"),
        ({"trainer": None}, "x.yaml: trainer is empty; leave it out, or give it names and values"),
        ({"model": None}, "x.yaml: model is empty"),
        ({"model": {"class_path": CLASS, "init_args": 7}}, "model.init_args is 7; it holds names and values"),
        ({"model": {"class_path": "tvr_lightning.methods.clip4clp.CLIP4Clip"}}, "did you mean tvr_lightning.methods"),
        ({"model": {"class_path": "tvr_lightning.methods.clip4clip.Clip4Clip"}}, "did you mean CLIP4Clip"),
        ({"model": {"class_path": CLASS, "similarity": "meanP"}}, "init_args"),
        (
            {"model": {"class_path": CLASS, "init_args": {"optimizer": {"rl": 1}}}},
            "unknown key 'model.init_args.optimizer.rl'",
        ),
    ],
)  # fmt: skip
def test_wrong_keys_and_values_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(change, "x.yaml")


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("data.batch_size=8", "data.batch_size", 8),
        ("data.fps=null", "data.fps", None),
        ("data.fps=2", "data.fps", 2),
        ("data.annotations.root=/x y", "data.annotations.init_args.root", "/x y"),
        ("run_id=007", "run_id", "007"),
        ("model.similarity=meanP", "model.init_args.similarity", "meanP"),
        ("model.encoder.from_pretrained=null", "model.init_args.encoder.init_args.from_pretrained", None),
        ("model.init_args.encoder.init_args.freeze_layers=3", "model.init_args.encoder.init_args.freeze_layers", 3),
        ("model.optimizer.lr=1e-4", "model.init_args.optimizer.lr", 1e-4),
        ("model.evaluation.chunk_size=5", "model.init_args.evaluation.chunk_size", 5),
        ("trainer.callbacks+=LearningRateMonitor", "trainer.callbacks", ["LearningRateMonitor"]),
        ("trainer.devices=auto", "trainer.devices", "auto"),
    ],
)
def test_settings_land_where_they_belong(setting: str, place: str, value: object) -> None:
    option, _, text = setting.partition("=")
    for words in ([f"--{setting}"], [f"--{option}", text]):
        here: Any = read(*words)
        for part in place.split("."):
            here = here[part]
        assert here == value


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("--data.batchsize=8", "unknown key 'data.batchsize'; did you mean batch_size"),
        ("--batch_size=8", "unknown key 'batch_size'"),
        ("--data.num_frames=x", "'x' does not fit; expected int"),
        ("--data.selection=tset", "did you mean test"),
        ("--model.encoder.modl=tiny", "did you mean model"),
        ("--model.optimizer.learning_rate=1", "unknown key 'model.init_args.optimizer.learning_rate'"),
        ("--data.annotations.init_args.rooot=/x", "did you mean root"),
        ("--seed_everything=true", "True does not fit; expected int"),
        ("--tracker=wandbb", "did you mean wandb"),
        ("--data.batch_size.x=1", "batch_size is 96, which has no parts"),
        ("--data.batch_size", "has no value"),
        ("data.batch_size=1", "is not a setting; settings look like"),
    ],
)
def test_wrong_settings_are_named(bad: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(bad)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["fit", "--config", "experiments/clip4clip_shapes.yaml", "--data.x=1"]]
)
def test_answers_come_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom tvr_lightning.commands.main import main\ncode = main(sys.argv[1:])\n"
        "print(code, 'torch' in sys.modules, 'pytorch_lightning' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=EXPERIMENTS.parent
    )
    assert done.stdout.splitlines()[-1] == f"{0 if arguments == ['--help'] else 2} False False"
