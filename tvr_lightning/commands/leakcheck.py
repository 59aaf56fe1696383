"""`tvr leakcheck`: does a method retrieve noise?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tvr_lightning.commands.parser import Parser
from tvr_lightning.visible import say

OVERVIEW = """\
  leakcheck check whether a method's scores read the answer: train it on noise, test it on other noise
                                                  tvr leakcheck --config experiments/X.yaml
"""


def main(words: Sequence[str]) -> int:
    """Trains on noise and tests on fresh noise; returns the exit code, 1 for a leak."""
    parser = Parser(
        "tvr leakcheck",
        description="Train an experiment's method on noise for a minute and test it on fresh noise, which nothing can "
        "retrieve. Exit code 1 if it is retrieved above chance: then scores read the ground truth.",
        epilog="Settings of the experiment follow, e.g. --model.pairing=matched. See docs/leakage.md.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", required=True, help="the experiment")
    for name, what in {"steps": "training steps", "batch_size": "pairs per step", "pairs": "training pairs",
                       "videos": "test videos", "texts": "test captions, more than videos", "seed": "of all draws",
                       "num_frames": "frames per video", "max_words": "tokens per caption"}.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, help=what)
    parser.add_argument("--lr", type=float, help="learning rate")
    options, settings = parser.parse_known_args(words[1:])
    sizes = vars(options)
    experiment = ["--config", sizes.pop("config"), *settings]
    from tvr_lightning.config.arguments import read_arguments

    read_arguments(experiment)  # a wrong file or setting is said before the slow imports
    from tvr_lightning.run.leakcheck import check_leak
    from tvr_lightning.synthetic.noise import LeakProbe

    report = check_leak(experiment, LeakProbe(**sizes))
    say(report.text())
    return 1 if report.leaks else 0
