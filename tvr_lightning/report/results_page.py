"""Pages of results that are not typed by hand: comparisons in Markdown, with how they and their runs came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from tvr_lightning.names import UNTRAINED
from tvr_lightning.report.comparison import Comparison
from tvr_lightning.report.formats import markdown_row, to_markdown
from tvr_lightning.report.groups import Group

TITLE_OF_COSTS = "What the runs took"
TOOK = (
    "run", "seed", "step of the weights", "training, min", "whole run, min", "peak memory, MiB", "parameters trained",
    "device", "precision", "commit",
)  # fmt: skip


def to_results_page(comparison: Comparison, command: str, on: date) -> str:
    """The page of one comparison.

    Args:
        comparison: what it shows.
        command: that writes it again.
        on: the day.
    """
    groups = [row.group for row in comparison.rows]
    runs = {run.path for group in groups for run in group.runs}
    count = "one run folder" if len(runs) == 1 else f"{len(runs)} run folders"
    out = [
        "# Results",
        "",
        f"`{command}` wrote this page on {on.isoformat()} from {count}; nothing in it is typed by",
        "hand.",
        "",
        to_markdown(comparison),
        f"## {TITLE_OF_COSTS}",
        "",
        *took_lines(groups),
    ]
    return "\n".join(out) + "\n"


def to_section(title: str, comparison: Comparison, on: date, notes: Sequence[str] = ()) -> str:
    """A part of a page that holds several comparisons.

    Args:
        title: of the section.
        comparison: what it shows.
        on: the day.
        notes: lines that stand below the tables.
    """
    out = [f"## {title}", "", f"Written on {on.isoformat()}.", "", to_markdown(comparison)]
    out += [*(f"- {note}" for note in notes), ""] if notes else []
    return "\n".join([*out, f"### {TITLE_OF_COSTS}", "", *took_lines([row.group for row in comparison.rows])]) + "\n"


def took_lines(groups: Sequence[Group]) -> list[str]:
    """A table of what each run of some groups took, line by line; a run of several groups is one line."""
    runs = {run.path: (group.experiment, run.content) for group in groups for run in group.runs}
    return [
        markdown_row(TOOK),
        "|---|---:|---:|---:|---:|---:|---:|---|---|---|",
        *(markdown_row(cells) for cells in _took(runs)),
    ]


def _took(runs: Mapping[Path, tuple[str, Mapping[str, Any]]]) -> Iterator[Sequence[str]]:
    for path, (experiment, c) in runs.items():
        commit, parameters = c.get("git_commit") or "", c.get("parameters")
        trainable = 0 if (c.get("trained") or {}).get("selection") == UNTRAINED else c.get("trainable")
        yield (
            f"{experiment}/{path.name}",
            str(c["seed"]),
            _number((c.get("trained") or {}).get("steps")),
            _minutes(c.get("train_time_s")),
            _minutes(c.get("wall_time_s")),
            _number(c.get("peak_memory_mib")),
            "-" if parameters is None else f"{_number(trainable)} of {parameters:,}",
            c.get("device") or "-",
            c.get("precision") or "-",
            commit[:8] + "+" * commit.endswith("+") or "-",
        )


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"
