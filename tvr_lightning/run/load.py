"""An experiment or a finished run as objects: method, data module, configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.data.datamodule import VideoTextDataModule
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.run.build import build_cli, resolved_config


@dataclass(frozen=True)
class Experiment:
    """What an experiment file describes, built.

    Attributes:
        name: the experiment's name, the file's stem.
        model: the method with its encoders.
        data: the data module; call `setup(stage)` or hand it to a trainer.
        trainer_config: the keyword arguments of `pytorch_lightning.Trainer`.
        config: the complete resolved configuration, as a run folder keeps it.
    """

    name: str
    model: RetrievalModule[Any, Any]
    data: VideoTextDataModule
    trainer_config: dict[str, Any]
    config: dict[str, Any]


def load_experiment(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Experiment:
    """Builds the model and the data module that an experiment file describes, exactly as `tvr fit` does.

    Args:
        path: the YAML file.
        overrides: command-line settings without the dashes, e.g. `["data.batch_size=8"]`.

    Raises:
        ConfigError: the file, a parent, a key or a value does not fit.
    """
    config, _ = read_arguments(["--config", str(path), *(f"--{o.removeprefix('--')}" for o in overrides)])
    return build(config)


def build(config: Mapping[str, Any]) -> Experiment:
    """Builds an experiment without running it; see `tvr_lightning.load_experiment`."""
    cli = build_cli(config)
    trainer = cli.config_init.trainer.as_dict()
    return Experiment(cli.config.experiment, cli.model, cli.datamodule, trainer, resolved_config(cli))
