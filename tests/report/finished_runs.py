"""Folders of finished runs, without training them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tvr_lightning.data.stores.files import write_json

VIDEOS = 40
GOOD = [1] * 30 + [0] * 10
BAD = [1] * 10 + [0] * 30


def make_run(
    root: Path, name: str, seed: int = 0, hits: Sequence[int] = GOOD, prefix: str = "video", **changes: Any
) -> Path:
    """A finished run whose query i is first where `hits[i]`, else second, in both directions."""
    folder = root / name
    folder.mkdir(parents=True)
    settings = changes.pop("settings", {"lr": 0.1})
    config = {"seed_everything": seed, "run_id": folder.name, "model": {"init_args": settings}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    recall = 100.0 * sum(hits) / len(hits)
    metrics = {f"test/{d}/{m}": 100.0 for d in ("t2v", "v2t") for m in ("R@5", "R@10")}
    for d in ("t2v", "v2t"):
        metrics |= {f"test/{d}/R@1": recall, f"test/{d}/MdR": 1.0, f"test/{d}/MnR": 2 - recall / 100}
    metrics |= {"test/SumR": 2 * recall + 400, "test/probe/order": 25.0}
    content: dict[str, Any] = {
        "experiment": folder.parent.name, "method": "CLIP4Clip", "encoder": "tiny", "dataset": "shapes", "split": "9k",
        "seed": seed, "metrics": metrics, "intervals": {"test/t2v/R@1": [recall - 10.5, recall + 10.25]},
        "data": {"left_out": 0, "subset": None, "videos": VIDEOS, "captions": VIDEOS}, "selected_on_test": False,
        "partial": False, "v2t": "sets", "train_time_s": 90.0, "peak_memory_mib": 2048, "parameters": 1_500_000,
    }  # fmt: skip
    write_json(folder / "metrics.json", content | changes)
    rows = []
    for d, end in (("t2v", "#0"), ("v2t", "")):
        for i, hit in enumerate(hits):
            row = {"direction": d, "query": f"{prefix}{i:02}{end}", "video": f"{prefix}{i:02}", "greater": 1 - hit}
            rows.append(
                row | {"rank": 2.0 - hit, "tied_other": 0, "tied_own": 1, "average_precision": 1.0 if hit else 0.5}
            )
    pq.write_table(pa.Table.from_pylist(rows), folder / "ranks.parquet")
    return folder
