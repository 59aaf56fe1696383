"""A new Lightning that lacks what resuming reads is found here, by the name of what is gone."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loops import fit_loop

from tvr_lightning.errors import RunError
from tvr_lightning.run import lightning_private
from tvr_lightning.run.callbacks.resume import KeepLast
from tvr_lightning.run.lightning_private import (
    BELOW,
    FROM,
    INSTALLED,
    Member,
    check_lightning,
    launched_processes,
    move_selection,
    without_deprecated,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path)


@pytest.mark.parametrize("member", Member)
def test_lightning_still_has(trainer: Trainer, member: Member) -> None:
    owner: Any = trainer
    for name in member.split("."):
        assert hasattr(owner, name), f"pytorch-lightning {INSTALLED}: {member} is gone"
        owner = getattr(owner, name)


def test_checkpoints_still_keep_the_counts(trainer: Trainer) -> None:
    state = trainer.fit_loop.state_dict()
    for part, owner in (("epoch_progress", "current"), ("epoch_loop.batch_progress", "current"),
                        ("epoch_loop.batch_progress", "total")):  # fmt: skip
        for count in ("ready", "started", "processed", "completed"):
            assert count in state.get(part, {}).get(owner, {}), f"a checkpoint's {part}.{owner}.{count} is gone"


def test_a_selection_still_keeps_its_paths() -> None:
    state = ModelCheckpoint(dirpath="old", monitor="x").state_dict()
    for key in ("best_model_path", "kth_best_model_path", "best_k_models", "dirpath"):
        assert key in state, f"ModelCheckpoint's {key} is gone"
    state |= {"best_model_path": "/old/best.ckpt", "best_k_models": {"/old/best.ckpt": 1.0}}
    move_selection(state, "/new")
    assert state["best_model_path"] == "/new/best.ckpt"
    assert state["best_k_models"] == {"/new/best.ckpt": 1.0}
    assert state["kth_best_model_path"] == ""  # nothing was chosen yet
    assert state["dirpath"] == "/new"


def test_launchers_still_keep_their_processes(trainer: Trainer) -> None:
    assert launched_processes(trainer) == []  # one device: nothing is launched
    launcher = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False).strategy.launcher
    assert hasattr(launcher, "procs"), "the procs of the launcher of ddp are gone"


def test_no_other_file_reads_lightning_s_loops() -> None:
    package = ROOT / "tvr_lightning"
    names = {n for member in Member for n in member.split(".") if n.startswith("_")} | {"fit_loop", ".procs"}
    found = {p.name: n for p in package.rglob("*.py") for n in names if n in p.read_text()}
    assert found.keys() == {"lightning_private.py"}, found


def test_pyproject_says_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = f"pytorch-lightning>={FROM[0]}.{FROM[1]},<{BELOW[0]}"
    assert [d for d in project["dependencies"] if d.startswith("pytorch-lightning")] == [wanted]
    assert BELOW[1] == 0


@pytest.mark.parametrize("version", ["2.5.9", "3.0.0", "3.0.0.dev20270101", "10.1"])
def test_other_versions_are_refused_before_anything_is_trained(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(lightning_private, "INSTALLED", version)
    with pytest.raises(RunError, match=rf"pytorch-lightning {version} is installed.*'pytorch-lightning>=2\.6,<3'"):
        KeepLast(tmp_path, 1).setup(trainer, SimpleNamespace(), "fit")  # type: ignore[arg-type]
    KeepLast(tmp_path, 1).setup(trainer, SimpleNamespace(), "test")  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["2.6", "2.6.6", "2.10.0rc1"])
def test_supported_versions(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(lightning_private, "INSTALLED", version)
    check_lightning(trainer)


def test_a_member_that_is_gone_is_named(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fit_loop._TrainingEpochLoop, "_should_accumulate")
    with pytest.raises(RunError, match=r"its trainer has no fit_loop\.epoch_loop\._should_accumulate"):
        check_lightning(trainer)


def test_wandb_gets_no_setting_that_it_warns_of(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    assert "anonymous" in logger._wandb_init, "Lightning hands it over no more: without_deprecated can go"
    assert "anonymous" not in without_deprecated(logger)._wandb_init
