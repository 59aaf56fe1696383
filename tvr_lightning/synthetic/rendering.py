"""Pixels of the `shapes` videos: anti-aliased outlines from signed distances, encoded as H.264."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from tvr_lightning.synthetic.scenes import FPS, SIDE, Event, Scene, Thing

Array = NDArray[np.float64]
RGB = tuple[float, float, float]

RADIUS = {"small": 10.0, "large": 18.0}  # of the circle around the shape, in pixels
LEVEL = {"dark": 28, "gray": 118, "light": 226}
PALETTE: dict[str, RGB] = {
    "red": (225, 20, 30),
    "orange": (255, 130, 0),
    "yellow": (255, 228, 0),
    "green": (15, 150, 40),
    "cyan": (0, 215, 225),
    "blue": (25, 60, 235),
    "purple": (125, 25, 170),
    "pink": (255, 130, 195),
}
_GROWN, _SHRUNK = 1.6, 0.45
_STAR_TIP = 1.08
_STAR_CORNER = 0.47 * np.cos(np.pi / 5), 0.47 * np.sin(np.pi / 5)

# A constant quantiser keeps no memory of earlier frames, and a key frame opens every segment: equal segments become
# equal pixels wherever they stand in the video.
_X264 = {
    "preset": "superfast",
    "qp": "14",
    "sc_threshold": "0",
    "forced-idr": "1",
    "x264-params": "mbtree=0:open-gop=0",
}
_SAME_EVERYWHERE = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT  # on every processor


class Pose(NamedTuple):
    """How an object looks in one frame: centre in pixels, radius over radius at rest, angle in radians."""

    x: float
    y: float
    scale: float
    angle: float
    colour: RGB
    visible: bool


def render(scene: Scene) -> NDArray[np.uint8]:
    """Draws every frame of a scene: (n, 96, 96, 3) RGB."""
    frames = np.empty((scene.num_frames, SIDE, SIDE, 3), dtype=np.uint8)
    drawn: dict[tuple[Pose, ...], int] = {}
    for index in range(scene.num_frames):
        poses = tuple(pose(scene, i, index) for i in range(len(scene.things)))
        if poses in drawn:
            frames[index] = frames[drawn[poses]]
            continue
        drawn[poses] = index
        frames[index] = LEVEL[scene.background] + scene.shade
        for thing, placed in zip(scene.things, poses, strict=True):
            if placed.visible:
                _paint(frames[index], thing, placed)
    return frames


def pose(scene: Scene, actor: int, index: int) -> Pose:
    """Returns how object `actor` looks in frame `index`; outside its events it rests."""
    thing, event = scene.things[actor], scene.events[index // scene.segment]
    resting = Pose(thing.x, thing.y, 1.0, 0.0, PALETTE[thing.colour], True)
    step, duration = index % scene.segment - scene.rest, scene.segment - 2 * scene.rest
    if event.actor != actor or not 0 <= step < duration:
        return resting
    # Half steps make the phases of an event symmetric in time.
    return _act(thing, event, (step + 0.5) / duration, resting, 1 if scene.clockwise else -1)


def _act(thing: Thing, event: Event, phase: float, resting: Pose, sense: int) -> Pose:
    """Returns the pose at `phase` (0 to 1) of an event; both ends lie next to the pose at rest."""
    match event.kind:
        case "left" | "right":
            return resting._replace(x=_sweep(thing.x, phase if event.kind == "right" else 1 - phase, thing.size))
        case "up" | "down":
            return resting._replace(y=_sweep(thing.y, phase if event.kind == "down" else 1 - phase, thing.size))
        case "grow" | "shrink":
            # Slowly there, quickly back: the change that is watched is the one that the event is named for.
            amount = min(phase / 0.65, 1.0, (1.0 - phase) / 0.12)
            return resting._replace(scale=1.0 + amount * ((_GROWN if event.kind == "grow" else _SHRUNK) - 1.0))
        case "spin":
            return resting._replace(angle=sense * 2 * np.pi * phase)
        case "blink":
            # Twice, of unequal length: a regular beat could fall between the frames that a method samples.
            return resting._replace(visible=not (0.1 <= phase < 0.45 or 0.6 <= phase < 0.9))
        case "recolour":
            amount = min(1.0, phase / 0.05, (1.0 - phase) / 0.05)
            target = PALETTE[str(event.colour)]
            red, green, blue = (a + amount * (b - a) for a, b in zip(resting.colour, target, strict=True))
            return resting._replace(colour=(red, green, blue))
    raise ValueError(f"no such event: {event.kind!r}")


def _sweep(start: float, phase: float, size: str) -> float:
    """Moves a coordinate quickly to the picture's near end, slowly to its far end, quickly back to the start.

    The way is the same backwards, so opposite moves show the same frames. Rounding makes them equal bit for bit.
    """
    near = RADIUS[size] + 2
    far = SIDE - near
    return round(float(np.interp(phase, (0.0, 0.12, 0.88, 1.0), (start, near, far, start))), 6)


def _paint(canvas: NDArray[np.uint8], thing: Thing, placed: Pose) -> None:
    """Blends a shape into `canvas` (96, 96, 3) in place."""
    radius = RADIUS[thing.size] * placed.scale
    reach = radius + 2
    left, top = (max(0, int(np.floor(centre - reach))) for centre in (placed.x, placed.y))
    right, bottom = (min(SIDE, int(np.ceil(centre + reach))) for centre in (placed.x, placed.y))
    if left >= right or top >= bottom:
        return
    x = (np.arange(left, right) - placed.x)[None, :] / radius
    y = (np.arange(top, bottom) - placed.y)[:, None] / radius
    cos, sin = np.cos(placed.angle), np.sin(placed.angle)
    distance = _distance(thing.shape, cos * x + sin * y, cos * y - sin * x) * radius
    cover = np.clip(0.5 - distance, 0.0, 1.0)[:, :, None]
    patch = canvas[top:bottom, left:right]
    patch[:] = np.rint(patch + cover * (np.asarray(placed.colour) - patch))


def _distance(shape: str, x: Array, y: Array) -> Array:
    """Signed distance to an outline, negative inside; lengths in radii, y points down. Shapes: x and y (h, w)."""
    distance: Array
    match shape:
        case "circle":
            distance = np.hypot(x, y) - 0.95
        case "square":
            distance = _box(x, y, 0.8, 0.8)
        case "triangle":
            slanted = np.cos(np.pi / 6) * abs(x) - np.sin(np.pi / 6) * y
            distance = np.maximum(y, slanted) - 0.5
        case "star":
            # Folding the plane onto a tenth of the star leaves one straight edge, from a tip to an inner corner.
            angle = abs((np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
            length = np.hypot(x, y)
            along, across = _STAR_TIP - _STAR_CORNER[0], _STAR_CORNER[1]
            offset = (length * np.cos(angle) - _STAR_TIP) * across + length * np.sin(angle) * along
            distance = offset / np.hypot(along, across)
        case "heart":
            # A square on its tip, and a lobe at the middle of each upper side.
            half = 0.52
            u, v = (y + x - 0.1) / np.sqrt(2.0), (y - x - 0.1) / np.sqrt(2.0)
            lobes = np.minimum(np.hypot(u, v + half), np.hypot(u + half, v)) - half
            distance = np.minimum(_box(u, v, half, half), lobes)
        case "cross":
            distance = np.minimum(_box(x, y, 0.95, 0.32), _box(x, y, 0.32, 0.95))
        case _:
            raise ValueError(f"no such shape: {shape!r}")
    return distance


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    sides: Array = np.maximum(abs(x) - half_width, abs(y) - half_height)
    return sides


def write_video(scene: Scene, path: Path) -> None:
    """Renders a scene into an MP4 file: H.264, yuv420p, 96x96, 12 frames per second, the same bytes every time."""
    options = {**_X264, "g": str(scene.segment), "keyint_min": str(scene.segment)}
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, FPS)
        # One converter for all frames: setting one up takes longer than the conversion.
        converter = VideoReformatter()
        for index, pixels in enumerate(render(scene)):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = converter.reformat(picture, format="yuv420p", interpolation=_SAME_EVERYWHERE, threads=1)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
