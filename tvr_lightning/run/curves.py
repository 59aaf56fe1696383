"""Curves of a run as `curves.csv` in its folder: one row per epoch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from tvr_lightning.data.stores.files import atomic_write, write_csv
from tvr_lightning.errors import RunError

CURVES = "curves.csv"
FIRST = ("epoch", "step", "train/loss")
Row = Mapping[str, float]


def write_curves(path: Path, rows: Sequence[Row]) -> None:
    """Writes all rows anew, atomically: a run killed at any time leaves the epochs before.

    Raises:
        RunError: the folder cannot be written.
    """
    names = sorted({name for row in rows for name in row} - set(FIRST))
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write_csv(file, [*FIRST, *names], ({k: f"{v:.10g}" for k, v in row.items()} for row in rows))


def read_curves(path: Path) -> list[dict[str, float]]:
    """Reads the rows, without the values that an epoch does not have; none when the run kept no curves.

    Raises:
        RunError: the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file, strict=True)]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise RunError(f"{path} is damaged ({error}); remove it to show the run without curves") from None
