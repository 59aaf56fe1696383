"""What a search returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


def says_something(query: str) -> bool:
    r"""Whether a query has a letter, a digit or a sign: white space and control characters describe nothing.

    >>> says_something("a dog"), says_something(" \x00\u200b\n")
    (True, False)
    """
    return any(c.isprintable() and not c.isspace() for c in query)


EMPTY = "the query is empty: describe what the video shows"


@dataclass(frozen=True)
class Hit:
    """A window that was found.

    Attributes:
        rank: 1 for the best.
        score: the method's, or for an example the inner product of vectors.
        file: name of the video from the index's root, or absolute.
        path: where it lies.
        start: seconds where the window begins.
        end: seconds where it ends.
        window: its number in the index.
    """

    rank: int
    score: float
    file: str
    path: Path
    start: float
    end: float
    window: int

    def facts(self) -> dict[str, Any]:
        """The same as plain values."""
        return {**asdict(self), "path": str(self.path)}


def clock(seconds: float) -> str:
    """Seconds as a clock shows them.

    >>> clock(5.26), clock(75), clock(3661.5)
    ('0:05.3', '1:15', '1:01:01.5')
    """
    whole, tenths = divmod(round(10 * seconds), 10)
    minutes, s = divmod(whole, 60)
    hours, m = divmod(minutes, 60)
    return (f"{hours}:{m:02d}" if hours else f"{m}") + f":{s:02d}" + (f".{tenths}" if tenths else "")


@dataclass(frozen=True)
class Answer:
    """What one query found.

    Attributes:
        hits: best first; of windows of one video that overlap, the best.
        notes: what a user should know about the query, such as that it was cut.
    """

    hits: list[Hit]
    notes: tuple[str, ...] = ()
