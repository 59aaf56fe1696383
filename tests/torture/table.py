"""Counts of what was tried and what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .judge import Verdict


@dataclass
class Row:
    """One kind.

    Attributes:
        part: heading that the kind stands under.
        kind: its name.
        tried: how often.
        right: how often right.
        unseen: how often right but for damage that the decoder does not see.
        refused: how often refused with a message.
        wrong: what went wrong, one line each.
    """

    part: str
    kind: str
    tried: int = 0
    right: int = 0
    unseen: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


class Table:
    """Rows in the order in which their kinds came."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}

    def add(self, part: str, kind: str, verdict: Verdict, what: str) -> None:
        """Counts a verdict on `what`."""
        row = self.rows.setdefault((part, kind), Row(part, kind))
        row.tried += 1
        row.right += verdict.outcome == "right"
        row.unseen += verdict.outcome == "unseen"
        row.refused += verdict.outcome == "refused"
        if verdict.outcome == "wrong":
            row.wrong.append(f"{what}: {verdict.why}")

    @property
    def wrong(self) -> list[str]:
        """All that went wrong."""
        return [f"{row.part}, {row.kind}: {line}" for row in self.rows.values() for line in row.wrong]

    def markdown(self) -> str:
        """One table a part, its sum below."""
        out: list[str] = []
        for part in dict.fromkeys(row.part for row in self.rows.values()):
            rows = [row for row in self.rows.values() if row.part == part]
            out += [f"### {part}", "", "| kind | tried | right | damage unseen | refused | wrong |"]
            out.append("|---|---:|---:|---:|---:|---:|")
            out += [_line(row.kind, [row]) for row in rows]
            out += [_line("**all**", rows), ""]
        return "\n".join(out)


def _line(name: str, rows: Iterable[Row]) -> str:
    counts = [(row.tried, row.right, row.unseen, row.refused, len(row.wrong)) for row in rows]
    return f"| {name} | " + " | ".join(f"{sum(column):,}" for column in zip(*counts, strict=True)) + " |"
