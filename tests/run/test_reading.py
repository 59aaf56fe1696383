"""Files of runs that are damaged, cut off or forged: a sentence that names the file, and no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.errors import RunError
from tvr_lightning.names import CONFIG, METRICS, RANKS, VALUES
from tvr_lightning.report.comparison import compare
from tvr_lightning.report.grids import varied_settings
from tvr_lightning.report.groups import difference, group_runs
from tvr_lightning.report.pr_curves import read_pr_curve
from tvr_lightning.run.gallery import GALLERY, Gallery, Query, read_gallery, write_gallery
from tvr_lightning.run.hashing_curves import PR_CURVE
from tvr_lightning.run.query_values import read_values
from tvr_lightning.run.results import find_runs, read_ranks, read_run

from ..kinds import first_fast
from ..report.finished_runs import BAD, make_run

NAN, INF = float("nan"), float("inf")
TEXTS, LISTS = pa.array(["1"] * 80), pa.array([[1]] * 80)


def with_cells(path: Path, column: str, cells: Any) -> None:
    """A table with other cells in a column: one in the first row, or an array of all."""
    table = pq.read_table(path)
    old = table.column(column)
    if not isinstance(cells, pa.Array):
        kind = pa.float64() if isinstance(cells, float) else old.type
        cells = pa.array([cells, *old.to_pylist()[1:]], kind)
    pq.write_table(table.set_column(table.column_names.index(column), column, cells), path)


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        *((name, None, "1 cells without a value") for name in ("direction", "query", "video", "greater")),
        *((name, TEXTS, "holds string, not") for name in ("greater", "tied_other", "tied_own", "average_precision")),
        *((name, LISTS, "holds list") for name in ("direction", "query", "greater", "average_precision")),
        *(("greater", x, "these are counts") for x in (-1, 2**63 - 1)),
        *(("tied_own", x, "these are counts from 1 on") for x in (0, -1, 10**8)),
        ("greater", 1.5, "holds double, not counts"),
        *(("average_precision", x, "these are shares") for x in (NAN, INF, -INF, -0.5, 2.0)),
        ("direction", "up", "two directions are not t2v and v2t"),
        ("direction", pa.array(["t2v"] * 80), "two directions are not t2v and v2t"),
        ("video", "another", "over the same videos"),
    ],
)  # fmt: skip
def test_ranks(tmp_path: Path, column: str, cells: Any, message: str) -> None:
    folder = make_run(tmp_path, "a/x")
    with_cells(folder / RANKS, column, cells)
    with pytest.raises(RunError, match=rf"ranks\.parquet is damaged \(.*{message}"):
        read_ranks(folder)


@pytest.mark.parametrize("command", ["compare", "dashboard"])
@pytest.mark.parametrize("cells", [None, TEXTS, LISTS, INF, NAN, -3.0, 1e300])
def test_commands_name_the_table(tmp_path: Path, command: str, cells: Any, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = (make_run(tmp_path, f"{name}/x", hits=BAD) for name in ("good", "bad"))
    for column in ("rank", "average_precision"):
        with_cells(bad / RANKS, column, cells)
    page = tmp_path / "page"
    words = ["--baseline", "good", "--format", "markdown"] if command == "compare" else []
    code = main([command, str(good.parent), str(bad.parent), *words, "--out", str(page)])
    said = capsys.readouterr().err + (page.read_text() if page.is_file() else "")
    assert code in (0, 1)  # the row says what it lacks, or the command what is damaged
    assert "ranks.parquet is damaged" in said.replace("\\", "")


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        *((name, None, "without a value") for name in ("metric", "query", "video", "value")),
        ("value", pa.array(["1"] * 4), "holds string"),
        ("value", pa.array([[1.0]] * 4), "holds list"),
        *(("value", x, "these are figures") for x in (INF, -INF, 1e300)),
    ],
)
def test_values(tmp_path: Path, column: str, cells: Any, message: str) -> None:
    folder = make_run(tmp_path, "a/x")
    rows = [{"metric": "probe/order", "query": f"q{i}", "video": f"v{i}", "value": 1.0} for i in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), folder / VALUES)
    with_cells(folder / VALUES, column, cells)
    with pytest.raises(RunError, match=rf"values\.parquet is damaged \(.*{message}"):
        read_values(folder)


@pytest.mark.parametrize("lacking", [0, 8])
def test_runs_that_leave_out_different_queries(tmp_path: Path, lacking: int) -> None:
    for name, missing in (("a", {3, *range(lacking)}), ("b", {5, *range(lacking)})):
        folder = make_run(tmp_path, f"{name}/x")
        rows = [
            {"metric": "probe/order", "query": f"q{i}", "video": f"v{i}", "value": NAN if i in missing else 1.0}
            for i in range(8)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / VALUES)
    a, b = group_runs(find_runs([tmp_path]))
    with pytest.raises(RunError, match=r"probe/order: values\.parquet (leave out different queries|have no value)"):
        difference(a, b)
    assert "not compared: " in compare([*a.runs, *b.runs], "b").rows[0].notes[-1]


DEEP = "[" * 100_000 + "]" * 100_000
LONG = "1" + "0" * 5000


def written(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


@pytest.mark.parametrize("text", [DEEP, "", "{", "\udcff", LONG, "[]", "null", '{"t2v": 3}', f'{{"t2v": {DEEP}}}'])
@pytest.mark.parametrize("name", [METRICS, GALLERY, PR_CURVE])
def test_json(tmp_path: Path, name: str, text: str) -> None:
    folder = make_run(tmp_path, "a/x")
    run = read_run(folder)
    (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(RunError, match=name) as refused:
        {METRICS: read_run, GALLERY: lambda f: read_gallery(f / GALLERY), PR_CURVE: lambda _: read_pr_curve(run)}[name](
            folder
        )
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("rank", ["1e999", "-1", "0", "NaN", '"1"', "null", "[1]", "1" + "0" * 400, "true"])
def test_ranks_of_a_gallery(tmp_path: Path, rank: str) -> None:
    path = tmp_path / GALLERY
    write_gallery(path, Gallery((Query("q", "text", "v", 7.0, ("v",), (True,)),), (), {"v": None}))
    assert read_gallery(path) is not None
    path.write_text(path.read_text().replace("7.0", rank))
    if rank == "true":
        assert read_gallery(path) is not None  # Python's 1
        return
    with pytest.raises(RunError, match=r"gallery\.json is damaged \(the rank of q is"):
        read_gallery(path)


@pytest.mark.parametrize(
    ("place", "value"), first_fast([
        *((("metrics", "test/t2v/R@1"), x) for x in ("high", None, [1], True, 10**400, INF)),
        *((("intervals", "test/t2v/R@1"), x) for x in ("wide", None, [1], [1, "2"], [1, INF])),
        *(((name,), x) for name in ("metrics", "intervals", "data") for x in (None, [], "x")),
        *(((name,), 3) for name in ("experiment", "dataset", "split", "v2t", "trained", "hashing")),
        *((("data", name), "many") for name in ("videos", "captions", "left_out", "subset", "trained_on")),
        (("seed",), "0"),
        (("train_time_s",), "long"),
        (("hashing",), {"bits": "many", "texts": 1, "videos": 1}),
    ], 12),
)  # fmt: skip
def test_figures(tmp_path: Path, place: tuple[str, ...], value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path, "a/x")
    content = json.loads((folder / METRICS).read_text())
    inside = content
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    (folder / METRICS).write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"metrics\.json is damaged \(.*not "):
        read_run(folder)
    assert main(["compare", str(folder)]) == 1
    assert "metrics.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["lr: 2026-11-27", "lr: 2026-11-27 10:00:00", "2026-11-27: 1", "1: 2\na: 3", "lr: !!set {1, 2}", "- 1", "lr: .nan"],
)
def test_settings_of_any_kind_are_compared(tmp_path: Path, text: str) -> None:
    folders = [make_run(tmp_path, f"{name}/x") for name in "ab"]
    (folders[0] / CONFIG).write_text(text)
    groups = group_runs(find_runs([tmp_path]))
    assert varied_settings(groups)
    json.dumps(dict(groups[0].first.config))


ALIASES = "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))


@pytest.mark.parametrize("text", ["a: &a\n  b: *a", DEEP, ALIASES, "a: [", "lr: 2026-99-99", "a: !!python/none x"])
def test_settings_that_are_none(tmp_path: Path, text: str) -> None:
    folder = make_run(tmp_path, "a/x")
    (folder / CONFIG).write_text(text)
    with pytest.raises(RunError, match=r"config\.yaml is damaged"):
        _ = read_run(folder).config
