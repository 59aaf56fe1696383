"""`tvr completion`: what a shell needs to complete commands, options, experiments and runs; and the answers to it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tvr_lightning.commands.parser import Parser
from tvr_lightning.errors import ConfigError, TVRError
from tvr_lightning.visible import say, visible

OVERVIEW = """\
  completion  complete commands, options, names   eval "$(tvr completion bash)", in ~/.bashrc; zsh likewise
"""
SHELLS = ("bash", "zsh")
RUN_FILES = ("config.yaml", "metrics.json")
Completer = Callable[..., Sequence[str]]  # is given `prefix` and `parsed_args`, by name


def main(words: Sequence[str]) -> int:
    """Prints what the shell's file takes; returns the exit code.

    Raises:
        ConfigError: the extra `completion` is not installed.
    """
    parser = Parser(
        "tvr completion",
        description="Print a shell's completion script for `tvr`.",
        epilog='For this shell and later ones: add eval "$(tvr completion bash)" to ~/.bashrc; or, after compinit, '
        'eval "$(tvr completion zsh)" to ~/.zshrc.',
    )
    parser.add_argument("shell", choices=SHELLS)
    options = parser.parse_args(words[1:])
    if find_spec("argcomplete") is None:
        raise ConfigError("tvr completion needs argcomplete: pip install 'tvr-lightning[completion]'")
    from argcomplete.shell_integration import shellcode

    say(shellcode(["tvr"], shell=options.shell), end="")
    return 0


def complete(commands: Mapping[str, str]) -> int:
    """Answers a shell, which asks by argcomplete's variables; returns the exit code where there is no answer.

    Args:
        commands: each with its module.
    """
    if find_spec("argcomplete") is None or "COMP_LINE" not in os.environ:
        return 1
    import argcomplete
    from argcomplete.lexers import split_line

    line = os.environ["COMP_LINE"]
    _, prefix, _, before, _ = split_line(line, int(os.environ.get("COMP_POINT", len(line))))
    try:
        parser = _parser_of(commands, before[1:], prefix)
    except TVRError:
        return 1
    if len(before) > 1:
        os.environ["_ARGCOMPLETE"] = "2"  # the words begin with the command
    for action in _actions(parser):
        if not hasattr(action, "completer"):
            action.completer = _completer(action, parser.prog)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, validator=_fits)
    return 0


def _fits(word: str, prefix: str) -> bool:
    """Whether a word may be offered: a name with a line end, a tab or a control character is not typed for anybody."""
    return word.startswith(prefix) and visible(word) == word and not set(word) & {"\n", "\t"}


def _parser_of(commands: Mapping[str, str], words: Sequence[str], prefix: str) -> argparse.ArgumentParser:
    """The parser that the words so far lead to: of the command, or of commands where there is none yet.

    Args:
        commands: each with its module.
        words: after `tvr`, whole ones.
        prefix: the beginning of the next.
    """
    if not words:
        parser = Parser("tvr")
        parser.add_argument("command", choices=[*commands])
        return parser
    command = words[0]
    if command not in commands:
        raise ConfigError(f"no command '{command}'")
    if commands[command] == "fit":
        return _settings_parser(command, words, prefix)
    with patch.object(Parser, "parse_known_args", _found), patch.object(Parser, "parse_args", _found):
        try:
            import_module(f"tvr_lightning.commands.{commands[command]}").main([command])
        except _FoundError as found:
            return found.parser
    raise ConfigError(f"tvr {command} takes no arguments")


class _FoundError(Exception):
    """A command's parser, as it is when the command asks it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _found(parser: argparse.ArgumentParser, *arguments: Any, **settings: Any) -> Any:
    raise _FoundError(parser)


def _settings_parser(command: str, words: Sequence[str], prefix: str) -> argparse.ArgumentParser:
    """The parser of a command that takes settings, with those that may be meant: reading all takes too long."""
    from tvr_lightning.config.help import TITLES, settings_rows

    parser = Parser(f"tvr {command}")
    parser.add_argument("-c", "--config")
    for flag in ("--print_config", "--trust"):
        parser.add_argument(flag, action="store_true")
    typed = prefix if prefix.startswith("-") else words[-1] if words[-1].startswith("--") else ""
    option, equals, _ = typed.partition("=")
    group, dot, _ = option.removeprefix("--").partition(".")
    wanted: Sequence[str] = ()
    if dot:
        wanted = [group]
    elif not prefix.startswith("-") or equals:  # a value, or a run
        wanted = ["run"] if option not in ("-c", "--config") else []
    else:  # those of a method where the option may begin so
        wanted = [name for name in TITLES if name != "model" or (group and name.startswith(group))]
    config = _experiment(words) if "model" in wanted else {}
    if command != "fit":
        parser.add_argument("run", nargs="?", type=Path)
    for rows in settings_rows(config, wanted).values():
        for row in rows:
            parser.add_argument(f"--{row.name}").completer = _of_choices(row.choices)  # type: ignore[attr-defined]
    for name, more in {"ckpt_path": ("best", "last"), "weights": (), "resume": ("last",)}.items():
        for action in (action for action in parser._actions if action.dest == name):
            action.completer = _runs_or(more)  # type: ignore[attr-defined]
    return parser


def _experiment(words: Sequence[str]) -> Mapping[str, Any]:
    """The experiment that `--config` names, an empty one where none is named or it cannot be read."""
    from tvr_lightning.config.compose import compose

    named = ""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in ("--config", "-c"):
            named = following
        elif word.startswith("--config="):
            named = word.removeprefix("--config=")
    try:
        return compose(named) if named else {}
    except TVRError:
        return {}


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Options and arguments of a parser and of the commands below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def _completer(action: argparse.Action, command: str) -> Completer:
    """What completes an option's value, by its name and type."""
    from argcomplete.completers import FilesCompleter

    if action.choices is not None:
        return _of_choices([*map(str, action.choices)])
    if action.dest == "config" and command == "tvr ablate":
        return _grids
    if action.dest in ("config", "base", "experiments"):
        return _experiments
    if action.dest in ("run", "runs", "against", "baseline"):
        return _runs_or(())
    return FilesCompleter() if action.type is Path else _of_choices(())


def _of_choices(choices: Sequence[str]) -> Completer:
    def complete(prefix: str, **_: Any) -> list[str]:
        return [choice for choice in choices if choice.startswith(prefix)]

    return complete


def _experiments(prefix: str, **_: Any) -> list[str]:
    """Names of experiments, and files."""
    from argcomplete.completers import FilesCompleter

    from tvr_lightning.config.compose import known_experiments

    files: Sequence[str] = FilesCompleter(("yaml",))(prefix)
    return [*(name for name in known_experiments() if name.startswith(prefix)), *files]


def _grids(prefix: str, **_: Any) -> list[str]:
    """Names of the suite's grids, and files."""
    from argcomplete.completers import FilesCompleter

    from tvr_lightning.config.compose import GRIDS, PACKAGED

    grids = sorted(f.relative_to(PACKAGED).with_suffix("").as_posix() for f in (PACKAGED / GRIDS).glob("*/*.yaml"))
    return [*(name for name in grids if name.startswith(prefix)), *FilesCompleter(("yaml",))(prefix)]


def _runs_or(more: Sequence[str]) -> Completer:
    """Completes folders of runs, those of their experiments, and some words; others as paths."""

    def complete(prefix: str, parsed_args: argparse.Namespace | None = None, **_: Any) -> list[str]:
        from argcomplete.completers import FilesCompleter

        home = Path(getattr(parsed_args, "runs_dir", None) or "runs")
        runs = {path.parent for name in RUN_FILES for path in home.glob(f"*/*/{name}")}
        found = [*more, *sorted(map(str, runs | {run.parent for run in runs}))]
        # a folder of runs, to go on into it, or any other path
        return [word for word in found if word.startswith(prefix)] or [*FilesCompleter(directories=True)(prefix)]

    return complete
