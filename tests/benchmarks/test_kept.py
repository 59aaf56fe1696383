"""What the repository keeps of runs: all that comparisons read, of runs that are whole and of today's settings."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tvr_lightning.commands.tables import compare_paths
from tvr_lightning.errors import TVRError
from tvr_lightning.run.query_values import read_values
from tvr_lightning.run.results import read_ranks

from .protocol_cases import WORDS, finished_run, write_settings


def test_of_a_run_what_comparisons_read_is_kept(script: Any, tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "a_shapes")
    kept = tmp_path / "kept" / "s0"
    script.keep(folder, kept)
    assert {file.name for file in kept.iterdir()} == {
        "config.yaml", "curves.csv", "metrics.json", "ranks.parquet", "values.parquet",
    }  # fmt: skip
    assert "somewhere" not in (kept / "metrics.json").read_text()  # a place on the machine that made it
    before, after = read_ranks(folder), read_ranks(kept)
    assert before.queries == after.queries
    assert before.ranks.t2v.greater.equal(after.ranks.t2v.greater)
    values = read_values(kept)
    assert set(values) == {"probe/order", "hash/t2v/mAP"}
    assert values["probe/order"].value.tolist() == [24.0, 25.0, 26.0]
    for title, paths in (("whole", [folder]), ("kept", [kept])):
        assert compare_paths(paths, Path()).rows[0].group.summary("t2v/R@1") == (75.0, None), title


@pytest.mark.parametrize("name", ["config.yaml", "ranks.parquet", "values.parquet"])
def test_a_run_that_lacks_a_file_is_not_kept_nor_shown(
    script: Any, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished_run(tmp_path / "zero_shot_shapes")
    (folder / name).unlink()
    with pytest.raises(TVRError, match=f"has no {name}; delete {folder} to"):
        script.keep(folder, tmp_path / "kept" / "s0")
    assert not (tmp_path / "kept").exists()
    assert script.main(["--page", str(tmp_path / "page.md"), "--results", str(tmp_path)]) == 1
    assert f"{folder} has no {name}; delete {folder} to" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics.json", "ranks.parquet", "values.parquet"])
def test_a_damaged_run_is_not_kept_nor_shown(
    script: Any, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished_run(tmp_path / "zero_shot_shapes")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(TVRError, match=f"{name} is damaged.*delete .*s0 to have the run made again"):
        script.keep(folder, tmp_path / "kept" / "s0")
    assert not (tmp_path / "kept").exists()
    assert script.main(["--page", str(tmp_path / "page.md"), "--results", str(tmp_path)]) == 1
    assert f"delete {folder} to have the run made again" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [slice(0, 2), slice(3, 9)])  # some of a probe, and none
def test_values_that_do_not_give_the_figures_are_damage(script: Any, tmp_path: Path, rows: slice) -> None:
    folder = finished_run(tmp_path / "zero_shot_shapes")
    values = pq.read_table(folder / "values.parquet")
    pq.write_table(values.slice(rows.start, rows.stop - rows.start), folder / "values.parquet")
    with pytest.raises(TVRError, match=r"does not give the probe/order of metrics\.json, 25; delete "):
        script.keep(folder, tmp_path / "kept" / "s0")


@pytest.mark.parametrize("text", ["a: [", "[1]"])
def test_settings_that_are_damaged_are_named(script: Any, tmp_path: Path, text: str) -> None:
    folder = finished_run(tmp_path / "zero_shot_shapes")
    (folder / "config.yaml").write_text(text)
    with pytest.raises(TVRError, match=r"config\.yaml.*delete .* to have the run made again"):
        script.check_files(folder)


def test_a_batch_and_all_of_them_are_two_settings(script: Any, tmp_path: Path) -> None:
    write_settings(tmp_path, [*WORDS, "--trainer.limit_test_batches=1.0"])
    with pytest.raises(TVRError, match=r"limit_test_batches was 1\.0 and is 1 now"):
        script.check_settings([*WORDS, "--trainer.limit_test_batches=1"], tmp_path)


def test_settings_are_resolved_one_at_a_time(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 cannot parse sources in two threads, and runs are made in several."""
    write_settings(tmp_path, WORDS)
    resolved, inside, most = script.check_settings.__globals__["_resolved"], [0], [0]

    def watched(words: tuple[str, ...]) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.1)
        inside[0] -= 1
        return resolved(words)

    monkeypatch.setitem(script.check_settings.__globals__, "_resolved", watched)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: script.check_settings(WORDS, tmp_path), range(3)))
    assert most == [1]


def test_a_run_that_trained_nothing_has_no_curves(script: Any, tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "zero_shot_shapes")
    (folder / "curves.csv").unlink()
    script.keep(folder, tmp_path / "kept" / "s0")
    assert (tmp_path / "kept" / "s0" / "ranks.parquet").is_file()


def test_nothing_is_written_of_runs_with_other_settings(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = yaml.safe_load(script.PROTOCOL.read_text())
    row = next(row for row in script.rows_of(protocol, Path("runs"), tmp_path) if row.name == "zero_shot_shapes")
    kept = finished_run(tmp_path / "zero_shot_shapes")
    write_settings(kept, [*row.grid[0].words, "--data.num_frames=3"])
    assert script.main(["--page", str(tmp_path / "page.md"), "--results", str(tmp_path)]) == 1
    assert f"{kept} was made with other settings: data.num_frames was 3 and is 6 now" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ([], None),
        (["--runs_dir=elsewhere", "--tracker=tensorboard"], None),  # where a run lies is not what it is
        (["--data.num_frames=3"], "data.num_frames was 6 and is 3 now"),
        (["--seed_everything=7"], "seed_everything was 0 and is 7 now"),
        # which the experiment leaves at their defaults
        (["--data.join_captions=true"], "data.join_captions was False and is True now"),
        pytest.param(
            ["--trainer.limit_test_batches=0.5"], "trainer.limit_test_batches was None", marks=pytest.mark.slow
        ),
        pytest.param(["--model.evaluation.dual_softmax=100"], "dual_softmax was None", marks=pytest.mark.slow),
    ],
)
def test_a_run_of_other_settings_is_named(script: Any, tmp_path: Path, change: list[str], said: str | None) -> None:
    write_settings(tmp_path, WORDS)
    if said is None:
        script.check_settings([*WORDS, *change], tmp_path)
        return
    with pytest.raises(TVRError, match=f"was made with other settings: .*{said}"):
        script.check_settings([*WORDS, *change], tmp_path)
    write_settings(tmp_path, [*WORDS, *change])
    with pytest.raises(TVRError, match=f"was made with other settings: .*{said.partition(' ')[0]}"):
        script.check_settings(WORDS, tmp_path)


def test_a_setting_that_is_gone_is_named(script: Any, tmp_path: Path) -> None:
    write_settings(tmp_path, WORDS, {"old": 3})
    with pytest.raises(TVRError, match="old was 3 and is not there any more"):
        script.check_settings(WORDS, tmp_path)
