"""Clips per second of decoding and of the frame cache.

    python benchmarks/decode.py [--json]

Loading: epochs of generated `shapes` clips through a loader with one worker, at the size of `clip4clip_shapes`: without
the cache, the epoch that fills it, the next epoch, and the first epoch of a second run.
Decoders: 12 frames at 224 px, evenly spread, of a 10 s and of a 30 s clip on one thread: this suite's reader (PyAV),
OpenCV, decord and torchcodec where they are installed (they are no dependencies), the cache, and hashing a video.
Forms take turns in one process, every figure is the best of several repetitions; ratios are what counts on a shared
machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from measure import WHOLE_CLIP, write_results

from tvr_lightning import load_experiment
from tvr_lightning.data.stores.contents import SETTLE_S
from tvr_lightning.data.stores.frames import FrameCache
from tvr_lightning.data.stores.store import Store
from tvr_lightning.data.video.frames import read_frames
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.synthetic.shapes import make_shapes
from tvr_lightning.types import Record

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "clip4clip_shapes.yaml"
VIDEOS, BATCH, REPEATS = 480, 96, 3
WIDTH, HEIGHT, FPS, SECONDS = 320, 240, 25, (10, 30)
OPTIONS = FrameOptions(num_frames=12, sampling="uniform", fps=None, size=224)


def write_scene(path: Path, seconds: int, seed: int = 0) -> None:
    """Writes an H.264 clip of a moving, textured picture with x264's usual key frames, at MSR-VTT's size."""
    texture = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 8 + 40, WIDTH // 8 + 40, 3)).astype(np.uint8)
    texture = texture.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(seconds * FPS):
            x, y = number % 300, (2 * number) % 300
            picture = np.ascontiguousarray(texture[y : y + HEIGHT, x : x + WIDTH])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())


def shapes_data(root: Path, cache_dir: Path, cached: bool, workers: int) -> Any:
    """The training loader of `clip4clip_shapes`."""
    settings = {
        "annotations.root": root, "cache_frames": str(cached).lower(), "cache_dir": cache_dir,
        "batch_size": BATCH, "num_workers": workers,
    }  # fmt: skip
    data = load_experiment(EXPERIMENT, [*WHOLE_CLIP, *(f"data.{key}={value}" for key, value in settings.items())]).data
    data.setup("fit")
    return data.train_dataloader()


def epoch_rate(loader: Any) -> float:
    """Clips per second of one epoch."""
    began = time.perf_counter()
    count = sum(len(batch) for batch in loader)
    return count / (time.perf_counter() - began)


def loading(folder: Path) -> dict[str, list[float]]:
    """Clips per second of epochs; the worker stays, so its start is in no figure."""
    root, cache = folder / "shapes", folder / "cache"
    make_shapes(root, VIDEOS)
    loaders = {cached: shapes_data(root, cache, cached, workers=1) for cached in (False, True)}
    for loader in loaders.values():
        epoch_rate(loader)
    rates: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        rates.setdefault("no cache", []).append(epoch_rate(loaders[False]))
        shutil.rmtree(cache)
        rates.setdefault("first epoch, fills the cache", []).append(epoch_rate(loaders[True]))
        rates.setdefault("second epoch", []).append(epoch_rate(loaders[True]))
        # a run's own first epoch: nothing is known in memory; without a worker, whose start would count
        rates.setdefault("first epoch of a second run", []).append(epoch_rate(shapes_data(root, cache, True, 0)))
    return rates


def opencv(path: Path) -> Any:
    cv2 = import_module("cv2")
    cv2.setNumThreads(1)

    def read() -> None:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        wanted = {int(i) for i in positions(int(video.get(cv2.CAP_PROP_FRAME_COUNT)))}
        kept = []
        for number in range(max(wanted) + 1):
            assert video.grab()
            if number in wanted:
                kept.append(cropped(cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB), cv2))
        assert len(kept) == OPTIONS.num_frames

    return read


def cropped(picture: Any, cv2: Any) -> Any:
    height, width = picture.shape[:2]
    scale = OPTIONS.size / min(height, width)
    picture = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_CUBIC)
    top, left = ((side - OPTIONS.size) // 2 for side in picture.shape[:2])
    return picture[top : top + OPTIONS.size, left : left + OPTIONS.size]


def decord(path: Path) -> Any:
    module = import_module("decord")
    width = round(WIDTH * OPTIONS.size / HEIGHT)

    def read() -> None:
        video = module.VideoReader(str(path), width=width, height=OPTIONS.size, num_threads=1)
        assert len(video.get_batch(positions(len(video)).tolist()).asnumpy()) == OPTIONS.num_frames

    return read


def torchcodec(path: Path) -> Any:
    decoders = import_module("torchcodec.decoders")
    resize = import_module("torchvision.transforms.v2.functional").resize

    def read() -> None:
        video = decoders.VideoDecoder(str(path), num_ffmpeg_threads=1)
        frames = video.get_frames_at(positions(len(video)).tolist()).data
        assert len(resize(frames, [OPTIONS.size], interpolation=3)) == OPTIONS.num_frames

    return read


def positions(count: int) -> Any:
    """The centres of equal segments, as the suite's own sampling takes them."""
    return ((np.arange(OPTIONS.num_frames) + 0.5) * count / OPTIONS.num_frames).astype(int)


def content_hash(path: Path) -> bytes:
    return hashlib.blake2b(path.read_bytes(), digest_size=32).digest()


def decoders(folder: Path) -> dict[str, list[float]]:
    """Seconds per clip of each decoder that can be imported, of a read from the cache and of hashing the file."""
    times: dict[str, list[float]] = {}
    for seconds in SECONDS:
        path = folder / f"{seconds}.mp4"
        write_scene(path, seconds)
        decode = partial(read_frames, path, OPTIONS.num_frames, size=OPTIONS.size)
        cache = FrameCache(Store(folder / "large", 1))
        forms: dict[str, Callable[[], Any]] = {
            "this suite (PyAV)": decode,
            "from the cache": partial(cache.fetch, Record("", path, ()), OPTIONS, decode),
            f"hash of {path.stat().st_size / 1e6:.1f} MB": partial(content_hash, path),
        }
        for name, build in {"OpenCV": opencv, "decord": decord, "torchcodec": torchcodec}.items():
            try:
                form = build(path)
                form()
                forms[name] = form
            except (ImportError, OSError, RuntimeError) as error:  # without its FFmpeg a wheel may fail only at work
                print(f"{name} is left out for {path.name}: {str(error).splitlines()[0]}")
        time.sleep(SETTLE_S)  # younger files are hashed at every read
        for repeat in range(REPEATS + 1):
            for name, form in forms.items():
                began = time.perf_counter()
                form()
                if repeat:  # the first one warms up
                    times.setdefault(f"{seconds} s clip: {name}", []).append(time.perf_counter() - began)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object per row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tvr-decode-") as folder:
        rates = loading(Path(folder))
        times = decoders(Path(folder))
    rows = [
        {
            "part": "loading",
            "form": form,
            "clips_per_s": round(max(values), 1),
            "ratio": round(max(values) / max(rates["no cache"]), 2),
        }
        for form, values in rates.items()
    ]
    for form, values in times.items():
        own = min(times[f"{form.partition(':')[0]}: this suite (PyAV)"])
        rows.append(
            {
                "part": "decoders",
                "form": form,
                "clips_per_s": round(1 / min(values), 1),
                "ms": round(min(values) * 1e3, 2),
                "ratio": round(own / min(values), 2),
            }
        )
    for row in rows:
        print(json.dumps(row) if options.json else "  ".join(f"{k} {v}" for k, v in row.items()))
    load = round(os.getloadavg()[0], 1)  # more than 1 or 2 means that other jobs were running
    print(f"load average of the machine: {load}")
    write_results("decode", "python benchmarks/decode.py", rows, pyav=av.__version__, load_average=load)


if __name__ == "__main__":
    main()
