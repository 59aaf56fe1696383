"""Names of code, for results that are kept on disk: changed code never reads what other code has made."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path


def code_fingerprint(files: Iterable[Path]) -> str:
    """Hashes what Python modules compute: their code without import lines, docstrings and comments.

    So neither moving a module nor describing it better makes what was kept worthless.

    Args:
        files: the modules; their order does not matter, their names do.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for module in sorted((file.name, ast.dump(_Bare().visit(_tree(file)))) for file in files):
        digest.update(repr(module).encode())
    return digest.hexdigest()


def files_behind(room: Path) -> set[Path]:
    """Finds the code that the modules of a folder rest on.

    Args:
        room: a folder of a package.

    Returns:
        every module in or below it, whatever these import of the same package, and so on. A package that only leads to
        a module (`a` and `a.b` of `import a.b.c`) is not counted.
    """
    package = room
    while (package.parent / "__init__.py").is_file():
        package = package.parent
    found: set[Path] = set()
    new = set(room.rglob("*.py"))
    while new:
        found |= new
        new = {path for file in new for name in _imported(file, package) if (path := _module(package, name))} - found
    return found


def _imported(file: Path, package: Path) -> Iterator[str]:
    """Full names that may be modules, of every import in a file, also those inside functions."""
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = file.relative_to(package.parent).parts[: -node.level]
                base = ".".join((*parents, base) if base else parents)
            below = [_module(package, f"{base}.{alias.name}") for alias in node.names]
            yield from (f"{base}.{alias.name}" for alias in node.names)
            if not all(below):  # a name of the module itself
                yield base


def _module(package: Path, name: str) -> Path | None:
    """The file of a module of the package; None for other names."""
    place = package.parent.joinpath(*name.split("."))
    if name.split(".")[0] != package.name:
        return None
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


class _Bare(ast.NodeTransformer):
    """Takes imports and texts that stand alone out of a module."""

    def visit_Import(self, node: ast.Import) -> None:
        """Removes the line."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Removes the line."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Removes docstrings, those of constants too."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node
