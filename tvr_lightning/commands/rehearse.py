"""`tvr rehearse`: what a full run of an experiment will need, before its dataset is here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.commands.parser import Parser
from tvr_lightning.errors import ConfigError
from tvr_lightning.visible import say

OVERVIEW = """\
  rehearse  hours, memory and disk that a full run will need, from ten steps on generated clips
"""


def main(words: Sequence[str]) -> int:
    """Rehearses; returns the exit code."""
    parser = Parser(
        "tvr rehearse", description="Hours, memory and disk that a full run of an experiment will need here.",
        epilog="Settings may follow, e.g. --data.batch_size=32 --trainer.accelerator=gpu.",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, required=True, help="an experiment: experiments/NAME.yaml")
    parser.add_argument("--steps", type=int, default=10, help="steps to time (default: 10)")
    options, settings = parser.parse_known_args(words[1:])
    if options.steps < 1:
        raise ConfigError(f"--steps is {options.steps}; it must be at least 1")
    from tvr_lightning.config.arguments import read_arguments

    read_arguments(["--config", str(options.config), *settings])  # before anything heavy is imported
    from tvr_lightning.run.rehearsal import needs_lines, rehearse

    say("\n".join(needs_lines(rehearse(options.config, settings, options.steps))))
    return 0
