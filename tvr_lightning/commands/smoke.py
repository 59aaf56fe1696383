"""`tvr smoke`: experiments for two batches on tiny generated data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tvr_lightning.config.arguments import TRUST

OVERVIEW = """\
  smoke     run every experiment for two batches on tiny generated data
"""


def main(words: Sequence[str]) -> int:
    """Runs them; returns the exit code, 1 when one failed."""
    parser = argparse.ArgumentParser(
        "tvr smoke", description="Run experiments for two batches on tiny generated data.", allow_abbrev=False
    )
    parser.add_argument("experiments", nargs="*", help="names or files; all when none is given")
    parser.add_argument(
        TRUST, action="store_true", help="a run's config.yaml may import modules of the working directory"
    )
    options = parser.parse_args(words[1:])
    from tvr_lightning.run.smoke import smoke

    return smoke(options.experiments, options.trust)
