"""An experiment or a trained run as objects: method, data module, configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tvr_lightning.config.arguments import TRUST, read_arguments
from tvr_lightning.config.compose import no_text
from tvr_lightning.data.datamodule import VideoTextDataModule
from tvr_lightning.device import open_device
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.names import CONFIG, run_of
from tvr_lightning.run.build import build_cli, resolved_config
from tvr_lightning.run.checkpoints import find_checkpoint, find_weights, restore
from tvr_lightning.run.released import released_of
from tvr_lightning.run.starting import start_from, trains


@dataclass(frozen=True)
class Experiment:
    """What an experiment file or a run describes, built.

    Attributes:
        name: the experiment's name, the file's stem.
        model: the method with its encoders.
        data: the data module; call `setup(stage)` or hand it to a trainer.
        trainer_config: the keyword arguments of `run.accelerators.ExperimentTrainer`, Lightning's trainer that knows
            `precision: auto`.
        config: the complete resolved configuration, as a run folder keeps it.
    """

    name: str
    model: RetrievalModule[Any, Any]
    data: VideoTextDataModule
    trainer_config: dict[str, Any]
    config: dict[str, Any]


def load_experiment(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Experiment:
    """Builds the model and the data module that an experiment file describes, as `tvr fit` does before it trains.

    Args:
        path: the YAML file, or the experiment's name.
        overrides: command-line settings without the dashes, e.g. `["data.batch_size=8"]`.

    Raises:
        ConfigError: the file, a parent, a key or a value does not fit, or it asks for trained weights.

    >>> load_experiment("mean_pool_shapes", ["data.batch_size=8"]).data.dataset
    'shapes'
    """
    config, _ = read_arguments(["--config", str(path), *(f"--{o.removeprefix('--')}" for o in overrides)])
    for key in ("ckpt_path", "weights", "resume"):
        if config.get(key) is not None:
            raise ConfigError(
                f"{key} is {config[key]}, but load_experiment builds a model without trained weights; load_run(folder) "
                f"returns a run's model with its weights. To build this experiment untrained, override {key}=null"
            )
    return build(config)


def load_run(path: str | os.PathLike[str], device: str | torch.device | None = None, trust: bool = False) -> Experiment:
    """Builds a run's method and data module as its folder describes them, and loads the weights that it trained.

    No pretrained weights are read or fetched: the checkpoint holds all weights, and says what its encoders compute.
    A run that trained nothing has no checkpoint: its encoders are built as its configuration says. One that tested
    weights of released code has them where they lay.
    The data module refuses in `setup` captions that give another vocabulary than these weights were trained with.

    Args:
        path: the run's folder, for the weights that its result came from; or one of its checkpoints.
        device: where the model goes; the CPU when None.
        trust: whether its configuration may import modules of the working directory.

    Returns:
        The run, its model in eval mode. No split is set up: call `data.setup("test")`.

    Raises:
        RunError: the path is not a run.
        CheckpointError: there are no weights, or they cannot be read or do not fit the run's configuration.
        ConfigError: the run's configuration no longer fits the suite, or names a module of the working directory; or
            there is no such device.

    A run's test split is encoded again by `run = load_run("runs/clip4clip_shapes/a")`, `run.data.setup("test")` and
    `evaluation.encode_split(run.model, split, run.data.evaluation_loaders(split))`, `split` being
    `run.data.split_of("test")`.

    >>> load_run("runs/none")
    Traceback (most recent call last):
    ...
    tvr_lightning.errors.RunError: ...
    """
    place = open_device("cpu" if device is None else device)
    folder = run_of(path)
    file = folder / CONFIG
    config, _ = read_arguments(["--config", no_text(file), *([TRUST] if trust else [])], file)
    if not trains(config):
        experiment = build(config)
        experiment.model.to(place).eval()
        return experiment
    released = released_of(folder)
    home, wanted = folder.parent, str(released or Path(path).absolute())
    checkpoint = find_checkpoint(home, wanted) if released is None else find_weights(home, wanted)
    experiment = build(config, checkpoint)
    model = experiment.model
    if released is None:
        restore(model, checkpoint)
    else:
        start_from(model, released)
    model.to(place).eval()
    experiment.data.tokenizer.restore(model.vocabulary)
    experiment.data.trained_tokenizer = (model.trained or {}).get("tokenizer")
    return experiment


def build(config: Mapping[str, Any], checkpoint: Path | None = None) -> Experiment:
    """Builds an experiment without running it; see `tvr_lightning.load_experiment`.

    Args:
        config: a composed experiment.
        checkpoint: whose encoders the model gets, though not yet their weights.
    """
    cli = build_cli(config, (), lambda _: checkpoint)
    trainer = cli.config_init.trainer.as_dict()
    return Experiment(cli.config.experiment, cli.model, cli.datamodule, trainer, resolved_config(cli))
