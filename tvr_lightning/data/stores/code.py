"""Names of code, for results that are kept on disk: changed code never meets what other code has made."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
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
    for file in sorted(files, key=lambda path: path.name):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        digest.update(repr((file.name, ast.dump(_Bare().visit(tree)))).encode())
    return digest.hexdigest()


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
