"""From decoded frames to upright square pictures."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tvr_lightning.data.video.container import OpenVideo, pyav_errors
from tvr_lightning.data.video.sampling import Resize
from tvr_lightning.errors import DecodeError

MAX_ASPECT = 32
"""Frames more than this many times longer than wide are refused; resized to `size` they would fill the memory."""

FILTER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def shown_size(frame: av.VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Width and height in pixels as a player shows them: upright, with square pixels."""
    width, height = round(frame.width * _pixel_aspect(stream)), frame.height
    return (height, width) if orientation(frame)[0] else (width, height)


def _pixel_aspect(stream: VideoStream) -> Fraction:
    return stream.sample_aspect_ratio or Fraction(1)


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Whether a frame is to be transposed, then mirrored left to right, then turned upside down.

    The display matrix (a b u, c d v, x y w) takes column p and row q to column a p + c q and row b p + d q.
    """
    try:
        side_data: Any = frame.side_data
        matrix = side_data.get("DISPLAYMATRIX")
    except ValueError:  # the frame also carries a kind that PyAV has no name for; the angle is all it gives then
        angle = math.radians(frame.rotation)
        a, b, c, d = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    else:
        if matrix is None:
            return False, False, False
        a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    if abs(b) > abs(a):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def square_pixels(frame: av.VideoFrame, video: OpenVideo) -> tuple[Fraction, Fraction]:
    """Width and height of a frame with square pixels, not turned yet.

    Raises:
        DecodeError: the frame is far too long and narrow for a picture.
    """
    sides = frame.width * _pixel_aspect(video.stream), Fraction(frame.height)
    if not 0 < max(sides) <= MAX_ASPECT * min(sides):
        raise DecodeError(f"{video.path}: frames of {frame.width} x {frame.height} pixels cannot be pictures")
    return sides


class Resizer:
    """Turns decoded frames into (3, size, size) uint8 RGB arrays.

    Args:
        size: height and width of the result in pixels.
        video: where the frames come from.
        resize: `crop` brings the short side to `size` and cuts the centre out, as CLIP; `squash` brings both sides to
            it, so that nothing is cut off and things look narrower or wider, as SigLIP.
    """

    def __init__(self, size: int, video: OpenVideo, resize: Resize = "crop") -> None:
        self.size = size
        self.video = video
        self.resize = resize
        self.reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """Returns one frame, upright.

        Raises:
            DecodeError: the frame is far too long and narrow for a picture, or PyAV cannot convert it.
        """
        sides = square_pixels(frame, self.video)
        squash = self.resize == "squash"
        width, height = (self.size if squash else math.floor(self.size * side / min(sides)) for side in sides)
        with pyav_errors(self.video.path):
            picture = self.reformatter.reformat(
                frame,
                width,
                height,
                "rgb24",
                interpolation=FILTER,
                dst_color_range=ColorRange.JPEG,
                threads=self.video.threads,
            ).to_ndarray()  # (height, width, 3)
            transposed, mirrored, flipped = orientation(frame)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        picture = picture[top : top + self.size, left : left + self.size]
        if transposed:
            picture = picture.swapaxes(0, 1)
        picture = picture[:: -1 if flipped else 1, :: -1 if mirrored else 1]
        return np.ascontiguousarray(picture.transpose(2, 0, 1))
