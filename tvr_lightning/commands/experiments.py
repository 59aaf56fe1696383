"""`tvr experiments`: what there is, and what each reproduces."""

from __future__ import annotations

from collections.abc import Sequence

from tvr_lightning.commands.parser import Parser
from tvr_lightning.commands.tables import print_wide

OVERVIEW = """\
  experiments  list the experiments with what each reproduces
"""


def main(words: Sequence[str]) -> int:
    """Prints the list; returns the exit code."""
    Parser("tvr experiments", description="The experiments, with what each reproduces.").parse_args(words[1:])
    from tvr_lightning.config.catalogue import experiments_table, list_experiments
    from tvr_lightning.config.compose import known_experiments

    print_wide(experiments_table(list_experiments(known_experiments())))
    return 0
