"""What `shapes`, the embedded dataset, shows and says: scenes drawn at random, captioned by a grammar, in three splits.

The test split holds minimal pairs that show whether a method understands order, change, and what belongs to an object.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tvr_lightning.data.annotations.layouts import SyntheticDataset, SyntheticVideo
from tvr_lightning.errors import ConfigError
from tvr_lightning.synthetic.captions import write_caption, write_chinese_captions
from tvr_lightning.synthetic.scenes import (
    CATEGORIES,
    FPS,
    PROBE_KINDS,
    Description,
    Scene,
    draw_family,
    draw_pair,
    draw_scene,
)

VERSION = 3  # raise it whenever a seed gives other pixels or other captions: existing datasets are then rebuilt
CAPTIONS_PER_VIDEO = 10
SPLITS = ("train", "validation", "test")
_MIN_VIDEOS = 6
NUM_VIDEOS = 2700  # by default
_SMALL = {"train": 12, "validation": 4, "test": 8}  # of 24 videos, the fewest with a pair of every kind
_WHOLE = {"train": 1200, "validation": 400, "test": 1100}  # of `NUM_VIDEOS`


@dataclass(frozen=True)
class PlannedVideo:
    """One video before it is rendered.

    Attributes:
        number: position in the dataset.
        split: one of `SPLITS`.
        scene: what it shows.
        captions: ten different ones; in the test split the first is complete and is the one that retrieval uses.
        family: number of the scene that it is a counterpart of, as clips come from one longer video; None outside of
            the training split.
    """

    number: int
    split: str
    scene: Scene
    captions: tuple[str, ...]
    family: int | None = None


@dataclass(frozen=True)
class Plan:
    """A dataset before it is rendered.

    Attributes:
        videos: train, then validation, then test.
        probes: minimal pairs: kind and the two videos' numbers.
        seed: that chance came from.
    """

    videos: tuple[PlannedVideo, ...]
    probes: tuple[tuple[str, tuple[int, int]], ...]
    seed: int

    def dataset(self) -> SyntheticDataset:
        """What readers write their annotation files of."""
        videos = [
            SyntheticVideo(
                number=video.number,
                seed=self.seed,
                split=video.split,
                captions=video.captions,
                seconds=round(video.scene.num_frames / FPS, 2),
                category=video.scene.category,
                labels=video.scene.labels,
                source=None if video.family is None else f"shapes:family{video.family}",
                objects=tuple(thing.shape for thing in video.scene.things),
                translations={"zh": write_chinese_captions(video.scene)},
            )
            for video in self.videos
        ]
        return SyntheticDataset(tuple(videos), CATEGORIES, self.probes, VERSION)


def split_sizes(num_videos: int) -> dict[str, int]:
    """Divides videos among the splits: 2,700 into 1,200 / 400 / 1,100, 24 into 12 / 4 / 8, others in proportion.

    Raises:
        ConfigError: fewer than six videos.
    """
    if num_videos < _MIN_VIDEOS:
        raise ConfigError(
            f"shapes: num_videos is {num_videos}, too few for three splits. Ask for {_MIN_VIDEOS} or more; from 24 "
            "on the test split holds minimal pairs of every kind."
        )
    few = sum(_SMALL.values())
    share = max(0.0, (num_videos - few) / (NUM_VIDEOS - few))
    test = min(_SMALL["test"], num_videos // 3) + round(share * (_WHOLE["test"] - _SMALL["test"]))
    validation = min(_SMALL["validation"], num_videos // 6) + round(
        share * (_WHOLE["validation"] - _SMALL["validation"])
    )
    return dict(zip(SPLITS, (num_videos - validation - test, validation, test), strict=True))


def probe_counts(num_test: int) -> dict[str, int]:
    """Returns how many minimal pairs of each kind a test split of `num_test` videos holds."""
    pairs = list(PROBE_KINDS) * max(1, num_test // (2 * len(PROBE_KINDS) + 2))
    return {kind: pairs[: num_test // 2].count(kind) for kind in PROBE_KINDS}


def plan_shapes(num_videos: int = NUM_VIDEOS, seed: int = 0) -> Plan:
    """Decides what every video shows and says, without rendering.

    No two test videos have the same description, and none of theirs occurs in the other splits.

    Raises:
        ConfigError: `num_videos` is too small.
    """
    sizes = split_sizes(num_videos)
    rng = random.Random(f"shapes {VERSION} {seed}")
    taken: set[Description] = set()
    kinds: list[str | None] = [k for k, count in probe_counts(sizes["test"]).items() for _ in range(count)]
    kinds += [None] * (sizes["test"] - 2 * len(kinds))
    groups = [_draw_unseen(rng, kind, taken) for kind in kinds]

    first_test = num_videos - sizes["test"]
    numbers = list(range(first_test, num_videos))
    rng.shuffle(numbers)
    test, probes = [], []
    for index, (kind, scenes) in enumerate(zip(kinds, groups, strict=True)):
        members = [numbers.pop() for _ in scenes]
        # Both captions of a pair start from the same chance, so that they too differ in one respect only.
        test += [_caption(n, "test", s, seed, f"group {index}") for n, s in zip(members, scenes, strict=True)]
        if kind is not None:
            probes.append((kind, (members[0], members[1])))
    untested = _draw_families(rng, sizes["train"], taken)
    untested += [(_draw_unseen(rng, None, taken)[0], None) for _ in range(sizes["validation"])]
    others = [
        replace(_caption(number, "train" if number < sizes["train"] else "validation", scene, seed), family=family)
        for number, (scene, family) in enumerate(untested)
    ]
    return Plan((*others, *sorted(test, key=lambda video: video.number)), tuple(probes), seed)


def _draw_families(rng: random.Random, count: int, taken: set[Description]) -> list[tuple[Scene, int | None]]:
    """Draws `count` scenes with the numbers of their families, shuffled, none with a description in `taken`."""
    scenes: list[tuple[Scene, int | None]] = []
    while len(scenes) < count:
        family = len(scenes)
        scenes += [(scene, family) for scene in draw_family(rng) if scene.description not in taken]
    del scenes[count:]
    rng.shuffle(scenes)
    return scenes


def _draw_unseen(rng: random.Random, kind: str | None, taken: set[Description]) -> tuple[Scene, ...]:
    """Draws a minimal pair (or one scene) whose descriptions are not in `taken`, and adds them."""
    while True:
        scenes = (draw_scene(rng),) if kind is None else draw_pair(rng, kind)
        found = {scene.description for scene in scenes}
        if not found & taken:
            taken |= found
            return scenes


def _caption(number: int, split: str, scene: Scene, seed: int, complete: str | None = None) -> PlannedVideo:
    """Writes a video's captions; with `complete`, the first names everything and takes its chance from that key."""
    captions: dict[str, None] = {}
    if complete is not None:
        captions[write_caption(scene, random.Random(f"shapes {VERSION} {seed} {complete}"), complete=True)] = None
    rng = random.Random(f"shapes {VERSION} {seed} video {number}")
    while len(captions) < CAPTIONS_PER_VIDEO:
        captions[write_caption(scene, rng, complete=rng.random() < 0.25)] = None
    return PlannedVideo(number, split, scene, tuple(captions))
