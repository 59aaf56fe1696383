"""Whether a video is sound: decided here once, for probes, for `tvr data check`, and as reading finds it."""

from __future__ import annotations

from typing import NamedTuple

import av

from tvr_lightning.data.video.container import OpenVideo
from tvr_lightning.data.video.decoding import numbered_frames
from tvr_lightning.data.video.packets import Packets, scan
from tvr_lightning.data.video.pixels import square_pixels
from tvr_lightning.errors import DecodeError


class Examination(NamedTuple):
    """What a stream turned out to be.

    Attributes:
        packets: what `scan` found.
        first: the first intact frame.
        cut: that the file is cut off, in words; empty where it is not.
        broken: that frames are broken, in words; empty where none was found.
    """

    packets: Packets
    first: av.VideoFrame
    cut: str
    broken: str


def examine(video: OpenVideo, full: bool = False) -> Examination:
    """Reads the packets of a stream as reading does and decodes the first intact frame, or all.

    Args:
        video: the stream, at its beginning.
        full: decode every frame. An error that the decoder reports is believed too: not every decoder flags frames.

    Raises:
        DecodeError: no frame decodes, or frames are not pictures.
    """
    packets = scan(video)
    _, stop, end, _ = packets.timeline
    total = len(packets.ticks)
    faults = [packets.fault] if packets.fault else []
    first, count = None, 0
    with video.reopened() as fresh:
        for _, frame in numbered_frames(fresh, packets, faults, listen=full):
            square_pixels(frame, fresh)
            first, count = first or frame, count + 1
            if not full:
                break
    if full and first is None:  # all is damaged in the decoder's words, which reading does not ask for
        with video.reopened() as fresh:
            first = next((frame for _, frame in numbered_frames(fresh, packets, [])), None)
    why = f"{min(count, total)} of {total} frames decode ({next(iter(faults), 'no reason given')})"
    if first is None:
        raise DecodeError(f"{video.path}: {why}")
    cut = f"cut off: the header promises {end:.1f} s, the file ends after {stop:.1f} s" if end > stop else ""
    return Examination(packets, first, cut, why if full and (faults or count < total) else "")
