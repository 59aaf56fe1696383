"""Experiments run for two batches on generated data: the fast ones have between them every setting but numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.compose import experiments_in
from tvr_lightning.config.objects import smallest_parts
from tvr_lightning.run.load import build
from tvr_lightning.run.smoke import smoke_arguments, smoke_data
from tvr_lightning.run.training import run

from ..kinds import composed, cover, slow_unless

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layouts")


def settings_of(part: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a configuration that are not numbers."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield from settings_of(value, f"{where}.{key}" if where else key)
    elif isinstance(part, bool) or not isinstance(part, int | float):
        yield where, part


def seen_of(name: str) -> set[str]:
    """What a trial run sees of an experiment: neither numbers nor the encoders that it puts small ones in place of."""
    config = composed(EXPERIMENTS / f"{name}.yaml")
    replaced = {setting.removeprefix("--").partition("=")[0] for setting in smallest_parts(config)}
    return {json.dumps(s, sort_keys=True) for s in settings_of(config) if s[0] not in replaced}


NAMES = experiments_in(EXPERIMENTS)
COVER = cover({name: seen_of(name) for name in NAMES})


@pytest.mark.parametrize("name", slow_unless(NAMES, COVER[:2]))
def test_two_batches(name: str, layouts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = EXPERIMENTS / f"{name}.yaml"
    config, _ = read_arguments(smoke_arguments(file, smoke_data(file, layouts), tmp_path))
    assert run("fit", config) == 0
    assert name in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in COVER])
def test_those_that_do_not_run_are_built(name: str, tmp_path: Path) -> None:
    config, _ = read_arguments(smoke_arguments(EXPERIMENTS / f"{name}.yaml", tmp_path, tmp_path))
    assert build(config).name == name


def test_smoke_of_an_unknown_experiment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXPERIMENTS.parent)
    assert main(["smoke", "clip4clip_msrvt"]) == 2
    assert "did you mean clip4clip_msrvtt" in capsys.readouterr().err
