"""Runs of the protocol, trained and kept, without training them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.run.build import build_cli, dump_config, resolved_config
from tvr_lightning.run.curves import write_curves

from ..report.finished_runs import make_run


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


def finished_run(parent: Path, point: str = "s0") -> Path:
    """A run as training leaves it."""
    folder = make_kept(parent.parent, f"{parent.name}/{point}", checkpoint="/somewhere/best.ckpt")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    ranks = pq.read_table(folder / "ranks.parquet")
    rank = ranks.column("rank")
    pq.write_table(ranks.append_column("top_scores", rank), folder / "ranks.parquet")
    rows = [
        {"metric": metric, "query": f"video{i:02}", "video": f"video{i + 1:02}", "value": 24.0 + i}
        for metric in ("probe/order", "hash/t2v/mAP", "hash/t2v/P@50")
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "values.parquet")
    return folder


def write_settings(folder: Path, words: Sequence[str], more: dict[str, Any] | None = None) -> None:
    """As a run writes them."""
    config = resolved_config(build_cli(read_arguments(words)[0])) | (more or {})
    (folder / "config.yaml").write_text(dump_config(config))


def call(script: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["protocol.py", *words])
    try:
        return int(script.main())
    except SystemExit as left:
        return int(left.code or 0)
