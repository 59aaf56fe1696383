"""Generated still pictures, and what each shows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.synthetic.rendering import RADIUS, Pose, pose, render
from tvr_lightning.synthetic.scenes import Scene, Thing, draw_scene

_RADII = (8.0, 13.0, 21.0)  # pixels, between the classes of `Placed.size`
NUM_SIZES = len(_RADII) + 1


class Placed(NamedTuple):
    """An object in a picture; `pose.visible` says whether it is to be seen."""

    thing: Thing
    pose: Pose

    @property
    def radius(self) -> float:
        """Radius in pixels of the 96 x 96 picture."""
        return RADIUS[self.thing.size] * self.pose.scale

    @property
    def size(self) -> int:
        """Class of the radius, 0 to 3."""
        return int(np.searchsorted(_RADII, self.radius))


@dataclass(frozen=True)
class Stills:
    """Pictures.

    Attributes:
        pixels: (B, 1, 3, S, S) uint8, as videos of one frame.
        objects: the one or two objects of each picture.
        backgrounds: one of `scenes.BACKGROUNDS` for each picture.
    """

    pixels: Tensor
    objects: list[list[Placed]]
    backgrounds: list[str]

    def __len__(self) -> int:
        """Number of pictures B."""
        return len(self.pixels)


def draw_scenes(
    rng: random.Random, count: int, per_scene: int, segment: tuple[int, int]
) -> Iterator[tuple[Scene, list[int]]]:
    """Draws scenes of one event, and which frames to take of each, until there are `count` frames."""
    while count > 0:
        scene = replace(draw_scene(rng, num_events=1), segment=rng.randint(*segment), rest=0)
        yield scene, rng.sample(range(scene.num_frames), per_scene)[:count]
        count -= per_scene


def objects_in(scene: Scene, frame: int) -> list[Placed]:
    """The one or two objects of a frame."""
    return [Placed(thing, pose(scene, i, frame)) for i, thing in enumerate(scene.things)]


def draw_stills(rng: random.Random, count: int, per_scene: int, segment: tuple[int, int], side: int) -> Stills:
    """Draws pictures of one or two objects at rest or in the middle of an event, which turns, moves or resizes them.

    Args:
        rng: source of chance.
        count: B.
        per_scene: different frames that are taken of each scene.
        segment: fewest and most frames that a scene has; shorter ones render faster.
        side: S, of the pictures.
    """
    pixels: list[np.ndarray] = []
    objects: list[list[Placed]] = []
    backgrounds: list[str] = []
    for scene, chosen in draw_scenes(rng, count, per_scene, segment):
        frames = render(scene)
        pixels += [frames[index] for index in chosen]
        objects += [objects_in(scene, index) for index in chosen]
        backgrounds += [scene.background] * len(chosen)
    images = torch.from_numpy(np.stack(pixels)).movedim(3, 1).float()  # (B, 3, 96, 96)
    images = F.interpolate(images, (side, side), mode="bilinear", antialias=True).round().clamp(0, 255)
    return Stills(images.to(torch.uint8).unsqueeze(1), objects, backgrounds)
