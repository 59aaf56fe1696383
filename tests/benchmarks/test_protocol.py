"""The protocol of figures on shapes: what is trained, what is chosen by what, and that it goes on where it stopped."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tvr_lightning.commands.tables import compare_paths
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.errors import TVRError
from tvr_lightning.run.build import build_cli, dump_config, resolved_config
from tvr_lightning.run.curves import write_curves
from tvr_lightning.run.query_values import read_values
from tvr_lightning.run.results import read_ranks

from ..report.finished_runs import BAD, make_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pages(script: Any) -> Any:
    return import_module("pages")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "figures")
    monkeypatch.chdir(ROOT)
    return import_module("protocol")


def finish(folder: Path, validation: float, test: float) -> None:
    folder.mkdir(parents=True)
    write_curves(folder / "curves.csv", [{"epoch": 1, "step": 1, "val/SumR": validation}])
    (folder / "metrics.json").write_text(json.dumps({"metrics": {"test/SumR": test}}))


def make_kept(results: Path, name: str, **changes: Any) -> Path:
    """A run of which the repository keeps what pages read."""
    folder = make_run(results, name, **changes)
    write_curves(folder / "curves.csv", [{"epoch": 1, "step": 1, "val/SumR": 1.0}])
    return folder


WORDS = ("--config=experiments/clip_zero_shot_shapes.yaml", "--seed_everything=0", "--run_id=s0")


def a_run(script: Any, folder: Path, point: str = "s0") -> Any:
    return script.Run("a_shapes", point, WORDS, folder / "runs" / "a_shapes" / point, folder / "kept" / point)


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


def finished_run(parent: Path, point: str = "s0") -> Path:
    """A run as training leaves it."""
    folder = make_kept(parent.parent, f"{parent.name}/{point}", checkpoint="/somewhere/best.ckpt")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    ranks = pq.read_table(folder / "ranks.parquet")
    rank = ranks.column("rank")
    pq.write_table(ranks.append_column("top_scores", rank), folder / "ranks.parquet")
    rows = [
        {"metric": metric, "query": f"video{i:02}", "video": f"video{i + 1:02}", "value": 25.0 + i}
        for metric in ("probe/order", "hash/t2v/mAP", "hash/t2v/P@50")
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "values.parquet")
    return folder


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
    assert values["probe/order"].value.tolist() == [25.0, 26.0, 27.0]
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


def write_settings(folder: Path, words: Sequence[str], more: dict[str, Any] | None = None) -> None:
    """As a run writes them."""
    config = resolved_config(build_cli(read_arguments(words)[0])) | (more or {})
    (folder / "config.yaml").write_text(dump_config(config))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points", "0"], "0 is less than 1"),
        (["--jobs", "-1"], "-1 is less than 1"),
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


@pytest.fixture
def page(script: Any, pages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page and a README.md that figures already stand in, and the only ones that a call could write."""
    monkeypatch.setattr(pages, "README", tmp_path / "README.md")
    monkeypatch.setattr(pages, "SHORT", "t2v/R@1")  # the runs below have few probes
    monkeypatch.setattr(script, "check_kept", lambda *_: None)  # nor all files, nor settings of their own
    (tmp_path / "README.md").write_text(f"{pages.BEGIN}old table\n{pages.END}")
    (tmp_path / "page.md").write_text("old page")
    return tmp_path / "page.md"


def call(script: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["protocol.py", *words])
    try:
        return int(script.main())
    except SystemExit as left:
        return int(left.code or 0)


def test_the_page_holds_chosen_runs_and_parts(
    script: Any, pages: Any, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = page.parent / "kept"
    protocol = yaml.safe_load(script.PROTOCOL.read_text())
    rows = {row.name: row for row in script.rows_of(protocol, Path("runs"), results)}
    mean, drl = rows["clip4clip_meanp_shapes"], rows["drl_shapes"]
    for run, validation in zip((*mean.grid, *drl.grid), (1.0, 2.0, 4.0, 3.0), strict=True):
        folder = make_run(results, f"{run.name}/{run.point}", settings={"point": run.point})
        write_curves(folder / "curves.csv", [{"epoch": 1, "step": 1, "val/SumR": validation}])
    part = drl.parts[0][0]
    make_run(results, f"{part.name}/{part.point}", hits=BAD, settings={"interaction": "dp"})
    make_run(results, "ghan_shapes/lr-0.001-s0")
    assert call(script, monkeypatch, "--page", str(page), "--results", str(results)) == 0
    retrieval, parts = page.read_text().split("## Without parts of drl_shapes")
    table = retrieval.split("## Retrieval")[1].split("### What the runs took")[0]
    assert table.count("| drl") == table.count("| clip4clip") == table.count("| ghan") == 1  # the chosen points alone
    assert f"drl_shapes: {drl.grid[0].point} by val/SumR" in table
    assert f"clip4clip_meanp_shapes: {mean.grid[1].point} by val/SumR" in table
    assert "Not trained: clip4clip_seqlstm_shapes, " in table
    assert "seeds than the protocol has: clip4clip_meanp_shapes (1 of 3), drl_shapes (1 of 3), ghan" in table
    assert "since the rest of their grids is not trained: ghan_shapes." in table
    assert f"| drl\\_shapes/{part.point} | 0 | 25.0▼" in parts
    assert "- Not trained: lr-0.001-s0-ti, lr-0.001-s0-no_cdcr." in parts
    assert "Without parts: xpool_shapes, ts2net_shapes, ucofia_shapes, " in parts.split("## What is not trained")[1]
    assert "drl_shapes" not in parts.split("## What is not trained")[1]
    assert capsys.readouterr().out == f"wrote {page}\nwrote the table of {pages.README}\n"
    again = page.read_text()
    assert call(script, monkeypatch, "--page", str(page), "--results", str(results)) == 0
    assert page.read_text() == again


def test_a_section_of_more_runs_than_are_kept_stays(
    script: Any, pages: Any, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, gone = page.parent / "kept", page.parent / "gone"
    for name in ("drl_shapes/lr-0.001-s0", "sptch_shapes_16/s0", "sptch_shapes_16/s0-bin", "ghan_shapes/lr-0.001-s0"):
        make_kept(results, name, settings={"name": name})
    words = ["--page", str(page), "--results", str(results)]
    assert call(script, monkeypatch, *words) == 0
    (results / "drl_shapes").rename(gone)
    make_kept(results, "ghan_shapes/lr-0.001-s1", seed=1, settings={"name": "ghan_shapes/lr-0.001-s0"})
    make_kept(results, "ghan_shapes/lr-0.001-s0-no_inter")
    before, table = page.read_text(), pages.README.read_text()
    capsys.readouterr()
    assert call(script, monkeypatch, *words) == 0
    said = capsys.readouterr().out
    assert "the section 'Retrieval' stays as it is: it shows runs that are not kept, drl_shapes/lr-0.001-s0\n" in said
    assert pages.README.read_text() == table
    after = page.read_text()
    of_retrieval = before[before.index("## Retrieval") : before.index("## Hashing")]
    assert of_retrieval in after
    assert "## Without parts of ghan_shapes" in after
    assert call(script, monkeypatch, "--page", str(page.with_name("new.md")), *words[2:]) == 0
    assert (
        f"the table of {pages.README} stays as it is: it shows runs that are not kept, drl" in capsys.readouterr().out
    )
    assert pages.README.read_text() == table  # a page of its own has no section to compare with
    gone.rename(results / "drl_shapes")
    assert call(script, monkeypatch, *words) == 0
    assert "ghan\\_shapes x2" in pages.README.read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--dry_run"], 0, "tvr fit --config=experiments/xclip_shapes.yaml"),
        (["--help"], 0, "train and write nothing"),
        (["--dry_run", "--page", "page.md"], 2, "leave one out"),
        (["--page", "PAGE"], 1, "no run of the protocol is kept in"),
        (["nonsense"], 2, "no table nonsense; there are retrieval, hashing, ablations"),
        (["--only", "xklip"], 2, "no row's name begins with xklip; there are clip4clip_meanp_shapes, "),
        (["--jobs", "0"], 2, "argument --jobs: 0 is less than 1"),
        (["--points", "0"], 2, "argument --points: 0 is less than 1"),
        (["--seeds", "0", "5"], 2, "protocol.yaml has no seed 5; there are 0, 1, 2"),
    ],
)  # fmt: skip
def test_what_trains_nothing_leaves_the_pages_as_they_are(
    script: Any, pages: Any, page: Path, words: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(script, "train", lambda run: pytest.fail(f"{run.name} would be trained"))
    own = [str(page) if word == "PAGE" else word for word in words]
    then = [] if "--page" in words else ["--then_page", str(page)]  # as the Makefile calls it
    assert call(script, monkeypatch, *then, "--results", str(page.parent / "kept"), *own) == code
    shown = capsys.readouterr()
    assert said in " ".join((shown.out + shown.err).split())
    assert page.read_text() == "old page"
    assert "old table" in pages.README.read_text()


def test_the_page_follows_the_runs_and_holds_those_of_earlier_calls(
    script: Any, pages: Any, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = page.parent / "kept"
    make_run(results, "sptch_shapes_16/s0")  # of another call
    works = True

    def train(run: Any) -> bool:
        if works and not run.finished:
            make_kept(results, f"{run.name}/{run.point}", settings={"point": run.point})
        return bool(run.finished)

    monkeypatch.setattr(script, "train", train)
    words = ["--then_page", str(page), "retrieval", "--results", str(results), "--seeds", "-1", "--only"]
    assert call(script, monkeypatch, *words, "xclip") == 0
    written = page.read_text()
    assert "| xclip" in written
    assert "| sptch" in written.split("## Hashing")[1]
    assert "old table" not in pages.README.read_text()
    works = False
    assert call(script, monkeypatch, *words, "drl") == 1
    assert page.read_text() == written


def test_without_retrieval_the_table_of_the_readme_stays(
    script: Any, pages: Any, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(page.parent / "kept", "sptch_shapes_16/s0")
    assert call(script, monkeypatch, "--page", str(page), "--results", str(page.parent / "kept")) == 0
    assert "sptch" in page.read_text()
    assert "old table" in pages.README.read_text()


def test_a_figure_that_was_chosen_is_not_replaced_by_another_of_its_row(
    script: Any, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = page.parent / "kept"
    for point, validation in (("lr-0.001-s0", 1.0), ("lr-0.002-s0", 2.0)):
        folder = make_kept(results, f"ucofia_shapes/{point}", settings={"point": point})
        write_curves(folder / "curves.csv", [{"epoch": 1, "step": 1, "val/SumR": validation}])
    words = ["--page", str(page), "--results", str(results)]
    assert call(script, monkeypatch, *words) == 0
    before = page.read_text()
    assert "| ucofia\\_shapes/lr-0.002-s0 |" in before
    shutil.rmtree(results / "ucofia_shapes" / "lr-0.002-s0")
    assert call(script, monkeypatch, *words) == 0
    assert "it shows runs that are not kept, ucofia_shapes/lr-0.002-s0" in capsys.readouterr().out
    assert page.read_text() == before


def test_a_row_that_the_protocol_has_no_longer_freezes_nothing(
    script: Any, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = page.parent / "kept"
    for name in ("xpool_shapes/lr-0.001-s0", "drl_shapes/lr-0.001-s0"):
        make_kept(results, name, settings={"name": name})
    words = ["--page", str(page), "--results", str(results)]
    assert call(script, monkeypatch, *words) == 0
    protocol = yaml.safe_load(script.PROTOCOL.read_text())
    del protocol["retrieval"]["xpool"]
    shorter = page.with_name("protocol.yaml")
    shorter.write_text(yaml.safe_dump(protocol))
    monkeypatch.setattr(script, "PROTOCOL", shorter)
    assert call(script, monkeypatch, *words) == 0
    assert "xpool" not in page.read_text()


@pytest.mark.parametrize("name", ["page.md", "README.md"])
@pytest.mark.parametrize("option", ["--page", "--then_page"])
def test_files_that_are_not_utf_8_are_named_before_anything_is_trained(
    script: Any, page: Path, name: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "train", lambda run: pytest.fail(f"{run.name} would be trained"))
    make_kept(page.parent / "kept", "zero_shot_shapes/s0")
    page.with_name(name).write_bytes(b"# R\xe9sum\xe9\n")
    assert call(script, monkeypatch, option, str(page), "--results", str(page.parent / "kept")) == 1
    assert f"{page.with_name(name)} is not UTF-8 (byte 3)" in capsys.readouterr().err


def test_no_page_is_written_where_the_table_has_no_place(
    script: Any, pages: Any, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(page.parent / "kept", "zero_shot_shapes/s0")
    pages.README.write_text("no marks")
    assert script.main(["--page", str(page), "--results", str(page.parent / "kept")]) == 1
    assert "has no place for the table" in capsys.readouterr().err
    assert page.read_text() == "old page"


@pytest.mark.parametrize(
    ("row", "first", "said"),
    [
        ("djsrh_shapes_64", "s0", "without a result: djsrh_shapes_64 s0, djsrh_shapes_64 s0-not_centred, "),
        ("drl", None, "without a result: drl_shapes: nothing chosen\n"),
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
