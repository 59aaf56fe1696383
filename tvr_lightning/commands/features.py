"""`tvr features`: features of a split's captions and videos."""

from __future__ import annotations

from collections.abc import Sequence

from tvr_lightning.commands.parser import Parser, add_split_of_run
from tvr_lightning.names import run_of
from tvr_lightning.visible import say

OVERVIEW = """\
  features  write a split's features              tvr features runs/tc_mgc_shapes/RUN --split test
"""


def main(words: Sequence[str]) -> int:
    """Writes the files; returns the exit code."""
    parser = Parser("tvr features", description="Features of every caption and video of a split.")
    add_split_of_run(parser, "the folder (default: features-SPLIT in the run's folder)")
    options = parser.parse_args(words[1:])
    run_of(options.run)  # before anything heavy is imported
    from tvr_lightning.run.export import export_features

    folder, shapes = export_features(options.run, options.split, options.out, options.trust)
    for name, fields in shapes.items():
        say(f"{folder}/{name}.safetensors: " + ", ".join(f"{field} {shape}" for field, shape in fields.items()))
    return 0
