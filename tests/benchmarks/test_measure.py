from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The module that scripts import, which keeps results in the test's own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = import_module("measure")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 3090 Ti", "3090"),
        ("NVIDIA L40S", "l40s"),
    ],
)
def test_each_card_has_a_file_of_its_own(
    measure: Any, name: str, card: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert measure.card_of(name) == card
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    measure.write_results("score", "python score.py", [{"pairs": 1}], "cpu")
    measure.write_results("score", "python score.py", [{"pairs": 2}], "cuda", method="x")
    kept = {path.name: json.loads(path.read_text()) for path in (tmp_path / "results").iterdir()}
    assert kept.keys() == {"score.json", f"score.{card}.json"}
    assert kept["score.json"]["rows"] == [{"pairs": 1}]
    assert name not in kept["score.json"]["machine"]
    assert kept[f"score.{card}.json"]["rows"] == [{"pairs": 2}]
    assert kept[f"score.{card}.json"]["machine"].endswith(f", {name}")
    assert kept[f"score.{card}.json"]["method"] == "x"


def test_a_card_without_a_number_is_refused(measure: Any) -> None:
    with pytest.raises(ValueError, match="no model in the GPU's name 'Unknown'"):
        measure.card_of("Unknown")


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_measured_where_there_is_one(measure: Any, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    parser = argparse.ArgumentParser()
    measure.add_device(parser)
    assert parser.parse_args([]).device == ("cuda" if there else "cpu")
    assert parser.parse_args(["--device", "cpu"]).device == "cpu"


def test_all_measurements_of_a_gpu_fit_in_eight_minutes() -> None:
    lines = [line.split() for line in (BENCHMARKS / "gpu.sh").read_text().splitlines()]
    allowed = [int(words[1]) for words in lines if words[:1] in (["measure"], ["timeout"]) and words[1].isdecimal()]
    assert len(allowed) >= 5
    assert sum(allowed) <= 8 * 60
    for words in lines:
        if words[:1] == ["measure"] and words[1].isdecimal():
            assert (BENCHMARKS / f"{words[2]}.py").is_file()
