"""The images are what their files say: set up as everything else, without root, with data and runs outside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tvr_lightning.commands.main import main

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
SEARCH = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
INSTRUCTIONS = [
    (words[0].upper(), words[1])
    for line in re.sub(r"\\\n", "", re.sub(r"(?m)^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text())).splitlines()
    if len(words := line.split(maxsplit=1)) == 2
]
RUNS = [text for name, text in INSTRUCTIONS if name == "RUN"]


def of(name: str) -> list[str]:
    return [text for instruction, text in INSTRUCTIONS if instruction == name]


def stages() -> dict[str, str]:
    """Each stage's base."""
    return {name: base for base, name in (text.split(" AS ") for text in of("FROM"))}


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return content


def suites() -> dict[str, Any]:
    """Services that run one of the two images."""
    return {name: service for name, service in compose()["services"].items() if "build" in service}


def compose_command() -> list[str] | None:
    """What runs Compose here: the engine's plugin, else the program of its own; None when neither is installed."""
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=60)
        if plugin.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def run(*words: str, path: str = SEARCH, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables, "PATH": path}
    return subprocess.run(
        words,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def commands(folder: Path, **scripts: str) -> str:
    """A search path of the given commands alone, beside the few that shell scripts need."""
    folder.mkdir()
    for name in ("bash", "sh", "dirname"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, script in scripts.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    return str(folder)


def test_two_images_over_one_pinned_base() -> None:
    assert set(stages()) == {"suite", "gpu", "cpu"}
    assert stages()["gpu"] == stages()["cpu"] == "suite"
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", stages()["suite"])
    assert version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(version[1])


def test_every_step_is_set_up_or_its_prerequisite() -> None:
    """Packages come from `make setup` alone; the distribution gives nothing but make."""
    system, setup, user = RUNS
    assert re.findall(r"install (?:--\S+ )*([\w -]+?)\s*&&", system) == ["make"]
    assert re.sub(r"--mount=\S+ ", "", setup) == 'make setup TORCH="$TORCH"'
    assert not re.search(r"\b(pip|uv|curl|wget|conda|apt-get|npm)\b", user)
    assert "TORCH=" in of("ARG")  # the lock's build unless asked for
    assert all(service["build"]["args"]["TORCH"] == "${TORCH:-}" for service in suites().values())
    assert not of("ADD")


def test_set_up_finds_its_files_and_does_not_run_again() -> None:
    """What `.venv/.ready` depends on is copied before it and never after: a newer time would set up at every start."""
    at = INSTRUCTIONS.index(("RUN", RUNS[1]))
    before, after = (
        {source for name, text in part if name == "COPY" for source in text.split()[:-1]}
        for part in (INSTRUCTIONS[:at], INSTRUCTIONS[at:])
    )
    rule = re.search(r"^\$\(READY\): (.*) \|", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule
    assert {*rule[1].split(), "Makefile"} <= before
    assert not after & {*rule[1].split(), "."}
    assert {"tvr_lightning", "experiments"} <= after


def test_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {source for text in of("COPY") for source in text.split()[:-1]}
    assert {Path(source).parts[0] for source in copied} == allowed
    assert all((ROOT / source).exists() for source in copied)
    assert not allowed & {"data", "runs", ".git", ".venv", "."}


def test_no_image_runs_as_root() -> None:
    assert of("USER") == ["$TVR_UID:$TVR_GID"]
    assert INSTRUCTIONS.index(("USER", of("USER")[0])) > INSTRUCTIONS.index(("RUN", RUNS[-1]))
    assert {"TVR_UID=1000", "TVR_GID=1000"} <= set(of("ARG"))
    assert not any("user" in service for service in compose()["services"].values())


@pytest.mark.parametrize(("uid", "accepted"), [("1234", True), ("0", False), ("", False), ("root", False)])
def test_user_id_comes_from_the_build_and_is_not_root(tmp_path: Path, uid: str, accepted: bool) -> None:
    log = tmp_path / "log"
    record = f'echo "$0 $*" >> {log}'
    path = commands(tmp_path / "bin", groupadd=record, useradd=record, install=record)
    done = run("sh", "-c", RUNS[-1], path=path, TVR_UID=uid, TVR_GID="77")
    assert (done.returncode == 0) == accepted, done.stderr
    if accepted:
        calls = log.read_text()
        assert "--uid 1234 --gid 77" in calls
        assert "--owner tvr --group tvr data runs" in calls
    else:
        assert f"TVR_UID is '{uid}'" in done.stderr
        assert not log.exists()


def test_data_and_runs_are_volumes() -> None:
    (volumes,) = of("VOLUME")
    assert yaml.safe_load(volumes) == ["/suite/data", "/suite/runs"]
    assert of("WORKDIR") == ["/suite"]
    for service in suites().values():
        mounts = {mount["target"]: mount["source"] for mount in service["volumes"]}
        assert mounts == {"/suite/data": "${TVR_DATA:-../data}", "/suite/runs": "${TVR_RUNS:-../runs}"}


def test_compose_names_both_images() -> None:
    services = suites()
    assert set(services) == {"gpu", "cpu", "serve"}
    for name, service in services.items():
        image = {"serve": "cpu"}.get(name, name)
        assert service["image"] == f"tvr_lightning:{image}"
        assert service["build"]["target"] == image
        assert (DOCKER / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert {f"{key}={value.split(':-')[1].rstrip('}')}" for key, value in service["build"]["args"].items()} <= set(
            of("ARG")
        )
        assert service["cap_drop"] == ["ALL"]
    (device,) = services["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in services["cpu"]


def test_profiles_open_ports_on_this_machine_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    services = compose()["services"]
    profiles = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert profiles == {"serve": ["serve"], "milvus": ["milvus"]}  # neither starts unasked
    for name, inside in (("serve", 8000), ("milvus", 19530)):
        (port,) = services[name]["ports"]
        assert re.fullmatch(rf"127\.0\.0\.1:\$\{{\w+:-{inside}\}}:{inside}", port)
    assert not any("ports" in service for name, service in services.items() if name not in profiles)
    program, *words = services["serve"]["command"]
    assert program == "tvr"
    words = [re.sub(r"\$\{\w+:-(.*)\}", str(tmp_path), word) for word in words]
    assert main(words) == 1  # the words are right, there is no index
    assert "no index in" in capsys.readouterr().err
    assert words[words.index("--names") + 1].split(",") == ["localhost", "127.0.0.1"]
    assert re.fullmatch(r"milvusdb/milvus:v\d+\.\d+\.\d+", services["milvus"]["image"])
    (volume,) = services["milvus"]["volumes"]
    assert volume.split(":")[0] in compose()["volumes"]


def test_keys_come_from_the_environment_alone() -> None:
    for service in suites().values():
        assert "WANDB_API_KEY" in service["environment"]
        assert not any("=" in variable for variable in service["environment"])
        assert "env_file" not in service
    assert not re.search(r"KEY|TOKEN|SECRET|PASSWORD", " ".join([*of("ENV"), *of("ARG"), *RUNS]), re.IGNORECASE)


@pytest.fixture
def check(tmp_path: Path) -> Path:
    """`docker/check.sh` in a checkout without an environment."""
    (tmp_path / "checkout").mkdir()
    return Path(shutil.copytree(DOCKER, tmp_path / "checkout" / "docker")) / "check.sh"


def test_check_names_what_is_not_installed(check: Path, tmp_path: Path) -> None:
    done = run(str(check), path=commands(tmp_path / "bin"))
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert "hadolint is not installed" in line
    assert "docker compose is not installed" in line


def test_check_passes_over_a_docker_without_compose(check: Path, tmp_path: Path) -> None:
    path = commands(
        tmp_path / "bin", docker="exit 1", docker_compose=f"set -f; echo $* > {tmp_path}/log", hadolint="exit 0"
    )
    done = run(str(check), path=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "log").read_text() == "-f docker/compose.yaml --profile * config --quiet\n"


@pytest.mark.parametrize("failing", ["hadolint", "docker_compose"])
def test_check_fails_with_a_tool(check: Path, tmp_path: Path, failing: str) -> None:
    scripts = {"hadolint": "exit 0", "docker_compose": "exit 0", "docker": "exit 1", failing: "exit 3"}
    assert run(str(check), path=commands(tmp_path / "bin", **scripts)).returncode == 3


def test_make_check_runs_it() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^check: ci-lint ", makefile, re.MULTILINE)
    rule = re.search(r"^ci-lint: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert rule
    assert "docker/check.sh" in rule[1]
    assert os.access(DOCKER / "check.sh", os.X_OK)


def test_dockerfile_passes_its_linter(tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint", path=SEARCH)
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = run(hadolint, "docker/Dockerfile")
    assert done.returncode == 0, done.stdout
    as_root = tmp_path / "Dockerfile"
    as_root.write_text((DOCKER / "Dockerfile").read_text().replace("USER $TVR_UID:$TVR_GID", "USER root"))
    assert "DL3002" in run(hadolint, str(as_root)).stdout


def test_compose_file_is_valid(tmp_path: Path) -> None:
    command = compose_command()
    if command is None:
        pytest.skip("docker compose is not installed")
    done = run(
        *command,
        "-f",
        "docker/compose.yaml",
        "--profile",
        "*",
        "config",
        TVR_UID="1234",
        TVR_DATA="/videos",
        WANDB_API_KEY="",
    )
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert "127.0.0.1" in str(services.pop("milvus")["ports"])
    assert {str(service["build"]["args"]["TVR_UID"]) for service in services.values()} == {"1234"}
    assert {service["volumes"][0]["source"] for service in services.values()} == {"/videos"}
    misspelt = tmp_path / "compose.yaml"
    misspelt.write_text((DOCKER / "compose.yaml").read_text().replace("shm_size", "shmsize"))
    assert run(*command, "-f", str(misspelt), "config", "--quiet").returncode != 0
