"""The command `tvr`: quick answers first, heavy imports only when there is work to do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tvr_lightning import __version__
from tvr_lightning.errors import ConfigError, TVRError, nearest

INTERRUPTED = 130
TABLE_WIDTH = 160

HELP = """usage: tvr COMMAND ...

Text-video retrieval methods, trained and compared honestly.

  fit       train an experiment, then test it     tvr fit --config experiments/clip4clip_shapes.yaml
  validate  evaluate weights on the split that selects
  test      evaluate weights on the test split    tvr test --config experiments/X.yaml --ckpt_path=best
  predict   write the ten best items of every test caption and video
  compare   one table over runs                   tvr compare runs/clip4clip_shapes
  data      make the embedded dataset             tvr data shapes
  smoke     run every experiment for two batches on tiny generated data

Settings of an experiment follow as --trainer.x, --data.x, --model.x, e.g. --trainer.max_epochs=1 --data.batch_size=8;
`tvr fit --config FILE --help` lists them all, `tvr fit --config FILE --print_config` shows the resolved experiment.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 1 for an error, 2 for a wrong call, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    command = _COMMANDS.get(words[0])
    try:
        if command is None:
            raise ConfigError(f"no command '{words[0]}'; {nearest(words[0], _COMMANDS)}")
        return command(words)
    except ConfigError as error:
        print(f"tvr: {error}", file=sys.stderr)
        return 2
    except TVRError as error:
        print(f"tvr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tvr: interrupted", file=sys.stderr)
        return INTERRUPTED


def _lightning(words: Sequence[str]) -> int:
    from tvr_lightning.arguments import read_arguments

    command = words[0]
    config, flags = read_arguments(words[1:])
    if "model" not in config and not flags:
        raise ConfigError(f"`tvr {command}` needs an experiment: --config experiments/NAME.yaml")
    from tvr_lightning.training import run

    return run(command, config, flags)


def _compare(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("tvr compare", description="One table over the test results of runs.")
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, or folders above runs; all when none is given")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="where runs lie (default: runs)")
    options = parser.parse_args(words[1:])
    from rich.console import Console

    from tvr_lightning.results import compare_table, find_runs

    table = compare_table(find_runs(options.runs, options.runs_dir))
    # figures that are cut say nothing: a narrow terminal wraps lines, a file takes them whole
    Console(width=max(Console().width, TABLE_WIDTH)).print(table)
    return 0


def _data(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("tvr data", description="Datasets.")
    commands = parser.add_subparsers(dest="command", required=True)
    shapes = commands.add_parser("shapes", help="make the embedded dataset, or keep it when it is there and current")
    shapes.add_argument("--root", type=Path, default=Path("data/shapes"), help="where it goes (default: data/shapes)")
    shapes.add_argument("--num_videos", type=int, default=1500, help="videos of all splits (default: 1500)")
    shapes.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words[1:])
    from tvr_lightning.data.annotations.shapes import make_shapes

    made = make_shapes(options.root, options.num_videos, options.seed, progress=True)
    counts = ", ".join(f"{count} {split}" for split, count in made.splits.items())
    how = f"made in {made.seconds:.0f} s, {made.megabytes:.0f} MB" if made.created else "already there"
    print(f"shapes in {made.root}: {counts} videos ({how})")
    return 0


def _smoke(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("tvr smoke", description="Run experiments for two batches on tiny generated data.")
    parser.add_argument("experiments", nargs="*", help="names; all when none is given")
    options = parser.parse_args(words[1:])
    from tvr_lightning.smoke import smoke

    return smoke(options.experiments)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "fit": _lightning,
    "validate": _lightning,
    "test": _lightning,
    "predict": _lightning,
    "compare": _compare,
    "data": _data,
    "smoke": _smoke,
}
