"""Where curves go: W&B (the default, offline without a key), TensorBoard or CSV."""

from __future__ import annotations

import netrc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from tvr_lightning.config.options import Tracker
from tvr_lightning.run.lightning_private import without_deprecated
from tvr_lightning.visible import say

WANDB_INIT_TIMEOUT_S = 30.0
MAX_PARTS = 1000  # of a resumed run


def build_tracker(tracker: Tracker, folder: Path, experiment: str, group: str, tags: Sequence[str]) -> Logger | bool:
    """Builds the logger of a run.

    Args:
        tracker: which one.
        folder: the run's folder; everything is written below it.
        experiment: the run's name in W&B.
        group: the dataset: W&B puts the runs of a group side by side.
        tags: method, encoder, split.
    """
    if tracker == "none":
        return False
    if tracker == "csv":
        # Lightning deletes the file of a run's first part when a resumed run would write to the same folder
        names = ("csv", *(f"csv-{part}" for part in range(2, MAX_PARTS)))
        return CSVLogger(folder, name="", version=next(name for name in names if not (folder / name).exists()))
    if tracker == "tensorboard":
        return TensorBoardLogger(folder, name="", version="tensorboard")
    return _wandb(folder, experiment, group, tags)


def wandb_has_key() -> bool:
    """Whether W&B could log in: a key in the environment or a login in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def wandb_project() -> str:
    """The project in W&B that runs and their report go to."""
    return os.environ.get("WANDB_PROJECT", "tvr_lightning")


def is_first_rank() -> bool:
    """Whether this process is the one that writes; before a trainer exists, the environment tells."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def _wandb(folder: Path, experiment: str, group: str, tags: Sequence[str]) -> WandbLogger | bool:
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    # what W&B caches or stages belongs to the run, not to a home folder that may be read-only
    for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        os.environ.setdefault(variable, str(folder / "wandb" / variable.split("_")[1].lower()))
    if os.environ.get("WANDB_MODE") == "disabled":
        return False
    offline = os.environ.get("WANDB_MODE", "online" if wandb_has_key() else "offline") != "online"

    def start(offline: bool) -> WandbLogger:
        logger = without_deprecated(
            WandbLogger(
                project=wandb_project(),
                name=experiment, save_dir=folder, group=group, tags=list(tags), offline=offline,
                settings=wandb.Settings(init_timeout=WANDB_INIT_TIMEOUT_S),
            )
        )  # fmt: skip
        _ = logger.experiment  # starts the run now: a failure belongs to the start, not to the first step
        return logger

    try:
        logger = start(offline)
    except wandb.errors.CommError as error:
        say(f"W&B cannot be reached ({error}); this run is logged offline", file=sys.stderr)
        offline, logger = True, start(True)
    if offline and is_first_rank():
        run = Path(logger.experiment.dir).parent
        say(f"W&B: offline, saved in {run}; upload it with: wandb sync {run}", file=sys.stderr)
    return logger
