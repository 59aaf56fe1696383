"""Milliseconds of a query to `tvr serve`, by how many clients ask at once, beside the index asked directly.

    python benchmarks/serve.py [--index FOLDER] [--seconds 5] [--json]

Without an index, one is made of shapes' test videos with a run of one step: speed does not depend on weights.
The server is a process of its own, this one holds the clients: each asks again as soon as it has its answer. They share
the machine's cores with the server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
from measure import write_results

from tvr_lightning.commands.main import main as tvr
from tvr_lightning.search.index import load_index

CLIENTS = (1, 8, 64)
WORDS = (("red", "blue", "green", "pink", "yellow"), ("circle", "star", "heart", "square"), ("left", "right", "up"))
K, WARM = 24, 20


def queries() -> Iterator[str]:
    """Captions without end, no two in a row alike."""
    for number in count():
        colour, shape, way = (words[number % len(words)] for words in WORDS)
        yield f"a {colour} {shape} moves {way}"


def make_index(folder: Path) -> Path:
    """An index of shapes' test videos; made with a run of one step."""
    words = ["--config", "clip4clip_shapes", "--trainer.max_steps=1", f"--runs_dir={folder}", "--run_id=a"]
    if tvr(["fit", *words, "--tracker=none", "--trainer.limit_val_batches=0"]):
        raise SystemExit("the run of one step failed")
    videos = Path("data/shapes/videos").absolute()
    listed = folder / "videos.txt"
    listed.write_text("\n".join(str(p) for p in sorted(videos.iterdir(), key=lambda p: int(p.stem[5:]))[-200:]))
    if tvr(["index", str(folder / "clip4clip_shapes" / "a"), str(listed), str(folder / "clips.index")]):
        raise SystemExit("the index was not made")
    return folder / "clips.index"


@contextmanager
def server(index: Path) -> Iterator[tuple[str, int]]:
    """`tvr serve` on a free port: its host and port."""
    command = [sys.executable, "-m", "tvr_lightning", "serve", str(index), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("http"):
                raise SystemExit("the server did not start")
            parts = urlsplit(line.split()[0])
            yield str(parts.hostname), int(parts.port or 0)
        finally:
            process.terminate()


def ask(address: tuple[str, int], clients: int, seconds: float) -> dict[str, Any]:
    """What clients that ask without a pause meet."""
    asked, times, errors = queries(), list[float](), list[str]()
    lock = threading.Lock()
    start = threading.Barrier(clients + 1)
    end = 0.0

    def client() -> None:
        connection = http.client.HTTPConnection(*address, timeout=60)
        start.wait()
        while time.perf_counter() < end:
            with lock:
                path = "/api/search?" + urlencode({"q": next(asked), "k": K})
            began = time.perf_counter()
            try:
                connection.request("GET", path)
                reply = connection.getresponse()
                found = json.loads(reply.read())
                took = time.perf_counter() - began
                wrong = reply.status != 200 or len(found["hits"]) != K
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                connection.close()
                errors.append(str(error))
                continue
            if wrong:
                errors.append(str(reply.status))
            else:
                times.append(took)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    end = began + seconds
    start.wait()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    p50, p99 = np.percentile(times, [50, 99]) * 1e3 if times else (float("nan"),) * 2
    return {
        "part": f"server, {clients} client{'s'[: clients > 1]}", "queries": len(times),
        "per_s": round(len(times) / took, 1), "p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1),
        "errors": len(errors),
    }  # fmt: skip


def direct(folder: Path, seconds: float) -> dict[str, Any]:
    """The same queries one by one, without a server."""
    index, times, asked = load_index(folder, device="cpu"), list[float](), queries()
    for _ in range(WARM):
        index.answers([next(asked)], K)
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        index.answers([next(asked)], K)
        times.append(time.perf_counter() - began)
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return {
        "part": "Index.answers, one by one", "queries": len(times), "per_s": round(len(times) / sum(times), 1),
        "p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1), "errors": 0,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--index", type=Path, help="an index; one of shapes is made when not given")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row (default: 5)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)  # what else the machine did; above its cores, times say little
    with tempfile.TemporaryDirectory() as folder:
        index = options.index or make_index(Path(folder))
        rows = [direct(index, options.seconds)]
        with server(index) as address:
            ask(address, 1, 1.0)
            rows += [ask(address, clients, options.seconds) for clients in CLIENTS]
        windows = len(load_index(index))
    for row in rows:
        print(json.dumps(row) if options.json else "  ".join(f"{k} {v}" for k, v in row.items()))
    write_results("serve", "python benchmarks/serve.py", rows, windows=windows, k=K, load=load)
    if any(row["errors"] for row in rows):
        raise SystemExit("a query was answered with an error")


if __name__ == "__main__":
    main()
