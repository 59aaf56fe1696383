"""`tvr features`: features of a split's captions and videos."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.config.arguments import TRUST
from tvr_lightning.visible import say

OVERVIEW = """\
  features  write a split's features             tvr features runs/tc_mgc_shapes/RUN --split test
"""


def main(words: Sequence[str]) -> int:
    """Writes the files; returns the exit code."""
    parser = argparse.ArgumentParser("tvr features", description="Features of every caption and video of a split.")
    parser.add_argument("run", type=Path, help="a run's folder, or one of its checkpoints")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--out", type=Path, help="the folder (default: features-SPLIT in the run's folder)")
    parser.add_argument(
        TRUST, action="store_true", help="the run's configuration may import modules of the working directory"
    )
    options = parser.parse_args(words[1:])
    from tvr_lightning.run.export import export_features

    folder, shapes = export_features(options.run, options.split, options.out, options.trust)
    for name, fields in shapes.items():
        say(f"{folder}/{name}.safetensors: " + ", ".join(f"{field} {shape}" for field, shape in fields.items()))
    return 0
