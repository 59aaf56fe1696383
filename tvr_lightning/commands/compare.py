"""`tvr compare`: one table over the test results of runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.commands.tables import FULL_WIDTH, TABLE_WIDTH, print_wide

OVERVIEW = """\
  compare   one table over runs and seeds         tvr compare runs/clip4clip_shapes --baseline RUN --format markdown
            mAP by code length as a picture       tvr compare runs/sptch_shapes_16 runs/sptch_shapes_64 --plot bits
"""


def main(words: Sequence[str]) -> int:
    """Prints the table or draws the plot; returns the exit code."""
    parser = argparse.ArgumentParser("tvr compare", description="One table over the test results of runs.")
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, or folders above runs; all when none is given")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="where runs lie (default: runs)")
    parser.add_argument("--baseline", metavar="RUN|EXPERIMENT", help="mark significant differences from it")
    parser.add_argument("--metrics", default="", metavar="A,B", help="these columns, e.g. t2v/R@1,t2v/mAP,probe/order")
    parser.add_argument("--full", action="store_true", help="all columns, differences and conditions spelt out")
    parser.add_argument("--format", choices=("table", "markdown", "latex", "csv"), default="table")
    parser.add_argument("--plot", choices=("bits",), help="draw mAP by code length instead, into RUNS_DIR")
    options = parser.parse_args(words[1:])
    from tvr_lightning.report.comparison import compare, runs_with_baseline
    from tvr_lightning.report.comparison_text import FORMATS, to_table
    from tvr_lightning.report.reported import REPORTED, load_reported

    runs = runs_with_baseline(options.runs, options.runs_dir, options.baseline)
    if options.plot:
        from tvr_lightning.report.bits import BITS_FIGURE, write_bits

        print(write_bits(runs, options.runs_dir / BITS_FIGURE))
        return 0
    metrics = [name.strip() for name in options.metrics.split(",") if name.strip()]
    reported = load_reported() if REPORTED.is_file() else []
    comparison = compare(runs, options.baseline, metrics, options.full, reported)
    if options.format == "table":
        print_wide(to_table(comparison), FULL_WIDTH if options.full else TABLE_WIDTH)
    else:
        print(FORMATS[options.format](comparison), end="")
    return 0
