"""Docstrings as `make docs` shows them: examples, formulas and aligned lines become code blocks.

In the sources they stand as plain text, which a terminal shows as it is and Markdown would run together.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ALIGNED = re.compile(r"\S {2,}\S")
SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Shapes|Examples?):$")
FORMULA = re.compile(r"[A-Za-z]['~^_\w]*(?:\([^()=]*\))? = ")


def as_markdown(text: str) -> str:
    r"""A docstring with its preformatted paragraphs fenced.

    >>> as_markdown("Doubles.\n\nf(x) = 2 x")
    'Doubles.\n\n```text\nf(x) = 2 x\n```'
    """
    return "\n\n".join(_fenced(paragraph) for paragraph in re.split(r"\n{2,}", text))


def _fenced(paragraph: str) -> str:
    lines = paragraph.split("\n")
    if SECTION.match(lines[0]):
        return paragraph
    if all(line.startswith("    ") for line in lines):
        return _code([line[4:] for line in lines])
    if FORMULA.match(paragraph) and len(lines) < 3:
        return _code(lines)
    out: list[str] = []
    for kind, rows in _runs(lines):
        if kind == "map" and len(rows) == 1 and len(lines) > 1:
            kind = "text"  # two spaces in the middle of a sentence
        if kind == "example":
            out.append(_code(rows, "pycon"))
        elif kind == "map" and any("->" in row for row in rows):
            out.append(_code(rows))
        elif kind == "map":  # a term on the left, what is said of it on the right
            out += ["\n".join(row) for row in _terms(rows)]
        else:
            out.append("\n".join(rows))
    return "\n\n".join(out)


def _runs(lines: list[str]) -> list[tuple[str, list[str]]]:
    """Consecutive lines of one kind: `map`, aligned in columns; `list`; `example`; `text`."""
    runs: list[tuple[str, list[str]]] = []
    for line in lines:
        last = runs[-1][0] if runs else ""
        if last == "example" or line.startswith(">>> "):
            kind = "example"
        elif last in ("map", "list") and line.startswith("  "):
            kind = last
        elif line.startswith("- "):
            kind = "list"
        else:
            kind = "map" if ALIGNED.search(line) else "text"
        if kind == last:
            runs[-1][1].append(line)
        else:
            runs.append((kind, [line]))
    return runs


def _terms(rows: list[str]) -> list[list[str]]:
    found: list[list[str]] = []
    for row in rows:
        if row.startswith("  ") and found:
            found[-1].append(f"    {row.strip()}")
        else:
            term, _, said = row.partition("  ")
            found.append([term, f":   {said.strip()}"])
    return found


def _code(lines: list[str], language: str = "text") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


class Preformatted(griffe.Extension):
    """Fences what is preformatted in every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
