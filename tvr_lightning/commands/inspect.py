"""`tvr inspect`: pictures of what a run looks at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.commands.parser import Parser, add_trust
from tvr_lightning.config.arguments import TRUST
from tvr_lightning.errors import ConfigError
from tvr_lightning.names import run_of
from tvr_lightning.visible import say

OVERVIEW = """\
  inspect   draw what a run looks at              tvr inspect runs/tc_mgc_shapes/RUN 'video1300#0'
"""
VIDEO, AGAINST = "--video", "--against"
OPTIONS = (VIDEO, AGAINST, TRUST, "--help")


def main(words: Sequence[str]) -> int:
    """Draws the pictures; returns the exit code."""
    parser = Parser(
        "tvr inspect",
        description="Draw how a run's method scores a query, as PNG files in its folder: weights of words and frames, "
        "and, if a method has several scores, their distribution over the test split.",
        usage="tvr inspect [-h] [--video ID] [--against RUN ...] [--trust] RUN [--] QUERY",
        epilog="An id or a text may begin with a dash; put -- before a QUERY that begins with two.",
    )
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("query", help="a test caption's id (video7#0), or any text")
    parser.add_argument(VIDEO, help="look at this test video; default: the caption's own, or the best for a text")
    parser.add_argument(AGAINST, type=Path, nargs="*", default=(), metavar="RUN", help="runs to show beside it")
    add_trust(parser)
    options = parser.parse_args(with_dashes(words[1:]))
    for run in (options.run, *options.against):
        run_of(run)  # before anything heavy is imported
    from tvr_lightning.report.inspection import inspect_run

    drawn = inspect_run(options.run, options.query, options.video, options.against, options.trust)
    for path in drawn.paths:
        say(path)
    for note in drawn.notes:
        say(f"tvr: {note}", file=sys.stderr)
    return 0


def with_dashes(words: Sequence[str]) -> list[str]:
    """Words such that `argparse` takes no id for an option: YouTube's begin with a dash now and then.

    What follows `--video` is its value; other words that begin with one dash, but `-h`, are not options.

    >>> with_dashes(["RUN", "-0sXY#1", "--video", "--a", "--trust"])
    ['RUN', '--video=--a', '--trust', '--', '-0sXY#1']

    Raises:
        ConfigError: a word with two dashes is not an option.
    """
    options: list[str] = []
    values: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            values += rest
        elif word == VIDEO:
            options.append("=".join([word, *([value] if (value := next(rest, None)) is not None else [])]))
        elif word.startswith("-") and not word.startswith("--") and word != "-h":
            values.append(word)
        elif word.startswith("--") and word.partition("=")[0] not in OPTIONS:
            raise ConfigError(f"no option '{word}'. Before an id or a text that begins with two dashes: -- {word}")
        else:
            options.append(word)
    return [*options, "--", *values] if values else options
