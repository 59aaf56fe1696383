"""The parser of commands other than those of an experiment, and options that several of them have."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tvr_lightning.config.arguments import TRUST
from tvr_lightning.config.options import ROOT


def filled(text: str) -> str:
    """The type of an option that may not be empty, as it is where a variable of a script has no value.

    Raises:
        ArgumentTypeError: it is.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty: give one, or leave the option out")
    return text


def _path(text: str) -> Path:
    return Path(filled(text))  # Path("") is the working directory


class Parser(argparse.ArgumentParser):
    """argparse's without abbreviated options and empty paths, and with what a misspelt option may mean.

    `--cand` would mean another option once there are two that begin so, and an empty path the working directory.

    >>> parser = Parser("tvr search", exit_on_error=False)
    >>> _ = parser.add_argument("--candidates")
    >>> parser.parse_known_args(["--top", "3"])[1]
    ['--top', '3']
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})
        self.register("type", Path, _path)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's; a word that is left over is no setting where it is nearly an option of this command."""
        found, rest = super().parse_known_args(args, namespace)
        options = [option for action in self._actions for option in action.option_strings if len(option) > 2]
        for word in rest:
            name = word.partition("=")[0]
            if name.startswith("--") and name[2:] not in ROOT.slots and (near := get_close_matches(name, options, 1)):
                self.error(f"no option {name}; did you mean {near[0]}?")
        return found, rest


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds `--trust`."""
    parser.add_argument(
        TRUST, action="store_true", help="a run's configuration may import modules of the working directory"
    )


def add_split_of_run(parser: argparse.ArgumentParser, out: str) -> None:
    """Adds a run, one of its splits, where results go, and `--trust`.

    Args:
        parser: of the command.
        out: what `--out` is, and its default.
    """
    parser.add_argument("run", type=Path, help="a run's folder, or one of its checkpoints")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--out", type=Path, help=out)
    add_trust(parser)
