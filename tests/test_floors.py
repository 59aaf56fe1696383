"""The house: a file imports only from lower floors, and from rooms of its own floor that come before its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tvr_lightning"
FLOORS = (
    ("visible", "errors", "names", "types", "optim", "distributed", "device"),
    ("data", "nn", "encoders", "losses", "metrics"),
    ("evaluation",),
    ("methods",),
    ("config", "synthetic"),
    ("run",),
    ("report", "search"),
    ("commands",),
)
ENTRANCES = ("__init__", "__main__")  # they open every door
MAX_FLAT = 9
PLACE = {room: (floor, order) for floor, rooms in enumerate(FLOORS) for order, room in enumerate(rooms)}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    """`tvr_lightning.data.video.frames`; a package by its own name."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def imports_of(source: str) -> Iterator[str]:
    """Modules of the package that a source imports, wherever in the file and in whatever form."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"relative import {ast.unparse(node)}"
            # `from a import b`: b is a module, or something that a holds
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == PACKAGE.name)


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_down(file: Path) -> None:
    own = room_of(module_of(file))
    if own in ENTRANCES:
        return
    assert own in PLACE, f"{own} has no floor: add it to FLOORS"
    for module in imports_of(file.read_text()):
        room = room_of(module)
        if room == "__init__":  # the version
            continue
        assert room == own or PLACE[room] < PLACE[own], f"{own} {PLACE[own]} imports {module} {PLACE[room]}"


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other (strongly connected components of more than one)."""
    reachable = {}
    for start in graph:
        seen, stack = set(), [start]
        while stack:
            for other in graph[stack.pop()] - seen:
                seen.add(other)
                stack.append(other)
        reachable[start] = seen
    groups = {frozenset({b for b in reachable[a] if a in reachable[b]} | {a}) for a in graph if a in reachable[a]}
    return [set(group) for group in groups]


def test_no_circle_among_files() -> None:
    graph = {module: set(imports_of(file.read_text())) - {PACKAGE.name} for module, file in MODULES.items()}
    assert circles(graph) == []


def test_no_circle_among_folders() -> None:
    """Neither inside a room: `data/video` does not import `data/stores`, which imports it."""
    folder = {m: m if f.name == "__init__.py" else m.rpartition(".")[0] for m, f in MODULES.items()}
    graph: dict[str, set[str]] = {name: set() for name in folder.values()}
    for module, file in MODULES.items():
        own = folder[module]
        # a folder's own files import each other, and those of the folders that hold it
        others = {folder[m] for m in imports_of(file.read_text()) if m != PACKAGE.name}
        graph[own] |= {o for o in others if not own.startswith(o) and not o.startswith(own)}
    assert circles(graph) == []


def test_few_files_stand_flat() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_FLAT


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import tvr_lightning.run.training", ["tvr_lightning.run.training"]),
        ("import tvr_lightning.run.training as t, os", ["tvr_lightning.run.training"]),
        ("def f():\n    from tvr_lightning.run import training", ["tvr_lightning.run.training"]),
        ("from tvr_lightning.run.training import run", ["tvr_lightning.run.training"]),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tvr_lightning import run",
            ["tvr_lightning.run"],
        ),
        ("import torch", []),
    ],
)
def test_every_form_of_import_is_seen(source: str, found: list[str]) -> None:
    assert list(imports_of(source)) == found


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
