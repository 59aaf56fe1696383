"""`tvr dashboard`: one page over runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tvr_lightning.commands.tables import add_comparison_arguments, compare_paths
from tvr_lightning.visible import say

OVERVIEW = """\
  dashboard one page over runs: runs/report.html  tvr dashboard
"""


def main(words: Sequence[str]) -> int:
    """Writes the page; returns the exit code."""
    parser = argparse.ArgumentParser("tvr dashboard", description="One static page over runs, RUNS_DIR/report.html.")
    add_comparison_arguments(parser)
    options = parser.parse_args(words[1:])
    comparison = compare_paths(options.runs, options.runs_dir, options.baseline, options.metrics, options.full)
    from tvr_lightning.report.page import write_page
    from tvr_lightning.report.wandb_report import write_report

    say(write_page(comparison, options.runs_dir / "report.html"))
    say(write_report(comparison))
    return 0
