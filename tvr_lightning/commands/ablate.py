"""`tvr ablate`: every point of a grid, then their table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.commands.parser import Parser
from tvr_lightning.commands.tables import compare_paths, print_comparison
from tvr_lightning.visible import say

OVERVIEW = """\
  ablate    run a grid of settings, then compare  tvr ablate --config experiments/ablations/tc_mgc/heads.yaml
"""


def main(words: Sequence[str]) -> int:
    """Runs the grid; returns the exit code, 1 when a point failed."""
    parser = Parser(
        "tvr ablate",
        description="Run every point of a grid (a W&B sweep file) as `tvr fit`, then compare them.",
        epilog="Settings of all points follow, e.g. --trainer.max_epochs=1. Points with a result are not run again.",
    )
    parser.add_argument("--config", type=Path, required=True, help="the grid: experiments/ablations/METHOD/NAME.yaml")
    parser.add_argument("--base", help="experiment file to use instead of the grid's own")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="build every point once with tiny encoders, print the commands, run nothing",
    )
    options, settings = parser.parse_known_args(words[1:])
    from tvr_lightning.run.ablation import check_points, describe, read_grid, run_grid

    points = read_grid(options.config, options.base, settings)
    if options.dry_run:
        check_points(points)
        say(describe(points))
        return 0
    results, failed = run_grid(points)
    if results:
        print_comparison(compare_paths(results))
    return 1 if failed else 0
