"""Experiment files: composing `defaults:`, and turning a file into a model and a data module.

A file's `defaults: [trainer/x, data/y, method/z]` names its parents, relative to the `experiments` folder it lies
in. Parents are merged in order, then the file on top; `${...}` is resolved over the merged whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_lightning.errors import ConfigError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig


PARTS = ("trainer", "data", "method")
GRIDS = "ablations"


def experiments_in(folder: Path) -> list[str]:
    """Names of the experiments in a folder, sorted; shared parts, grids and the papers' figures are left out."""
    return sorted(
        p.relative_to(folder).with_suffix("").as_posix()
        for p in folder.rglob("*.yaml")
        if p.relative_to(folder).parts[0] not in (*PARTS, GRIDS, "reported.yaml")
    )


def compose(path: Path) -> dict[str, Any]:
    """Reads an experiment file, merges its parents and resolves interpolation.

    Raises:
        ConfigError: the file or a parent is missing, is no mapping, or holds broken YAML or interpolation.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not path.is_file():
        folder = path.parent
        own = (p.stem for p in folder.glob("*.yaml"))  # not of the folders below: they may be a whole project's
        near = nearest(path.stem, own) if folder.is_dir() else f"there is no folder {folder}"
        raise ConfigError(f"no experiment file {path}: {near}")
    config = _read(path)
    parents = config.pop("defaults", None) or []
    if isinstance(parents, str):
        parents = [parents]
    home = _home(path)
    merged: DictConfig = OmegaConf.create({})
    try:
        for parent in parents:
            merged = OmegaConf.merge(merged, _read_parent(home, str(parent), path))  # type: ignore[assignment]
        merged = OmegaConf.merge(merged, config)  # type: ignore[assignment]
        resolved = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None
    return resolved  # type: ignore[return-value]


def _home(path: Path) -> Path:
    """The folder that parents are named from: the nearest ancestor that has the shared parts."""
    for folder in path.absolute().parents:
        if any((folder / part).is_dir() for part in PARTS):
            return folder
    return path.absolute().parent


def _read_parent(home: Path, parent: str, child: Path) -> DictConfig:
    file = home / f"{parent}.yaml"
    if not file.is_file():
        known = [p.relative_to(home).with_suffix("").as_posix() for part in PARTS for p in (home / part).glob("*.yaml")]
        raise ConfigError(f"{child}: defaults name '{parent}', but there is no {file.name} in {file.parent}; "
                          f"{nearest(parent, known)}")  # fmt: skip
    config = _read(file)
    if "defaults" in config:
        raise ConfigError(f"{file}: a shared part has no `defaults` of its own; name its parents in {child.name}")
    return config


def _read(path: Path) -> DictConfig:
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from None
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path}: an experiment is a mapping of `trainer`, `data` and `model`, this file is not")
    return config
