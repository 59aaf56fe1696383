"""Honest figures on shapes: settings chosen on the validation split, the chosen ones over several seeds, tested once.

    python benchmarks/figures/protocol.py [retrieval|hashing|ablations ...] [--only xclip tc_mgc] [--seeds 1] [--jobs 2]
    python benchmarks/figures/protocol.py --page docs/results.md    # of what is finished, and README.md's table
    python benchmarks/figures/protocol.py --then_page docs/results.md hashing    # both: trains, then writes

`protocol.yaml` beside it says what is trained. Every point of a method's grid is trained with the first seed; the one
with the best validation SumR, read from its `curves.csv`, is trained with the others, and without each of its parts.
What a run's test found chooses nothing: it is not read here. A run that is finished is not made again, so the same
command goes on where it was stopped. At the end it names the runs that have no result.
"""

from __future__ import annotations

import argparse
import fcntl
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from tvr_lightning.commands.tables import compare_paths
from tvr_lightning.data.stores.files import write_text
from tvr_lightning.errors import TVRError
from tvr_lightning.names import METRICS
from tvr_lightning.report.comparison import Comparison
from tvr_lightning.report.formats import to_markdown
from tvr_lightning.report.results_page import to_results_page
from tvr_lightning.run.curves import CURVES, read_curves
from tvr_lightning.visible import say

PROTOCOL = Path(__file__).with_suffix(".yaml")
CRITERION = "val/SumR"
MOST_POINTS = 3
TABLES = ("retrieval", "hashing", "ablations")
README = Path("README.md")
BEGIN, END = "<!-- benchmarks/figures/protocol.py writes this table -->\n", "<!-- end of the table -->\n"
SHORT, DROPPED = "t2v/R@1,v2t/R@1,SumR,probe/order,probe/size", ("mem GiB", "params M", "notes")


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
        figures = [best_validation(run.folder) for run in self.grid]
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


def rows_of(protocol: Mapping[str, Any], runs_dir: Path, most: int = MOST_POINTS) -> Iterator[Row]:
    """The rows of all tables."""
    common, parts = list(protocol["common"]), protocol["ablations"]
    for name, row in protocol["retrieval"].items():
        words = [f"--config=experiments/{row['experiment']}.yaml", *common, *row.get("settings", ())]
        seeds = row.get("seeds", protocol["seeds"])
        made = _row(
            f"{name}_shapes", "retrieval", words, row.get("grid", {}), seeds, runs_dir, most, parts.get(name, {})
        )
        yield replace(made, note=row.get("note", ""))
    hashing = protocol["hashing"]
    for method, (bits, seeds) in product(hashing["methods"], hashing["bits"].items()):
        words = [f"--config=experiments/{method}_shapes.yaml", "--tracker=none", f"--model.code_length={bits}"]
        without = parts.get(method, {}) if bits == hashing["ablated"] else {}
        yield _row(f"{method}_shapes_{bits}", "hashing", words, {}, seeds, runs_dir, most, without)


def _row(
    name: str, table: str, words: Sequence[str], grid: Mapping[str, Sequence[Any]], seeds: Sequence[int],
    runs_dir: Path, most: int, parts: Mapping[str, Sequence[str]],
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
        return Run(name, title, tuple(own), runs_dir / name / title)

    return Row(
        name,
        table,
        tuple(run(point, seeds[0]) for point in points),
        tuple(tuple(run(point, seed) for seed in seeds[1:]) for point in points),
        tuple(tuple(run(point, seeds[0], part) for part in parts) for point in points),
    )


def train(run: Run) -> bool:
    """Makes a run that has no result; its output goes beside its folder. One that another process is making is left."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with (run.folder.parent / f"{run.point}.making").open("w") as making:
        try:
            fcntl.flock(making, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{run.name} {run.point}: another process is making it", flush=True)
            return False
        return run.finished or _train(run)


def _train(run: Run) -> bool:
    if run.folder.exists():  # killed before: what it began is of no use without its result
        run.folder.rename(run.folder.with_name(f"{run.folder.name}.begun-{time.time_ns()}"))
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


def _from_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def main(words: Sequence[str] | None = None) -> int:
    """Makes what is missing, or the page; returns 1 where a run failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tables", nargs="*", default=["retrieval", "hashing"], metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="rows whose names begin so")
    parser.add_argument(
        "--points", type=_from_one, default=MOST_POINTS, help="of each grid at most: 1 for a first look"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="these instead of the file's; -1 for the first alone")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs/protocol"))
    parser.add_argument("--jobs", type=_from_one, default=2, help="runs at a time, of one thread each")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="train nothing; write the page of what is finished there"
    )
    parser.add_argument("--then_page", type=Path, metavar="FILE", help="write it there once every run has its result")
    parser.add_argument(
        "--dry_run", action="store_true", help="print the commands of the grids; train and write nothing"
    )
    options = parser.parse_args(words)
    try:
        return carry_out(parser, options)
    except TVRError as error:
        say(f"protocol.py: {error}", file=sys.stderr)
        return 1


def carry_out(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """What the words of the command ask for; returns the exit code.

    Raises:
        TVRError: a run has no validation figure, or nothing is finished of which a page could be written.
    """
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    protocol = yaml.safe_load(PROTOCOL.read_text(encoding="utf-8"))
    rows = list(rows_of(protocol, options.runs_dir, options.points))
    if without := [name for name in options.only if not any(row.name.startswith(name) for row in rows)]:
        known = ", ".join(row.name for row in rows)
        parser.error(f"--only: no row's name begins with {', '.join(without)}; there are {known}")
    if options.page and options.dry_run:
        parser.error("--page writes, --dry_run writes nothing: leave one out")
    if options.page and (options.only or options.points != MOST_POINTS):
        parser.error("--page is of all rows: leave --only and --points out, or README.md's table would lose the others")
    rows = [row for row in rows if not options.only or row.name.startswith(tuple(options.only))]
    if options.page:
        write_results(protocol, rows, options.page)
        return 0
    tables = [row for row in rows if row.table in options.tables]
    grids = [run for row in tables for run in row.grid]
    if options.dry_run:
        say("\n".join(f"{'# finished: ' if run.finished else ''}tvr fit {shlex.join(run.words)}" for run in grids))
        return 0
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(train, grids))
        seeds = [
            run for row in tables if (point := row.chosen()) is not None for run in row.seeds[point]
            if options.seeds is None or any(run.point.endswith(f"s{seed}") for seed in options.seeds)
        ]  # fmt: skip
        list(pool.map(train, seeds))
        ablated = [row for row in rows if "ablations" in options.tables and row.parts[0]]
        # a part is of use beside the whole
        wholes = [row.grid[point] for row in ablated if (point := row.chosen()) is not None]
        list(pool.map(train, wholes))
        parts = [run for row in ablated if (point := row.chosen()) is not None for run in row.parts[point]]
        list(pool.map(train, parts))
    wanted = dict.fromkeys((*grids, *seeds, *wholes, *parts))
    missing = [f"{run.name} {run.point}" for run in wanted if not run.finished]
    missing += [f"{row.name}: nothing chosen" for row in rows if row in (*tables, *ablated) and row.chosen() is None]
    if missing:
        say(f"without a result: {', '.join(missing)}")
    elif options.then_page:  # of all rows, whichever of them this call trained
        write_results(protocol, list(rows_of(protocol, options.runs_dir)), options.then_page)
    return 1 if missing else 0


def write_results(protocol: Mapping[str, Any], rows: Sequence[Row], file: Path) -> None:
    """Writes the page and README.md's table; the table stays as it is where no run of retrieval is finished.

    Raises:
        TVRError: no run is finished: a page without figures would take the place of one that has some.
    """
    finished = {row.table for row in rows if chosen_runs(row)}
    if not finished:
        raise TVRError(
            f"no run of the protocol is finished in {rows[0].grid[0].folder.parents[1]}; {file} stays as it is"
        )
    if "retrieval" in finished:
        _around_table(README)  # before the page is written: both are or neither
    write_page(protocol, rows, file)
    if "retrieval" in finished:
        write_short_table(rows, README)
    else:
        say(f"the table of {README} stays as it is: no run of retrieval is finished")


def write_page(protocol: Mapping[str, Any], rows: Sequence[Row], file: Path) -> None:
    """Writes the page of what is finished: a section a table, the parts of each method against the whole."""
    sections: dict[str, Comparison] = {}
    for table, title in (("retrieval", "Retrieval"), ("hashing", "Hashing")):
        folders = [run.folder for row in rows if row.table == table for run in chosen_runs(row)]
        if folders:
            baseline = protocol["baselines"][table]
            known = any(folder.parent.name == baseline for folder in folders)
            sections[title] = compare_paths(folders, Path(), baseline if known else None)
    for row in rows:
        point = row.chosen()
        parts = [run.folder for run in row.parts[point] if run.finished] if point is not None else []
        if point is not None and parts and row.grid[point].finished:
            whole = row.grid[point].folder
            sections[f"Without parts of {row.name}"] = compare_paths([whole, *parts], Path(), str(whole))
    notes = [line for row in rows if (line := chosen_line(row))]
    notes += [f"{what}: {', '.join(names)}." for what, names in what_did_not_fit(rows).items() if names]
    notes += [f"{row.name}: {row.note}." for row in rows if row.note]
    command = shlex.join(["python", "benchmarks/figures/protocol.py", "--page", str(file)])
    write_text(file, to_results_page(sections, command, date.today(), notes))
    say(f"wrote {file}")


def what_did_not_fit(rows: Sequence[Row]) -> dict[str, list[str]]:
    """What the protocol has and nobody has trained yet, of which rows."""
    begun = [row for row in rows if chosen_runs(row)]
    seeds = {row.name: (len(chosen_runs(row)), 1 + len(row.seeds[row.chosen() or 0])) for row in begun}
    parts = {
        row.name: [run.point for run in row.parts[row.chosen() or 0] if not run.finished] for row in begun if row.parts
    }
    return {
        "Not trained here": [row.name for row in rows if row not in begun],
        "At the experiment's own settings, since the rest of their grids is not trained": [
            row.name for row in begun if row.chosen() is None
        ],
        "Fewer seeds than the protocol has": [
            f"{n} ({some} of {all_})" for n, (some, all_) in seeds.items() if some < all_
        ],
        "Not trained without these parts": [f"{name} ({', '.join(names)})" for name, names in parts.items() if names],
    }


def _around_table(file: Path) -> tuple[str, str]:
    """What stands before and after the table in a file."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise TVRError(f"{file} has no place for the table: {BEGIN.strip()} ... {END.strip()}")
    return before, after


def write_short_table(rows: Sequence[Row], file: Path) -> None:
    """Writes the table of retrieval between its marks in a file.

    Raises:
        TVRError: the file has no marks.
    """
    before, after = _around_table(file)
    folders = [run.folder for row in rows if row.table == "retrieval" for run in chosen_runs(row)]
    lines = to_markdown(compare_paths(folders, Path(), metrics=SHORT)).splitlines()
    cells = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    shown = [i for i, title in enumerate(cells[0]) if title.strip() not in DROPPED]
    table = ["|".join(("", *(row[i] for i in shown), "")) for row in cells]
    write_text(file, "".join((before, BEGIN, "\n", "\n".join(table), "\n\n", END, after)))
    say(f"wrote the table of {file}")


def chosen_runs(row: Row) -> list[Run]:
    """The finished runs of a row's chosen point; of the first where the grid is not finished."""
    point = row.chosen() or 0
    return [run for run in (row.grid[point], *row.seeds[point]) if run.finished]


def chosen_line(row: Row) -> str:
    """What the validation split chose for a row; empty where there was no choice."""
    point = row.chosen()
    if point is None or len(row.grid) == 1:
        return ""
    seen = ", ".join(f"{run.point} {best_validation(run.folder):.1f}" for run in row.grid)
    return f"{row.name}: {row.grid[point].point} by {CRITERION} ({seen})."


if __name__ == "__main__":
    sys.exit(main())
