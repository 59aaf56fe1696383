"""Search over own videos: vectors against FAISS called directly, lists against all, two stages, and the pipeline.

    python benchmarks/search.py [--items 1000000] [--runs RUN ...] [--videos FOLDER] [--json]

- Vectors: `FaissVectors` and FAISS itself over the same vectors, in turns, best of the repetitions.
- Lists: one query at a time through inverted lists and through all vectors, which sets `EXACT_UP_TO`; vectors of a
  mixture of 2,000 unit Gaussians. Recall is over the 10 best.
- Two stages, of each run given: all captions of its test split against its test videos; how many of the 10 best by the
  method's own score are found with N proposals, and the time.
- Pipeline: windows a second of `build_index` with frames from the cache, against the encoder alone on the same frames.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from measure import add_device, write_results
from numpy.typing import NDArray

from tvr_lightning.evaluation.code_files import pack_codes
from tvr_lightning.evaluation.encoding import encode_batch, inference
from tvr_lightning.run.load import Experiment
from tvr_lightning.search import vectors as module
from tvr_lightning.search.builder import build_index
from tvr_lightning.search.index import load_index
from tvr_lightning.search.plan import IndexOptions
from tvr_lightning.search.source import load_source, source_of
from tvr_lightning.search.vectors import FaissVectors, keep_lists, local_vectors

WIDTH, BITS, QUERIES, K, REPEATS = 512, 64, 100, 10, 5
CENTRES, SPREAD = 2000, 1.0


def clustered(count: int, seed: int) -> NDArray[np.float32]:
    """Unit vectors around common centres, as features of videos of some hundreds of kinds are."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, WIDTH), dtype=np.float32)
    generator = np.random.default_rng(seed)
    found = np.empty((count, WIDTH), dtype=np.float32)
    for start in range(0, count, 50_000):
        stop = min(start + 50_000, count)
        kinds = generator.integers(0, CENTRES, stop - start)
        found[start:stop] = centres[kinds] + SPREAD * generator.standard_normal((stop - start, WIDTH), dtype=np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def against_faiss(count: int) -> Iterator[dict[str, Any]]:
    ids = np.arange(count)
    for kind in ("float", "code"):
        vectors: Any = clustered(count, 1)
        queries: Any = clustered(QUERIES, 2)
        if kind == "code":
            vectors, queries = (np.where(x[:, :BITS] >= 0, 1, -1).astype(np.int8) for x in (vectors, queries))
            stored, asked = pack_codes(vectors), pack_codes(queries)
            direct: Any = faiss.IndexBinaryFlat(BITS)
        else:
            stored, asked = vectors, queries
            direct = faiss.IndexFlatIP(WIDTH)
        direct.add(stored)
        own = FaissVectors("code" if kind == "code" else "float", vectors.shape[1])
        own.add(ids, vectors)
        times: dict[str, list[float]] = {"direct": [], "own": []}
        for _ in range(REPEATS):
            times["direct"].append(seconds(partial(direct.search, asked, K)))
            times["own"].append(seconds(partial(own.search, queries, K)))
        best = {name: min(x) for name, x in times.items()}
        yield {
            "part": "vectors", "kind": kind, "items": count, "queries": QUERIES, "ms": round(1e3 * best["own"], 1),
            "faiss_ms": round(1e3 * best["direct"], 1), "ratio": round(best["own"] / best["direct"], 2),
        }  # fmt: skip


def lists(counts: list[int]) -> Iterator[dict[str, Any]]:
    for count in counts:
        vectors, queries, ids = clustered(count, 1), clustered(QUERIES, 2), np.arange(count)
        exact = FaissVectors("float", WIDTH)
        exact.add(ids, vectors)
        bound, module.EXACT_UP_TO = module.EXACT_UP_TO, 0
        with tempfile.TemporaryDirectory() as folder:
            made = seconds(partial(keep_lists, Path(folder), "float", ids, vectors))
            began = time.perf_counter()
            some = local_vectors(Path(folder), "float", ids, vectors)
            opened = time.perf_counter() - began
        module.EXACT_UP_TO = bound
        one = {
            name: [seconds(partial(index.search, query[None], K)) for query in queries]
            for name, index in (("all", exact), ("lists", some))
        }
        want, got = exact.search(queries, K)[1], some.search(queries, K)[1]
        recall = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(want, got, strict=True)])
        yield {
            "part": "lists", "items": count, "all_ms": round(1e3 * float(np.median(one["all"])), 1),
            "lists_ms": round(1e3 * float(np.median(one["lists"])), 1), "recall": round(100 * float(recall), 1),
            "made_s": round(made, 1), "opened_s": round(opened, 1),
        }  # fmt: skip


def two_stages(path: str, device: str) -> Iterator[dict[str, Any]]:
    run = load_source(path, device)
    run.data.setup("test")
    split = run.data.split_of("test")
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "list.txt")
        listed.write_text("".join(f"{record.video_path.absolute()}\n" for record in split.records))
        build_index(run, source_of(run, path), listed, Path(folder, "index"), IndexOptions(window=None))
        best: list[set[int]] = []
        for candidates in (None, 10, 20, 50, 100):
            index = load_index(Path(folder, "index"), path, candidates, device)
            index.__dict__["run"] = run
            index.search("once", K)
            began = time.perf_counter()
            answers = [index.search(caption, K) for caption in split.captions.captions[:QUERIES]]
            took = (time.perf_counter() - began) / len(answers)
            found = [{hit.window for hit in hits} for hits in answers]
            best = best or found
            recall = np.mean([len(a & b) / len(a) for a, b in zip(best, found, strict=True)])
            yield {
                "part": "two stages", "run": run.name, "videos": len(index), "candidates": candidates or "all",
                "ms": round(1e3 * took, 1), "recall": round(100 * float(recall), 1),
            }  # fmt: skip


def pipeline(path: str, videos: Path, device: str) -> Iterator[dict[str, Any]]:
    run = load_source(path, device)
    run.data.cache_frames = True
    with tempfile.TemporaryDirectory() as folder:
        for name in ("decoding", "from the cache"):
            index = Path(folder, "index")
            shutil.rmtree(index, ignore_errors=True)
            began = time.perf_counter()
            built = build_index(run, source_of(run, path), videos, index, IndexOptions())
            rate = built.windows / (time.perf_counter() - began)
            alone = encoder_alone(run)
            yield {
                "part": "pipeline", "run": run.name, "frames": name, "windows": built.windows,
                "windows_per_s": round(rate, 1), "encoder_per_s": round(alone, 1), "ratio": round(rate / alone, 2),
            }  # fmt: skip


def encoder_alone(run: Experiment, batches: int = 30) -> float:
    """Windows a second that `encode_video` takes, in the same batches."""
    from tvr_lightning.types import VideoInput

    size, o = run.data.eval_batch_size, run.data.frames
    frames = torch.randint(0, 256, (size, o.num_frames, 3, o.size, o.size), dtype=torch.uint8)
    video = VideoInput(frames, torch.ones(size, o.num_frames, dtype=torch.bool), torch.arange(size))
    with inference(run.model):
        encode_batch(run.model.encode_video, video.to(run.model.device))
        began = time.perf_counter()
        for _ in range(batches):
            features, _ = encode_batch(run.model.encode_video, video.to(run.model.device))
            features.to("cpu")
        return batches * size / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, help="vectors; 0 leaves that part out")
    parser.add_argument(
        "--runs", nargs="*", default=[], help="runs for the two stages; the first also indexes --videos"
    )
    parser.add_argument("--videos", type=Path, help="a folder of videos to be indexed")
    parser.add_argument("--json", action="store_true")
    add_device(parser)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    command = f"python benchmarks/search.py --items {options.items} --runs ... --videos ..."

    def keep(found: Iterator[dict[str, Any]]) -> None:
        for row in found:
            rows.append(row)
            write_results("search", command, rows, options.device)  # what is known so far
            print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)

    if options.items:
        keep(against_faiss(options.items))
        keep(lists([options.items // 10, options.items // 2, options.items]))
    for path in options.runs:
        keep(two_stages(path, options.device))
    if options.runs and options.videos:
        keep(pipeline(options.runs[0], options.videos, options.device))
    if options.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
