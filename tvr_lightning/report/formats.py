"""A comparison as a terminal's table, Markdown, LaTeX and CSV."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from tvr_lightning.data.stores.files import write_csv
from tvr_lightning.report.bits import bits_table
from tvr_lightning.report.comparison import Comparison, Row
from tvr_lightning.report.text import DOWN, UP, Cell, Line, legend, lines_of_blocks
from tvr_lightning.visible import visible

if TYPE_CHECKING:
    from rich.table import Table

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


def to_table(comparison: Comparison) -> Table:
    """A table of one table a block; a line's notes stand below its name."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    whole = Table.grid()
    for block, ranked, apart in lines_of_blocks(comparison):
        table = Table(
            title=block.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
        )
        table.add_column("run", overflow="fold", min_width=22, max_width=NAME_WIDTH)
        table.add_column("seed", overflow="fold", max_width=6)
        for column in comparison.columns:
            table.add_column(Text(f"{column.over}\n{column.title}"), justify="right", no_wrap=True)

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
    if by_bits := bits_table(comparison.runs):
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column(Text(by_bits[0][0]), overflow="fold", max_width=NAME_WIDTH)
        for head in by_bits[0][1:]:
            table.add_column(Text(head), justify="right", no_wrap=True)
        for row in by_bits[1:]:
            table.add_row(*map(Text, row))
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
    for block, ranked, apart in lines_of_blocks(comparison):
        heads = ["run", "seed", *(f"{c.over} {c.title}".strip() for c in comparison.columns), "notes"]
        out.append(f"### {_markdown(block.title)}\n")
        out.append(markdown_row(heads))
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
    if by_bits := bits_table(comparison.runs):
        head, *rows = map(markdown_row, by_bits)
        out += [head, "|---|" + "---:|" * (len(by_bits[0]) - 1), *rows, ""]
    return "\n".join([*out, *(f"{_markdown(line)}  " for line in legend(comparison))]) + "\n"


def markdown_row(cells: Iterable[str]) -> str:
    """A line of a table in Markdown.

    >>> markdown_row(["a", "b"])
    '| a | b |'
    """
    return "| " + " | ".join(map(_markdown, cells)) + " |"


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", _in_a_line(text))


def _in_a_line(text: str) -> str:
    return " ".join(visible(text).split())


LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "Δ": r"$\Delta$", "[": "{[}", UP: r"$^\blacktriangle$", DOWN: r"$^\blacktriangledown$", "†": r"\dag{}",
}  # fmt: skip


def latex(text: str) -> str:
    """Escapes what LaTeX reads as its own."""
    return "".join(LATEX.get(c, c) for c in _in_a_line(text))


def to_latex(comparison: Comparison) -> str:
    """One `tabular` a block (packages booktabs, amssymb), the best figures bold, notes and legend as comments."""

    def text(cell: Cell) -> str:
        value = rf"\textbf{{{latex(cell.value)}}}" if cell.best else latex(cell.value)
        small = [re.sub(r"-(?=\d)", "$-$", latex(b)) for b in cell.below]
        return " ".join([value, *(rf"{{\scriptsize {b}}}" for b in small)])

    columns = comparison.columns
    out = ["% needs \\usepackage{booktabs,amssymb}", *(f"% {line}" for line in legend(comparison))]
    for block, ranked, apart in lines_of_blocks(comparison):
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
    if by_bits := bits_table(comparison.runs):
        head, *rows = (" & ".join(map(latex, row)) + r" \\" for row in by_bits)
        out += [rf"\begin{{tabular}}{{l{'r' * (len(by_bits[0]) - 1)}}}", r"\toprule", head, r"\midrule", *rows]
        out += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(out)


def _latex_line(line: Line, text: Callable[[Cell], str], marks: str = "") -> list[str]:
    cells = [latex(line.name + marks), latex(line.seeds), *map(text, line.cells)]
    return [f"% {note}" for note in line.notes] + [" & ".join(cells) + r" \\"]


def to_csv(comparison: Comparison) -> str:
    """One row a run, nothing rounded: what it is, why it stands apart, what it took, all metrics with their intervals.

    Differences from the baseline are those of the run's group.
    """
    rows = [found for row in comparison.rows for found in _csv_rows(row)]
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
    write_csv(out, fields, rows)
    return out.getvalue()


def _csv_rows(row: Row) -> Iterator[dict[str, Any]]:
    for run in row.group.runs:
        c = run.content
        found: dict[str, Any] = {"experiment": c["experiment"], "run": run.path.name, "path": str(run.path)}
        found |= {"group": row.group.name, "test_set": run.test_set}
        found |= {"ranked": not run.marks, "marks": "; ".join(run.marks)}
        found |= {k: c.get(k) for k in FACTS} | {k: c.get(k) for k in TOOK}
        for name, value in c["metrics"].items():
            key = name.removeprefix("test/")
            found[key] = value
            if name in c["intervals"]:
                found[f"{key} low"], found[f"{key} high"] = c["intervals"][name]
        for key, d in row.differences.items():
            found |= {f"difference {key}": d.difference, f"significant {key}": d.significant, f"p {key}": d.p}
            found |= {f"difference {key} low": d.low, f"difference {key} high": d.high}
        yield found


FORMATS: dict[str, Callable[[Comparison], str]] = {"markdown": to_markdown, "latex": to_latex, "csv": to_csv}
