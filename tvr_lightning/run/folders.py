"""Folders of runs: where they lie, making one, going on in one, removing one that holds nothing."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from tvr_lightning.errors import ConfigError, RunError
from tvr_lightning.names import CHECKPOINTS, METRICS, PREDICTIONS
from tvr_lightning.run.build import ExperimentCLI, resolved_config
from tvr_lightning.run.checkpoints import check_settings, find_unfinished

RUN_FOLDER_VARIABLE = "TVR_RUN_ID"  # processes that Lightning starts for further devices write to the same run


def run_home(config: Any) -> Path:
    """The folder of an experiment's runs."""
    return Path(config.runs_dir, config.experiment)


def resumed_folder(cli: ExperimentCLI, command: str) -> Path:
    """The folder of the unfinished run that goes on, under the settings it began with.

    Raises:
        ConfigError: settings that contradict `--resume`.
        RunError: there is no such run, it is finished, or it began with other settings.
    """
    config = cli.config
    folder = going_on_in(config, command)
    if "LOCAL_RANK" in os.environ and RUN_FOLDER_VARIABLE in os.environ:
        return folder
    if config.run_id not in (None, folder.name):
        raise ConfigError(f"--resume goes on in {folder}; --run_id={config.run_id} names another folder")
    check_settings(folder, resolved_config(cli))
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    return folder


def going_on_in(config: Any, command: str) -> Path:
    """The folder that `--resume` means; processes of further devices get the one that the first found.

    Raises:
        ConfigError: settings that contradict `--resume`.
        RunError: there is no such run, or it is finished.
    """
    if command != "fit" or config.ckpt_path is not None:
        raise ConfigError(
            "--resume goes on with a run that did not finish: it is for `tvr fit`, and --ckpt_path is for new runs"
        )
    if "LOCAL_RANK" in os.environ and RUN_FOLDER_VARIABLE in os.environ:
        return Path(os.environ[RUN_FOLDER_VARIABLE])
    return find_unfinished(run_home(config), config.resume)


def make_run_folder(config: Any) -> Path:
    """Makes the folder of a new run; processes of further devices get the folder that the first one made.

    Raises:
        RunError: the folder exists, or cannot be made.
        ConfigError: the processes of a cluster need a common name.
    """
    if RUN_FOLDER_VARIABLE in os.environ and "LOCAL_RANK" in os.environ:
        return Path(os.environ[RUN_FOLDER_VARIABLE])
    rank = next((int(os.environ[name]) for name in ("RANK", "SLURM_PROCID") if name in os.environ), None)
    run_id = config.run_id
    if run_id is None:
        if rank is not None and int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1:
            raise ConfigError("several processes start this run, so they need a common name: set --run_id=NAME")
        run_id = f"{datetime.now():%Y%m%d-%H%M%S}-s{config.seed_everything}"
    folder = Path(run_home(config), run_id)
    if not rank:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise RunError(
                f"run folder {folder} exists; a run never writes over another. Choose another --run_id or remove it."
            ) from None
        except OSError as error:
            raise RunError(f"cannot make the run folder {folder}: {error.strerror}; set --runs_dir") from None
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    return folder


def remove_without_result(folder: Path) -> None:
    """Removes the folder of a run that failed before it had anything to keep, or only validated."""
    if not any((folder / name).exists() for name in (METRICS, PREDICTIONS, CHECKPOINTS)):
        shutil.rmtree(folder, ignore_errors=True)
