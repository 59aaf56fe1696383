"""Readers alone: the one that an experiment names, and those that there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.objects import build_reader
from tvr_lightning.data import annotations as readers
from tvr_lightning.data.annotations.base import Annotations
from tvr_lightning.errors import ConfigError


def data_of(config: Path, settings: Sequence[str] = ()) -> tuple[Annotations, Mapping[str, Any]]:
    """Builds the reader that an experiment names, and gives the settings of `data` beside it.

    Args:
        config: the experiment file.
        settings: words that override it, e.g. `--data.annotations.root=elsewhere`.

    Raises:
        ConfigError: the file or a setting does not fit, or it names no reader.
    """
    experiment, flags = read_arguments(["--config", str(config), *settings])
    if flags:
        raise ConfigError(f"{flags[0]} is not a setting of an experiment")
    data = experiment.get("data") or {}
    return build_reader(data.get("annotations")), data


def reader_of(config: Path, settings: Sequence[str] = ()) -> Annotations:
    """Builds the reader that an experiment names; see `data_of`."""
    return data_of(config, settings)[0]


def known_readers() -> list[str]:
    """Class paths of the package's own readers that write layouts."""
    modules = [import_module(f"{readers.__name__}.{m.name}") for m in iter_modules(readers.__path__)]
    return [
        f"{module.__name__}.{name}"
        for module in modules
        for name, found in vars(module).items()
        if isinstance(found, type) and issubclass(found, Annotations) and found.__module__ == module.__name__
        if not isabstract(found) and found.write_layout is not Annotations.write_layout
    ]
