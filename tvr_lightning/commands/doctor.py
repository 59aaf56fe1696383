"""`tvr doctor`: what a bug report should say of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.commands.parser import Parser
from tvr_lightning.visible import json_text, say

OVERVIEW = """\
  doctor    versions, devices, disk space, caches: paste it into a bug report
"""


def main(words: Sequence[str]) -> int:
    """Prints the report; returns the exit code, 0 with warnings too."""
    parser = Parser(
        "tvr doctor",
        description="Print what a bug report should say about this machine, and mark possible problems. Keys are not "
        "shown, and paths below the home folder begin with ~.",
    )
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="the folder of runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args(words[1:])
    from tvr_lightning.run.doctor import examine, facts, text

    found = examine(options.runs_dir)
    say(json_text(facts(found), 1) if options.json else text(found))
    return 0
