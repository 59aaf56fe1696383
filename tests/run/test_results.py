from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvr_lightning.data.stores.files import atomic_write, write_json
from tvr_lightning.errors import RunError
from tvr_lightning.run.results import find_runs, read_ranks, read_run


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
        "tested": {"selected_on_test": True, "seed": 7, "selected_by": "hash/mAP"},
        "labels": {"selected_by": "hash/mAP"},
        "recalls": {"selected_by": "SumR"},
        "small": {"data": {"left_out": 3, "subset": 20, "videos": 8, "captions": 8}},
        "leak": {"metrics": {"test/leaky/t2v/R@1": 99.0}},
        "padding": {"padding": "attended"},
        "without": {"padding": "masked"},
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
        with atomic_write(file) as temporary:
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
        "labels": ["selected by labels"],
        "recalls": [],
        "small": ["3 videos left out", "subset 20"],
        "leak": ["leaky"],
        "padding": ["padding attended"],
        "without": [],
    }


def test_reading_a_folder_without_results(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="did not finish a test"):
        read_run(tmp_path)


def test_ranks_are_read_in_an_order_of_their_own(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        ("v2t", "b", "b", 3),
        ("t2v", "b#1", "b", 2),
        ("t2v", "a#0", "a", 0),
        ("v2t", "a", "a", 1),
        ("t2v", "b#0", "b", 5),
    ]
    for name, order in {"one": rows, "two": rows[::-1]}.items():
        columns = {
            "direction": [r[0] for r in order],
            "query": [r[1] for r in order],
            "video": [r[2] for r in order],
            "greater": [r[3] for r in order],
            "tied_other": [0] * 5,
            "tied_own": [1] * 5,
            "average_precision": [1 / (1 + r[3]) for r in order],
        }
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(columns), tmp_path / name / "ranks.parquet")
        stored = read_ranks(tmp_path / name)
        assert stored.queries == tuple(sorted(r[:3] for r in rows))
        assert stored.ranks.t2v.greater.tolist() == [0, 5, 2]
        assert stored.ranks.t2v.video.tolist() == [0, 1, 1]
        assert stored.ranks.v2t.greater.tolist() == [1, 3]
        assert stored.ranks.v2t.query.tolist() == [0, 1]
    (tmp_path / "two" / "ranks.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"ranks\.parquet is damaged"):
        read_ranks(tmp_path / "two")
    with pytest.raises(RunError, match=r"has no ranks\.parquet"):
        read_ranks(tmp_path)


def test_a_damaged_configuration_is_named(runs: Path) -> None:
    run = read_run(runs / "exp" / "plain")
    assert run.config == {}
    (run.path / "config.yaml").write_text("a: [")
    with pytest.raises(RunError, match=r"config\.yaml is damaged"):
        _ = read_run(run.path).config
