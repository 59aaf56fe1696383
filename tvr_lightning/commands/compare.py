"""`tvr compare`: one table over the test results of runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from tvr_lightning.commands.parser import Parser
from tvr_lightning.commands.tables import add_comparison_arguments, compare_paths, print_comparison
from tvr_lightning.data.stores.files import write_text
from tvr_lightning.errors import ConfigError
from tvr_lightning.report.plots import PLOTS, write_plot
from tvr_lightning.visible import say

OVERVIEW = """\
  compare   one table over runs and seeds         tvr compare runs/clip4clip_shapes --baseline RUN --format markdown
            a page of results                     tvr compare runs --format markdown --out docs/results.md
            mAP by code length as a picture       tvr compare runs/sptch_shapes runs/sptch_shapes_16 --plot bits
"""


def main(words: Sequence[str]) -> int:
    """Prints the table or draws the plot; returns the exit code."""
    parser = Parser("tvr compare", description="One table over the test results of runs.")
    add_comparison_arguments(parser)
    parser.add_argument("--format", choices=("table", "markdown", "latex", "csv"), default="table")
    drawn = "; ".join(f"{name}: {plot.what}" for name, plot in PLOTS.items())
    parser.add_argument("--plot", choices=tuple(PLOTS), help=f"draw a picture instead, into RUNS_DIR. {drawn}")
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="write the text there; Markdown becomes a page that says how it and its runs were made",
    )  # fmt: skip
    options = parser.parse_args(words[1:])
    if options.out and (options.plot or options.format == "table"):
        raise ConfigError("--out takes the text of --format markdown, latex or csv")
    if options.plot and options.format != "table":
        raise ConfigError("--plot draws a picture: leave --format out")
    comparison = compare_paths(options.runs, options.runs_dir, options.baseline, options.metrics, options.full)
    if options.plot:
        say(write_plot(options.plot, comparison, options.runs_dir))
    elif options.format == "table":
        print_comparison(comparison)
    else:
        from tvr_lightning.report.formats import FORMATS
        from tvr_lightning.report.results_page import to_results_page

        if options.out is None:
            say(FORMATS[options.format](comparison), end="")
            return 0
        page = options.format == "markdown"
        command = shlex.join(["tvr", *words])
        text = to_results_page(comparison, command, date.today()) if page else FORMATS[options.format](comparison)
        write_text(options.out, text)
        say(f"wrote {options.out}")
    return 0
