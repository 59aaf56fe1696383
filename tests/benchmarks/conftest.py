"""The scripts of the protocol, and a page and a README.md that a call could write."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pages(script: Any) -> Any:
    return import_module("pages")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "figures")
    monkeypatch.chdir(ROOT)
    return import_module("protocol")


@pytest.fixture
def page(script: Any, pages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page and a README.md that figures already stand in, and the only ones that a call could write."""
    monkeypatch.setattr(pages, "README", tmp_path / "README.md")
    monkeypatch.setattr(pages, "SHORT", "t2v/R@1")  # the runs below have few probes
    monkeypatch.setattr(script, "check_kept", lambda *_: None)  # nor all files, nor settings of their own
    (tmp_path / "README.md").write_text(f"{pages.BEGIN}old table\n{pages.END}")
    (tmp_path / "page.md").write_text("old page")
    return tmp_path / "page.md"
