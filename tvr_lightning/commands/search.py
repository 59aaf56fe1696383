"""`tvr search`: videos that a text describes, or that are like a video."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvr_lightning.commands.opening import add_index_arguments, check_index_arguments, open_index
from tvr_lightning.commands.parser import Parser
from tvr_lightning.errors import ConfigError
from tvr_lightning.visible import console, json_text, say

OVERVIEW = """\
  search    find videos in an index               tvr search videos.index "a man plays guitar on a roof"
"""


def main(words: Sequence[str]) -> int:
    """Prints what was found; returns the exit code."""
    parser = Parser("tvr search", description="Find videos in an index by a text or a similar video.")
    add_index_arguments(parser)
    parser.add_argument("query", nargs="?", help="what the video shows")
    parser.add_argument("--video", type=Path, help="a video to find similar ones, instead of a text")
    parser.add_argument("-k", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--sheet", type=Path, help="write a picture of the hits (PNG)")
    options = parser.parse_args(words[1:])
    if (options.query is None) == (options.video is None):
        raise ConfigError('say what to search for: either a text, tvr search INDEX "a dog runs", or --video CLIP')
    from tvr_lightning.search.hits import EMPTY, says_something

    if options.query is not None and not says_something(options.query):
        raise ConfigError(EMPTY)
    if options.k < 1:
        raise ConfigError(f"-k is {options.k}; it must be at least 1")
    check_index_arguments(options)
    if options.sheet is not None and not options.sheet.absolute().parent.is_dir():
        raise ConfigError(f"cannot write {options.sheet}: there is no folder {options.sheet.absolute().parent}")
    from tvr_lightning.search.hits import Answer
    from tvr_lightning.search.manifest import read_manifest

    read_manifest(options.index)  # before anything heavy is imported
    index = open_index(options)
    if options.video is not None:
        answer = Answer(index.search_video(options.video, options.k))
    else:
        [answer] = index.answers([options.query], options.k)
    hits = answer.hits
    for note in answer.notes:
        say(f"tvr: {note}", file=sys.stderr)
    if options.sheet is not None:
        from tvr_lightning.search.sheet import write_sheet

        for note in write_sheet(options.sheet, options.query or f"like {options.video.name}", index, hits):
            say(f"tvr: {note}", file=sys.stderr)
        say(f"{options.sheet}: {len(hits)} hits", file=sys.stderr)
    if options.json:
        say(json_text([hit.facts() for hit in hits], 1))
    else:
        _print(hits)
    return 0


def _print(hits: Sequence[Any]) -> None:
    from rich.table import Table

    from tvr_lightning.search.hits import clock

    table = Table("rank", "score", "time", box=None)
    table.add_column("file", overflow="fold")
    for hit in hits:
        table.add_row(str(hit.rank), f"{hit.score:.3f}", f"{clock(hit.start)}-{clock(hit.end)}", hit.file)
    console().print(table)
