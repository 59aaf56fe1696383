"""What `protocol.yaml` has trained: rows of tables, their runs, and which of them the validation split chose."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from tvr_lightning.errors import TVRError
from tvr_lightning.names import METRICS
from tvr_lightning.run.curves import CURVES, read_curves

PROTOCOL = Path(__file__).with_name("protocol.yaml")
CRITERION = "val/SumR"
MOST_POINTS = 3
TABLES = ("retrieval", "hashing", "ablations")


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        name: of the row that it belongs to, which is the experiment's name in results.
        point: which point of the row's grid, and the seed.
        words: of `tvr fit`.
        folder: where it is trained.
        kept: what the repository keeps of it, which is all that choices and pages read.
    """

    name: str
    point: str
    words: tuple[str, ...]
    folder: Path
    kept: Path

    @property
    def finished(self) -> bool:
        """Whether its result is kept."""
        return (self.kept / METRICS).is_file()


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: of the row.
        table: that it belongs to.
        grid: runs of the first seed.
        seeds: of the others, for each point of the grid.
        parts: runs of the first seed without a part of the method, for each point of the grid.
        note: what sets it apart from the others.
    """

    name: str
    table: str
    grid: tuple[Run, ...]
    seeds: tuple[tuple[Run, ...], ...]
    parts: tuple[tuple[Run, ...], ...] = ()
    note: str = ""

    def chosen(self) -> int | None:
        """The point with the best validation figure; None while one of several has no result."""
        if len(self.grid) == 1:
            return 0
        if not all(run.finished for run in self.grid):
            return None
        figures = [best_validation(run.kept) for run in self.grid]
        return figures.index(max(figures))


def best_validation(folder: Path) -> float:
    """A run's best validation SumR.

    Raises:
        TVRError: it kept none.
    """
    values = [row[CRITERION] for row in read_curves(folder / CURVES) if math.isfinite(row.get(CRITERION, math.nan))]
    if not values:
        raise TVRError(f"{folder} kept no {CRITERION} that is a number: it cannot be chosen on the validation split")
    return max(values)


def rows_of(protocol: Mapping[str, Any], runs_dir: Path, results: Path, most: int = MOST_POINTS) -> Iterator[Row]:
    """The rows of all tables."""
    common, parts = list(protocol["common"]), protocol["ablations"]
    for name, row in protocol["retrieval"].items():
        words = [f"--config=experiments/{row['experiment']}.yaml", *common, *row.get("settings", ())]
        seeds = row.get("seeds", protocol["seeds"])
        made = _row(
            f"{name}_shapes",
            "retrieval",
            words,
            row.get("grid", {}),
            seeds,
            runs_dir,
            results,
            most,
            parts.get(name, {}),
        )
        yield replace(made, note=row.get("note", ""))
    hashing = protocol["hashing"]
    for method, (bits, seeds) in product(hashing["methods"], hashing["bits"].items()):
        words = [f"--config=experiments/{method}_shapes.yaml", "--tracker=none", f"--model.code_length={bits}"]
        without = parts.get(method, {}) if bits == hashing["ablated"] else {}
        yield _row(f"{method}_shapes_{bits}", "hashing", words, {}, seeds, runs_dir, results, most, without)


def _row(
    name: str, table: str, words: Sequence[str], grid: Mapping[str, Sequence[Any]], seeds: Sequence[int],
    runs_dir: Path, results: Path, most: int, parts: Mapping[str, Sequence[str]],
) -> Row:  # fmt: skip
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    if len(points) > MOST_POINTS:
        raise TVRError(f"{name}: a grid of {len(points)} points; {MOST_POINTS} at most")
    points = points[:most]
    where = [f"--experiment={name}", f"--runs_dir={runs_dir}"]

    def run(point: Mapping[str, Any], seed: int, part: str = "") -> Run:
        settings = [f"--{key}={value}" for key, value in point.items()]
        labels = [*(f"{key.rpartition('.')[2]}-{value:g}" for key, value in point.items()), f"s{seed}", part]
        title = "-".join(filter(None, labels))
        own = [*words, *where, *settings, *parts.get(part, ()), f"--seed_everything={seed}", f"--run_id={title}"]
        return Run(name, title, tuple(own), runs_dir / name / title, results / name / title)

    return Row(
        name,
        table,
        tuple(run(point, seeds[0]) for point in points),
        tuple(tuple(run(point, seed) for seed in seeds[1:]) for point in points),
        tuple(tuple(run(point, seeds[0], part) for part in parts) for point in points),
    )
