"""A comparison as a terminal's table, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

from tvr_lightning.report.comparison import Block, Column, Comparison, Entry, cell
from tvr_lightning.report.reported import Reported

if TYPE_CHECKING:
    from rich.table import Table

Format = Literal["table", "markdown", "latex", "csv"]
NAME_WIDTH = 38
FACTS = ("method", "encoder", "dataset", "split", "v2t", "seed")
TOOK = (
    "train_time_s",
    "wall_time_s",
    "peak_memory_mib",
    "parameters",
    "trainable",
    "device",
    "precision",
    "git_commit",
)
UP, DOWN = "▲", "▼"


@dataclass(frozen=True)
class Cell:
    """One figure as text.

    Attributes:
        value: the figure, its mark behind it.
        below: deviation, interval or difference.
        best: whether it is the block's best.
    """

    value: str = "-"
    below: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        name: of the runs, or where a reported figure stands.
        seeds: of the runs.
        cells: one a column.
        notes: what to read with it.
        kind: what it is.
    """

    name: str
    seeds: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    kind: Literal["run", "reported"]


def lines_of(entry: Entry, block: Block, comparison: Comparison) -> Iterator[Line]:
    """The line of an entry, then those of what papers report for it."""
    group, ranked = entry.group, not entry.group.marks
    cells = [_cell(entry, c, block.best.get(c.key) if ranked else None) for c in comparison.columns]
    seeds = ", ".join(map(str, group.seeds))
    notes = list(entry.notes)
    if comparison.full:
        for key, d in entry.differences.items():
            notes.append(f"Δ {key} {d.difference:+.1f} [{d.low:+.1f}, {d.high:+.1f}]")
    seeds = f"n={len(group.runs)}: {seeds}" if len(group.runs) > 1 else seeds
    yield Line(group.name, seeds, tuple(cells), tuple(notes), "run")
    for reported in entry.reported:
        told = [reported.source] + [f"caution: {reported.caution}"] * bool(reported.caution)
        told += [reported.conditions] * comparison.full
        cells = [_reported(entry, reported, c) for c in comparison.columns]
        yield Line(f"reported: {reported.name}", "", tuple(cells), tuple(told), "reported")


def _cell(entry: Entry, column: Column, best: float | None) -> Cell:
    found = cell(entry.group, column)
    if found is None:
        return Cell()
    mean, deviation = found
    digits = column.digits
    below = [] if deviation is None or column.is_cost else [f"±{deviation:.{digits}f}"]
    if not column.is_cost and (interval := entry.group.interval(column.key)):
        below.append(f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]")
    tested = entry.differences.get(column.key)
    mark = "" if tested is None or not tested.significant else UP if tested.difference * column.sign > 0 else DOWN
    return Cell(f"{mean:.{digits}f}{mark}", tuple(below), best is not None and abs(mean - best) < 1e-9)


def _reported(entry: Entry, reported: Reported, column: Column) -> Cell:
    value = reported.metrics.get(column.key)
    if value is None:
        return Cell("")
    found = cell(entry.group, column)
    digits = column.digits
    return Cell(f"{value:.{digits}f}", () if found is None else (f"{found[0] - value:+.{digits}f}",))


def _sections(comparison: Comparison) -> Iterator[tuple[Block, list[Line], list[Line]]]:
    for block in comparison.blocks:
        ranked, apart = (
            [line for entry in entries for line in lines_of(entry, block, comparison)]
            for entries in (block.ranked, block.apart)
        )
        yield block, ranked, apart


def legend(comparison: Comparison) -> list[str]:
    """How to read the table, one line each."""
    blocks, baseline = comparison.blocks, comparison.baseline
    lines = ["R@K, mAP and probes in percent; intervals: 95 % bootstrap over test videos"]
    if any(b.best for b in blocks):
        lines[0] += "; bold: best of its table"
    entries = [e for b in blocks for e in (*b.ranked, *b.apart)]
    if any(len(e.group.runs) > 1 for e in entries):
        lines.append("±: standard deviation over seeds; their intervals are of the mean over seeds")
    if baseline is not None:
        tested = [c.key for c in comparison.columns if any(c.key in e.differences for e in entries)]
        lines.append(f"{UP} {DOWN}: better, worse than {baseline}; paired bootstrap, the 95 % interval excludes 0")
        lines.append(f"tested: {', '.join(tested) or 'nothing'}; chance in the choice of seeds is not part of the test")
        if comparison.full:
            lines.append(f"Δ: difference from {baseline}, with its 95 % interval")
    if any(e.reported for e in entries):
        lines.append("reported: a paper's figure for the same, below it the run's minus the paper's")
    return lines


def to_table(comparison: Comparison) -> Table:
    """A table of one table a block; a line's notes stand below its name."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    whole = Table.grid()
    for block, ranked, apart in _sections(comparison):
        table = Table(
            title=block.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
        )
        table.add_column("run", overflow="fold", min_width=22, max_width=NAME_WIDTH)
        table.add_column("seed", overflow="fold", max_width=6)
        for column in comparison.columns:
            table.add_column(escape(f"{column.over}\n{column.title}"), justify="right", no_wrap=True)

        def add(line: Line, table: Table = table) -> None:
            notes = "".join(f"\n  {part}" for note in line.notes for part in wrap(note, NAME_WIDTH - 2))
            name = Text.assemble(line.name, (notes, "dim italic"))
            cells = [
                Text.assemble((c.value, "bold" if c.best else ""), ("".join(f"\n{_narrow(b)}" for b in c.below), "dim"))
                for c in line.cells
            ]
            table.add_row(name, line.seeds, *cells, style="dim" if line.kind == "reported" else None)

        for line in ranked:
            add(line)
        if apart:
            table.add_section()
            table.add_row(Text("not ranked, see the notes:", style="italic"))
            for line in apart:
                add(line)
        whole.add_row(table)
    whole.add_row(Text("\n".join(legend(comparison)), style="italic"))
    return whole


def _narrow(below: str) -> str:
    return below.strip("[]").replace(", ", "–")


def to_markdown(comparison: Comparison) -> str:
    """One table a block, the best figures bold."""

    def text(cell: Cell) -> str:
        value = f"**{cell.value}**" if cell.best else cell.value
        return " ".join([value, *cell.below])

    out = []
    for block, ranked, apart in _sections(comparison):
        heads = ["run", "seed", *(f"{c.over} {c.title}".strip() for c in comparison.columns), "notes"]
        out.append(f"### {_markdown(block.title)}\n")
        out.append("| " + " | ".join(map(_markdown, heads)) + " |")
        out.append("|---|---|" + "---:|" * len(comparison.columns) + "---|")
        for title, lines in (("", ranked), ("*not ranked*", apart)):
            if title and lines:
                out.append(f"| {title} |" + " |" * (len(heads) - 1))
            for line in lines:
                cells = [line.name, line.seeds, *map(text, line.cells), "; ".join(line.notes)]
                # a cell's own asterisks are its weight
                shown = [c if 2 <= i < len(cells) - 1 else _markdown(c) for i, c in enumerate(cells)]
                out.append("| " + " | ".join(shown) + " |")
        out.append("")
    return "\n".join([*out, *(f"{_markdown(line)}  " for line in legend(comparison))]) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", text)


LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "Δ": r"$\Delta$", "[": "{[}", UP: r"$^\blacktriangle$", DOWN: r"$^\blacktriangledown$", "†": r"\dag{}",
}  # fmt: skip


def latex(text: str) -> str:
    """Escapes what LaTeX reads as its own."""
    return "".join(LATEX.get(c, c) for c in text)


def to_latex(comparison: Comparison) -> str:
    """One `tabular` a block (packages booktabs, amssymb), the best figures bold, notes and legend as comments."""

    def text(cell: Cell) -> str:
        value = rf"\textbf{{{latex(cell.value)}}}" if cell.best else latex(cell.value)
        small = [re.sub(r"-(?=\d)", "$-$", latex(b)) for b in cell.below]
        return " ".join([value, *(rf"{{\scriptsize {b}}}" for b in small)])

    columns = comparison.columns
    out = ["% needs \\usepackage{booktabs,amssymb}", *(f"% {line}" for line in legend(comparison))]
    for block, ranked, apart in _sections(comparison):
        out += [f"% {block.title}", rf"\begin{{tabular}}{{ll{'r' * len(columns)}}}", r"\toprule"]
        out.append(" & ".join(["run", "seed", *(latex(f"{c.over} {c.title}".strip()) for c in columns)]) + r" \\")
        out.append(r"\midrule")
        for line in ranked:
            out += _latex_line(line, text)
        if apart:
            out += [r"\midrule", rf"\multicolumn{{{len(columns) + 2}}}{{l}}{{\emph{{not ranked}}}} \\"]
            for line in apart:
                marks = f" ({'; '.join(line.notes)})" if line.kind == "run" else ""
                out += _latex_line(line, text, marks)
        out += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(out)


def _latex_line(line: Line, text: Callable[[Cell], str], marks: str = "") -> list[str]:
    cells = [latex(line.name + marks), latex(line.seeds), *map(text, line.cells)]
    return [f"% {note}" for note in line.notes] + [" & ".join(cells) + r" \\"]


def to_csv(comparison: Comparison) -> str:
    """One row a run, nothing rounded: what it is, why it stands apart, what it took, all metrics with their intervals.

    Differences from the baseline are those of the run's group.
    """
    rows = [row for b in comparison.blocks for e in (*b.ranked, *b.apart) for row in _csv_rows(e)]
    metrics = dict.fromkeys(key for row in rows for key in row)
    # a metric's interval stands behind it, also where the first run has none
    fields: Sequence[str] = [
        name
        for key in metrics
        if not key.endswith((" low", " high"))
        for name in (key, f"{key} low", f"{key} high")
        if name in metrics
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_rows(entry: Entry) -> Iterator[dict[str, Any]]:
    for run in entry.group.runs:
        c = run.content
        row: dict[str, Any] = {"experiment": c["experiment"], "run": run.path.name, "path": str(run.path)}
        row |= {"group": entry.group.name, "ranked": not run.marks, "marks": "; ".join(run.marks)}
        row |= {k: c.get(k) for k in FACTS} | {k: c.get(k) for k in TOOK}
        for name, value in c["metrics"].items():
            key = name.removeprefix("test/")
            row[key] = value
            if name in c["intervals"]:
                row[f"{key} low"], row[f"{key} high"] = c["intervals"][name]
        for key, d in entry.differences.items():
            row |= {f"difference {key}": d.difference, f"difference {key} low": d.low, f"difference {key} high": d.high}
            row[f"significant {key}"] = d.significant
        yield row


FORMATS: dict[str, Callable[[Comparison], str]] = {"markdown": to_markdown, "latex": to_latex, "csv": to_csv}
