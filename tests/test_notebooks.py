"""The notebooks in docs/notebooks: what is committed is clean, and all of it runs."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tvr_lightning.commands.main import COMMANDS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
OF_A_MACHINE = re.compile(r"/(?:home|root|work|Users|tmp|opt|mnt)/|[A-Z]:\\|https?://(?!creativecommons)", re.ASCII)


def cells_of(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if kind in (None, cell["cell_type"])]


def source_of(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_both_are_there() -> None:
    assert [path.name for path in NOTEBOOKS] == ["search_own_clips.ipynb", "train_and_inspect.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_outputs_and_nothing_of_a_machine(path: Path) -> None:
    for cell in cells_of(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    assert not [found for cell in cells_of(path) for found in OF_A_MACHINE.findall(source_of(cell))]
    metadata = json.loads(path.read_text())["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"  # any environment has it, none of a name of its own
    assert set(metadata) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_code_compiles_and_is_explained(path: Path) -> None:
    cells = cells_of(path)
    assert [cell["cell_type"] for cell in cells[:1]] == ["markdown"]
    assert all(source_of(cell).strip() for cell in cells)
    for cell in cells_of(path, "code"):
        compile(source_of(cell), path.name, "exec")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_commands_experiments_and_pages_that_it_names_exist(path: Path) -> None:
    commands = []
    for cell in cells_of(path, "code"):
        for node in ast.walk(ast.parse(source_of(cell))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tvr":
                commands.append("".join(str(n.value) for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)))
    assert commands
    for command in commands:
        assert command.split()[0] in COMMANDS
    text = "\n".join(map(source_of, cells_of(path)))
    for name in re.findall(r"\b[a-z0-9_]+_(?:shapes|msrvtt)\b", text):
        assert (ROOT / "experiments" / f"{name}.yaml").is_file()
    for page in re.findall(r"\bdocs/\w+\.md\b", text):
        assert (ROOT / page).is_file()
    for other in re.findall(r"\b\w+\.ipynb\b", text):
        assert (FOLDER / other).is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("nbmake") is None, reason="nbmake is not installed")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs_in_an_empty_folder(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake", "--nbmake-timeout=500"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
    }
    done = subprocess.run(
        [*words, "-o", "timeout=0", path.name],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    left = {file.name for file in tmp_path.iterdir()} - {path.name, "cache"}
    assert not left  # all that it makes goes to a folder of its own
