"""Tables on the terminal, and the comparison of runs that several commands show."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_lightning.visible import console

if TYPE_CHECKING:
    from tvr_lightning.report.comparison import Comparison

TABLE_WIDTH = 160
WIDEST = 10_000
"""Columns in which every table is whole."""


def add_comparison_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs are compared, and how."""
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, or folders that contain runs (default: all)")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="the folder of runs (default: runs)")
    parser.add_argument("--baseline", metavar="RUN|EXPERIMENT", help="mark significant differences from this row")
    parser.add_argument("--metrics", default="", metavar="A,B", help="these columns, e.g. t2v/R@1,t2v/mAP,probe/order")
    parser.add_argument("--full", action="store_true", help="all columns, with differences and conditions written out")


def compare_paths(
    paths: Sequence[Path], runs_dir: Path = Path("runs"), baseline: str | None = None, metrics: str = "",
    full: bool = False,
) -> Comparison:  # fmt: skip
    """Arranges the runs below folders, with the papers' figures where their file lies here.

    Raises:
        TVRError: there are no such runs, metrics or baseline, or a file is damaged.
    """
    from tvr_lightning.report.comparison import compare, runs_with_baseline
    from tvr_lightning.report.reported import REPORTED, load_reported

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    reported = load_reported() if REPORTED.is_dir() else []
    return compare(runs_with_baseline(paths, runs_dir, baseline), baseline, names, full, reported)


def print_comparison(comparison: Comparison) -> None:
    """Prints the table of a comparison."""
    from tvr_lightning.report.formats import to_table

    print_wide(to_table(comparison))


def print_wide(table: Any) -> None:
    """Prints a table as wide as its figures need, and names and notes can be read in."""
    from rich.measure import Measurement

    # figures that are cut say nothing: a narrow terminal wraps lines, a file takes them whole
    out = console(TABLE_WIDTH)
    out.width = max(out.width, Measurement.get(out, out.options.update(width=WIDEST), table).minimum)
    out.print(table)
