"""`tvr encode`: packed codes of a split's captions and videos."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.config.arguments import TRUST
from tvr_lightning.visible import say

OVERVIEW = """\
  encode    write the codes of a split            tvr encode runs/sptch_shapes_64/RUN --split train
"""


def main(words: Sequence[str]) -> int:
    """Writes the codes; returns the exit code."""
    parser = argparse.ArgumentParser(
        "tvr encode", description="Packed codes of a split's captions and videos.", allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="a run's folder, of a method that makes codes")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--out", type=Path, help="the file (default: codes.npz in the run's folder)")
    parser.add_argument(
        TRUST, action="store_true", help="the run's configuration may import modules of the working directory"
    )
    options = parser.parse_args(words[1:])
    from tvr_lightning.run.encode import encode_run

    path, codes = encode_run(options.run, options.split, options.out, options.trust)
    say(f"{path}: " + ", ".join(f"{len(c):,} {name} codes of {c.bits} bits" for name, c in codes.items()))
    return 0
