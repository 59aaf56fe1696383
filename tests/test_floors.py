"""A file imports only from lower floors of the house."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tvr_lightning"
FLOORS = {
    "types": 0, "errors": 0,
    "data": 1, "nn": 1, "encoders": 1, "losses": 1, "losses_hashing": 1, "metrics": 1, "optim": 1, "distributed": 1,
    "evaluation": 2, "evaluation_codes": 2,
    "methods": 3,
    "callbacks": 4, "cli": 4, "config": 4, "arguments": 4, "results": 4, "training": 4, "trackers": 4, "smoke": 4,
    "reported": 4, "comparison": 4, "comparison_text": 4, "ablation": 4, "dashboard": 4, "inspection": 4,
    "cli_data": 4, "cli_triples": 4, "catalogue": 4, "checkpoints": 4, "codes": 4, "encode": 4, "leakcheck": 4,
    "noise": 4, "pretraining": 4, "__main__": 4, "__init__": 4,
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def floor_of(module: str) -> int:
    parts = module.split(".")[1:]
    return FLOORS[parts[0]] if parts and parts[0] in FLOORS else FLOORS["__init__"]


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_down(file: Path) -> None:
    relative = file.relative_to(PACKAGE).with_suffix("")
    assert relative.parts[0] in FLOORS, f"{relative} has no floor: add it to FLOORS"
    own = FLOORS[relative.parts[0]]
    tree = ast.parse(file.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tvr_lightning") and not node.level:
            if id(node) in typing_only or node.module == "tvr_lightning":
                continue
            assert floor_of(node.module) <= own, f"{relative} (floor {own}) imports {node.module}"


def test_data_and_layers_do_not_know_each_other() -> None:
    for room, forbidden in {"nn": ("data", "encoders"), "metrics": ("data", "nn", "encoders"), "data": ("nn",)}.items():
        for file in (PACKAGE / room).rglob("*.py"):
            for name in forbidden:
                assert f"from tvr_lightning.{name}" not in file.read_text(), f"{file} imports {name}"
