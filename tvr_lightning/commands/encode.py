"""`tvr encode`: packed codes of a split's captions and videos."""

from __future__ import annotations

from collections.abc import Sequence

from tvr_lightning.commands.parser import Parser, add_split_of_run
from tvr_lightning.names import run_of
from tvr_lightning.visible import say

OVERVIEW = """\
  encode    write the codes of a split            tvr encode runs/sptch_shapes/RUN --split train
"""


def main(words: Sequence[str]) -> int:
    """Writes the codes; returns the exit code."""
    parser = Parser("tvr encode", description="Packed codes of a split's captions and videos.")
    add_split_of_run(parser, "the file (default: codes.npz in the run's folder, codes_train.npz of another split)")
    options = parser.parse_args(words[1:])
    run_of(options.run)  # before anything heavy is imported
    from tvr_lightning.run.encode import encode_run

    path, codes = encode_run(options.run, options.split, options.out, options.trust)
    say(f"{path}: " + ", ".join(f"{len(c):,} {name} codes of {c.bits} bits" for name, c in codes.items()))
    return 0
