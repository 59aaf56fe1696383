"""Names that several rooms write and read, without loading torch: of figures, and of what lies in a run's folder."""

from __future__ import annotations

import os
from pathlib import Path

from tvr_lightning.errors import ConfigError, RunError

LEAKY = "leaky/"  # begins the name of every figure whose scores read the ground truth
HASH_BASELINES = PCA, RANDOM, CHANCE = "pca", "random", "chance"  # codes that nobody learned

CONFIG, METRICS, CHECKPOINTS = "config.yaml", "metrics.json", "checkpoints"
BEST, LAST = "best.ckpt", "last.ckpt"
UNTRAINED = "none"  # what selected the weights of a result for which nothing was trained
RELEASED = "released"  # the same where the weights are those of a method's released code as they are
PROBE, PROBE_CHANCE = "probe/", 25.0  # begins their names; percent of minimal pairs that are told apart by chance
RANKS, PREDICTIONS, VALUES = "ranks.parquet", "predictions.parquet", "values.parquet"


def folder_below(runs_dir: str | os.PathLike[str], experiment: str) -> Path:
    """The folder that an experiment's name means, which a configuration of others may have given.

    Raises:
        ConfigError: the name leads out of `runs_dir`, or is none.

    >>> folder_below("runs", "lean_shapes").as_posix()
    'runs/lean_shapes'
    >>> folder_below("runs", "../x")
    Traceback (most recent call last):
        ...
    tvr_lightning.errors.ConfigError: experiment is '../x', which is not a folder below runs_dir; ...
    """
    parts = str(experiment).split("/")
    if not all(map(is_name, parts)):
        raise ConfigError(
            f"experiment is {experiment!r}, which is not a folder below runs_dir; give a plain name, such as "
            "lean_shapes, and set --runs_dir to have runs elsewhere"
        )
    return Path(runs_dir, *parts)


def is_name(part: str) -> bool:
    """Whether a text is the name of a file or folder, and leads nowhere else."""
    return part not in ("", ".", "..") and "/" not in part and "\0" not in part


def run_of(path: str | os.PathLike[str]) -> Path:
    """The folder of the run that a path means: the path itself, or where the checkpoint lies.

    Raises:
        RunError: it is not a run.

    >>> run_of("runs/none/checkpoints/best.ckpt")
    Traceback (most recent call last):
        ...
    tvr_lightning.errors.RunError: runs/none/checkpoints/best.ckpt is not a run: no config.yaml in runs/none; ...
    """
    folder = Path(path)
    if folder.parent.name == CHECKPOINTS:
        folder = folder.parents[1]
    try:
        there = (folder / CONFIG).is_file()
    except OSError:  # a name longer than the system takes
        there = False
    if not there:
        raise RunError(f"{path} is not a run: no {CONFIG} in {folder}; give the folder of a run, such as "
                       f"runs/EXPERIMENT/NAME, or a checkpoint in it")  # fmt: skip
    return folder
