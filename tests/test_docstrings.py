"""Examples in docstrings run and give what they print; every public class of nn/ has one."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tvr_lightning"


def prompts(file: Path) -> int:
    """Examples in the docstrings of a file, wherever they stand."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kinds)]
    return sum(line.lstrip().startswith(">>> ") for text in texts for line in text.splitlines())


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


FILES = sorted(file for file in PACKAGE.rglob("*.py") if ">>> " in file.read_text())
LAYERS = sorted(file for file in (PACKAGE / "nn").rglob("*.py") if file.name != "__init__.py")


@pytest.mark.parametrize("name", [name_of(file) for file in FILES])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.failed == 0
    # doctest does not look everywhere: an example that it misses would never run
    assert found.attempted == prompts(Path(str(module.__file__)))


@pytest.mark.parametrize("name", [name_of(file) for file in LAYERS])
def test_public_classes_of_layers_have_an_example(name: str) -> None:
    public = [
        value
        for key, value in vars(importlib.import_module(name)).items()
        if inspect.isclass(value)
        and value.__module__ == name
        and not key.startswith("_")
        and not inspect.isabstract(value)
        and not getattr(value, "_is_protocol", False)
    ]
    assert [kind.__name__ for kind in public if ">>> " not in (kind.__doc__ or "")] == []
