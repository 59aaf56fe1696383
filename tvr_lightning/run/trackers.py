"""Where curves go: W&B (the default, offline without a key), TensorBoard or CSV."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from tvr_lightning.config.options import Tracker
from tvr_lightning.errors import ConfigError, one_line
from tvr_lightning.run.lightning_private import without_deprecated
from tvr_lightning.run.wandb_account import wandb_has_key, wandb_project
from tvr_lightning.visible import say

WANDB_INIT_TIMEOUT_S = 30.0
MAX_PARTS = 1000  # of a resumed run


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told of a run at its start.

    Attributes:
        experiment: its name.
        seed: of the run.
        settings: the whole resolved configuration: its hyperparameters.
        group: the dataset: W&B puts the runs of a group side by side.
        job_type: whether it trains.
        tags: method, encoder, split.
    """

    experiment: str
    seed: int
    settings: Mapping[str, Any]
    group: str
    job_type: Literal["train", "test"]
    tags: Sequence[str]


def build_tracker(tracker: Tracker, folder: Path, run: Tracked) -> Logger | bool:
    """Builds the logger of a run.

    Args:
        tracker: which one.
        folder: the run's folder; everything is written below it.
        run: what it is told.

    Raises:
        ConfigError: W&B refuses the key, and WANDB_MODE=online asks for it.
    """
    if tracker == "none":
        return False
    if tracker == "csv":
        # Lightning deletes the file of a run's first part when a resumed run would write to the same folder
        names = ("csv", *(f"csv-{part}" for part in range(2, MAX_PARTS)))
        return CSVLogger(folder, name="", version=next(name for name in names if not (folder / name).exists()))
    if tracker == "tensorboard":
        # without its own `hp_metric` of -1: `log_result` gives the hyperparameters the figures of the test
        logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False)
        logger.log_hyperparams(dict(run.settings))
        return logger
    return _wandb(folder, run)


def log_result(logger: Logger, metrics: Mapping[str, float], step: int) -> None:
    """Gives a tracker the figures of a test, beside the hyperparameters that it was told at the start.

    Args:
        logger: of the run.
        metrics: by name, as in `metrics.json`.
        step: of the training.
    """
    if isinstance(logger, WandbLogger):
        logger.experiment.summary.update(dict(metrics))
    elif isinstance(logger, TensorBoardLogger) and logger.hparams:
        logger.log_hyperparams(dict(logger.hparams), dict(metrics), step)


def run_name(run: Tracked, folder: Path) -> str:
    """The run's name in W&B, which no other has: a run that goes on is another run there, the next part.

    >>> run = Tracked("lean_shapes", 3, {}, "shapes", "train", ())
    >>> run_name(run, Path("runs/lean_shapes/a"))
    'lean_shapes-3-a'
    """
    parts = len([*folder.glob("wandb/*run-*")])
    return f"{run.experiment}-{run.seed}-{folder.name}" + (f"-part{parts + 1}" if parts else "")


def is_first_rank() -> bool:
    """Whether this process is the one that writes; before a trainer exists, the environment tells."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def _wandb(folder: Path, run: Tracked) -> WandbLogger | bool:
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    # what W&B caches or stages belongs to the run, not to a home folder that may be read-only
    for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        os.environ.setdefault(variable, str(folder / "wandb" / variable.split("_")[1].lower()))
    if os.environ.get("WANDB_MODE") == "disabled":
        return False
    mode = os.environ.get("WANDB_MODE")
    offline = (mode or ("online" if wandb_has_key() else "offline")) != "online"
    name = run_name(run, folder)

    def start(offline: bool) -> WandbLogger:
        logger = without_deprecated(
            WandbLogger(
                project=wandb_project(), name=name, save_dir=folder, group=run.group, job_type=run.job_type,
                tags=list(run.tags), config=dict(run.settings), offline=offline,
                settings=wandb.Settings(init_timeout=WANDB_INIT_TIMEOUT_S),
            )
        )  # fmt: skip
        _ = logger.experiment  # starts the run now: a failure belongs to the start, not to the first step
        return logger

    try:
        logger = start(offline)
    except wandb.errors.AuthenticationError as error:
        if mode == "online":
            raise ConfigError(f"WANDB_MODE is online, and W&B refuses the key: {one_line(error)}") from None
        say(f"W&B refuses the key ({one_line(error)}); this run is logged offline", file=sys.stderr)
        offline, logger = True, start(True)
    except wandb.errors.CommError as error:
        say(f"W&B cannot be reached ({one_line(error)}); this run is logged offline", file=sys.stderr)
        offline, logger = True, start(True)
    if offline and is_first_rank():
        kept = Path(logger.experiment.dir).parent
        say(f"W&B: offline, saved in {kept}; upload it with: wandb sync {kept}", file=sys.stderr)
    return logger
