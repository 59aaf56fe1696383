"""What an experiment consists of: the options of a run, its trainer, its data and its method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from tvr_lightning.config.sources import Signature, Slot, signature

Tracker = Literal["wandb", "tensorboard", "csv", "none"]


@dataclass(frozen=True)
class RunOptions:
    """What belongs to a run and not to its trainer, data or method.

    Attributes:
        experiment: name; the configuration file's own.
        trains: false: nothing is trained, encoders are tested as they are.
        runs_dir: where run folders are made.
        run_id: the folder's name; the time when null.
        tracker: where curves are logged.
        ckpt_path: run to test, or to continue from with its optimiser.
        weights: run or checkpoint from which a new run takes only the weights; or a file of a method's released code.
        resume: unfinished run: `last`, folder, last.ckpt.
        checkpoint_every: optimiser steps between two saves of last.ckpt.
    """

    experiment: str = "unnamed"
    trains: bool = True
    runs_dir: str = "runs"
    run_id: str | None = None
    tracker: Tracker = "wandb"
    ckpt_path: str | None = None
    weights: str | None = None
    resume: str | None = None
    checkpoint_every: int = 200


# where a run lies and how often it is kept: nothing that its result is named by
WHERE_AND_HOW_OFTEN = tuple(
    option.name for option in fields(RunOptions) if option.name not in ("experiment", "trains", "weights")
)


def _root() -> Signature:
    options = signature(f"{__name__}.{RunOptions.__name__}")
    assert options
    return Signature(
        {
            # no bool: a seed that nobody knows repeats nothing
            "seed_everything": Slot("", "int", default="0", doc="seed of all random draws."),
            **options.slots,
            "trainer": Slot("", "tvr_lightning.run.accelerators.ExperimentTrainer", group=True),
            "data": Slot("", "tvr_lightning.data.datamodule.VideoTextDataModule", group=True),
            "model": Slot("", "tvr_lightning.methods.base.RetrievalModule"),
        }
    )


ROOT = _root()


def followed(model: Mapping[str, Any], takes: Callable[[Any, str], bool]) -> dict[str, str]:
    """Settings that take the value of another one, by their whole names; nobody gives them.

    Args:
        model: an experiment's `model`.
        takes: whether a value names a class whose constructor has an argument of that name.
    """
    links = {"data.seed": "seed_everything", "data.tokenizer.init_args.context_length": "data.max_words"}
    if takes(model, "num_frames"):
        links["model.init_args.num_frames"] = "data.num_frames"
    for name, value in (model.get("init_args") or {}).items():
        if takes(value, "context_length"):
            links[f"model.init_args.{name}.init_args.context_length"] = "data.max_words"
    return links


OF_ENCODER = {"size": "image_size", "resize": "resize"}
"""Settings of `data` that follow the encoder, and its attribute."""
