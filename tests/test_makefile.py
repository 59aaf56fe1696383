"""The Makefile is the front door: what it says and how it fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TARGETS = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-s", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_help_lists_every_target_with_one_line() -> None:
    lines = make("help").stdout.splitlines()
    assert [line.split()[1] for line in lines] == TARGETS
    assert {"train", "test", "check", "lock"} < set(TARGETS)
    assert all(len(line.split()) > 3 for line in lines)


def test_no_file_stands_for_a_target(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("test", "experiments", "results"):
        (tmp_path / name).touch()
    plan = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", "test", "experiments", "results"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "up to date" not in plan.stdout
    assert plan.stdout.count(".venv/bin/") >= 3, plan.stderr


def test_results_are_written_by_the_call_that_its_words_go_to() -> None:
    plan = make("-n", "READY=", "results", "ARGS=--dry_run")
    calls = [line for line in plan.stdout.splitlines() if "protocol.py" in line]
    assert [line.partition("protocol.py ")[2] for line in calls] == ["--then_page docs/results.md --dry_run"], (
        plan.stderr
    )
    assert plan.stdout.count("protocol.py") == 1


@pytest.mark.skipif(not (ROOT / ".venv" / ".ready").exists(), reason="make setup has not run here")
def test_wrong_and_missing_experiment() -> None:
    missing = make("train")
    assert missing.returncode != 0
    assert "which experiment? EXP=NAME, such as EXP=clip4clip_shapes; make experiments lists all " in missing.stderr
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


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of set-up, and a uv that only notes what it is asked for."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    for program, text in (
        (".tools/bin/uv", 'echo "$@" >> asked; case "$*" in *cu999*) exit 2; esac'),
        (".venv/bin/python", ""),
    ):
        path = tmp_path / program
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return tmp_path


def set_up(checkout: Path, *words: str) -> tuple[int, str]:
    """Runs set-up; returns its exit code and what uv was asked for."""
    (checkout / "asked").write_text("")
    done = subprocess.run(
        ["make", "-s", "setup", *words], cwd=checkout, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, (checkout / "asked").read_text()


def test_set_up_installs_the_lock(checkout: Path) -> None:
    code, asked = set_up(checkout)
    assert code == 0
    assert "pip sync" in asked
    assert "requirements.lock" in asked
    assert "torch-backend" not in asked
    assert set_up(checkout) == (0, "")


def test_another_build_of_torch_stays_until_the_lock_is_asked_for(checkout: Path) -> None:
    assert set_up(checkout)[0] == 0
    code, asked = set_up(checkout, "TORCH=cu126")
    assert code == 0
    assert "pip install" in asked
    assert "--torch-backend cu126" in asked
    assert "pip sync" not in asked
    rest = (checkout / ".venv" / ".lock").read_text()
    assert "torch-geometric==" in rest
    assert "--hash=sha256:" in rest
    assert not re.search(r"^(torch|torchvision|triton)==|^nvidia-|^cuda-", rest, re.MULTILINE)
    assert set_up(checkout, "TORCH=cu126") == (0, "")
    assert set_up(checkout) == (0, "")
    time = (checkout / ".venv" / ".ready-cu126").stat().st_mtime + 10
    os.utime(checkout / "requirements.lock", (time, time))  # renewed
    assert "--torch-backend cu126" in set_up(checkout)[1]
    assert "pip sync" in set_up(checkout, "TORCH=lock")[1]
    assert not (checkout / ".venv" / ".ready-cu126").exists()


def test_a_build_that_does_not_exist_changes_nothing(checkout: Path) -> None:
    assert set_up(checkout)[0] == 0
    assert set_up(checkout, "TORCH=cu999")[0] != 0
    assert set_up(checkout) == (0, "")


def test_the_other_builds_are_of_a_release_that_pyproject_takes() -> None:
    named = re.search(r"^BUILD_OF := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named
    pins = {Requirement(text).name: Requirement(text) for text in named[1].split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors = {r.name: r for r in map(Requirement, project["dependencies"])}
    for name in ("torch", "torchvision"):
        assert next(iter(pins[name].specifier)).version in floors[name].specifier


def train(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Trains with a `tvr` that only prints its words."""
    tvr = checkout / ".venv" / "bin" / "tvr"
    tvr.write_text("#!/bin/sh\nprintf '<%s>' \"$@\"; echo\n")
    tvr.chmod(0o755)
    (checkout / ".venv" / ".ready").touch()
    return subprocess.run(
        ["make", "-s", "train", "EXP=some", *words], cwd=checkout, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("seeds", ["0,1", "0, 1", "0 1"])
def test_seeds_are_trained_one_by_one_and_compared(checkout: Path, seeds: str) -> None:
    done = train(checkout, f"SEEDS={seeds}", "ARGS=--runs_dir=my\\ runs --data.x='b c'")
    assert done.returncode == 0, done.stderr
    first, second, table = done.stdout.splitlines()
    for line, seed in ((first, 0), (second, 1)):
        assert "<--runs_dir=my runs><--data.x=b c>" in line
        assert f"<--seed_everything={seed}>" in line
    ids = [re.search(r"<--run_id=([^>]+)>", line) for line in (first, second)]
    assert table == "<compare>" + "".join(f"<my runs/some/{found[1]}>" for found in ids if found)


@pytest.mark.parametrize("seeds", ["-1", "x", "1,x", "1.5"])
def test_seeds_that_are_none_start_nothing(checkout: Path, seeds: str) -> None:
    done = train(checkout, f"SEEDS={seeds}")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "which is not a seed" in done.stderr
