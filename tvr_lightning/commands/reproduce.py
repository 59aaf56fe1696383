"""`tvr reproduce`: the rows of a paper's table, from their checks to what of them is beyond seed noise."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_lightning.commands.parser import Parser, filled
from tvr_lightning.commands.tables import print_wide
from tvr_lightning.errors import ConfigError, nearest
from tvr_lightning.visible import say

if TYPE_CHECKING:
    from tvr_lightning.report.reproduction import Target
    from tvr_lightning.run.ablation import Point
    from tvr_lightning.run.readiness import Readiness

OVERVIEW = """\
  reproduce  a paper's own rows, beside its figures     tvr reproduce tc_mgc --check, tvr reproduce sptch --scale smoke
"""
MAX_SEED = 2**32 - 1  # that generators of numbers take
SEEDS = {"full": "0,1,2", "smoke": "0,1"}


def main(words: Sequence[str]) -> int:
    """Reproduces; returns the exit code, 1 where something is missing or a run failed."""
    parser = Parser(
        "tvr reproduce",
        description="Check, train and test the rows of a paper's table, and compare them with its printed figures.",
        epilog="Settings of all runs may follow, e.g. --trainer.devices=4. The same command continues after an "
        "interruption: finished runs are kept, killed ones continue from their last checkpoint.",
    )
    parser.add_argument("paper", type=filled, help="tc_mgc, lean, ghan, sptch, or a baseline whose figures they print")
    parser.add_argument("--scale", type=filled, choices=tuple(SEEDS), default="full",
                        help="smoke: tiny encoders, a few steps, generated clips in the datasets' layouts")  # fmt: skip
    parser.add_argument("--seeds", type=filled, help="separated by commas (default: 0,1,2; for a smoke run 0,1)")
    parser.add_argument("--only", type=filled, metavar="A,B", help="only these experiments' rows")
    parser.add_argument("--runs_dir", type=Path, help="the folder of runs (default: runs; a smoke run leaves none)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page there, as Markdown")
    parser.add_argument("--check", action="store_true", help="say what is missing, and stop there")
    parser.add_argument("--dry_run", action="store_true", help="print the commands; check and run nothing")
    options, settings = parser.parse_known_args(words[1:])
    seeds = read_seeds(options.seeds or SEEDS[options.scale])
    if options.out is not None and (options.out.is_dir() or not _home(options.out).is_dir()):
        raise ConfigError(f"--out {options.out} is a folder, or lies in none that exists; give a file, such as page.md")
    if options.out is not None and not os.access(options.out if options.out.exists() else _home(options.out), os.W_OK):
        raise ConfigError(f"--out {options.out} cannot be written; give a file elsewhere")
    if options.check and options.dry_run:
        raise ConfigError("--check looks at this machine, --dry_run at nothing: leave one out")
    smoke = options.scale == "smoke"
    if smoke and options.dry_run and options.runs_dir is None:
        raise ConfigError("a smoke run's clips are gone when it ends: give --runs_dir, so that its commands find them")
    from tvr_lightning.report.reported import load_reported
    from tvr_lightning.report.reproduction import points_of, targets_of

    targets, without = targets_of(options.paper, load_reported())
    targets = _chosen(targets, options.only, options.paper)
    with ExitStack() as use:
        runs_dir, data = options.runs_dir or Path("runs"), None
        if smoke:
            if options.runs_dir is None:
                runs_dir = Path(use.enter_context(tempfile.TemporaryDirectory(prefix="tvr-reproduce-")))
            data = runs_dir / "generated_data"
        points = [points_of(t, seeds, runs_dir, settings, data) for t in targets]
        if options.dry_run:
            return _describe(targets, points)
        from tvr_lightning.run.readiness import check_ready

        ready = check_ready([point for row in points for point in row])
        _say_ready(ready, targets, points)
        if options.check or not ready.ready:
            return 0 if ready.ready else 1
        return _run(options, shlex.join(["tvr", *words]), targets, points, without, smoke)


def _home(file: Path) -> Path:
    return file.absolute().parent


def read_seeds(text: str) -> list[int]:
    """Seeds with commas.

    Raises:
        ConfigError: one is no number from 0 to `MAX_SEED`, or comes twice.

    >>> read_seeds("0, 1,2")
    [0, 1, 2]
    """
    seeds = [part.strip() for part in text.split(",")]
    for seed in seeds:
        if not (seed.isascii() and seed.isdecimal() and len(seed) <= len(str(MAX_SEED)) and int(seed) <= MAX_SEED):
            raise ConfigError(f"--seeds has '{seed:.40}', which is not a seed: --seeds 0,1,2, from 0 to {MAX_SEED}")
    if len({*map(int, seeds)}) < len(seeds):
        raise ConfigError(f"--seeds {text} has a seed twice: it would be the same run")
    return [int(seed) for seed in seeds]


def _chosen(targets: Sequence[Target], only: str | None, paper: str) -> list[Target]:
    if not targets:
        raise ConfigError(f"no experiment here makes a row of {paper}; see `tvr experiments`")
    names = [name.strip() for name in only.split(",")] if only is not None else []
    known = {target.experiment for target in targets}
    for name in names:
        if name not in known:
            raise ConfigError(f"--only: no row of {paper} is made by '{name}'; {nearest(name, known)}")
    return [target for target in targets if not names or target.experiment in names]


def _describe(targets: Sequence[Target], points: Sequence[Sequence[Point]]) -> int:
    from tvr_lightning.run.ablation import describe

    for target, row in zip(targets, points, strict=True):
        say(f"# {target.title}: {target.entry.source}")
        say(describe(row))
    return 0


def _say_ready(ready: Readiness, targets: Sequence[Target], points: Sequence[Sequence[Point]]) -> None:
    for note in ready.notes:
        say(f"note: {note}")
    for text in ready.missing:
        say(f"missing: {text}", file=sys.stderr)
    every = [point for row in points for point in row]
    done = sum(point.finished() is not None for point in every)
    counted = f"{len(every)} runs of {len(targets)} rows, {done} of them finished"
    if ready.ready:
        say(f"reproduce: nothing is missing for {counted}", flush=True)
    else:
        many = "1 thing is" if len(ready.missing) == 1 else f"{len(ready.missing)} things are"
        say(f"tvr: {many} missing for {counted}; nothing was run", file=sys.stderr)


def _run(
    options: argparse.Namespace, command: str, targets: Sequence[Target], points: Sequence[Sequence[Point]],
    without: Sequence[object], smoke: bool,
) -> int:  # fmt: skip
    from tvr_lightning.data.stores.files import write_text
    from tvr_lightning.report.reproduction import reproduced
    from tvr_lightning.report.reproduction_page import SMOKE, Reproduction, summary, to_page, to_tables
    from tvr_lightning.run.ablation import run_grid
    from tvr_lightning.run.results import read_run

    rows, failures = [], 0
    for number, (target, row) in enumerate(zip(targets, points, strict=True), start=1):
        results, failed = run_grid(row, f"reproduce row {number}/{len(targets)} {target.experiment}")
        failures += len(failed)
        rows.append(reproduced(target, [read_run(folder) for folder in results], len(row), smoke))
    title = targets[0].entry.source.rpartition(", ")[0]
    found = Reproduction(title, command, rows, without, smoke)  # type: ignore[arg-type]
    for table in to_tables(found):
        print_wide(table)
    if smoke:
        say(SMOKE)
    for shown in rows:
        say(f"{shown.target.title}: beyond or outside: {summary(shown)}")
    if options.out is not None:
        write_text(options.out, to_page(found, date.today()))
        say(f"wrote {options.out}")
    return 1 if failures else 0
