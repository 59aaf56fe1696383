"""A video as an experiment's settings have it, whichever way frames are chosen."""

from __future__ import annotations

from os import PathLike

import numpy as np

from tvr_lightning.data.video.frames import VideoFrames, read_frames
from tvr_lightning.data.video.key_frames import read_key_frames
from tvr_lightning.data.video.sampling import FrameOptions


def read_clip(
    path: str | PathLike[str],
    options: FrameOptions,
    start: float | None = None,
    end: float | None = None,
    generator: np.random.Generator | None = None,
) -> VideoFrames:
    """Decodes frames of a video, or of a part of it; `views` is the caller's matter.

    Args:
        path: the file.
        options: how frames are taken.
        start: seconds, None for the beginning.
        end: seconds, None for the end.
        generator: draws places where the sampling is random; key frames are never.

    Raises:
        DecodeError: with the path and the decoder's reason.
    """
    o = options
    if o.sampling == "key":
        return read_key_frames(path, o.num_frames, o.size, start=start, end=end, resize=o.resize)
    return read_frames(
        path, o.num_frames, o.sampling, o.fps, o.size, start=start, end=end, generator=generator, resize=o.resize
    )
