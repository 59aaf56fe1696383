"""Pairs per second and peak memory of all-pairs scorers: the literal form against the one that the suite uses.

    python benchmarks/score.py [--device cpu] [--only tc_mgc] [--json] [--large]

Every method of `experiments/method` has rows. TC-MGC's other form is the paper's equations written out, LEAN's and
GHAN's a batch of T x V graphs in torch_geometric, any other's what it declares as `literal_score`, else all pairs at
once, where the suite takes a block of texts at a time; what does neither has one row.
Both forms run in this process with the same weights and inputs and take turns; every time is the best of the
repetitions. Peak memory is what a call adds to the process (the allocator's peak on a GPU). `--large` also scores
a whole test set through `evaluation.score_all`: 1,000 x 1,000 pairs, LEAN 300 x 300.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from typing import Any

import score_any
import score_ghan
import score_lean
import score_tc_mgc
import torch
from cases import Case, Form
from measure import PeakMemory, add_device, write_results
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tvr_lightning.evaluation import score_all

REPEATS = {"cpu": 3, "cuda": 6}  # a GPU's first calls load kernels and record graphs

CPU_CASES = (
    Case("tc_mgc", 96, 96, 32, 12, 512),
    Case("tc_mgc", 64, 64, 32, 12, 512, "forward+backward"),
    Case("tc_mgc", 24, 24, 64, 64, 512),
    Case("tc_mgc", 16, 16, 64, 64, 512, "forward+backward"),
    Case("lean", 32, 32, 12, 10, 512),
    Case("lean", 32, 32, 12, 10, 512, "forward+backward"),
    Case("ghan", 64, 64, 6, 6, 512),
    Case("ghan", 32, 32, 6, 6, 512, "forward+backward"),
)
GPU_CASES = (
    Case("tc_mgc", 256, 256, 32, 12, 512),
    Case("tc_mgc", 128, 128, 32, 12, 512, "forward+backward"),
    Case("tc_mgc", 64, 64, 64, 64, 512),
    Case("tc_mgc", 48, 48, 64, 64, 512, "forward+backward"),
    Case("lean", 64, 64, 12, 10, 512),
    Case("lean", 32, 32, 12, 10, 512, "forward+backward"),
    Case("ghan", 128, 128, 6, 6, 512),
    Case("ghan", 32, 32, 6, 6, 512, "forward+backward"),
)
LARGE = {
    "tc_mgc": Case("tc_mgc", 1000, 1000, 32, 12, 512),
    "lean": Case("lean", 300, 300, 12, 10, 512),  # a pair has a hypergraph of its own: 1,000 x 1,000 take half an hour
    "ghan": Case("ghan", 1000, 1000, 6, 6, 512),
}
# with forms and sizes of their own
OWN: dict[str, Any] = {"ghan": score_ghan, "lean": score_lean, "tc_mgc": score_tc_mgc}
METHODS = score_any.known_methods()


def scorer(method: str) -> Any:
    """What gives a method's forms and features."""
    return OWN.get(method, score_any)


def cases_of(method: str, device: str) -> list[Case]:
    """What is measured of a method: the sizes that stand above, else the same as for all."""
    own = [case for case in (CPU_CASES if device == "cpu" else GPU_CASES) if case.method == method]
    items = 96 if device == "cpu" else 256
    return own or [Case(method, items, items, 32, 12, 512)]


def large_case(method: str) -> Case:
    """A whole test set."""
    return LARGE.get(method, Case(method, 1000, 1000, 32, 12, 512))


def run_case(case: Case, device: str) -> list[dict[str, Any]]:
    """One row per form; differences are to the first form."""
    texts, videos = scorer(case.method).features(case, device)
    module, forms = scorer(case.method).forms(case, device)
    backward = case.direction == "forward+backward"

    def call(form: Form) -> Tensor:
        with nullcontext() if backward else torch.inference_mode():
            scores = form(texts, videos)
            if backward:
                module.zero_grad()
                scores.logsumexp(1).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return scores.detach()

    times: dict[str, list[float]] = {name: [] for name in forms}
    peaks: dict[str, float] = {}
    scores: dict[str, Tensor] = {}
    for _ in range(REPEATS[device]):
        for name, form in forms.items():
            with PeakMemory(device) as memory:
                began = time.perf_counter()
                scores[name] = call(form)
                times[name].append(time.perf_counter() - began)
            peaks[name] = max(peaks.get(name, 0.0), memory.mib)
    first = next(iter(forms))
    return [
        {
            "method": case.method, "form": name, "direction": case.direction, "texts": case.texts,
            "videos": case.videos, "words": case.words, "frames": case.frames, "dim": case.dim, "device": device,
            "pairs_per_s": round(case.texts * case.videos / min(times[name])),
            "peak_mib": round(peaks[name], 1),
            "max_abs_diff": float((scores[name] - scores[first]).abs().max()),
            "speed_ratio": round(min(times[first]) / min(times[name]), 1),
            "memory_ratio": round(peaks[first] / max(peaks[name], 0.1), 1),
        }
        for name in forms
    ]  # fmt: skip


def run_large(case: Case, device: str) -> list[dict[str, Any]]:
    """A whole test set through the evaluator, in chunks; on a GPU, where features lie, beside one call of `score`."""
    texts, videos = scorer(case.method).features(case, device)
    model, _ = scorer(case.method).forms(case, device)
    forms: dict[str, Form] = {"evaluator": lambda t, v: score_all(model, t, v)}
    if device == "cuda":
        forms = {"one call": model.score, **forms}
    rows = []
    for name, form in forms.items():
        times, peak = [], 0.0
        for _ in range(1 if device == "cpu" else 4):
            with PeakMemory(device) as memory, torch.no_grad():
                began = time.perf_counter()
                form(texts, videos)
                if device == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
            peak = max(peak, memory.mib)
        rows.append(
            {
                "method": case.method, "form": name, "direction": "forward", "texts": case.texts,
                "videos": case.videos, "words": case.words, "frames": case.frames, "dim": case.dim, "device": device,
                "pairs_per_s": round(case.texts * case.videos / min(times)), "peak_mib": round(peak, 1),
                "seconds": round(min(times), 4 if device == "cuda" else 1),
            }
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=METHODS, help="one method")
    parser.add_argument("--json", action="store_true", help="one object per row")
    parser.add_argument("--large", action="store_true", help="also a whole test set")
    add_device(parser)
    options = parser.parse_args()
    rows = []
    chosen = [method for method in METHODS if options.only in (None, method)]
    for case in (case for method in chosen for case in cases_of(method, options.device)):
        rows += run_case(case, options.device)
    for method in chosen if options.large else ():
        rows += run_large(large_case(method), options.device)
    if options.json:
        for row in rows:
            print(json.dumps(row))
    else:
        print_table(rows)
    command = "python benchmarks/score.py" + (" --large" if options.large else "")
    if options.only is None:
        write_results("score", command, rows, options.device)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the rows for people."""
    columns = ("method", "form", "direction", "texts", "videos", "words", "frames", "device", "pairs_per_s",
               "peak_mib", "max_abs_diff", "speed_ratio", "memory_ratio")  # fmt: skip
    table = Table(caption="ratios: against the first form of the same case")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        figures = (row.get(c, "") for c in columns)
        table.add_row(*(f"{f:.2g}" if isinstance(f, float) and f < 0.1 else str(f) for f in figures))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
