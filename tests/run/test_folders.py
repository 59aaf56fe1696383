"""Names of run folders: no two runs share one, and a run's own configuration does not keep its name."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tvr_lightning.commands.main import main
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.errors import RunError
from tvr_lightning.run.folders import RUN_FOLDER_VARIABLE, make_run_folder, remove_without_result

from ..small_runs import run_arguments


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, "")  # what a test sets goes with it
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def options(runs: Path, run_id: str | None = None) -> Any:
    return SimpleNamespace(runs_dir=str(runs), experiment="x", run_id=run_id, seed_everything=3)


def test_runs_that_start_in_one_second_have_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: make_run_folder(options(tmp_path)), range(24)))
    assert len(set(folders)) == 24
    assert all(folder.is_dir() for folder in folders)
    assert all(re.fullmatch(r"\d{8}-\d{6}-s3(-\d+)?", folder.name) for folder in folders)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    make_run_folder(options(tmp_path, "a"))
    with pytest.raises(RunError, match=r"x/a exists; a run never overwrites another"):
        make_run_folder(options(tmp_path, "a"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot make the run folder .*set --runs_dir"):
        make_run_folder(options(tmp_path / "file"))


def test_a_folder_without_a_checkpoint_is_removed(tmp_path: Path) -> None:
    for name, files in {"empty": (), "partial": (".last.ckpt.partial",), "whole": ("last.ckpt",)}.items():
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        for file in files:
            (tmp_path / name / "checkpoints" / file).write_text("")
        remove_without_result(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]


def test_a_run_s_configuration_does_not_keep_its_name(tmp_path: Path) -> None:
    content = {"experiment": "x", "run_id": "a"}
    for name, kept in {"a": None, "elsewhere": "a"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(content))
        assert read_arguments(["--config", str(tmp_path / name / "config.yaml")])[0]["run_id"] == kept
    (tmp_path / "elsewhere" / "checkpoints").mkdir()  # a run that was moved
    words = ["--config", str(tmp_path / "elsewhere" / "config.yaml")]
    assert read_arguments(words)[0]["run_id"] is None
    assert read_arguments([*words, "--run_id=b"])[0]["run_id"] == "b"


@pytest.mark.slow
def test_a_named_run_is_tested_and_repeated_by_its_configuration(shapes_root: Path, tmp_path: Path) -> None:
    assert main(["fit", *run_arguments(shapes_root, tmp_path, "--run_id=a", "--trainer.max_epochs=1")]) == 0
    run = tmp_path / "clip4clip_shapes" / "a"
    words = ["--config", str(run / "config.yaml")]
    assert main(["test", *words, f"--ckpt_path={run}"]) == 0
    assert main(["fit", *words]) == 0
    assert len(list(run.parent.glob("*/metrics.json"))) == 3
