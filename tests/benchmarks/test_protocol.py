"""The protocol of figures on shapes: what is trained, what is chosen by what, and that it goes on where it stopped."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.errors import TVRError
from tvr_lightning.run.curves import write_curves

from ..report.finished_runs import BAD, make_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "figures")
    monkeypatch.chdir(ROOT)
    return import_module("protocol")


def finish(folder: Path, validation: float, test: float) -> None:
    folder.mkdir(parents=True)
    write_curves(folder / "curves.csv", [{"epoch": 1, "step": 1, "val/SumR": validation}])
    (folder / "metrics.json").write_text(json.dumps({"metrics": {"test/SumR": test}}))


@pytest.mark.slow
def test_every_row_is_an_experiment_that_composes(script: Any, tmp_path: Path) -> None:
    protocol = yaml.safe_load(script.PROTOCOL.read_text())
    rows = list(script.rows_of(protocol, tmp_path))
    names = [row.name for row in rows]
    assert len(set(names)) == len(names) > 40
    for row in rows:
        assert 1 <= len(row.grid) <= script.MOST_POINTS
        for run in (*row.grid, *(run for runs in (*row.seeds, *row.parts) for run in runs)):
            assert run.folder == tmp_path / row.name / run.point
        if row.table == "hashing" and not row.parts[0]:
            continue  # other lengths of what is composed below
        for run in (row.grid[-1], *row.seeds[-1][-1:], *row.parts[-1]):
            config = read_arguments(run.words)[0]
            assert (config["experiment"], config["run_id"]) == (row.name, run.point)
            assert f"s{config['seed_everything']}" in run.point


def test_the_validation_split_chooses_whatever_the_test_split_says(script: Any, tmp_path: Path) -> None:
    protocol = yaml.safe_load(script.PROTOCOL.read_text())
    row = next(row for row in script.rows_of(protocol, tmp_path) if row.name == "xclip_shapes")
    assert row.chosen() is None
    for run, validation, test in zip(row.grid, (300.0, 320.0), (350.0, 100.0), strict=True):
        finish(run.folder, validation, test)
    assert row.chosen() == 1
    assert {run.point.rpartition("-")[0] for run in row.seeds[1]} == {row.grid[1].point.rpartition("-")[0]}


def test_a_run_without_validation_cannot_be_chosen(script: Any, tmp_path: Path) -> None:
    finish(tmp_path / "a", 1.0, 1.0)
    write_curves(tmp_path / "a" / "curves.csv", [{"epoch": 1, "step": 1}])
    with pytest.raises(TVRError, match="kept no val/SumR that is a number"):
        script.best_validation(tmp_path / "a")


def test_what_is_finished_is_not_made_again(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(script.subprocess, "call", lambda words, **_: made.append(words) or 1)
    run = script.Run("a_shapes", "s0", ("--config=x",), tmp_path / "a_shapes" / "s0")
    finish(run.folder, 1.0, 1.0)
    assert script.train(run)
    assert not made
    other = script.Run("a_shapes", "s1", ("--config=x",), tmp_path / "a_shapes" / "s1")
    other.folder.mkdir()
    (other.folder / "config.yaml").touch()  # begun, and killed
    assert not script.train(other)
    assert len(made) == 1
    assert not other.folder.exists()
    assert len([p for p in other.folder.parent.iterdir() if ".begun-" in p.name]) == 1


def test_a_run_that_another_process_makes_is_left_alone(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = script.Run("a_shapes", "s0", ("--config=x",), tmp_path / "a_shapes" / "s0")
    answers = []

    def meanwhile(*_: Any, **__: Any) -> int:
        run.folder.mkdir()
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
        script.main([*words, "--runs_dir", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("content", ["epoch,step,val/SumR\n1,1,nan\n", "epoch,step,val/SumR\n1,1,inf\n"])
def test_a_figure_that_is_no_number_chooses_nothing(script: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "curves.csv").write_text(content)
    with pytest.raises(TVRError, match="that is a number"):
        script.best_validation(tmp_path)
    (tmp_path / "curves.csv").write_text(content + "2,2,300\n")
    assert script.best_validation(tmp_path) == 300


def test_the_page_holds_chosen_runs_and_parts(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocol = yaml.safe_load(script.PROTOCOL.read_text())
    rows = {row.name: row for row in script.rows_of(protocol, tmp_path)}
    mean, drl = rows["clip4clip_meanp_shapes"], rows["drl_shapes"]
    for run, validation in zip((*mean.grid, *drl.grid), (1.0, 2.0, 4.0, 3.0), strict=True):
        folder = make_run(tmp_path, f"{run.name}/{run.point}", settings={"point": run.point})
        write_curves(folder / "curves.csv", [{"epoch": 1, "step": 1, "val/SumR": validation}])
    part = drl.parts[0][0]
    make_run(tmp_path, f"{part.name}/{part.point}", hits=BAD, settings={"interaction": "dp"})
    script.write_page(protocol, list(rows.values()), tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    retrieval, parts = page.split("## Without parts of drl_shapes")
    table = retrieval.split("## Retrieval")[1]
    assert table.count("| drl") == table.count("| clip4clip") == 1  # the chosen points alone
    assert f"| drl\\_shapes/{part.point} | 0 | 25.0▼" in parts.split("## Choices")[0]
    assert f"drl_shapes: {drl.grid[0].point} by val/SumR" in page
    assert f"clip4clip_meanp_shapes: {mean.grid[1].point} by val/SumR" in page
    assert "Not trained here: clip4clip_seqlstm_shapes, " in page
    assert "seeds than the protocol has: clip4clip_meanp_shapes (1 of 3), drl_shapes (1 of 3)." in page
    assert "without these parts: drl_shapes (lr-0.001-s0-ti, lr-0.001-s0-no_cdcr)." in page
    assert "the rest of their grids" not in page
    assert capsys.readouterr().out == f"wrote {tmp_path / 'page.md'}\n"


@pytest.fixture
def page(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page and a README.md that figures already stand in, and the only ones that a call could write."""
    monkeypatch.setattr(script, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(f"{script.BEGIN}old table\n{script.END}")
    (tmp_path / "page.md").write_text("old page")
    return tmp_path / "page.md"


def call(script: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["protocol.py", *words])
    try:
        return int(script.main())
    except SystemExit as left:
        return int(left.code or 0)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--dry_run"], 0, "tvr fit --config=experiments/xclip_shapes.yaml"),
        (["--help"], 0, "train and write nothing"),
        (["--dry_run", "--page", "page.md"], 2, "leave one out"),
        (["--page", "PAGE"], 1, "no run of the protocol is finished in"),
        (["nonsense"], 2, "no table nonsense; there are retrieval, hashing, ablations"),
        (["--only", "xklip"], 2, "no row's name begins with xklip; there are clip4clip_meanp_shapes, "),
        (["--jobs", "0"], 2, "argument --jobs: 0 is less than 1"),
        (["--points", "0"], 2, "argument --points: 0 is less than 1"),
    ],
)  # fmt: skip
def test_what_trains_nothing_leaves_the_pages_as_they_are(
    script: Any, page: Path, words: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(script, "train", lambda run: pytest.fail(f"{run.name} would be trained"))
    own = [str(page) if word == "PAGE" else word for word in words]
    then = [] if "--page" in words else ["--then_page", str(page)]  # as the Makefile calls it
    assert call(script, monkeypatch, *then, "--runs_dir", str(page.parent / "runs"), *own) == code
    shown = capsys.readouterr()
    assert said in " ".join((shown.out + shown.err).split())
    assert page.read_text() == "old page"
    assert "old table" in script.README.read_text()


def test_the_page_follows_the_runs_and_holds_those_of_earlier_calls(
    script: Any, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = page.parent / "runs"
    make_run(runs, "sptch_shapes_16/s0")  # of another call
    works = True

    def train(run: Any) -> bool:
        if works and not run.finished:
            folder = make_run(runs, f"{run.name}/{run.point}", settings={"point": run.point})
            write_curves(folder / "curves.csv", [{"epoch": 1, "step": 1, "val/SumR": 1.0}])
        return bool(run.finished)

    monkeypatch.setattr(script, "train", train)
    monkeypatch.setattr(script, "SHORT", "t2v/R@1")  # these runs have no probes
    words = ["--then_page", str(page), "retrieval", "--runs_dir", str(runs), "--seeds", "-1", "--only"]
    assert call(script, monkeypatch, *words, "xclip") == 0
    written = page.read_text()
    assert "| xclip" in written
    assert "| sptch" in written.split("## Hashing")[1]
    assert "old table" not in script.README.read_text()
    works = False
    assert call(script, monkeypatch, *words, "drl") == 1
    assert page.read_text() == written


def test_without_retrieval_the_table_of_the_readme_stays(
    script: Any, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(page.parent / "runs", "sptch_shapes_16/s0")
    assert call(script, monkeypatch, "--page", str(page), "--runs_dir", str(page.parent / "runs")) == 0
    assert "sptch" in page.read_text()
    assert "old table" in script.README.read_text()


def test_no_page_is_written_where_the_table_has_no_place(
    script: Any, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(page.parent / "runs", "zero_shot_shapes/s0")
    script.README.write_text("no marks")
    assert script.main(["--page", str(page), "--runs_dir", str(page.parent / "runs")]) == 1
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
    assert call(script, monkeypatch, "ablations", "--runs_dir", str(tmp_path), "--only", row) == 1
    assert made[:1] == ([first] if first else [])
    assert said in capsys.readouterr().out
