"""Honest figures on shapes: settings chosen on the validation split, the chosen ones over several seeds, tested once.

    python benchmarks/protocol.py [retrieval|hashing ...] [--only xclip tc_mgc] [--seeds 1] [--jobs 2] [--dry_run]

`benchmarks/protocol.yaml` says what is trained. Every point of a method's grid is trained with the first seed; the one
with the best validation SumR, read from its `curves.csv`, is trained with the others. What a run's test found chooses
nothing: it is not read here. A run that is finished is not made again, so the same command goes on where it was
stopped. At the end it names the runs of the chosen points, those that failed, and the command that makes the page.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from tvr_lightning.errors import TVRError
from tvr_lightning.names import METRICS
from tvr_lightning.run.curves import CURVES, read_curves
from tvr_lightning.visible import say

PROTOCOL = Path(__file__).with_suffix(".yaml")
CRITERION = "val/SumR"
MOST_POINTS = 3


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        name: of the row that it belongs to, which is the experiment's name in results.
        point: which point of the row's grid, and the seed.
        words: of `tvr fit`.
        folder: where it lies.
    """

    name: str
    point: str
    words: tuple[str, ...]
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether it has a result."""
        return (self.folder / METRICS).is_file()


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: of the row.
        grid: runs of the first seed.
        seeds: of the others, for each point of the grid.
    """

    name: str
    grid: tuple[Run, ...]
    seeds: tuple[tuple[Run, ...], ...]

    def chosen(self) -> int | None:
        """The point with the best validation figure; None while one of several has no result."""
        if len(self.grid) == 1:
            return 0
        if not all(run.finished for run in self.grid):
            return None
        figures = [best_validation(run.folder) for run in self.grid]
        return figures.index(max(figures))


def best_validation(folder: Path) -> float:
    """A run's best validation SumR.

    Raises:
        TVRError: it kept none.
    """
    values = [row[CRITERION] for row in read_curves(folder / CURVES) if CRITERION in row]
    if not values:
        raise TVRError(f"{folder} kept no {CRITERION}: it cannot be chosen on the validation split")
    return max(values)


def rows_of(
    protocol: Mapping[str, Any], tables: Sequence[str], runs_dir: Path, most: int = MOST_POINTS
) -> Iterator[Row]:
    """The rows of the tables that are asked for."""
    common = list(protocol["common"])
    if "retrieval" in tables:
        for name, row in protocol["retrieval"].items():
            words = [f"--config=experiments/{row['experiment']}.yaml", *common, *row.get("settings", ())]
            row_seeds = row.get("seeds", protocol["seeds"])
            yield _row(f"{name}_shapes", words, row.get("grid", {}), row_seeds, runs_dir, most)
    if "hashing" in tables:
        hashing = protocol["hashing"]
        for method, (bits, seeds) in product(hashing["methods"], hashing["bits"].items()):
            words = [f"--config=experiments/{method}_shapes.yaml", "--tracker=none", *hashing["settings"]]
            yield _row(f"{method}_shapes_{bits}", [*words, f"--model.code_length={bits}"], {}, seeds, runs_dir, most)


def _row(
    name: str, words: Sequence[str], grid: Mapping[str, Sequence[Any]], seeds: Sequence[int], runs_dir: Path, most: int
) -> Row:
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    if len(points) > MOST_POINTS:
        raise TVRError(f"{name}: a grid of {len(points)} points; {MOST_POINTS} at most")
    points = points[:most]
    where = [f"--experiment={name}", f"--runs_dir={runs_dir}"]

    def run(point: Mapping[str, Any], seed: int) -> Run:
        settings = [f"--{key}={value}" for key, value in point.items()]
        title = "-".join([*(f"{key.rpartition('.')[2]}-{value:g}" for key, value in point.items()), f"s{seed}"])
        own = [*words, *where, *settings, f"--seed_everything={seed}", f"--run_id={title}"]
        return Run(name, title, tuple(own), runs_dir / name / title)

    return Row(
        name,
        tuple(run(point, seeds[0]) for point in points),
        tuple(tuple(run(point, seed) for seed in seeds[1:]) for point in points),
    )


def train(run: Run) -> bool:
    """Makes a run that has no result; its output goes beside its folder."""
    if run.finished:
        return True
    if run.folder.exists():  # killed before: what it began is of no use without its result
        run.folder.rename(run.folder.with_name(f"{run.folder.name}.begun-{time.time_ns()}"))
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log = run.folder.parent / f"{run.point}.log"
    began = time.monotonic()
    with log.open("w") as out:
        code = subprocess.call(
            [sys.executable, "-m", "tvr_lightning", "fit", *run.words], stdout=out, stderr=out,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    took = f"{(time.monotonic() - began) / 60:.1f} min"
    say(
        f"{run.name} {run.point}: {took if run.finished else f'FAILED after {took}, exit code {code}, see {log}'}",
        flush=True,
    )
    return run.finished


def main() -> int:
    """Makes what is missing; returns 1 where a run failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tables", nargs="*", default=["retrieval", "hashing"])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="rows whose names begin so")
    parser.add_argument("--points", type=int, default=MOST_POINTS, help="of each grid at most: 1 for a first look")
    parser.add_argument("--seeds", type=int, nargs="+", help="these instead of the file's")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs/protocol"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--dry_run", action="store_true")
    options = parser.parse_args()
    protocol = yaml.safe_load(PROTOCOL.read_text(encoding="utf-8"))
    rows = [
        row for row in rows_of(protocol, options.tables, options.runs_dir, options.points)
        if not options.only or row.name.startswith(tuple(options.only))
    ]  # fmt: skip
    grids = [run for row in rows for run in row.grid]
    if options.dry_run:
        say("\n".join(f"{'# finished: ' if run.finished else ''}tvr fit {shlex.join(run.words)}" for run in grids))
        return 0
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(train, grids))
        seeds = [
            run for row in rows if (point := row.chosen()) is not None for run in row.seeds[point]
            if options.seeds is None or any(run.point.endswith(f"s{seed}") for seed in options.seeds)
        ]  # fmt: skip
        list(pool.map(train, seeds))
    return report(rows)


def report(rows: Sequence[Row]) -> int:
    """Says what was chosen, what is missing, and how the page is made; returns 1 where something failed."""
    folders: list[Path] = []
    missing: list[str] = []
    for row in rows:
        point = row.chosen()
        if point is None:
            missing += [f"{row.name} {run.point}" for run in row.grid if not run.finished]
            continue
        runs = [row.grid[point], *row.seeds[point]]
        folders += [run.folder for run in runs if run.finished]
        missing += [f"{row.name} {run.point}" for run in runs if not run.finished]
        if len(row.grid) > 1:
            seen = ", ".join(f"{run.point} {best_validation(run.folder):.1f}" for run in row.grid)
            say(f"{row.name}: {row.grid[point].point} ({CRITERION}: {seen})")
    if missing:
        say(f"without a result: {', '.join(missing)}")
    if folders:
        say(shlex.join(["tvr", "compare", *map(str, folders), "--format", "markdown", "--out", "docs/results.md"]))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
