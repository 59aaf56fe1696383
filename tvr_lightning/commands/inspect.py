"""`tvr inspect`: pictures of what a run looks at."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.config.arguments import TRUST

OVERVIEW = """\
  inspect   draw what a run looks at              tvr inspect runs/tc_mgc_shapes/RUN 'video1300#0'
"""


def main(words: Sequence[str]) -> int:
    """Draws the pictures; returns the exit code."""
    parser = argparse.ArgumentParser(
        "tvr inspect", description="Draw the attention and the contrasts' scores of a run as PNG files in its folder."
    )
    parser.add_argument("run", type=Path, help="a run's folder, of a method that looks at frames through the text")
    parser.add_argument("query", help="a test caption's id (video7#0), or any text")
    parser.add_argument("--video", help="look at this test video; default: the caption's own, or the best for a text")
    parser.add_argument("--against", type=Path, nargs="*", default=(), metavar="RUN", help="runs to show beside")
    parser.add_argument(
        TRUST, action="store_true", help="the runs' configurations may import modules of the working directory"
    )
    options = parser.parse_args(words[1:])
    from tvr_lightning.report.inspection import inspect_run

    for path in inspect_run(options.run, options.query, options.video, options.against, options.trust):
        print(path)
    return 0
