"""Makes a stand-in's weights again: `python -m tvr_lightning.synthetic.stand_ins clip FILE` (minutes on two cores)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tvr_lightning.errors import TVRError
from tvr_lightning.synthetic.stand_ins import Recipe, clip_recipe, vgg_recipe
from tvr_lightning.visible import say

RECIPES: Mapping[str, Callable[[], Recipe]] = {"clip": clip_recipe, "vgg": vgg_recipe}


def main(words: Sequence[str]) -> int:
    """Trains and writes; returns the exit code."""
    parser = argparse.ArgumentParser("python -m tvr_lightning.synthetic.stand_ins", description=__doc__)
    parser.add_argument("encoder", choices=RECIPES, help="which preset `tiny`")
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="the file to write, NAME.safetensors; it must not exist"
    )
    options = parser.parse_args(words)
    try:
        accuracy = RECIPES[options.encoder]().make(options.file)
    except TVRError as error:
        say(error, file=sys.stderr)
        return 2
    right = ", ".join(f"{asked} {share:.1%}" for asked, share in accuracy.items())
    say(f"tiny {options.encoder.upper()} in {options.file}; correct on held-out pictures: {right}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
