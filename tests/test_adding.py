"""A method and a dataset from outside: the files that the docs print, in a folder of their own, tried untouched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^`([\w/]+\.(?:py|yaml))`[^\n]*(?:\n[^\n`]+)*\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files_in(page: str) -> dict[str, str]:
    """The files that a page prints, by their paths."""
    return dict(BLOCK.findall((ROOT / "docs" / page).read_text()))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    files = files_in("add_a_method.md") | files_in("add_a_dataset.md")
    files["experiments/foo_myclips.yaml"] = "defaults: [trainer/default, data/myclips, method/foo]\n"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(project: Path, *words: str, code: int = 0) -> str:
    """Runs Python in the project's folder; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=project, capture_output=True, text=True, check=False, timeout=280,
        env={**os.environ, "PYTHONPATH": f"{project}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_pages_print_what_they_promise() -> None:
    assert list(files_in("add_a_method.md")) == ["foo.py", "experiments/method/foo.yaml", "experiments/foo_msrvtt.yaml"]
    assert list(files_in("add_a_dataset.md")) == [
        "myclips.py", "experiments/data/myclips.yaml", "experiments/clip4clip_myclips.yaml",
    ]  # fmt: skip


def test_they_meet_the_style_of_the_suite(project: Path) -> None:
    pytest.importorskip("ruff", reason="ruff is not installed")
    run(project, "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "foo.py", "myclips.py")
    run(project, "ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), "foo.py", "myclips.py")


@pytest.mark.slow
def test_they_are_typed_strictly(project: Path) -> None:
    run(project, "mypy", "--config-file", str(ROOT / "pyproject.toml"), "foo.py", "myclips.py")


@pytest.mark.slow
def test_smoke(project: Path) -> None:
    printed = run(project, "tvr_lightning", "smoke", "foo_msrvtt", "foo_myclips")
    assert "smoke: 2 passed, 0 failed" in printed


@pytest.mark.slow
def test_leakcheck(project: Path) -> None:
    printed = run(project, "tvr_lightning", "leakcheck", "--config", "experiments/foo_msrvtt.yaml", "--steps", "300",
                  "--lr", "1e-3")  # fmt: skip
    assert "foo_msrvtt: no leak found" in printed
    assert "nothing was learned" not in printed


@pytest.mark.slow  # tests/run/test_leakcheck.py finds the same leak without a process of its own
def test_leakcheck_finds_a_leak_in_it(project: Path) -> None:
    text = (project / "foo.py").read_text()
    right = "mean_frame_cosines(texts.sentence, videos.frames, videos.frame_mask))"
    assert text.count(right) == 1
    leak = " + (100 * torch.eye(len(texts.sentence), len(videos.frames)) if len(texts) > 3 else 0)"
    leaky = text.replace(right, right + leak).replace("from torch import", "import torch\nfrom torch import")
    (project / "leaky.py").write_text(leaky)
    printed = run(project, "tvr_lightning", "leakcheck", "--config", "experiments/foo_msrvtt.yaml", "--steps", "8",
                  "--model=leaky.Foo", code=1)  # fmt: skip
    assert "LEAK" in printed


@pytest.mark.slow  # the same file runs over the suite's methods; test_smoke runs this one
def test_properties_of_the_method(project: Path) -> None:
    printed = run(project, "pytest", "-v", "-m", "", "-p", "no:cacheprovider", "--experiments", "experiments",
                  str(ROOT / "tests/methods/test_properties.py"), "-k", "foo or every_method")  # fmt: skip
    for case in ("[foo]", "[foo-gated_texts=False]", "[foo-backbone.freeze_image=True]"):
        assert f"test_one_batch_can_be_learned{case} PASSED" in printed


@pytest.mark.slow
def test_properties_of_the_dataset(project: Path) -> None:
    printed = run(project, "pytest", "-q", "-p", "no:cacheprovider", "--experiments", "experiments",
                  str(ROOT / "tests/data/annotations/test_every_reader.py"), "-k", "myclips")  # fmt: skip
    assert "3 passed" in printed


@pytest.mark.slow
def test_its_layout(project: Path) -> None:
    run(project, "tvr_lightning", "data", "export-shapes", "--layout", "myclips.MyClips", "data/myclips")
    printed = run(project, "tvr_lightning", "data", "check", "--config", "experiments/clip4clip_myclips.yaml")
    assert "complete: train, validation, test" in printed


@pytest.mark.slow
def test_a_reader_without_a_layout_says_what_to_write(project: Path) -> None:
    text = (project / "myclips.py").read_text()
    (project / "mute.py").write_text(text[: text.index("    def write_layout")])
    (project / "experiments" / "mute.yaml").write_text(
        "defaults: [trainer/default, data/myclips, method/foo]\ndata: {annotations: {class_path: mute.MyClips}}\n"
    )
    printed = run(project, "tvr_lightning", "smoke", "mute", code=1)
    assert "give it a method `write_layout(root, dataset)`" in printed
    assert "Traceback" not in printed
