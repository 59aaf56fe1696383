"""Errors that a user can cause: each says what happened, what was found and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST = 30  # names that a message gives: a split has thousands of videos
INTERRUPTED, TERMINATED = 130, 143  # exit codes after Ctrl-C and after SIGTERM: 128 + the signal


class TVRError(Exception):
    """Base of every error that is the user's to fix; the command line prints it without a traceback."""


class ConfigError(TVRError):
    """A configuration file, key or value that does not fit."""


class DataError(TVRError):
    """Annotation files, video folders or splits that are missing or broken."""


class DecodeError(DataError):
    """A video file of which no requested frame can be decoded."""


class CheckpointError(TVRError):
    """Weights that cannot be read or that belong to another method or size."""


class ScoreError(TVRError):
    """Scores or losses that are not finite."""


class RunError(TVRError):
    """A run folder that exists already, is incomplete or cannot be written."""


class NothingToDraw(RunError):
    """Runs lack what a picture shows."""


class SearchError(TVRError):
    """An index of videos that cannot be read, written or asked."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns `did you mean a, b or c?` for a misspelt name, or known names when none is near.

    Args:
        name: what the user wrote.
        known: the names that exist.
        count: how many near names to give at most.
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if near:
        head, last = near[:-1], near[-1]
        return f"did you mean {', '.join(head)} or {last}?" if head else f"did you mean {last}?"
    return f"known: {few(names, MOST)}" if names else "nothing is known here"


def one_line(error: BaseException) -> str:
    """An error's message, however many lines it has, on one.

    >>> one_line(ValueError("no such   file"))
    'no such file'
    """
    return " ".join(str(error).split())


LONGEST = 300  # of an item in a list


def short(text: str, most: int = 80) -> str:
    """A text that someone else chose, on one line and cut in its middle where it is long.

    >>> short("encoder.weight"), short("a" * 40 + "b" * 40, 11)
    ('encoder.weight', 'aaaaa…bbbbb')
    """
    text = " ".join(text.split()) if "\n" in text else text
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def few(items: Iterable[str], count: int = 5, separator: str = ", ") -> str:
    """Returns `a, b, c, d, e and 3 more`: a list short enough for a message, on one line whatever the items hold."""
    texts = [" ".join(text.split())[:LONGEST] if len(text) > LONGEST or "\n" in text else text for text in items]
    return separator.join(texts[:count]) + (f" and {len(texts) - count} more" if len(texts) > count else "")
