"""The command `tvr`: quick answers first, heavy imports only when there is work to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from tvr_lightning import __version__
from tvr_lightning.errors import INTERRUPTED, ConfigError, TVRError, nearest
from tvr_lightning.visible import make_messages_visible, say

# commands by what they are for, each with its module in this package; `tvr --help` shows them in this order
GROUPS: dict[str, dict[str, str]] = {
    "Train and test": {
        **dict.fromkeys(("fit", "validate", "test", "predict"), "fit"),
        **{name: name for name in ("ablate", "leakcheck", "rehearse", "reproduce", "smoke")},
    },
    "Compare and look": {name: name for name in ("compare", "dashboard", "inspect", "encode", "features", "scores")},
    "Search": {name: name for name in ("index", "search", "serve")},
    "Data": {name: name for name in ("experiments", "data", "triples")},
    "Tools": {name: name for name in ("doctor", "cache", "completion")},
}
COMMANDS = {name: module for group in GROUPS.values() for name, module in group.items()}

HEAD = """usage: tvr COMMAND ...

Text-video retrieval methods, trained and compared honestly.
"""
FOOT = """
Settings of an experiment follow as --trainer.x, --data.x, --model.x, e.g. --trainer.max_epochs=1 --data.batch_size=8;
`tvr fit --config FILE --help` lists them all with their values, `--print_config` shows the resolved experiment.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code.

    That is 0, 1 for an error, 2 for a wrong call, 130 after Ctrl-C, 143 after SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "_ARGCOMPLETE" in os.environ and arguments is None:
        from tvr_lightning.commands.completion import complete

        return complete(COMMANDS)
    make_messages_visible()
    if not words or words[0] in ("-h", "--help", "help"):
        say(overview(), end="")
        return 0 if words else 2
    if words[0] == "--version":
        say(__version__)
        return 0
    try:
        if any("\0" in word for word in words):  # no shell gives one; the system takes none
            raise ConfigError("a word of the command contains a zero byte, which no file name can")
        if words[0] not in COMMANDS:
            raise ConfigError(f"no command '{words[0]}'; {nearest(words[0], COMMANDS)}")
        code: int = _module(COMMANDS[words[0]]).main(words)
        return code
    except KeyboardInterrupt:
        say("tvr: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        readable = _readable(error)
        if readable is None:
            raise
        say(f"tvr: {readable}", file=sys.stderr)
        return 2 if isinstance(readable, ConfigError) else 1


def _readable(error: Exception) -> TVRError | None:
    """What a user should read of an error; None for one that nobody foresaw."""
    own = error if isinstance(error, TVRError) else None
    if "torch" not in sys.modules:  # no workers that can die, nor memory that they or a GPU could lack
        return own
    from tvr_lightning.run.readable import readable_error

    return readable_error(error) or own


def overview() -> str:
    """What `tvr --help` prints."""
    parts = [
        f"\n{title}:\n" + "".join(_module(name).OVERVIEW for name in dict.fromkeys(group.values()))
        for title, group in GROUPS.items()
    ]
    return HEAD + "".join(parts) + FOOT


def _module(name: str) -> Any:
    return import_module(f"tvr_lightning.commands.{name}")
