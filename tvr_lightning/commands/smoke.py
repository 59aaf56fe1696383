"""`tvr smoke`: experiments for two batches on tiny generated data."""

from __future__ import annotations

from collections.abc import Sequence

from tvr_lightning.commands.parser import Parser, add_trust

OVERVIEW = """\
  smoke     run every experiment for two batches on tiny generated data
"""


def main(words: Sequence[str]) -> int:
    """Runs them; returns the exit code, 1 when one failed."""
    parser = Parser("tvr smoke", description="Run experiments for two batches on tiny generated data.")
    parser.add_argument("experiments", nargs="*", help="names or files (default: all)")
    add_trust(parser)
    options = parser.parse_args(words[1:])
    from tvr_lightning.run.smoke import smoke

    return smoke(options.experiments, options.trust)
