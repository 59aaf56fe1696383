"""What each query adds is kept with a run, and makes differences in hashing metrics and minimal pairs testable."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.data.stores.files import write_json
from tvr_lightning.errors import RunError
from tvr_lightning.names import METRICS, VALUES
from tvr_lightning.report.comparison import compare
from tvr_lightning.report.formats import to_csv, to_markdown
from tvr_lightning.report.groups import difference, group_runs
from tvr_lightning.run.query_values import read_values
from tvr_lightning.run.results import find_runs, read_run

from ..kinds import first_fast
from ..report.finished_runs import make_run
from ..small_runs import short_run

FACTS = {"database": "train", "texts": 9, "videos": 9, "normalise": "relevant", "bits": 64}


def keep(folder: Path, values: dict[str, list[float]], names: str = "video", **hashing: object) -> None:
    """Gives a made run a `values.parquet` and the means as its metrics."""
    rows = [
        {"metric": name, "query": f"{names}{i:02}", "video": f"{names}{i // 2:02}", "value": value}
        for name, found in values.items()
        for i, value in enumerate(found)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / VALUES)
    content = json.loads((folder / METRICS).read_text())
    content["metrics"] |= {f"test/{name}": sum(found) / len(found) for name, found in values.items()}
    write_json(folder / METRICS, content | {"hashing": FACTS | {"queries_without_relevant": {}} | hashing})


@pytest.mark.parametrize("method", first_fast(["sptch_shapes_16", "mean_pool_shapes"]))
def test_what_a_run_keeps_averages_to_its_figures(method: str, shapes_root: Path, tmp_path: Path) -> None:
    assert main(["fit", *short_run(method, shapes_root, tmp_path), "--trainer.max_epochs=2"]) == 0
    run = read_run(next(tmp_path.glob("*/a")))
    kept = read_values(run.path)
    means = {name: float(found.value.nanmean()) for name, found in kept.items()}
    assert means == pytest.approx({name: run.content["metrics"][f"test/{name}"] for name in kept})
    assert {"probe/order", "probe/size"} <= set(kept)
    assert ({"hash/t2v/mAP", "hash/v2t/P@100"} <= set(kept)) == method.startswith("sptch")


def test_differences_of_hashing_and_of_minimal_pairs_are_marked(tmp_path: Path) -> None:
    good, bad = [80.0, 60.0] * 20, [20.0, 30.0] * 20
    for name, found in (("good", good), ("bad", bad)):
        keep(make_run(tmp_path, f"{name}/a"), {"hash/t2v/mAP": found, "probe/order": [100.0, 0.0] * 20})
    comparison = compare(find_runs([tmp_path]), "bad", ["hash/t2v/mAP", "probe/order"], full=True)
    row = next(row for row in comparison.rows if row.group.experiment == "good")
    found = row.differences["hash/t2v/mAP"]
    assert found.difference == pytest.approx(45.0)
    assert found.significant
    assert not row.differences["probe/order"].significant
    text = to_markdown(comparison)
    assert "70.0▲" in text
    assert "tested: hash/t2v/mAP, probe/order" in text.replace("\\", "")
    assert "difference hash/t2v/mAP" in to_csv(comparison)


def test_values_over_seeds_are_means(tmp_path: Path) -> None:
    for seed, value in ((0, 10.0), (1, 30.0)):
        keep(make_run(tmp_path, f"two/s{seed}", seed), {"hash/t2v/mAP": [value] * 8})
    keep(make_run(tmp_path, "one/a"), {"hash/t2v/mAP": [15.0] * 8})
    two, one = sorted(group_runs(find_runs([tmp_path])), key=lambda g: g.experiment, reverse=True)
    assert difference(two, one)["hash/t2v/mAP"].difference == pytest.approx(5.0)


def test_what_cannot_be_paired_is_left_out(tmp_path: Path) -> None:
    for name, queries, facts in (
        ("a", "video", {}),
        ("b", "clip", {}),
        ("c", "video", {"database": "test"}),
        ("d", "", {}),
    ):
        folder = make_run(tmp_path, f"{name}/x")
        if queries:
            keep(folder, {"hash/t2v/mAP": [1.0] * 8, "probe/order": [0.0] * 8}, queries, **facts)
    a, b, c, d = sorted(group_runs(find_runs([tmp_path])), key=lambda g: g.experiment)
    assert {"hash/t2v/mAP", "probe/order"} & set(difference(a, b)) == set()
    assert {"hash/t2v/mAP", "probe/order"} & set(difference(a, c)) == {"probe/order"}
    assert {"hash/t2v/mAP", "probe/order"} & set(difference(a, d)) == set()
    assert "t2v/R@1" in difference(a, d)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a/x")
    (folder / VALUES).write_bytes(b"no table")
    with pytest.raises(RunError, match=r"values\.parquet is damaged"):
        read_values(folder)
