"""A paper's reproduction as a page and on the terminal: figures beside the printed ones, then what the runs took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from tvr_lightning.report.columns import Column
from tvr_lightning.report.formats import markdown_row
from tvr_lightning.report.reported import Reported
from tvr_lightning.report.reproduction import Figure, ReproducedRow
from tvr_lightning.report.results_page import TITLE_OF_COSTS, took_lines

if TYPE_CHECKING:
    from rich.table import Table

HEAD = ("figure", "paper", "ours", "95 % interval", "one more seed", "ours - paper", "verdict")
SAID = {
    "within": "within seed noise",
    "beyond": "BEYOND seed noise",
    "inside": "inside the interval",
    "outside": "OUTSIDE the interval",
    "not judged": "not judged",
}
SMOKE = (
    "GENERATED DATA: tiny random encoders were trained for a few steps on generated clips in the datasets' layouts. No "
    "figure of ours says anything about the paper, nor any verdict: this page shows that the way to one works."
)
HOW = (
    "A printed figure is of one run on the same test videos, so what may set it apart by chance is the seed. It is "
    '*beyond seed noise* where it lies outside "one more seed", the 95 % range of one further run (mean -+ t s '
    "sqrt(1 + 1/n) over our n runs), its rounding granted. The 95 % interval is of our mean, seeds and test videos "
    "drawn anew: it says what the mean would be elsewhere, and decides only where one run knows nothing of seeds.",
    "What that cannot know: the noise of the paper's own run (taken to be as large as ours), how its epoch and seed "
    "were chosen, and what it does not state. Of few seeds the range is wide: with three a difference of five standard "
    "deviations is just beyond it. Figures are judged one by one: of twenty that differ by chance alone one is beyond, "
    "and those of a row rise and fall together. Medians (MdR) move in steps and are not judged, nor is a figure on "
    "which all our runs agree, which says nothing of how far apart others may lie.",
)


@dataclass(frozen=True)
class Reproduction:
    """What a page shows.

    Attributes:
        paper: its title as its figures' source has it.
        command: that makes it again.
        rows: of the paper.
        without: rows that no experiment makes.
        smoke: whether data are generated.
    """

    paper: str
    command: str
    rows: Sequence[ReproducedRow]
    without: Sequence[Reported]
    smoke: bool


def to_page(found: Reproduction, on: date) -> str:
    """The page in Markdown.

    Args:
        found: what it shows.
        on: the day.
    """
    out = [f"# {'Smoke run of the reproduction' if found.smoke else 'Reproduction'} of {found.paper}", ""]
    out += [f"**{SMOKE}**", ""] if found.smoke else []
    out += [f"`{found.command}` wrote this page on {on.isoformat()}; nothing in it is typed by hand.", ""]
    out += [line for text in HOW for line in (text, "")]
    out += [markdown_row(("row", "experiment", "seeds", "beyond or outside")), "|---|---|---|---|"]
    out += [markdown_row((row.target.title, _experiment(row), _seeds(row), summary(row))) for row in found.rows]
    for row in found.rows:
        entry = row.target.entry
        out += ["", f"## {row.target.title}", "", f"{entry.source}: {entry.conditions}.", ""]
        out += [line for note in row.notes for line in (f"- {note}",)]
        if row.figures:
            out += [*([""] if row.notes else []), markdown_row(HEAD), "|---|---:|---:|---:|---:|---:|---|"]
            out += [markdown_row(cells) for cells in _lines(row)]
    if found.without:
        out += ["", "## Rows that no experiment here makes", ""]
        out += [f"- {e.name}, {e.dataset} {e.split}, {e.encoder or 'any encoder'}: {e.source}" for e in found.without]
    groups = [row.group for row in found.rows if row.group is not None]
    if groups:
        out += ["", f"## {TITLE_OF_COSTS}", "", *took_lines(groups)]
    return "\n".join(out) + "\n"


def to_tables(found: Reproduction) -> Iterator[Table]:
    """A table a row, for the terminal."""
    from rich import box
    from rich.table import Table

    for row in found.rows:
        entry = row.target.entry
        table = Table(
            title=f"{row.target.title}: {_experiment(row)}, {_seeds(row)}",
            caption="\n".join([entry.source, *row.notes]),
            title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
        )  # fmt: skip
        table.add_column(HEAD[0])
        for name in HEAD[1:-1]:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column(HEAD[-1])
        for cells in _lines(row):
            table.add_row(*cells)
        yield table


def summary(row: ReproducedRow) -> str:
    """How many figures chance does not explain, and which, with their differences."""
    judged = row.of("within", "beyond", "inside", "outside")
    if not judged:
        return "not judged" if row.figures else "no result"
    far = row.of("beyond", "outside")
    named = ", ".join(f"{figure.key} {_signed(figure, _digits(figure))}" for figure in far)
    return f"{len(far)} of {len(judged)}{': ' if far else ''}{named}"


def _experiment(row: ReproducedRow) -> str:
    return " ".join([row.target.experiment, *row.target.overrides])


def _seeds(row: ReproducedRow) -> str:
    if row.group is None:
        return "no run"
    seeds = ", ".join(map(str, row.group.seeds))
    return f"seeds {seeds}" if len(row.group.runs) > 1 else f"seed {seeds}"


def _lines(row: ReproducedRow) -> Iterator[tuple[str, ...]]:
    """Cells of each figure, all with as many digits as the paper prints of any."""
    digits = max((_digits(figure) for figure in row.figures), default=1)
    for f in row.figures:
        numbers = _number(f.printed, digits), _number(f.mean, digits)
        ranges = _range(f.interval, digits), _range(f.further, digits)
        yield (f.key, *numbers, *ranges, _signed(f, digits), SAID[f.verdict])


def _digits(figure: Figure) -> int:
    return max(1, len(repr(round(figure.printed, 4)).partition(".")[2]))


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def _range(bounds: tuple[float, float] | None, digits: int) -> str:
    return "-" if bounds is None else f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


def _signed(figure: Figure, digits: int) -> str:
    better = "" if Column(figure.key, "", "").sign > 0 else " (less is better)"
    return f"{figure.difference:+.{digits}f}{better}"
