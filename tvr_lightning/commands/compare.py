"""`tvr compare`: one table over the test results of runs."""

from __future__ import annotations

from collections.abc import Sequence

from tvr_lightning.commands.parser import Parser
from tvr_lightning.commands.tables import add_comparison_arguments, compare_paths, print_comparison
from tvr_lightning.visible import say

OVERVIEW = """\
  compare   one table over runs and seeds         tvr compare runs/clip4clip_shapes --baseline RUN --format markdown
            mAP by code length as a picture       tvr compare runs/sptch_shapes runs/sptch_shapes_16 --plot bits
"""


def main(words: Sequence[str]) -> int:
    """Prints the table or draws the plot; returns the exit code."""
    parser = Parser("tvr compare", description="One table over the test results of runs.")
    add_comparison_arguments(parser)
    parser.add_argument("--format", choices=("table", "markdown", "latex", "csv"), default="table")
    parser.add_argument("--plot", choices=("bits",), help="draw mAP by code length instead, into RUNS_DIR")
    options = parser.parse_args(words[1:])
    comparison = compare_paths(options.runs, options.runs_dir, options.baseline, options.metrics, options.full)
    if options.plot:
        from tvr_lightning.report.bits import BITS_FIGURE, write_bits

        say(write_bits(comparison.runs, options.runs_dir / BITS_FIGURE))
    elif options.format == "table":
        print_comparison(comparison)
    else:
        from tvr_lightning.report.formats import FORMATS

        say(FORMATS[options.format](comparison), end="")
    return 0
