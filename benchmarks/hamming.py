"""Seconds of hashing metrics, and of Hamming search through `HammingIndex` against FAISS called directly.

    python benchmarks/hamming.py [--items 1000000] [--json]

Metrics: 3,000 queries in 7,000 items, 64 bits, 20 classes. Search: 1,000 queries, k = 100; both forms hold the same
codes and take turns, each time is the best of the repetitions.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import faiss
import numpy as np
import torch
from measure import write_results
from torch import Tensor

from tvr_lightning.evaluation.code_files import Codes, HammingIndex, pack_codes
from tvr_lightning.metrics import hashing_metrics
from tvr_lightning.metrics.hashing import Normalise

BITS, QUERIES, K, REPEATS = 64, 1000, 100, 7


def random_codes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (count, BITS), generator=generator, dtype=torch.int8) * 2 - 1


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def metrics_rows() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    own, known = (torch.eye(20, dtype=torch.bool)[torch.randint(20, (n,), generator=generator)] for n in (3000, 7000))
    queries, items = random_codes(3000, 1), random_codes(7000, 2)
    rows = []
    for normalise in get_args(Normalise):
        call = partial(hashing_metrics, queries, items, own, known, normalise=normalise)
        best = min(seconds(call) for _ in range(3))
        rows.append({"part": f"hashing_metrics, {normalise}", "pairs": "3000 x 7000", "s": round(best, 3)})
    return rows


def search_rows(count: int) -> list[dict[str, Any]]:
    packed, queries = pack_codes(random_codes(count, 3)), pack_codes(random_codes(QUERIES, 4))
    direct = faiss.IndexBinaryFlat(BITS)
    direct.add(packed)
    index = HammingIndex(Codes(packed, BITS, np.arange(count).astype(np.str_)))
    if not np.array_equal(index.search(queries, K)[0], direct.search(queries, K)[0]):
        raise SystemExit("both searches must find the same distances")
    times: dict[str, list[float]] = {"HammingIndex": [], "IndexBinaryFlat": []}
    for _ in range(REPEATS):
        times["IndexBinaryFlat"].append(seconds(lambda: direct.search(queries, K)))
        times["HammingIndex"].append(seconds(lambda: index.search(queries, K)))
    best = {name: min(values) for name, values in times.items()}
    ratio = best["HammingIndex"] / best["IndexBinaryFlat"]
    size = f"{QUERIES} in {count}, k={K}"
    return [{"part": f"search, {n}", "pairs": size, "s": round(s, 3)} for n, s in best.items()] + [
        {"part": "search, ratio", "pairs": size, "s": round(ratio, 3)}
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, help="codes that are searched in")
    parser.add_argument("--json", action="store_true", help="one object per row")
    options = parser.parse_args()
    rows = metrics_rows() + search_rows(options.items)
    for row in rows:
        print(json.dumps(row) if options.json else "  ".join(f"{k} {v}" for k, v in row.items()))
    write_results("hamming", "python benchmarks/hamming.py", rows, faiss=faiss.__version__)


if __name__ == "__main__":
    main()
