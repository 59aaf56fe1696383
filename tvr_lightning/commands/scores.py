"""`tvr scores`: scores of all pairs of a split."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tvr_lightning.commands.parser import Parser, add_split_of_run
from tvr_lightning.names import run_of
from tvr_lightning.visible import say

OVERVIEW = """\
  scores    write the scores of all pairs         tvr scores runs/tc_mgc_shapes/RUN --split test
"""


def main(words: Sequence[str]) -> int:
    """Writes the files; returns the exit code."""
    parser = Parser("tvr scores", description="Scores of all pairs of a split, with ids.")
    add_split_of_run(parser, "the folder (default: scores-SPLIT in the run's folder)")
    options = parser.parse_args(words[1:])
    run_of(options.run)  # before anything heavy is imported
    from tvr_lightning.run.export import MATRIX, export_scores

    folder, (texts, videos), leaky = export_scores(options.run, options.split, options.out, options.trust)
    say(f"{folder}/{MATRIX}: {texts:,} texts x {videos:,} videos")
    if leaky:
        say("tvr: leaky: these scores read the ground truth and are not retrieval results", file=sys.stderr)
    return 0
