"""Key frames: the frames that differ most from what came before (LEAN's visual nodes, Sec. 3.1.1).

The segment is decoded once, each frame shrunk to `THUMBNAIL_SIDE` pixels, and one number a frame is kept. Then only
the chosen frames are decoded in full size, by the decoder that every other sampling uses.

The measure follows the content score of PySceneDetect (mean difference of hue, saturation and brightness) with two
changes that keep noise out of it: hue goes round in a circle, and what has little colour has little hue, so hue counts
as much as the paler of the two pixels has colour. PySceneDetect itself is not used: it brings a second video library.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tvr_lightning.data.video import frames as video
from tvr_lightning.data.video.container import OpenVideo, first_that_decodes, reason
from tvr_lightning.data.video.decoding import numbered_frames
from tvr_lightning.data.video.frames import VideoFrames, check_numbers, draw_frames, segment
from tvr_lightning.data.video.packets import Packets, Timeline, scan
from tvr_lightning.data.video.pixels import Resizer
from tvr_lightning.data.video.sampling import Resize, choose_frames

THUMBNAIL_SIDE = 32
"""Height and width of the pictures that are compared: the same centre square that is shown, averaged."""

STATIC = 0.5
"""Changes below this (of 255) are noise of camera and codec: no content has changed."""

SAME_CHANGE = 0.6
"""Seconds within which differences belong to one change, a fade or a pan: PySceneDetect's shortest scene."""

_log = logging.getLogger(video.__name__)  # the frame cache keeps what the decoder says about damage


def read_key_frames(
    path: str | PathLike[str],
    num_frames: int,
    size: int,
    *,
    start: float | None = None,
    end: float | None = None,
    threads: int = 1,
    resize: Resize = "crop",
) -> VideoFrames:
    """Reads the frames at which the content of a video or a segment of it changes most; see `choose_key_frames`.

    Frames look as those of `frames.read_frames`. A video with fewer than `num_frames` frames gives all of them; in
    a damaged video those that do not decode are skipped.

    Args:
        path: the video file.
        num_frames: m, the most frames to give.
        size: height and width of the result in pixels.
        start: first second of the segment, on the video's own clock; None for its beginning.
        end: end of the segment, exclusive; None or anything later than the video for its end.
        threads: decoder threads; 0 lets FFmpeg choose.
        resize: `crop` or `squash`; see `Resizer`.

    Raises:
        DecodeError: no frame can be given; the message has the path and the reason.
        ConfigError: an argument is out of range.
    """
    check_numbers(num_frames, size, threads)
    path = Path(path)

    def read(video: OpenVideo) -> VideoFrames:
        packets = scan(video)
        timeline = packets.timeline
        first, last = segment(path, start, end, timeline.end)
        if first >= timeline.stop:  # lost: the decoder says so
            chosen = timeline.on_screen(np.array([first]))
        else:
            frames = timeline.between(first, last)
            changes = _changes(video, packets, frames) if len(frames) > num_frames else None
            chosen = (
                frames if changes is None else choose_key_frames(timeline, frames, changes, num_frames, first, last)
            )
            if 2 * (timeline.stop - first) < min(last, timeline.end) - first:
                _log.warning(
                    "%s: damaged: key frames come from the first %.1f of %.1f s",
                    path,
                    timeline.stop - first,
                    last - first,
                )
        return draw_frames(video, packets, chosen, num_frames, size, resize=resize)

    return first_that_decodes(path, read, threads)


def choose_key_frames(
    timeline: Timeline,
    frames: NDArray[np.int64],
    changes: NDArray[np.float64],
    num_frames: int,
    start: float,
    end: float,
) -> NDArray[np.int64]:
    """Picks the first frame and the m - 1 largest content changes, in time order.

    A fade spreads one change over neighbouring frames: of frames near each other (`SAME_CHANGE`, less where the segment
    is too short for m of them) only the one with the largest difference is picked, unless the picture comes to rest in
    between, as it does between two cuts. Where fewer changes than places are found, the remaining places go to the
    frames farthest from all key frames; a segment without any change gets the uniform frames.

    Args:
        timeline: the video's.
        frames: (F,) the segment's frame numbers, neighbours.
        changes: (F,) difference of each from the frame before, 0 to 255; NaN where the frame does not decode.
        num_frames: m.
        start: first second of the segment.
        end: its end, exclusive.

    Returns:
        (at most m,) strictly increasing frame numbers.
    """
    decoded = ~np.isnan(changes)
    if decoded.any():  # else the decoder has the last word, and the reason
        frames, changes = frames[decoded], changes[decoded]
    if len(frames) <= num_frames:
        return frames
    times = timeline.times[frames]
    if not (changes[1:] >= STATIC).any():
        present = Timeline(times, timeline.stop, timeline.stop, timeline.slack)
        return frames[
            choose_frames(present, num_frames, "uniform", None, max(start, times[0]), min(end, timeline.stop))
        ]
    apart = min(SAME_CHANGE, (min(end, timeline.stop) - times[0]) / (2 * num_frames))
    picked = [0]
    for place in 1 + np.argsort(-changes[1:], kind="stable"):
        if len(picked) == num_frames or changes[place] < STATIC:
            break
        if not any(abs(times[p] - times[place]) < apart and _one_change(changes, p, int(place)) for p in picked):
            picked.append(int(place))
    while len(picked) < num_frames:
        picked.append(_farthest(times, picked))
    picked.sort()
    return frames[picked].astype(np.int64)


def _one_change(changes: NDArray[np.float64], picked: int, place: int) -> bool:
    """Whether the picture does not come to rest on the way: no difference is below half of the candidate's."""
    return bool(changes[min(picked, place) : max(picked, place) + 1].min() >= changes[place] / 2)


def _farthest(times: NDArray[np.float64], picked: Sequence[int]) -> int:
    """The place, not picked yet, whose nearest picked neighbour in time is farthest; the earliest of equals."""
    distance = np.abs(times[:, None] - times[None, list(picked)]).min(axis=1)  # (F,)
    return int(distance.argmax())


def _changes(video: OpenVideo, packets: Packets, frames: NDArray[np.int64]) -> NDArray[np.float64]:
    """Decodes a segment once; (F,) difference of each frame from the one before, 0 for the first, NaN for lost ones."""
    faults: list[str] = []
    if packets.key[frames[0]] and packets.seekable:
        try:
            video.container.seek(int(packets.key_ticks[packets.key[frames[0]]]), stream=video.stream)
        except Exception as error:  # PyAV's, of whatever class
            _log.debug("%s: a seek failed (%s); decoding from the start", video.path, reason(error))
        else:
            changes = _changes_from_here(video, packets, frames, faults)
            if not faults and not np.isnan(changes).any():
                return changes
            _log.debug("%s: some frames did not come out after seeking; decoding from the start", video.path)
    with video.reopened() as fresh:
        return _changes_from_here(fresh, packets, frames, faults)


def _changes_from_here(
    video: OpenVideo, packets: Packets, frames: NDArray[np.int64], faults: list[str]
) -> NDArray[np.float64]:
    changes = np.full(len(frames), np.nan)
    first, last = int(frames[0]), int(frames[-1])
    before: NDArray[np.float32] | None = None
    shrink = Resizer(THUMBNAIL_SIDE, video)
    for number, frame in numbered_frames(video, packets, faults):
        if number > last:
            break
        if number >= first:
            now = _colours(shrink(frame))
            changes[number - first] = 0.0 if before is None else _difference(before, now)
            before = now
    return changes


def changes_between(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """How much each picture differs from the one before; (3, S, S) each, the first by 0. Returns (F,)."""
    colours = [_colours(picture) for picture in pictures]
    return np.array([0.0, *(_difference(a, b) for a, b in pairwise(colours))])


def _colours(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """RGB to hue (0 to 6, round in a circle), chroma and brightness (both 0 to 255); (3, H, W) to (3, H, W)."""
    rgb = picture.astype(np.float32)
    red, green, blue = rgb
    bright, chroma = rgb.max(axis=0), rgb.max(axis=0) - rgb.min(axis=0)
    scale = np.where(chroma > 0, chroma, 1)
    hue = np.select(
        [bright == red, bright == green],
        [(green - blue) / scale % 6, (blue - red) / scale + 2],
        (red - green) / scale + 4,
    )
    return np.stack([hue, chroma, bright]).astype(np.float32)


def _difference(before: NDArray[np.float32], now: NDArray[np.float32]) -> float:
    """Mean over pixels and over hue, chroma and brightness; each is 255 at most, hue for opposite full colours."""
    turn = np.abs(now[0] - before[0])
    hue = np.minimum(turn, 6 - turn) / 3 * np.minimum(now[1], before[1])
    return float((hue + np.abs(now[1] - before[1]) + np.abs(now[2] - before[2])).mean() / 3)
