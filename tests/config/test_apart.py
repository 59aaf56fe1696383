"""Runs that lie apart by a number that their method names, and names of experiments that mean another number."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tvr_lightning.commands.main import main
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.compose import compose
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.clip4clip import CLIP4Clip
from tvr_lightning.methods.sptch import SPTCH
from tvr_lightning.run.ablation import read_grid

ROOT = Path(__file__).parents[2]
FOUR = [f"sptch_{dataset}" for dataset in ("activitynet", "charades", "msrvtt", "shapes")]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def named(*words: str) -> tuple[str, int]:
    """The experiment that words mean, and its bits."""
    config, _ = read_arguments(["--config", *words])
    return config["experiment"], config["model"]["init_args"]["code_length"]


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("bits", [16, 32, 64, 128])
def test_names_of_files_that_were_mean_what_they_meant(name: str, bits: int) -> None:
    for written in (f"{name}_{bits}", f"experiments/{name}_{bits}.yaml", str(ROOT / f"experiments/{name}_{bits}.yaml")):
        assert named(written) == (f"{name}_{bits}", bits)
    plain, other = compose(name), compose(f"{name}_{bits}")
    plain["model"]["init_args"]["code_length"] = bits
    assert other == plain


def test_another_value_is_another_name() -> None:
    assert named("sptch_shapes") == ("sptch_shapes", 64)
    assert named("sptch_shapes", "--model.code_length=64") == ("sptch_shapes", 64)
    assert named("sptch_shapes", "--model.code_length=32") == ("sptch_shapes_32", 32)
    assert named("sptch_shapes", "--model.init_args.code_length", "32") == ("sptch_shapes_32", 32)
    assert named("sptch_shapes_64", "--model.code_length=32") == ("sptch_shapes_32", 32)
    assert named("sptch_shapes", "--model.code_length=32", "--experiment=mine") == ("mine", 32)
    assert named("sptch_shapes", "--model.width=64") == ("sptch_shapes", 64)
    config, _ = read_arguments(["--config", "lean_shapes", "--model.iterations=3"])
    assert config["experiment"] == "lean_shapes"


def test_a_run_keeps_the_name_that_it_has(tmp_path: Path) -> None:
    config, _ = read_arguments(["--config", "sptch_shapes", "--model.code_length=32", "--run_id=a"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert named(str(tmp_path / "config.yaml")) == ("sptch_shapes_32", 32)
    assert named(str(tmp_path / "config.yaml"), "--model.code_length=16") == ("sptch_shapes_16", 16)


@pytest.mark.parametrize("name", ["lean_shapes_4", "sptch_nowhere_32", "sptch_shapes_short", "sptch_shapes_"])
def test_other_names_without_a_file_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no experiment file {name}: did you mean"):
        compose(name)


def test_a_number_that_the_method_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "sptch_shapes_0"]) == 2
    assert "model.code_length is 0; it must be at least 1 bit" in capsys.readouterr().err


def test_a_grid_has_one_home() -> None:
    points = read_grid(ROOT / "experiments/ablations/sptch/code_length.yaml")
    assert {point.home.name for point in points} == {"sptch_msrvtt"}
    assert [point.name for point in points] == ["code_length-32", "code_length-64", "code_length-128"]
    for point in points:
        assert read_arguments(point.words)[0]["experiment"] == "sptch_msrvtt"
    fixed = read_grid(ROOT / "experiments/ablations/sptch/hash_weights.yaml", "sptch_shapes_32")
    assert {point.home.name for point in fixed} == {"sptch_shapes_32"}


def test_what_a_class_declares_is_read_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (CLIP4Clip.runs_apart_by, SPTCH.runs_apart_by) == (None, "code_length")
    (tmp_path / "mine.py").write_text(
        "from tvr_lightning.methods.sptch import SPTCH\nclass Mine(SPTCH):\n    runs_apart_by = 'width'\n"
    )
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine_shapes.yaml").write_text(
        "defaults: [data/shapes, method/sptch, trainer/hashing_cpu]\n"
        "model: {class_path: mine.Mine, init_args: {width: 8}}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config, _ = read_arguments(["--config", "mine_shapes_4"])
    assert (config["experiment"], config["model"]["init_args"]["width"]) == ("mine_shapes_4", 4)
    config, _ = read_arguments(["--config", "mine_shapes", "--model.code_length=32"])
    assert config["experiment"] == "mine_shapes"
