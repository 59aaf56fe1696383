"""Docstrings as `make docs` shows them: examples, formulas and aligned lines become code blocks.

In the sources they stand as plain text, which a terminal shows as it is and Markdown would run together.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ALIGNED = re.compile(r"\S {2,}\S")
FORMULA = re.compile(r"[A-Za-z]['~^_\w]*(?:\([^()=]*\))? = ")


def as_markdown(text: str) -> str:
    """A docstring with its preformatted paragraphs fenced.

    >>> print(as_markdown("Doubles.\\n\\n>>> 1 + 1\\n2"))
    Doubles.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    return "\n\n".join(_fenced(paragraph) for paragraph in re.split(r"\n{2,}", text))


def _fenced(paragraph: str) -> str:
    lines = paragraph.split("\n")
    if re.match(r"(Args|Attributes|Returns|Yields|Raises|Shapes|Examples?):$", lines[0]):
        return paragraph
    for at, line in enumerate(lines):
        if line.startswith(">>> "):  # what stands above an example is its sentence
            above = [_fenced("\n".join(lines[:at])), ""] if at else []
            return "\n".join([*above, "```pycon", *lines[at:], "```"])
    aligned = sum(bool(ALIGNED.search(line.strip())) for line in lines)
    if all(line.startswith("    ") for line in lines):
        return "\n".join(["```text", *(line[4:] for line in lines), "```"])
    if aligned and (aligned > 1 or len(lines) == 1) or FORMULA.match(paragraph) or re.search(r"^.* -> [\w.]+\.\w+", paragraph):
        return "\n".join(["```text", *lines, "```"])
    return paragraph


class Preformatted(griffe.Extension):
    """Fences what is preformatted in every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
