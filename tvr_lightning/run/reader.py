"""The reader that an experiment names, alone: neither model nor data module is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.objects import class_of
from tvr_lightning.data import annotations as readers
from tvr_lightning.data.annotations.base import Annotations
from tvr_lightning.errors import ConfigError


def reader_of(config: Path, settings: Sequence[str] = ()) -> Annotations:
    """Builds the reader that an experiment names.

    Args:
        config: the experiment file.
        settings: words that override it, e.g. `--data.annotations.root=elsewhere`.

    Raises:
        ConfigError: the file or a setting does not fit, or it names no reader.
    """
    experiment, flags = read_arguments(["--config", str(config), *settings])
    if flags:
        raise ConfigError(f"{flags[0]} is no setting of an experiment")
    part = (experiment.get("data") or {}).get("annotations") or {}
    named = part if isinstance(part, Mapping) else {"class_path": part}
    if "class_path" not in named:
        raise ConfigError(f"{config}: data.annotations names no reader (class_path)")
    return build_reader(str(named["class_path"]), **(named.get("init_args") or {}))


def build_reader(class_path: str, **arguments: Any) -> Annotations:
    """Builds a reader of any importable class.

    Raises:
        ConfigError: there is no such class, or it is no reader.
    """
    found = class_of(class_path)
    if found is None or not issubclass(found, Annotations):
        raise ConfigError(f"{class_path} is no importable class on {Annotations.__module__}.Annotations, so no reader")
    return found(**arguments)


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
