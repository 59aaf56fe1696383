"""The Makefile is the front door: what it says and how it fails."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = [
    *(
        "help",
        "setup",
        "data",
        "data-check",
        "experiments",
        "train",
        "eval",
        "smoke",
        "ablate",
        "leakcheck",
        "compare",
        "dashboard",
    ),
    *("test", "test-all", "check", "format", "bench", "lock", "clean"),
]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-s", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_help_lists_every_target_with_one_line() -> None:
    lines = make("help").stdout.splitlines()
    assert [line.split()[1] for line in lines] == TARGETS
    assert all(len(line.split()) > 3 for line in lines)


def test_phony_targets_are_the_listed_ones() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == {*TARGETS, "need-exp"}


@pytest.mark.skipif(not (ROOT / ".venv" / ".ready").exists(), reason="make setup has not run here")
def test_wrong_and_missing_experiment() -> None:
    missing = make("train")
    assert missing.returncode != 0
    assert "which experiment? EXP=NAME, one of:" in missing.stderr
    wrong = make("train", "EXP=clip4clip_msrvtt_8k")
    assert wrong.returncode != 0
    assert "did you mean clip4clip_msrvtt_7k" in wrong.stderr


def test_set_up_takes_the_pythons_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = re.search(r"\((\d+), (\d+)\) <= v < \((\d+), (\d+)\)", (ROOT / "Makefile").read_text())
    assert bounds
    assert project["requires-python"] == ">={}.{},<{}.{}".format(*bounds.groups())


def test_lock_holds_versions_and_hashes_but_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in text
    assert "://" not in text
    assert "torch==" in text
