"""What the commands that query an index share."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_lightning.commands.parser import add_trust, filled
from tvr_lightning.errors import ConfigError

if TYPE_CHECKING:
    from tvr_lightning.search.index import Index


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the index and how it is opened."""
    parser.add_argument("index", type=Path, help="an index's folder")
    parser.add_argument(
        "--candidates", default="1000",
        help="windows that the method scores: a number, or all, which is exact (default: 1000)",
    )  # fmt: skip
    parser.add_argument("--run", type=filled, help="the run that made the index, if it was moved")
    parser.add_argument("--device", type=filled, help="where to encode queries (default: a GPU if there is one)")
    add_trust(parser)


def check_index_arguments(options: argparse.Namespace) -> None:
    """Refuses wrong ones before anything heavy is imported.

    Raises:
        ConfigError: says which.
    """
    if options.candidates != "all" and not re.fullmatch("0*[1-9][0-9]{0,17}", options.candidates):
        raise ConfigError(f"--candidates is {options.candidates[:40]}; it must be a number of at least 1, or all")


def open_index(options: argparse.Namespace) -> Index:
    """Opens the index.

    Raises:
        SearchError: see `load_index`.
    """
    from tvr_lightning.search.index import load_index

    candidates = None if options.candidates == "all" else int(options.candidates)
    return load_index(options.index, options.run, candidates, options.device, options.trust)
