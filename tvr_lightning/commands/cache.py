"""`tvr cache`: what lies in the cache folder, and taking out of it what nobody uses."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tvr_lightning.commands.parser import Parser
from tvr_lightning.data.stores.caches import (
    HELD,
    NOT_MADE_AGAIN,
    NOTED,
    PARTS,
    Entry,
    Part,
    Pruned,
    entries_of,
    prune,
    sizes_of,
)
from tvr_lightning.data.stores.files import cache_folder
from tvr_lightning.errors import ConfigError, RunError, few
from tvr_lightning.visible import bytes_in_words, console, from_home, json_text, say

OVERVIEW = """\
  cache     show cached frames, features, ...     tvr cache
            remove what is unused                 tvr cache prune --older-than 30d [--part frames] [--max-size 10G]
"""
SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def main(words: Sequence[str]) -> int:
    """Shows or prunes; returns the exit code, 1 where something could not be removed.

    Raises:
        ConfigError: nothing says what is to go.
        RunError: the folder cannot be read.
    """
    parser = Parser(
        "tvr cache",
        description="Show what the cache folder holds, or `prune` it: remove what can be recomputed, least recently "
        "used first. What a running process uses stays.",
    )
    parser.add_argument("action", nargs="?", choices=("show", "prune"), default="show", help="default: show")
    parser.add_argument(
        "--cache_dir", type=Path, help="another folder, as data.cache_dir names it (default: the user's cache folder)"
    )
    parser.add_argument("--json", action="store_true", help="show as JSON")
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="prune only this part; may be given several times. WordNet, "
        "which cannot be recomputed, is only removed if named",
    )  # fmt: skip
    parser.add_argument(
        "--older-than", "--older_than", type=_of(SECONDS), metavar="30d",
        help="prune what no run has used for this long: hours (h), days (d) or weeks (w)",
    )  # fmt: skip
    parser.add_argument(
        "--max-size", "--max_size", type=_of(BYTES), metavar="10G", help="prune until this much is left: M, G or T"
    )
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="say what would go, and remove nothing")
    options = parser.parse_args(words[1:])
    folder = cache_folder(options.cache_dir)
    said = [n for n in ("part", "older_than", "max_size") if getattr(options, n) is not None]
    try:
        if options.action == "prune":
            if options.json:
                raise ConfigError("--json is of `tvr cache`, which shows")
            if not said:
                raise ConfigError(
                    "say what is to go: tvr cache prune --older-than 30d, --max-size 10G or --part frames, or several"
                )
            parts: list[Part] = options.part or [part for part in PARTS if part not in NOT_MADE_AGAIN]
            result = prune(folder, parts, options.older_than, options.max_size, options.dry_run)
            return _say_pruned(folder, result, options.dry_run)
        if said or options.dry_run:
            name = f"--{said[0].replace('_', '-')}" if said else "--dry_run"
            raise ConfigError(f"{name} removes nothing by itself: tvr cache prune {name} ...")
        entries = entries_of(folder)
    except OSError as error:
        raise RunError(f"the cache folder {from_home(str(folder))}: {error.strerror or error}") from error
    _show(folder, entries, options.json)
    return 0


def _of(units: dict[str, int]) -> Callable[[str], int]:
    """The type of an option: a number and its unit."""

    def read(text: str) -> int:
        found = re.fullmatch(rf"(\d{{1,9}}(?:\.\d+)?)({'|'.join(units)})(?:i?B)?", text.strip())
        if not found:
            known = ", ".join(f"3{unit}" for unit in units)
            raise argparse.ArgumentTypeError(f"'{text[:40]}' is not a number with a unit, such as {known}")
        return round(float(found[1]) * units[found[2]])

    return read


def _show(folder: Path, entries: Sequence[Entry], as_json: bool) -> None:
    from rich.table import Table

    sizes = sizes_of(entries)
    if as_json:
        parts = {part: {"files": f, "bytes": b, "last_used": used} for part, (f, b, used) in sizes.items()}
        say(json_text({"folder": from_home(str(folder)), "parts": parts}, 1))
        return
    table = Table("part", "what", box=None)
    for name in ("files", "size", "last used"):
        table.add_column(name, justify="right")
    for part, (files, size, used) in sizes.items():
        noted = "" if part in NOTED else "written "
        table.add_row(part, HELD[part], f"{files:,}", bytes_in_words(size), "" if used is None else noted + _ago(used))
    table.add_row(
        "all", "", f"{sum(f for f, _, _ in sizes.values()):,}", bytes_in_words(sum(b for _, b, _ in sizes.values()))
    )
    say(f"cache folder: {from_home(str(folder))}" + ("" if folder.is_dir() else ", which is not there yet"))
    console().print(table)


def _say_pruned(folder: Path, result: Pruned, dry_run: bool) -> int:
    size = sum(entry.size for entry in result.removed)
    done = "would be removed" if dry_run else "removed"
    place = from_home(str(folder)) + ("" if folder.is_dir() else ", which is not there")
    say(f"{place}: {_entries(result.removed)} of {bytes_in_words(size)} {done}, {bytes_in_words(result.left)} left")
    if result.in_use:
        held = sum(entry.size for entry in result.in_use)
        say(f"{_entries(result.in_use)} of {bytes_in_words(held)} stay: a running process uses them", file=sys.stderr)
    if result.failed:
        why = few(f"{name}: {reason}" for name, reason in result.failed.items())
        say(f"tvr: {len(result.failed):,} could not be removed: {why}", file=sys.stderr)
    return 1 if result.failed else 0


def _entries(found: Sequence[object]) -> str:
    return f"{len(found):,} {'entry' if len(found) == 1 else 'entries'}"


def _ago(used: float) -> str:
    """How long ago that was."""
    hours = max(0.0, time.time() - used) / 3600
    return "within an hour" if hours < 1 else f"{hours:.0f} h ago" if hours < 48 else f"{hours / 24:.0f} days ago"
