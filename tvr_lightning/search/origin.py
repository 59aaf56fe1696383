"""What is to encode the videos of an index, looked at by its name before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.compose import find_file, known_experiments
from tvr_lightning.data.stores.files import is_file
from tvr_lightning.data.stores.reading import is_there
from tvr_lightning.errors import ConfigError, nearest


def names_run(path: str) -> bool:
    """Whether what a user wrote is a run or one of its checkpoints; else it is an experiment that trains nothing.

    Raises:
        ConfigError: it is neither: nothing of that name is there, or the experiment's weights have yet to be trained.

    >>> names_run("clip_zero_shot_shapes")
    False
    >>> names_run("clip_zero_shot_shape")
    Traceback (most recent call last):
        ...
    tvr_lightning.errors.ConfigError: there is no run and no experiment clip_zero_shot_shape; did you mean ...
    """
    if is_there(Path(path), folder=True) or path.endswith(".ckpt"):
        return True
    if not is_file(find_file(path)):
        near = nearest(path, known_experiments()) if len(path) < 80 else ""
        hint = f"; {near} Give" if near.startswith("did you mean") else ": give"
        raise ConfigError(
            f"there is no run and no experiment {path}{hint} the folder of a run, such as runs/EXPERIMENT/NAME, one of "
            "its checkpoints, or an experiment that trains nothing, such as clip_zero_shot_msrvtt"
        )
    config = read_arguments(["--config", path])[0]
    if config.get("trains", True):
        raise ConfigError(
            f"{path} is an experiment whose weights have yet to be trained: give the folder of a run of it, such as "
            f"runs/{config['experiment']}/NAME, or an experiment that trains nothing, such as clip_zero_shot_msrvtt"
        )
    return False
