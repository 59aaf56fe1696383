from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvr_lightning.cli import main
from tvr_lightning.errors import RunError
from tvr_lightning.results import find_runs, read_run, write_json, written_atomically


def content(**changes: object) -> dict[str, object]:
    figures = {f"test/{d}/{m}": 1.0 for d in ("t2v", "v2t") for m in ("R@1", "R@5", "R@10", "MdR", "MnR")}
    base: dict[str, object] = {
        "experiment": "exp",
        "dataset": "shapes",
        "split": "9k",
        "seed": 0,
        "metrics": {**figures, "test/SumR": 321.5, "test/probe/order": 25.0},
        "intervals": {},
        "data": {"left_out": 0, "subset": None, "videos": 8, "captions": 8},
        "selected_on_test": False,
        "partial": False,
        "v2t": "sets",
    }
    return base | changes


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, changes in {
        "plain": {},
        "tested": {"selected_on_test": True, "seed": 7},
        "small": {"data": {"left_out": 3, "subset": 20, "videos": 8, "captions": 8}},
    }.items():
        folder = tmp_path / "runs" / "exp" / name
        folder.mkdir(parents=True)
        write_json(folder / "metrics.json", content(**changes))
    return tmp_path / "runs"


def test_failed_writing_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(file, {"a": float("nan")})

    def fail_halfway() -> None:
        with written_atomically(file) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert json.loads(file.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*gone/x.json: No such file"):
        write_json(tmp_path / "gone" / "x.json", {})


def test_marks_say_why_a_run_stands_apart(runs: Path) -> None:
    marks = {r.path.name: r.marks for r in find_runs([], runs)}
    assert marks == {
        "plain": [],
        "tested": ["selected on test"],
        "small": ["3 videos left out", "subset 20"],
    }


def test_compare_prints_one_row_a_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs / "exp" / "plain"), str(runs / "exp" / "tested")]) == 0
    out = capsys.readouterr().out
    assert "exp/plain" in out
    assert "321.5*" in out
    assert "selected on test" in out
    assert "small" not in out
    assert main(["compare", str(runs)]) == 0
    assert "3 videos left out; subset 20" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "message"), [("exp/plan", "did you mean"), ("empty", "holds no finished run"), ("broken", "is damaged")]
)
def test_compare_names_what_is_wrong(runs: Path, path: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "empty").mkdir()
    (runs / "broken").mkdir()
    (runs / "broken" / "metrics.json").write_text("{")
    assert main(["compare", str(runs / path), "--runs_dir", str(runs)]) == 1
    assert message in capsys.readouterr().err


def test_reading_a_folder_without_results(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="did not finish a test"):
        read_run(tmp_path)
