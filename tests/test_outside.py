"""The suite outside a checkout: the wheel is whole, and files and modules of one's own stand beside the suite's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHOD = '''
from tvr_lightning.methods.clip4clip import CLIP4Clip


class OutsideMethod(CLIP4Clip):
    """The same under another name."""
'''
EXPERIMENT = """# mine
defaults: [trainer/cpu, data/shapes, method/clip4clip, data/fewer]
model: {class_path: outside_method.OutsideMethod, init_args: {encoder: {init_args: {model: tiny}}}}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools")
    copy = tmp_path_factory.mktemp("copy")
    for name in ("tvr_lightning", "experiments"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = "import setuptools.build_meta as b; b.build_wheel('out')"
    (copy / "out").mkdir()
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next((copy / "out").glob("*.whl"))


def names_below(folder: str, *endings: str) -> set[str]:
    return {p.relative_to(ROOT).as_posix() for e in endings for p in (ROOT / folder).rglob(f"*{e}")}


def test_wheel_holds_the_package_and_the_experiments(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in held if not name.startswith("tvr_lightning-")}
    assert names_below("tvr_lightning", ".py", ".j2", "py.typed") <= package
    experiments = {f"tvr_lightning/{name}" for name in names_below("experiments", ".yaml")}
    assert len(experiments) > 60
    assert {name for name in package if "/experiments/" in name} == experiments
    assert all(name.startswith("tvr_lightning/") for name in package)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a method and an experiment of one's own, which takes shared parts from both places."""
    (tmp_path / "outside_method.py").write_text(METHOD)
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fewer.yaml").write_text("data: {batch_size: 5}")
    return tmp_path


def tvr(folder: Path, package: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs `tvr` as its script does, whose own folder stands on the path and not the working directory."""
    script = "import sys; from tvr_lightning.__main__ import main; sys.argv[0] = 'tvr'; main()"
    # -P: the working directory is not on the path
    return subprocess.run(
        [sys.executable, "-P", "-c", script, *words], cwd=folder, capture_output=True, text=True, check=False,
        timeout=280, env={**os.environ, "PYTHONPATH": str(package), "COLUMNS": "200"},
    )  # fmt: skip


@pytest.mark.slow
def test_installed_wheel_in_an_empty_folder(wheel: Path, tmp_path: Path, folder: Path) -> None:
    package = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(package)
    listed = tvr(folder, package, "experiments")
    assert listed.returncode == 0, listed.stderr
    assert "tc_mgc_msrvtt_7k" in listed.stdout
    shown = tvr(folder, package, "fit", "--config", "mine.yaml", "--print_config")
    assert shown.returncode == 0, shown.stderr
    assert "class_path: outside_method.OutsideMethod" in shown.stdout
    assert "batch_size: 5" in shown.stdout
    assert "num_frames: 6" in shown.stdout  # of the suite's data/shapes


@pytest.mark.slow
def test_names_of_the_suite_are_found_anywhere(folder: Path) -> None:
    for name in ("experiments/clip4clip_shapes.yaml", "clip4clip_shapes"):
        done = tvr(folder, ROOT, "fit", "--config", name, "--data.batch_sise=1")
        assert "unknown key 'data.batch_sise'" in done.stderr
    grid = tvr(folder, ROOT, "ablate", "--config", "experiments/ablations/tc_mgc/heads.yaml", "--dry_run")
    assert grid.stdout.startswith("tvr fit --config experiments/tc_mgc_shapes.yaml")


@pytest.mark.slow
def test_own_experiments_come_first(folder: Path) -> None:
    (folder / "experiments").mkdir()
    (folder / "mine.yaml").rename(folder / "experiments" / "clip4clip_shapes.yaml")
    (folder / "experiments" / "other.yaml").write_text("# other\nmodel: {class_path: outside_method.OutsideMethod}")
    listed = tvr(folder, ROOT, "experiments").stdout
    assert listed.count("clip4clip_shapes") == 1
    assert "mine" in listed.split("clip4clip_shapes")[1].splitlines()[0]
    assert "other" in listed
    assert "tc_mgc_msrvtt_7k" in listed


@pytest.mark.slow
def test_own_method_runs_end_to_end(folder: Path) -> None:
    done = tvr(folder, ROOT, "smoke", "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert "smoke: 1 passed" in done.stdout


@pytest.mark.slow
def test_own_method_is_checked_for_leaks(folder: Path) -> None:
    leak = tvr(folder, ROOT, "leakcheck", "--config", "mine.yaml", "--steps", "2", "--videos", "20", "--texts", "30")
    assert leak.returncode == 0, leak.stderr
    assert "no leak found" in leak.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--model=outside_metod.OutsideMethod", "no module 'outside_metod'; did you mean outside_method?"),
        ("--model=outside_method.OutsideMetod", "no 'OutsideMetod' in outside_method; did you mean OutsideMethod?"),
        ("--config=mine2.yaml", "no experiment file mine2.yaml: did you mean mine?"),
        ("--config=clip4clip_shape", "no experiment file clip4clip_shape: did you mean clip4clip_shapes"),
        ("--config=elsewhere/mine.yaml", "no experiment file elsewhere/mine.yaml: there is no folder elsewhere"),
        ("--config={defaults: [data/shape]}", "defaults name 'data/shape', but neither"),
    ],
)
def test_misspelt_names_are_answered_with_what_is_near(folder: Path, change: str, message: str) -> None:
    done = tvr(folder, ROOT, "fit", "--config", "mine.yaml", change)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_working_directory_hides_nothing_that_is_installed(folder: Path) -> None:
    (folder / "yaml.py").write_text("raise RuntimeError('the wrong yaml')")
    done = tvr(folder, ROOT, "fit", "--config", "mine.yaml", "--data.batch_sise=1")
    assert "unknown key" in done.stderr
