"""Composing experiments, and the traps of the configuration libraries."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tvr_lightning import load_experiment
from tvr_lightning.config.compose import compose, experiments_in
from tvr_lightning.errors import ConfigError, TVRError
from tvr_lightning.names import CHECKPOINTS, CONFIG, METRICS

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = ["model.encoder.model=tiny", "model.encoder.from_pretrained=null"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "trainer/a.yaml": "trainer: {max_epochs: 3, accelerator: cpu}",
        "data/b.yaml": "data: {batch_size: 4, num_frames: 2}\nmodel: {lists: [1, 2]}",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    (folder / "x.yaml").write_text(text)
    return folder / "x.yaml"


def test_file_stands_on_top_of_its_parents(folder: Path) -> None:
    file = write(
        folder, "defaults: [trainer/a, data/b]\ndata: {num_frames: 9}\ntrainer: {max_epochs: '${data.num_frames}'}"
    )
    assert compose(file) == {
        "trainer": {"max_epochs": 9, "accelerator": "cpu"},
        "data": {"batch_size": 4, "num_frames": 9},
        "model": {"lists": [1, 2]},
    }


@pytest.mark.parametrize("parents", ['["data/${which}"]', "data/${which}", "${oc.env:PARENT,data/b}", "${list}"])
def test_names_of_parents_may_be_interpolated(folder: Path, parents: str) -> None:
    composed = compose(write(folder, f"defaults: {parents}\nwhich: b\nlist: [data/b]"))
    assert composed["data"] == {"batch_size": 4, "num_frames": 2}


def test_a_part_of_another_file_with_the_same_time_and_size_is_read(folder: Path) -> None:
    file, part, kept = write(folder, "defaults: [data/b]"), folder / "data/b.yaml", folder / "other.yaml"
    kept.write_text("data: {batch_size: 5}")
    part.write_text("data: {batch_size: 4}")
    for other in (kept, part):
        os.utime(other, (1e9, 1e9))
    assert compose(file)["data"] == {"batch_size": 4}
    shutil.copy2(kept, part)
    assert compose(file)["data"] == {"batch_size": 5}


def test_a_shared_part_is_read_again_when_it_has_changed_and_no_one_can_change_what_was_read(folder: Path) -> None:
    file = write(folder, "defaults: [data/b]")
    first = compose(file)
    first["model"]["lists"].append(3)
    first["data"]["batch_size"] = 5
    assert compose(file) == {"data": {"batch_size": 4, "num_frames": 2}, "model": {"lists": [1, 2]}}
    (folder / "data/b.yaml").write_text("data: {batch_size: 16}")
    assert compose(file) == {"data": {"batch_size": 16}}


def test_parser_turns_a_nested_null_into_text() -> None:
    """Why settings do not go through jsonargparse's command line; once this fails, they may."""
    from tvr_lightning.run.build import ExperimentCLI

    with pytest.raises(ValueError, match="tag 'None'"):
        ExperimentCLI(compose(EXPERIMENTS / "clip4clip_shapes.yaml"), ["--model.encoder.from_pretrained=null"])


def test_lists_replace(folder: Path) -> None:
    assert compose(write(folder, "defaults: [data/b]\nmodel: {lists: [7]}"))["model"] == {"lists": [7]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "defaults: [trainer/aa]",
            "'trainer/aa', but neither .* nor the suite has .*; did you mean trainer/a",
        ),
        ("defaults: [trainer/a]\ndata: {x: '${nothing.here}'}", "nothing"),
        ("data: [unclosed", "not valid YAML"),
        ("defaults: 3", "defaults is 3; it lists shared parts"),
        ("defaults: {trainer: a}", "defaults is {'trainer': 'a'}; it lists"),
        ("defaults: ['${nothing.here}']", "nothing.here"),
        ("- a\n- b", "an experiment is a mapping"),
    ],
)
def test_broken_files_end_in_a_short_error(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        compose(write(folder, text))
    assert len(str(error.value)) < 400


def test_a_part_has_no_parents(folder: Path) -> None:
    (folder / "data" / "c.yaml").write_text("defaults: [trainer/a]")
    with pytest.raises(ConfigError, match="no `defaults` of its own"):
        compose(write(folder, "defaults: [data/c]"))


def test_unknown_experiment_lists_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean clip4clip_shapes"):
        compose(EXPERIMENTS / "clip4clip_shape.yaml")


def test_experiments_are_short_and_say_what_they_are() -> None:
    for name in experiments_in(EXPERIMENTS):
        lines = (EXPERIMENTS / f"{name}.yaml").read_text().splitlines()
        assert len(lines) < 20, name
        assert lines[0].startswith("#"), name


def test_command_line_reaches_data_and_model_alike() -> None:
    """Values that both need are linked; interpolation in a file would not follow the command line."""
    exp = load_experiment(EXPERIMENTS / "clip4clip_shapes.yaml", [*TINY, "data.max_words=17", "seed_everything=5"])
    assert exp.model.encoder.context_length == 17
    assert exp.data.tokenizer.context_length == 17
    assert exp.data.seed == 5
    assert exp.data.frames.size == exp.model.image_size == 64
    assert exp.name == "clip4clip_shapes"
    assert exp.trainer_config["accelerator"] == "cpu"


def test_resolved_configuration_builds_the_same_again(tmp_path: Path) -> None:
    first = load_experiment(
        EXPERIMENTS / "clip4clip_shapes.yaml", [*TINY, "data.batch_size=7", "model.similarity=meanP"]
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(first.config))
    again = load_experiment(tmp_path / "config.yaml")
    assert again.config == first.config
    assert again.name == "clip4clip_shapes"
    assert again.data.batch_size == 7
    assert again.model.temporal is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_size=-1", "data.batch_size is -1"),
        ("model.encoder.model=ViT-B-33", "ViT-B-32"),
        ("data.jitter=true", "data.jitter"),
        ("data.annotations.init_args.protocol=9kk", "9k"),
        ("data.batchsize=3", "batchsize"),
        ("model.optimizer.betas=3", "betas"),
        ("data.size=96", "data.size is 96, but it is derived from the encoder"),
        ("data.seed=3", "data.seed is 3, but it is derived from seed_everything"),
        ("model.encoder.context_length=7", "model.encoder.context_length is 7, but it is derived from data.max_words"),
    ],
)
def test_wrong_values_raise_our_errors(override: str, message: str) -> None:
    settings = [*TINY, "data.fps=1.0", override]
    with pytest.raises(TVRError, match=message):
        load_experiment(EXPERIMENTS / "clip4clip_shapes.yaml", settings)


def test_a_missing_file_is_compared_with_its_own_folder_only(tmp_path: Path) -> None:
    (tmp_path / "package" / "data").mkdir(parents=True)
    (tmp_path / "package" / "data" / "schema.yaml").touch()
    (tmp_path / "lean_shapes.yaml").touch()
    with pytest.raises(ConfigError, match=r"did you mean lean_shapes\?$"):
        compose(tmp_path / "lean_shape.yaml")
    with pytest.raises(ConfigError, match=r": known: lean_shapes$"):
        compose(tmp_path / "q.yaml")


@pytest.mark.parametrize("mark", [CHECKPOINTS, METRICS])
def test_what_a_run_wrote_is_taken_as_it_stands(mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of mine")
    path = tmp_path / CONFIG
    path.write_text("experiment: ${oc.env:SECRET}\n")
    assert compose(path) == {"experiment": "of mine"}
    path.write_text("experiment: ${oc.env:SECRET} ${\n1: 2\ndata.size: 64\nmodel: {init_args: {lr: 1e-4}}\n")
    written = {
        "experiment": "${oc.env:SECRET} ${", "1": 2, "data": {"size": 64}, "model": {"init_args": {"lr": 1e-4}}
    }  # fmt: skip
    assert compose(path, of_run=True) == written
    (tmp_path / mark).mkdir()
    assert compose(path) == written
    (link := tmp_path.with_name(f"{tmp_path.name}.yaml")).symlink_to(path)
    assert compose(link) == written
    path.write_text("defaults: [data/shapes]\n")
    with pytest.raises(ConfigError, match="a run's configuration has no `defaults`"):
        compose(path)
