"""`tvr dashboard`: one page over runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

OVERVIEW = """\
  dashboard one page over runs: runs/report.html  tvr dashboard
"""


def main(words: Sequence[str]) -> int:
    """Writes the page; returns the exit code."""
    parser = argparse.ArgumentParser("tvr dashboard", description="One static page over runs, RUNS_DIR/report.html.")
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, or folders above runs; all when none is given")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="where runs lie (default: runs)")
    options = parser.parse_args(words[1:])
    from tvr_lightning.report.page import write_page
    from tvr_lightning.report.wandb_report import write_report
    from tvr_lightning.run.results import find_runs

    runs = find_runs(options.runs, options.runs_dir)
    print(write_page(runs, options.runs_dir / "report.html"))
    print(write_report(runs))
    return 0
