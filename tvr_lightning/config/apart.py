"""Runs of one experiment kept apart by a number: `sptch_msrvtt_32` is `sptch_msrvtt` with codes of 32 bits.

A method names the setting, `runs_apart_by`. Under another value than its file has, an experiment's runs lie in a folder
of their own, whose name ends in the value; and where there is no file of such a name, the name means that experiment
with that value. Both are read from sources: nothing is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvr_lightning.config.sources import declared, signature

DECLARED = "runs_apart_by"


def setting_of(config: Mapping[str, Any]) -> str | None:
    """The argument of a composed experiment's method by which its runs lie apart; None where they do not."""
    model = config.get("model")
    class_path = model.get("class_path") if isinstance(model, Mapping) else None
    name = declared(str(class_path), DECLARED) if class_path else None
    return name if isinstance(name, str) else None


def value_of(config: Mapping[str, Any]) -> Any:
    """That argument's value; None where there is none, or where the experiment leaves it to the class."""
    name = setting_of(config)
    return None if name is None else _arguments(config).get(name)


def _arguments(config: Mapping[str, Any]) -> Mapping[str, Any]:
    given = config["model"].get("init_args")
    return given if isinstance(given, Mapping) else {}  # what else it may be is refused where keys are checked


def split_name(path: Path) -> tuple[Path, int] | None:
    """The file that a name without a file of its own may mean, and the number that it ends in.

    >>> split_name(Path("experiments/sptch_msrvtt_32.yaml"))
    (PosixPath('experiments/sptch_msrvtt.yaml'), 32)
    >>> split_name(Path("lean_msrvtt")) is None
    True
    """
    stem, _, number = path.stem.rpartition("_")
    return (path.with_stem(stem), int(number)) if stem and number.isascii() and number.isdecimal() else None


def with_value(config: dict[str, Any], value: int) -> dict[str, Any] | None:
    """A composed experiment with another value of that argument; None where its runs do not lie apart by a number."""
    name = setting_of(config)
    known = signature(str(config["model"]["class_path"])) if name is not None else None
    slot = known.slots.get(str(name)) if known else None
    if slot is None or slot.plain_type() is not int:
        return None
    return {**config, "model": {**config["model"], "init_args": {**_arguments(config), str(name): value}}}


def name_apart(name: str, before: Any, after: Any) -> str:
    """The name of an experiment whose value was changed.

    >>> name_apart("djsrh_msrvtt", 64, 32), name_apart("djsrh_msrvtt_32", 32, 16), name_apart("djsrh_msrvtt", 64, 64)
    ('djsrh_msrvtt_32', 'djsrh_msrvtt_16', 'djsrh_msrvtt')
    """
    return name if before == after else f"{name.removesuffix(f'_{before}')}_{after}"
