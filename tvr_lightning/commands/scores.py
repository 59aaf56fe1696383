"""`tvr scores`: scores of all pairs of a split."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.config.arguments import TRUST
from tvr_lightning.visible import say

OVERVIEW = """\
  scores    write the scores of all pairs         tvr scores runs/tc_mgc_shapes/RUN --split test
"""


def main(words: Sequence[str]) -> int:
    """Writes the files; returns the exit code."""
    parser = argparse.ArgumentParser("tvr scores", description="Scores of all pairs of a split, with ids.")
    parser.add_argument("run", type=Path, help="a run's folder, or one of its checkpoints")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--out", type=Path, help="the folder (default: scores-SPLIT in the run's folder)")
    parser.add_argument(
        TRUST, action="store_true", help="the run's configuration may import modules of the working directory"
    )
    options = parser.parse_args(words[1:])
    from tvr_lightning.run.export import MATRIX, export_scores

    folder, (texts, videos), leaky = export_scores(options.run, options.split, options.out, options.trust)
    say(f"{folder}/{MATRIX}: {texts:,} texts x {videos:,} videos")
    if leaky:
        say("tvr: leaky: these scores read the ground truth, they are no retrieval results", file=sys.stderr)
    return 0
