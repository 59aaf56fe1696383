"""`tvr dashboard`: one page over runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.commands.parser import Parser
from tvr_lightning.commands.tables import add_comparison_arguments, compare_paths
from tvr_lightning.visible import say

OVERVIEW = """\
  dashboard one page over runs: runs/report.html  tvr dashboard
"""


def main(words: Sequence[str]) -> int:
    """Writes the page; returns the exit code."""
    parser = Parser("tvr dashboard", description="Write one static page over runs, report.html next to them.")
    add_comparison_arguments(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page (default: report.html in the folder above the runs)"
    )
    options = parser.parse_args(words[1:])
    comparison = compare_paths(options.runs, options.runs_dir, options.baseline, options.metrics, options.full)
    from tvr_lightning.report.page import write_page
    from tvr_lightning.report.wandb_report import write_report

    say(write_page(comparison, options.out or _above(options.runs, options.runs_dir) / "report.html"))
    say(write_report(comparison))
    return 0


def _above(runs: Sequence[Path], runs_dir: Path) -> Path:
    """The folder of runs that holds all that are shown: not one in a directory that they have nothing to do with."""
    shown = [path.resolve() for path in runs]
    if all(path.is_relative_to(runs_dir.resolve()) for path in shown):
        return runs_dir
    return Path(os.path.commonpath([path.parent for path in shown]))
