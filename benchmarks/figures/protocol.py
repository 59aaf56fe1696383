"""Honest figures on shapes: settings chosen on the validation split, the chosen ones over several seeds, tested once.

    python benchmarks/figures/protocol.py [retrieval|hashing|ablations ...] [--only xclip tc_mgc] [--seeds 1] [--jobs 2]
    python benchmarks/figures/protocol.py --page docs/results.md    # of what is kept, and README.md's table
    python benchmarks/figures/protocol.py --then_page docs/results.md hashing    # both: trains, then writes

`protocol.yaml` beside it says what is trained. Every point of a method's grid is trained with the first seed; the one
with the best validation SumR, read from its `curves.csv`, is trained with the others, and without each of its parts.
What a run's test found chooses nothing: it is not read here. Of a finished run `--results` keeps what choices and
pages read (`kept.py`), to be committed; a run that is kept is not made again, so the same command goes on where it was
stopped, here or on another machine. At the end it names the runs that have no result.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import yaml
from kept import OtherSettingsError, again, check_files, check_settings, keep
from pages import check_pages, write_results
from plan import MOST_POINTS, PROTOCOL, TABLES, Row, Run, rows_of

from tvr_lightning.errors import TVRError, nearest
from tvr_lightning.names import METRICS
from tvr_lightning.visible import say


def train(run: Run) -> bool:
    """Makes a run that has no result. One that another process is making is left.

    Its lock, its output and what a killed run had begun lie elsewhere, so that beside runs lie only runs.
    """
    making_of(run).mkdir(parents=True, exist_ok=True)
    with (making_of(run) / f"{run.point}.lock").open("w") as making:
        try:
            fcntl.flock(making, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{run.name} {run.point}: another process is making it", flush=True)
            return False
        try:
            if not run.finished and (_is_made(run) or _train(run, making)):
                keep(run.folder, run.kept)
        except TVRError as error:
            say(f"{run.name} {run.point}: {error}", flush=True)
        return run.finished


def making_of(run: Run) -> Path:
    """Where the traces of a row's making lie."""
    return run.folder.parents[1] / ".making" / run.name


def _is_made(run: Run) -> bool:
    """Whether a run has its result and only has to be kept; one of other settings is none."""
    if not (run.folder / METRICS).is_file():
        return False
    try:
        check_settings(run.words, run.folder)
    except OtherSettingsError as error:
        say(f"{run.name} {run.point}: {error}; it is put aside and made again", flush=True)
        return False
    return True


def _train(run: Run, making: TextIO) -> bool:
    if run.folder.exists():  # killed before: what it began is of no use without its result
        run.folder.rename(making_of(run) / f"{run.point}.begun-{time.time_ns()}")
    log = making_of(run) / f"{run.point}.log"
    began = time.monotonic()
    with log.open("w") as out:
        code = subprocess.call(
            [sys.executable, "-m", "tvr_lightning", "fit", *run.words], stdout=out, stderr=out,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, pass_fds=[making.fileno()],  # who lives on holds the lock
        )  # fmt: skip
    took, tested = f"{(time.monotonic() - began) / 60:.1f} min", (run.folder / METRICS).is_file()
    say(
        f"{run.name} {run.point}: {took if tested else f'FAILED after {took}, exit code {code}, see {log}'}", flush=True
    )
    return tested


def _from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def main(words: Sequence[str] | None = None) -> int:
    """Makes what is missing, or the page; returns 1 where a run failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "tables",
        nargs="*",
        default=["retrieval", "hashing"],
        metavar="TABLE",
        help=f"{', '.join(TABLES)} (default: retrieval hashing)",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only rows whose names begin with NAME")
    parser.add_argument(
        "--points",
        type=_from_one,
        default=MOST_POINTS,
        help="at most this many points of each grid: 1 for a first look",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="of the protocol's further seeds only these; -1: none, the first alone"
    )
    parser.add_argument("--runs_dir", type=Path, default=Path("runs/protocol"), help="where runs are trained")
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results/shapes"), help="where what pages read is kept of them"
    )
    parser.add_argument("--jobs", type=_from_one, default=2, help="runs at a time, of one thread each")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the page FILE from what is kept, and train nothing"
    )
    parser.add_argument(
        "--then_page",
        type=Path,
        metavar="FILE",
        help="after training, write the page FILE where every run has its result",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print the commands of the tables' grids, or of parts with `ablations`; train and write nothing",
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
        TVRError: a run has no validation figure or was made with other settings, or nothing is kept of which a page
            could be written.
    """
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    protocol = yaml.safe_load(PROTOCOL.read_text(encoding="utf-8"))
    rows = list(rows_of(protocol, options.runs_dir, options.results, options.points))
    if without := [name for name in options.only if not any(row.name.startswith(name) for row in rows)]:
        names = [name for row in rows for name in (row.name, row.name.partition("_shapes")[0])]
        hints = "; ".join(
            f"{name}: a table goes before --only" if name in TABLES else f"{name}: {nearest(name, names)}"
            for name in without
        )
        parser.error(f"--only: no row's name begins with {', '.join(without)} ({hints})")
    if unknown := {str(seed) for seed in options.seeds or ()} - {"-1", *map(str, protocol["seeds"])}:
        known = ", ".join(map(str, protocol["seeds"]))
        parser.error(f"--seeds: {PROTOCOL.name} has no seed {', '.join(sorted(unknown))}; there are {known}")
    if options.page and options.dry_run:
        parser.error("--page writes, --dry_run writes nothing: leave one out")
    if options.page and (options.only or options.points != MOST_POINTS):
        parser.error("--page is of all rows: leave --only and --points out, or README.md's table would lose the others")
    rows = [row for row in rows if not options.only or row.name.startswith(tuple(options.only))]
    if page := options.page or options.then_page:
        check_pages(page)  # before hours of training, and before settings are resolved
    check_kept(rows)
    if options.page:
        write_results(protocol, rows, options.results, options.page)
        return 0
    tables = [row for row in rows if row.table in options.tables]
    grids = [run for row in tables for run in row.grid]
    ablated = [row for row in rows if "ablations" in options.tables and row.parts[0]]
    if not grids and not ablated:
        parser.error(f"nothing of --only {' '.join(options.only)} is in {', '.join(options.tables)}")
    if options.dry_run:
        points = [(row, row.chosen() or 0) for row in ablated]
        planned = [*grids, *(run for row, point in points for run in (row.grid[point], *row.parts[point]))]
        say("\n".join(f"{'# finished: ' if run.finished else ''}tvr fit {shlex.join(run.words)}" for run in planned))
        return 0
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(train, grids))
        seeds = [
            run for row in tables if (point := row.chosen()) is not None for run in row.seeds[point]
            if options.seeds is None or any(run.point.endswith(f"s{seed}") for seed in options.seeds)
        ]  # fmt: skip
        list(pool.map(train, seeds))
        # a part is of use beside the whole
        wholes = [row.grid[point] for row in ablated if (point := row.chosen()) is not None]
        list(pool.map(train, wholes))
        parts = [run for row in ablated if (point := row.chosen()) is not None for run in row.parts[point]]
        list(pool.map(train, parts))
    wanted = dict.fromkeys((*grids, *seeds, *wholes, *parts))
    missing = [f"{run.name} {run.point}" for run in wanted if not run.finished]
    missing += [
        f"{row.name}: nothing chosen, its grid is not finished"
        for row in rows
        if row in (*tables, *ablated) and row.chosen() is None
    ]
    if missing:
        say(f"without a result: {', '.join(missing)}")
    elif options.then_page:  # of all rows, whichever of them this call trained
        everything = list(rows_of(protocol, options.runs_dir, options.results))
        check_kept(everything)
        write_results(protocol, everything, options.results, options.then_page)
    return 1 if missing else 0


def check_kept(rows: Sequence[Row]) -> None:
    """Looks whether the runs that are kept are whole and have the settings that the protocol has now.

    Raises:
        TVRError: one is not, or has others.
    """
    for row in rows:
        for run in (*row.grid, *(run for runs in (*row.seeds, *row.parts) for run in runs)):
            if run.finished:
                check_files(run.kept)
                try:
                    check_settings(run.words, run.kept)
                except OtherSettingsError as error:
                    raise TVRError(f"{error}; {again(run.kept)}") from None


if __name__ == "__main__":
    sys.exit(main())
