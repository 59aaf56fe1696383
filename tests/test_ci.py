"""What others run: the workflow and hooks call what is here, and what the project says of itself agrees."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tvr_lightning import __version__

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^(ci-[a-z]+):", MAKEFILE, re.MULTILINE))
HELPERS = {"ci-packages"}  # a step of another target's job


def workflow() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    return content


def steps() -> list[dict[str, Any]]:
    return [step for job in workflow()["jobs"].values() for step in job["steps"]]


def combinations() -> set[tuple[str, str]]:
    """Target and Python of each job that runs make."""
    matrix = workflow()["jobs"]["make"]["strategy"]["matrix"]
    pairs = {(target, python) for target in matrix["target"] for python in matrix["python"]}
    return pairs | {(more["target"], more["python"]) for more in matrix["include"]}


def test_every_ci_target_is_a_job_and_every_job_a_target() -> None:
    assert {target for target, _ in combinations()} == TARGETS - HELPERS
    commands = {step["run"] for step in steps() if "run" in step}
    assert commands == {"make ci-packages", 'make "$TARGET" PYTHON=python'}


def test_tests_run_on_every_python_of_the_project() -> None:
    named = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text}
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert named == {f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed}
    assert {python for target, python in combinations() if target == "ci-tests"} == named


def test_the_workflow_can_read_and_nothing_else() -> None:
    content = workflow()
    assert content["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in content[True]  # YAML's `on`
    assert not re.search(r"secrets\.|\$\{\{ *github\.event", (ROOT / ".github/workflows/ci.yml").read_text())
    for job in content["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 60
    for step in steps():
        if "uses" in step:
            assert re.search(r"@v\d+$|@[0-9a-f]{40}$|^docker://.+:\d+\.\d+\.\d+$", step["uses"])
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"] == {"persist-credentials": False}


def test_ci_run_calls_make_alone() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    words = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    assert words[:2] == ["set", "cd"]
    assert set(words[2:]) == {"make"}


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/bug.yml"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/figure.yml"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/wish.yml"),
        ("vendor.citation-file-format", "CITATION.cff"),
    ],
)
def test_what_others_read_is_made_as_they_read_it(schema: str, file: str) -> None:
    checker = shutil.which("check-jsonschema", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if checker is None:
        pytest.skip("check-jsonschema is not installed")
    done = subprocess.run(
        [checker, "--builtin-schema", schema, file], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_version_is_one() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == __version__
    assert citation["license"] == PROJECT["license"]


def test_extras_are_there_and_dev_has_those_that_a_package_index_serves() -> None:
    extras = PROJECT["optional-dependencies"]
    assert {"search", "milvus", "triples-spacy", "reports", "completion", "dev"} <= extras.keys()
    (own,) = (r for r in map(Requirement, extras["dev"]) if r.name == PROJECT["name"])
    assert own.extras == extras.keys() - {"dev", "triples-spacy"}
    for text in [*PROJECT["dependencies"], *(x for extra in extras.values() for x in extra)]:
        requirement = Requirement(text)
        assert requirement.specifier or requirement.name == PROJECT["name"], f"{text} has no lower bound"


def test_minimum_versions_are_those_of_every_extra_that_tests_use() -> None:
    used = set(re.findall(r"--extra ([\w-]+)", MAKEFILE[MAKEFILE.index("\nci-minimum:") :]))
    assert used == PROJECT["optional-dependencies"].keys() - {"dev", "triples-spacy"}


def test_hooks_are_the_projects_own_tools() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"  # nothing is fetched, and versions are those of requirements.lock
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    programs = {hook["entry"].split()[0] for hook in repository["hooks"] if hook["entry"].startswith(".venv/bin/")}
    assert {Path(program).name for program in programs} <= locked
    assert {"ruff", "mypy"} <= {Path(program).name for program in programs}


@pytest.mark.parametrize(
    ("hook", "text", "found"),
    [
        ("trailing-space", "a \nb\n", True),
        ("trailing-space", "a\nb\n", False),
        ("carriage-return", "a\r\n", True),
        ("last-line", "a", True),
        ("last-line", "a\n\n", True),
        ("last-line", "a\n", False),
        ("conflict", "<<<<<<< HEAD\n", True),
        ("private-key", f"-----BEGIN RSA {'PRIVATE'} KEY-----\n", True),
    ],
)
def test_hygiene_finds_what_it_is_for(hook: str, text: str, found: bool) -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (chosen,) = (h for h in repository["hooks"] if h["id"] == hook)
    pattern = re.compile(chosen["entry"])
    pieces = [text] if "--multiline" in chosen.get("args", ()) else text.removesuffix("\n").split("\n")
    assert any(pattern.search(piece) for piece in pieces) == found


@pytest.fixture
def engineless(tmp_path: Path) -> dict[str, str]:
    """An environment whose `docker` is the one that a test writes, if any."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "make", "mkdir", "id", "cat"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return {"PATH": str(folder)}


def container(environment: dict[str, str]) -> tuple[int, str]:
    checkout = Path(environment["PATH"]).parent  # it makes `data` and `runs`
    shutil.copy(ROOT / "Makefile", checkout)
    done = subprocess.run(
        ["make", "-s", "ci-container"], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_container_is_built_or_the_reason_is_said(engineless: dict[str, str], tmp_path: Path) -> None:
    code, said = container(engineless)
    assert (code, "docker is not installed" in said) == (0, True)
    docker = Path(engineless["PATH"]) / "docker"
    docker.write_text(f"#!/bin/bash\n[ $1 != info ] || exit 1\necho $* >> {tmp_path}/log\n")
    docker.chmod(0o755)
    code, said = container(engineless)
    assert (code, "engine does not answer" in said) == (0, True)
    assert not (tmp_path / "log").exists()
    docker.write_text(f"#!/bin/bash\necho $* >> {tmp_path}/log\n")
    assert container(engineless)[0] == 0
    calls = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[3] if line != "info" else line for line in calls] == ["info", "build", "run"]
    docker.write_text("#!/bin/bash\n[ $1 = info ]\n")  # a build that fails is no skip
    assert container(engineless)[0] != 0


def test_figures_of_coverage_leave_nothing_out_in_silence() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]
    assert settings["run"]["source"] == ["tvr_lightning"]
    assert all((ROOT / Path(pattern).parent).is_dir() for pattern in settings["run"]["omit"])
    assert not re.search("metrics|evaluation|losses", json.dumps(settings["run"]["omit"]))
    rule = re.search(r"^coverage: .*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert rule
    assert "--fail-under=100" in rule[1]
    for room in ("metrics", "evaluation", "losses"):
        assert f"tvr_lightning/{room}/*" in rule[1]
