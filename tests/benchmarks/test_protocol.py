"""The protocol of figures on shapes: what is trained, what is chosen by what, and that it goes on where it stopped."""

from __future__ import annotations

import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.errors import TVRError
from tvr_lightning.run.curves import write_curves

from .protocol_cases import WORDS, a_run, call, finish, finished_run, write_settings


@pytest.mark.slow
def test_every_row_is_an_experiment_that_composes(script: Any, tmp_path: Path) -> None:
    protocol = yaml.safe_load(script.PROTOCOL.read_text())
    rows = list(script.rows_of(protocol, tmp_path, tmp_path / "kept"))
    names = [row.name for row in rows]
    assert len(set(names)) == len(names) > 40
    for row in rows:
        assert 1 <= len(row.grid) <= script.MOST_POINTS
        for run in (*row.grid, *(run for runs in (*row.seeds, *row.parts) for run in runs)):
            assert run.folder == tmp_path / row.name / run.point
            assert run.kept == tmp_path / "kept" / row.name / run.point
        if row.table == "hashing" and not row.parts[0]:
            continue  # other lengths of what is composed below
        for run in (row.grid[-1], *row.seeds[-1][-1:], *row.parts[-1]):
            config = read_arguments(run.words)[0]
            assert (config["experiment"], config["run_id"]) == (row.name, run.point)
            assert f"s{config['seed_everything']}" in run.point


def test_the_validation_split_chooses_whatever_the_test_split_says(script: Any, tmp_path: Path) -> None:
    protocol = yaml.safe_load(script.PROTOCOL.read_text())
    row = next(row for row in script.rows_of(protocol, Path("runs"), tmp_path) if row.name == "xclip_shapes")
    assert row.chosen() is None
    for run, validation, test in zip(row.grid, (300.0, 320.0), (350.0, 100.0), strict=True):
        finish(run.kept, validation, test)
    assert row.chosen() == 1
    assert {run.point.rpartition("-")[0] for run in row.seeds[1]} == {row.grid[1].point.rpartition("-")[0]}


def test_a_run_without_validation_cannot_be_chosen(script: Any, tmp_path: Path) -> None:
    finish(tmp_path / "a", 1.0, 1.0)
    write_curves(tmp_path / "a" / "curves.csv", [{"epoch": 1, "step": 1}])
    with pytest.raises(TVRError, match="kept no val/SumR that is a number"):
        import_module("plan").best_validation(tmp_path / "a")


def test_what_is_kept_is_not_made_again(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(script.subprocess, "call", lambda words, **_: made.append(words) or 1)
    run = a_run(script, tmp_path)
    finish(run.kept, 1.0, 1.0)
    assert script.train(run)
    assert not made
    other = a_run(script, tmp_path, "s1")
    other.folder.mkdir(parents=True)
    (other.folder / "config.yaml").touch()  # begun, and killed
    assert not script.train(other)
    assert len(made) == 1
    assert not other.folder.exists()
    assert not [*other.folder.parent.iterdir()]
    assert len([*script.making_of(other).glob("s1.begun-*")]) == 1


def test_what_is_finished_and_not_kept_is_kept(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.subprocess, "call", lambda *_, **__: pytest.fail("it would be trained again"))
    run = a_run(script, tmp_path)
    write_settings(finished_run(run.folder.parent), WORDS)
    assert script.train(run)
    assert (run.kept / "metrics.json").is_file()


def test_what_is_finished_with_other_settings_is_put_aside(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.subprocess, "call", lambda *_, **__: 1)
    run = a_run(script, tmp_path)
    write_settings(finished_run(run.folder.parent), (*WORDS, "--data.num_frames=3"))
    assert not script.train(run)
    assert "data.num_frames was 3 and is 6 now" in capsys.readouterr().out
    assert not run.kept.exists()
    assert len([*script.making_of(run).glob("s0.begun-*")]) == 1


def test_a_run_that_cannot_be_kept_stops_no_other(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*_: Any, **__: Any) -> int:
        (finished_run(run.folder.parent) / "values.parquet").unlink()
        return 0

    monkeypatch.setattr(script.subprocess, "call", call)
    run = a_run(script, tmp_path)
    assert not script.train(run)
    assert f"{run.folder} has no values.parquet; delete" in capsys.readouterr().out


def test_the_lock_lives_as_long_as_what_trains(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trains = []

    def call(_: Any, *, pass_fds: list[int], **__: Any) -> int:
        trains.append(subprocess.Popen(["sleep", "60"], pass_fds=pass_fds))
        return 1

    monkeypatch.setattr(script.subprocess, "call", call)
    run = a_run(script, tmp_path)
    script.train(run)  # ended, as by a signal, before its child
    assert not script.train(run)
    assert "another process is making it" in capsys.readouterr().out
    assert len(trains) == 1
    trains[0].kill()
    trains[0].wait()
    script.train(run)
    assert len(trains) == 2
    trains[1].kill()
    trains[1].wait()


def test_a_run_that_another_process_makes_is_left_alone(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(script, tmp_path)
    answers = []

    def meanwhile(*_: Any, **__: Any) -> int:
        run.folder.mkdir(parents=True)
        answers.append(script.train(run))  # another process comes by
        return 0

    monkeypatch.setattr(script.subprocess, "call", meanwhile)
    script.train(run)
    assert answers == [False]
    assert run.folder.is_dir()
    assert not [*tmp_path.rglob("*.begun-*")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points", "0"], "'0' is not a whole number of at least 1"),
        (["--jobs", "-1"], "'-1' is not a whole number of at least 1"),
        (["--only", "lean", "nothing"], "no row's name begins with nothing"),
        (["--only", "lean", "--page", "page.md"], "--page is of all rows"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.main([*words, "--runs_dir", str(tmp_path), "--results", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("content", ["epoch,step,val/SumR\n1,1,nan\n", "epoch,step,val/SumR\n1,1,inf\n"])
def test_a_figure_that_is_no_number_chooses_nothing(script: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "curves.csv").write_text(content)
    with pytest.raises(TVRError, match="that is a number"):
        import_module("plan").best_validation(tmp_path)
    (tmp_path / "curves.csv").write_text(content + "2,2,300\n")
    assert import_module("plan").best_validation(tmp_path) == 300


@pytest.mark.parametrize(
    ("row", "first", "said"),
    [
        ("djsrh_shapes_64", "s0", "without a result: djsrh_shapes_64 s0, djsrh_shapes_64 s0-not_centred, "),
        ("drl", None, "without a result: drl_shapes: nothing chosen, its grid is not finished\n"),
    ],
)
def test_parts_are_made_beside_their_whole_and_named_where_there_is_none(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], row: str,
    first: str | None, said: str,
) -> None:  # fmt: skip
    made: list[str] = []
    monkeypatch.setattr(script, "train", lambda run: made.append(run.point))
    assert call(script, monkeypatch, "ablations", "--results", str(tmp_path), "--only", row) == 1
    assert made[:1] == ([first] if first else [])
    assert said in capsys.readouterr().out
