"""benchmarks/score.py: every method has rows, and all forms of a method give the same scores."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
METHODS = sorted(file.stem for file in (ROOT / "experiments" / "method").glob("*.yaml"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return import_module("score")


@pytest.mark.parametrize("method", METHODS)
def test_forms_agree(script: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(script.REPEATS, "cpu", 1)
    first, *others = script.run_case(script.Case(method, 5, 4, 7, 5, 32), "cpu")
    assert others or method not in script.OWN  # a form of its own is there to be compared
    for row in others:
        assert row["max_abs_diff"] < 1e-3, row  # of scores of up to 100
        assert (row["method"], row["texts"], row["videos"]) == (method, 5, 4)
    assert first["speed_ratio"] == 1.0


def test_what_is_measured(script: Any) -> None:
    assert script.METHODS == METHODS
    for method in METHODS:
        for device in ("cpu", "cuda"):
            assert {case.method for case in script.cases_of(method, device)} == {method}
        assert script.large_case(method).texts >= 300
    assert len(script.cases_of("tc_mgc", "cpu")) == 4
    assert script.cases_of("xpool", "cpu") == [script.Case("xpool", 96, 96, 32, 12, 512)]
