"""`python -m tvr_lightning`, the same as `tvr`."""

from __future__ import annotations

import sys

from tvr_lightning.commands.main import main as _main


def main() -> None:
    """Runs the command line and leaves with its exit code."""
    sys.exit(_main())


if __name__ == "__main__":
    main()
