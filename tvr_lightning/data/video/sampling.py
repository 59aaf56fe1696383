"""Which frames of a video are wanted: arithmetic on time stamps, without any pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tvr_lightning.data.video.packets import Timeline

Sampling = Literal["uniform", "head", "tail"]


def choose_frames(
    timeline: Timeline,
    num_frames: int,
    sampling: Sampling,
    fps: float | None,
    start: float,
    end: float,
    generator: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Picks frames of the half-open segment from `start` to `end`; no frame is picked twice.

    With `fps` the candidates are the frames on screen at `start + k / fps`; of too many, `head` and `tail` take the
    first and last ones and `uniform` takes `linspace(0, len - 1, num_frames)` rounded down (`slice_framepos 2` of
    CLIP4Clip, Luo et al. 2021). Without `fps`, `uniform` cuts the segment into `num_frames` equal parts and takes
    the frame at each centre, or at a random moment of each part when a generator is given; `head` and `tail` take
    neighbouring frames and know nothing of those that a cut file has lost.

    Returns:
        (at most num_frames,) strictly increasing frame indices; those from N up stand for lost frames.
    """
    if fps is not None:
        # An end such as 10.0007 s, the last time stamp and its duration rounded up, must not add a candidate
        count = max(math.ceil((end - start - 2 * timeline.slack) * fps - 1e-6), 1)
        moments = start + np.arange(count) / fps
        frames = timeline.on_screen(moments)
    elif sampling == "uniform":
        within = np.full(num_frames, 0.5) if generator is None else generator.random(num_frames)
        return timeline.on_screen(start + (np.arange(num_frames) + within) * (end - start) / num_frames)
    else:
        frames = timeline.between(start, end)
    if len(frames) <= num_frames:
        return frames
    if sampling == "uniform":
        return frames[np.linspace(0, len(frames) - 1, num_frames, dtype=np.int64)]
    return frames[:num_frames] if sampling == "head" else frames[-num_frames:]


FrameSampling = Literal["uniform", "head", "tail", "key"]
Resize = Literal["crop", "squash"]


@dataclass(frozen=True)
class FrameOptions:
    """How frames are taken from a video; see `data.video.frames.read_frames`.

    Attributes:
        num_frames: n, frames of a video; fewer are padded and masked.
        sampling: which frames are kept; `key` takes those where the content changes most.
        fps: candidate frames per second, None for the whole video in equal segments.
        size: height and width in pixels of what comes out.
        views: how many sets of frames are taken from a video, none of them twice; they take turns.
        resize: how frames come to that size; see `data.video.pixels.Resizer`.
    """

    num_frames: int
    sampling: FrameSampling
    fps: float | None
    size: int
    views: int = 1
    resize: Resize = "crop"
