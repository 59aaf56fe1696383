"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

TABLE_WIDTH = 160
FULL_WIDTH = 500


def print_runs(paths: Sequence[Path], runs_dir: Path = Path("runs")) -> None:
    """Prints the table over the runs below folders."""
    from tvr_lightning.report.comparison import compare_table
    from tvr_lightning.run.results import find_runs

    print_wide(compare_table(find_runs(paths, runs_dir)), TABLE_WIDTH)


def print_wide(table: Any, width: int) -> None:
    """Prints a table of at least `width` columns."""
    from rich.console import Console

    # figures that are cut say nothing: a narrow terminal wraps lines, a file takes them whole
    Console(width=max(Console().width, width)).print(table)
