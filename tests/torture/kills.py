"""Processes that are killed at seeded moments: what they leave behind is whole, and what goes on ends the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tvr_lightning.commands.main import main
from tvr_lightning.data.stores.files import atomic_write, write_json
from tvr_lightning.data.stores.store import Store, key_of
from tvr_lightning.data.triples.base import Triple, TripleExtractor
from tvr_lightning.data.triples.cached import CachedTriples
from tvr_lightning.data.triples.offline import OfflineTriples
from tvr_lightning.run.curves import read_curves, write_curves
from tvr_lightning.types import Record

from ..data.clips import write_clip
from ..data.stores.frame_cases import cache_in, decode, fetch, same
from ..small_runs import run_arguments
from .judge import Verdict

_FORK = multiprocessing.get_context("fork")
LIMIT_S = 120


def killed_after(work: Callable[[], object], ready: Callable[[], bool], seconds: float) -> bool:
    """Runs `work` in a process of its own and kills it some time after `ready`; False when it ended before."""
    process = _FORK.Process(target=_quietly, args=(work,))
    process.start()
    assert process.pid is not None
    deadline = time.monotonic() + LIMIT_S
    while not ready() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def _quietly(work: Callable[[], object]) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    with open(os.devnull, "w") as sink, redirect_stdout(sink), redirect_stderr(sink):  # noqa: PTH123
        work()


# --- a training


class Training:
    """A tiny training, whole and killed.

    Args:
        shapes: the dataset.
        folder: where runs go.
    """

    def __init__(self, shapes: Path, folder: Path) -> None:
        self.shapes, self.runs = shapes, folder / "runs"
        self.home = self.runs / "clip4clip_shapes"
        self.seconds = 0.0

    def fit(self, *more: str) -> Callable[[], object]:
        """A `tvr fit`, to be called in a process of its own."""
        settings = ("--trainer.max_epochs=3", "--data.batch_size=2", "--data.num_frames=2", "--checkpoint_every=1")
        words = run_arguments(self.shapes, self.runs, *settings, "--data.cache_frames=false", *more)
        return lambda: _leave(main(["fit", *words]))

    def whole(self) -> None:
        """Trains without a kill."""
        began = time.monotonic()
        done = _run(self.fit("--run_id=whole"))
        assert done == 0, f"the training that nobody killed ended with {done}"
        self.seconds = time.monotonic() - began

    def killed(self, number: int, seed: int) -> Verdict:
        """Kills a training at seeded moments and goes on; its end must be that of the whole one."""
        draw = random.Random(f"{seed} training {number}")
        folder = self.home / f"killed{number}"
        kills = 0
        words = [f"--run_id={folder.name}"]
        for _ in range(draw.choice((1, 1, 2))):
            kills += killed_after(self.fit(*words), folder.exists, draw.random() * self.seconds * 0.6)
            if (folder / "metrics.json").exists():
                break
            if why := half_written(folder):
                return Verdict("wrong", why)
            going_on = (folder / "checkpoints" / "last.ckpt").exists()
            words = [f"--resume={folder}"] if going_on else [f"--run_id={folder.name}-again"]
            folder = folder if going_on else folder.with_name(f"{folder.name}-again")
        if not (folder / "metrics.json").exists() and (done := _run(self.fit(*words))):
            return Verdict("wrong", f"{words} after {kills} kills ended with {done}")
        return self._same(folder)

    def _same(self, folder: Path) -> Verdict:
        here, there = (json.loads((run / "metrics.json").read_text()) for run in (folder, self.home / "whole"))
        for name in ("metrics", "trained"):
            if here[name] != there[name]:
                return Verdict("wrong", f"{name} differ")
        if (folder / "curves.csv").read_text() != (self.home / "whole" / "curves.csv").read_text():
            return Verdict("wrong", "curves differ")
        for name in ("best", "last"):
            a, b = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
                    for run in (folder, self.home / "whole"))  # fmt: skip
            if a.keys() != b.keys() or not all(torch.equal(a[k], b[k]) for k in a):
                return Verdict("wrong", f"the weights of {name}.ckpt differ")
        if left := [path.name for path in folder.rglob(".*") if path.is_file()]:
            return Verdict("wrong", f"left behind: {left}")
        return Verdict("right")


def half_written(folder: Path) -> str:
    """Which visible file of a run is not a whole one, in words; none is."""
    import pyarrow.parquet as pq
    import yaml

    readers: dict[str, Callable[[Path], Any]] = {
        ".json": lambda p: json.loads(p.read_text()),
        ".yaml": lambda p: yaml.safe_load(p.read_text())["model"],
        ".ckpt": lambda p: torch.load(p, weights_only=True)["state_dict"],
        ".csv": read_curves,
        ".parquet": pq.read_table,
    }
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.suffix in readers:
            try:
                readers[path.suffix](path)
            except Exception as error:
                return f"{path.name} is half written: {error}"
    return ""


def _leave(code: int) -> None:
    os._exit(code)


def _run(work: Callable[[], object]) -> int | None:
    process = _FORK.Process(target=_quietly, args=(work,))
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


# --- caches and results


def kill_in_frames(folder: Path, seed: str) -> Verdict:
    """Frames that were kept before a kill are those that decoding gives; the next process keeps the rest."""
    records = [Record(f"v{n}", write_clip(folder / f"v{n}.mp4", 12 + n), ()) for n in range(12)]
    cache = folder / "cache"
    _at_a_moment(seed, lambda: [fetch(cache_in(cache, 1), record) for record in records], cache)
    for record in records:
        if not same(fetch(cache_in(cache, 1), record)[0], decode(record)):
            return Verdict("wrong", f"{record.video_id}: other frames than decoding gives")
    again = [fetch(cache_in(cache, 1), record)[1] for record in records]
    return Verdict("wrong", "frames were not kept after the kill") if any(again) else _nothing_left(cache)


def kill_in_features(folder: Path, seed: str) -> Verdict:
    """An entry of features is whole or none, and the next process writes it."""
    store = Store(folder, 1)

    def entry(number: int) -> dict[str, torch.Tensor]:
        return {"x": torch.full((50_000 + number,), float(number))}

    def work() -> None:
        for number in range(10**6):
            store.write("features", key_of(number % 40), entry(number % 40))

    _at_a_moment(seed, work, folder)
    for number in range(40):
        for mapped in (False, True):
            found = store.read("features", key_of(number), mapped)
            if found is not None and not torch.equal(found["x"], entry(number)["x"]):
                return Verdict("wrong", f"entry {number} is another one")
        store.write("features", key_of(number), entry(number))
        if store.read("features", key_of(number)) is None:
            return Verdict("wrong", f"entry {number} cannot be written after the kill")
    return _nothing_left(folder)


def kill_in_triples(folder: Path, seed: str) -> Verdict:
    """What SQLite has of a caption is what parsing gives."""
    captions = [f"a dog number {n} chases a {c} cat" for n in range(60) for c in ("red", "small", "fast")]

    class Slow(TripleExtractor):
        fingerprint = "slow"

        def extract(self, given: Any) -> list[tuple[Triple, ...]]:
            return OfflineTriples().extract(given)

    def work() -> None:
        for start in range(0, len(captions), 5):
            CachedTriples(Slow(), folder).extract(captions[start : start + 5])

    _at_a_moment(seed, work, folder)
    for _ in range(2):
        if CachedTriples(Slow(), folder).extract(captions) != OfflineTriples().extract(captions):
            return Verdict("wrong", "other triples than parsing gives")
    return Verdict("right")


def kill_in_results(folder: Path, seed: str) -> Verdict:
    """Every file of results is one of those that were written, the last or the one before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)

    def work() -> None:
        for number in range(10**6):
            write_json(folder / "metrics.json", {"number": number, "rest": [number] * 5000})
            write_curves(folder / "curves.csv", [{"epoch": n, "train/loss": float(number)} for n in range(200)])
            with atomic_write(folder / "ranks.parquet") as temporary:
                pq.write_table(pa.table({"rank": np.full(20_000, number)}), temporary)

    _at_a_moment(seed, work, folder / "metrics.json")
    if why := half_written(folder):
        return Verdict("wrong", why)
    content = json.loads((folder / "metrics.json").read_text())
    if content["rest"] != [content["number"]] * 5000:
        return Verdict("wrong", "metrics.json mixes two results")
    if (path := folder / "curves.csv").exists() and len({row["train/loss"] for row in read_curves(path)}) != 1:
        return Verdict("wrong", "curves.csv mixes two results")
    if (path := folder / "ranks.parquet").exists() and len(set(pq.read_table(path)["rank"].to_pylist())) != 1:
        return Verdict("wrong", "ranks.parquet mixes two results")
    return Verdict("right")


def _at_a_moment(seed: str, work: Callable[[], object], ready: Path) -> None:
    killed_after(work, ready.exists, random.Random(seed).random() * 0.25)


def _nothing_left(folder: Path) -> Verdict:
    return Verdict("wrong", "incoming was left behind") if (folder / "incoming").exists() else Verdict("right")


STORES: dict[str, Callable[[Path, str], Verdict]] = {
    "killed while frames are kept": kill_in_frames,
    "killed while features are kept": kill_in_features,
    "killed while triples are kept": kill_in_triples,
    "killed while results are written": kill_in_results,
}


def kills(folder: Path, seed: int, rounds: int) -> Iterator[tuple[str, str, Callable[[], Verdict]]]:
    """Kind, name and judge of each kill of a store."""
    for kind, judge in STORES.items():
        for number in range(rounds):
            inside = folder / f"{judge.__name__}{number}"
            inside.mkdir()
            yield kind, f"seed {seed}, number {number}", partial(judge, inside, f"{seed} {inside.name}")
