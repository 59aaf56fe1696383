"""Folders of runs: where they are, making one, resuming in one, removing an empty one."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from tvr_lightning.errors import ConfigError, RunError
from tvr_lightning.names import CHECKPOINTS, METRICS, PREDICTIONS, folder_below, is_name
from tvr_lightning.run.build import ExperimentCLI, resolved_config, with_defaults
from tvr_lightning.run.checkpoints import check_settings, find_unfinished

MOST_IN_ONE_SECOND = 1000
RUN_FOLDER_VARIABLE = "TVR_RUN_ID"  # processes that Lightning starts for further devices write to the same run


def run_home(config: Any) -> Path:
    """The folder of an experiment's runs.

    Raises:
        ConfigError: its name leads out of `runs_dir`.
    """
    return folder_below(config.runs_dir, config.experiment)


def check_names(config: Any) -> None:
    """Refuses names with which a run would lie elsewhere than in its experiment's folder.

    Raises:
        ConfigError: such a name.
    """
    run_home(config)
    if config.run_id is not None and not is_name(str(config.run_id)):
        raise ConfigError(
            f"run_id is {config.run_id!r}, which is not a folder name: a run lies in RUNS_DIR/EXPERIMENT/RUN_ID; "
            "set --runs_dir to have it elsewhere"
        )


def resumed_folder(cli: ExperimentCLI, command: str) -> Path:
    """The folder of the unfinished run that goes on, under the settings it began with.

    Raises:
        ConfigError: settings that contradict `--resume`.
        RunError: there is no such run, it is finished, or it was started with other settings.
    """
    config = cli.config
    folder = going_on_in(config, command)
    if "LOCAL_RANK" in os.environ and RUN_FOLDER_VARIABLE in os.environ:
        return folder
    if config.run_id not in (None, folder.name):
        raise ConfigError(f"--resume continues in {folder}; --run_id={config.run_id} names another folder")
    check_settings(folder, resolved_config(cli), partial(with_defaults, cli))
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    return folder


def going_on_in(config: Any, command: str) -> Path:
    """The folder that `--resume` means; processes of further devices get the one that the first found.

    Raises:
        ConfigError: settings that contradict `--resume`.
        RunError: there is no such run, or it is finished.
    """
    if command != "fit" or config.ckpt_path is not None:
        raise ConfigError("--resume continues an unfinished run: it is for `tvr fit`, and --ckpt_path is for new runs")
    if "LOCAL_RANK" in os.environ and RUN_FOLDER_VARIABLE in os.environ:
        return Path(os.environ[RUN_FOLDER_VARIABLE])
    return find_unfinished(run_home(config), config.resume)


def make_run_folder(config: Any) -> Path:
    """Makes the folder of a new run; processes of further devices get the folder that the first one made.

    Without a `run_id` its name is the time and the seed, and a number for runs that start in one second.

    Raises:
        RunError: the folder exists, or cannot be made.
        ConfigError: the processes of a cluster need a common name, or a name leads elsewhere.
    """
    if RUN_FOLDER_VARIABLE in os.environ and "LOCAL_RANK" in os.environ:
        return Path(os.environ[RUN_FOLDER_VARIABLE])
    check_names(config)
    rank = next((int(os.environ[name]) for name in ("RANK", "SLURM_PROCID") if name in os.environ), None)
    names = [config.run_id]
    if config.run_id is None:
        if rank is not None and int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1:
            raise ConfigError("several processes start this run, so they need a common name: set --run_id=NAME")
        name = f"{datetime.now():%Y%m%d-%H%M%S}-s{config.seed_everything}"
        names = [name, *(f"{name}-{number}" for number in range(2, MOST_IN_ONE_SECOND))]
    folders = [Path(run_home(config), name) for name in names]
    folder = folders[0] if rank else _make_first(folders)
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    return folder


def _make_first(folders: list[Path]) -> Path:
    """Makes the first of the folders that nobody has made; of several processes each gets one of its own.

    Raises:
        RunError: all exist, or it cannot be made.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"cannot make the run folder {folder}: {error.strerror}; set --runs_dir") from None
        return folder
    raise RunError(
        f"run folder {folders[-1]} exists; a run never overwrites another. Choose another --run_id or remove it."
    )


def remove_without_result(folder: Path) -> None:
    """Removes the folder of a run that failed before it had anything to keep, or only validated."""
    kept = [*(folder / CHECKPOINTS).glob("[!.]*"), *(p for n in (METRICS, PREDICTIONS) if (p := folder / n).exists())]
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
