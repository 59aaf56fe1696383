"""Clips as long and as large as a dataset's own, for rehearsals: what they cost matters, not what they show."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tvr_lightning.data.tools.parallel import map_in_processes
from tvr_lightning.synthetic.rendering import render
from tvr_lightning.synthetic.scenes import draw_scene

WIDTH, HEIGHT, FPS = 320, 240, 25
GRAIN = 6.0  # standard deviation of the noise, in grey levels: a still picture would cost nothing to decode
FRAMES_IN_ALL = 6000  # of different clips, about half a minute of a core
MOST, FEWEST = 16, 2  # different clips


def write_long_clips(files: Sequence[Path], seconds: float, workers: int | None = None) -> None:
    """Writes a clip into each file: a few different ones, the others the same pictures in files of their own content.

    Args:
        files: where; their folders exist.
        seconds: length of each.
        workers: processes that render; None for one per core.
    """
    different = min(len(files), max(FEWEST, min(MOST, int(FRAMES_IN_ALL / (seconds * FPS)))))
    map_in_processes(_write, [(file, seconds, i) for i, file in enumerate(files[:different])], workers, "clips")
    for i, file in enumerate(files[different:], different):
        shutil.copyfile(files[i % different], file)
        with file.open("ab") as out:  # a box that readers skip: no two files are the same bytes
            out.write((16).to_bytes(4, "big") + b"free" + i.to_bytes(8, "big"))


def _write(job: tuple[Path, float, int]) -> None:
    file, seconds, seed = job
    count = max(1, round(seconds * FPS))
    scene = render(draw_scene(random.Random(seed)))
    columns, rows = (np.arange(n) * scene.shape[1] // n for n in (WIDTH, HEIGHT))
    grain = np.random.default_rng(seed).normal(0, GRAIN, (8, HEIGHT, WIDTH, 1))
    with av.open(str(file), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "26", "g": "50"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for index in range(count):
            picture = scene[index * len(scene) // count][rows][:, columns] + grain[index % len(grain)]
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
