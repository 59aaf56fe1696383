"""Experiments run for two batches on generated data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.compose import experiments_in
from tvr_lightning.run.smoke import smoke_arguments, smoke_data
from tvr_lightning.run.training import run

from ..kinds import slow_unless

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layouts")


NAMES = experiments_in(EXPERIMENTS)


@pytest.mark.parametrize("name", slow_unless(NAMES, [NAMES[0], NAMES[-1]]))
def test_two_batches(name: str, layouts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = EXPERIMENTS / f"{name}.yaml"
    config, _ = read_arguments(smoke_arguments(file, smoke_data(file, layouts), tmp_path))
    assert run("fit", config) == 0
    assert name in capsys.readouterr().out


def test_smoke_of_an_unknown_experiment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXPERIMENTS.parent)
    assert main(["smoke", "clip4clip_msrvt"]) == 2
    assert "did you mean clip4clip_msrvtt" in capsys.readouterr().err
