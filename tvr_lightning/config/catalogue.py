"""The experiments that exist, with what each reproduces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_lightning.config.compose import compose

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Entry:
    """An experiment as `tvr experiments` lists it.

    Attributes:
        name: of the file, without its ending.
        method: the method's class.
        dataset: the reader's class, or the name that the experiment gives the dataset, and its protocol.
        reproduces: the comment at the file's top.
    """

    name: str
    method: str
    dataset: str
    reproduces: str


def list_experiments(files: Mapping[str, Path]) -> list[Entry]:
    """Reads experiment files; nothing is built or imported.

    Args:
        files: by name, see `compose.known_experiments`.

    Raises:
        ConfigError: a file cannot be composed.
    """
    entries = []
    for name, path in sorted(files.items()):
        config = compose(path)
        method = str((config.get("model") or {}).get("class_path") or "")
        reader = (config.get("data") or {}).get("annotations") or {}
        arguments = reader.get("init_args") or {}
        dataset = arguments.get("name") or str(reader.get("class_path") or "").rpartition(".")[2]
        entries.append(
            Entry(
                name,
                method.rpartition(".")[2],
                " ".join(str(part) for part in (dataset, arguments.get("protocol")) if part),
                _top_comment(path),
            )
        )
    return entries


def experiments_table(entries: list[Entry]) -> Table:
    """The list as a table, one row each."""
    from rich.table import Table

    table = Table("experiment", "method", "dataset", "what it reproduces")
    for entry in entries:
        table.add_row(entry.name, entry.method, entry.dataset, entry.reproduces)
    return table


def _top_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
