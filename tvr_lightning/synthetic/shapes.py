"""`shapes`: the embedded dataset, made on the spot and laid out like MSR-VTT.

Nothing is downloaded: scenes are drawn at random, captioned by a grammar and encoded as real video files, so that the
whole path from files to metrics runs on a bare machine. The test split holds minimal pairs (`probes.json`) that show
whether a method understands order, binding, direction and number. This module and its parts import neither torch nor
anything that does: each worker process starts in a fraction of a second.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvr_lightning.errors import ConfigError, DataError, few
from tvr_lightning.synthetic.captions import write_caption
from tvr_lightning.synthetic.rendering import write_video
from tvr_lightning.synthetic.scenes import (
    FPS,
    PROBE_KINDS,
    Description,
    Scene,
    draw_family,
    draw_pair,
    draw_scene,
)

VERSION = 2  # raise it whenever a seed gives other pixels or other captions: existing datasets are then rebuilt
CAPTIONS_PER_VIDEO = 10
MANIFEST, ANNOTATIONS, PROBES = "shapes.json", "MSRVTT_data.json", "probes.json"
TRAIN_LISTS, TEST_LIST = ("MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv"), "MSRVTT_JSFUSION_test.csv"
_FILES = (MANIFEST, ANNOTATIONS, PROBES, *TRAIN_LISTS, TEST_LIST)
_SPLITS = ("train", "validate", "test")  # MSR-VTT's own words
_MIN_VIDEOS = 6


@dataclass(frozen=True)
class PlannedVideo:
    """One video before it is rendered.

    Attributes:
        number: position in the dataset; the id is `video<number>`.
        split: `train`, `validate` or `test`.
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

    @property
    def video_id(self) -> str:
        """The id in annotation files, and the file name without extension."""
        return f"video{self.number}"


@dataclass(frozen=True)
class Plan:
    """A dataset before it is rendered.

    Attributes:
        videos: train, then validate, then test.
        probes: minimal pairs: kind and the two video ids.
    """

    videos: tuple[PlannedVideo, ...]
    probes: tuple[tuple[str, tuple[str, str]], ...]


@dataclass(frozen=True)
class ShapesSummary:
    """What `make_shapes` left on disk.

    Attributes:
        root: the dataset's folder.
        splits: number of videos by split.
        probes: number of minimal pairs by kind.
        created: False when the dataset was there already.
        megabytes: size of all files (10^6 bytes).
        seconds: wall time of the call.
    """

    root: Path
    splits: dict[str, int]
    probes: dict[str, int]
    created: bool
    megabytes: float
    seconds: float


def split_sizes(num_videos: int) -> dict[str, int]:
    """Divides 12 : 1 : 2 among train, validate and test, with a few videos in each however small the set.

    Raises:
        ConfigError: fewer than six videos.
    """
    if num_videos < _MIN_VIDEOS:
        raise ConfigError(
            f"shapes: num_videos is {num_videos}, too few for three splits. Ask for {_MIN_VIDEOS} or more; from 24 "
            "on the test split holds minimal pairs of every kind."
        )
    test = max(min(8, num_videos // 3), round(num_videos * 2 / 15))
    validate = max(min(4, num_videos // 6), round(num_videos / 15))
    return dict(zip(_SPLITS, (num_videos - validate - test, validate, test), strict=True))


def probe_counts(num_test: int) -> dict[str, int]:
    """Returns how many minimal pairs of each kind a test split of `num_test` videos holds."""
    pairs = list(PROBE_KINDS) * max(1, num_test // (2 * len(PROBE_KINDS) + 2))
    return {kind: pairs[: num_test // 2].count(kind) for kind in PROBE_KINDS}


def plan_shapes(num_videos: int = 1500, seed: int = 0) -> Plan:
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
            probes.append((kind, (f"video{members[0]}", f"video{members[1]}")))
    untested = _draw_families(rng, sizes["train"], taken)
    untested += [(_draw_unseen(rng, None, taken)[0], None) for _ in range(sizes["validate"])]
    others = [
        replace(_caption(number, "train" if number < sizes["train"] else "validate", scene, seed), family=family)
        for number, (scene, family) in enumerate(untested)
    ]
    return Plan((*others, *sorted(test, key=lambda video: video.number)), tuple(probes))


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


def make_shapes(
    root: Path, num_videos: int = 1500, seed: int = 0, workers: int | None = None, progress: bool = False
) -> ShapesSummary:
    """Writes the dataset into `root` unless it is there already, complete and of this version.

    A partial or older dataset is replaced as a whole, once the new one is complete.

    Args:
        root: the dataset's folder.
        num_videos: videos in all; 1,500 are 1,200 / 100 / 200.
        seed: same seed and version give the same captions and the same decoded pixels, whatever `workers` is.
        workers: processes that render; None for one per core, at most eight, none beside this one for small sets.
        progress: show a bar on the terminal.

    Raises:
        ConfigError: `num_videos` is too small.
        DataError: `root` is a file, or holds files that are not this dataset.
    """
    start, root = time.perf_counter(), Path(root).resolve()
    created = not is_current(root, num_videos, seed)
    if created:
        _check_replaceable(root)
        plan = plan_shapes(num_videos, seed)
        with _replacing(root) as folder:
            _write_videos(plan, folder / "videos", workers, progress)
            _write_annotations(plan, folder)
            (folder / MANIFEST).write_text(json.dumps(_manifest(num_videos, seed), indent=2) + "\n", encoding="utf-8")
    sizes = split_sizes(num_videos)
    megabytes = sum(p.stat().st_size for p in root.rglob("*") if p.is_file()) / 1e6
    return ShapesSummary(root, sizes, probe_counts(sizes["test"]), created, megabytes, time.perf_counter() - start)


def is_current(root: Path, num_videos: int, seed: int) -> bool:
    """Whether `root` holds this dataset, of this version and complete: every file is there and none is empty."""
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if found != _manifest(num_videos, seed):
        return False
    names = [root / name for name in _FILES] + [root / "videos" / f"video{i}.mp4" for i in range(num_videos)]
    return all(path.is_file() and path.stat().st_size > 0 for path in names)


def _manifest(num_videos: int, seed: int) -> dict[str, Any]:
    sizes = split_sizes(num_videos)
    return {
        "dataset": "shapes",
        "version": VERSION,
        "seed": seed,
        "num_videos": num_videos,
        "splits": sizes,
        "captions_per_video": CAPTIONS_PER_VIDEO,
        "probes": probe_counts(sizes["test"]),
    }


def _check_replaceable(root: Path) -> None:
    """Raises DataError when replacing `root` would delete something that is not this dataset."""
    if not root.exists() or (root / MANIFEST).is_file():
        return
    found = sorted(p.name for p in root.iterdir()) if root.is_dir() else ["a file"]
    if found:
        raise DataError(
            f"shapes: {root} is in use by something else (found: {few(found)}; no '{MANIFEST}'). Choose an empty or "
            "new folder, or move these files away."
        )


@contextmanager
def _replacing(root: Path) -> Iterator[Path]:
    """Gives an empty folder to fill; it takes the place of `root` afterwards, or vanishes if anything goes wrong."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as name:
        new, old = Path(name, "new"), Path(name, "old")
        new.mkdir()
        yield new
        if root.exists():
            root.rename(old)
        try:
            new.rename(root)
        except BaseException:
            if old.exists():
                old.rename(root)
            raise


def _write_videos(plan: Plan, folder: Path, workers: int | None, progress: bool) -> None:
    folder.mkdir()
    scenes = [video.scene for video in plan.videos]
    paths = [folder / f"{video.video_id}.mp4" for video in plan.videos]
    if workers is None:
        workers = min(os.cpu_count() or 1, 8, 1 + len(scenes) // 100)
    if workers <= 1:
        _consume(map(write_video, scenes, paths), len(scenes), progress)
        return
    # Fresh processes, since a fork of a process that has threads (as any with torch) may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            _consume(pool.map(write_video, scenes, paths, chunksize=16), len(scenes), progress)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _consume(done: Iterable[None], total: int, progress: bool) -> None:
    if progress:
        from rich.progress import track

        done = track(done, description="shapes", total=total)
    for _ in done:
        continue


def _write_annotations(plan: Plan, folder: Path) -> None:
    """Writes MSR-VTT's files: one JSON, two lists of training videos, one list of test videos with a caption each."""
    videos = [
        {
            "category": video.scene.category,
            "url": f"shapes:{video.video_id if video.family is None else f'family{video.family}'}",
            "video_id": video.video_id,
            "start time": 0.0,
            "end time": round(video.scene.num_frames / FPS, 2),
            "split": video.split,
            "id": video.number,
        }
        for video in plan.videos
    ]
    pairs = [(video, caption) for video in plan.videos for caption in video.captions]
    sentences = [{"caption": c, "video_id": v.video_id, "sen_id": i} for i, (v, c) in enumerate(pairs)]
    info = {
        "contributor": "tvr_lightning",
        "data_created": "",
        "version": str(VERSION),
        "description": "shapes: generated videos in MSR-VTT's layout",
        "year": "",
    }
    annotations = {"info": info, "videos": videos, "sentences": sentences}
    (folder / ANNOTATIONS).write_text(json.dumps(annotations), encoding="utf-8")
    train = "".join(f"{video.video_id}\n" for video in plan.videos if video.split == "train")
    for name in TRAIN_LISTS:
        (folder / name).write_text("video_id\n" + train, encoding="utf-8")
    test = [video for video in plan.videos if video.split == "test"]
    rows = [f"ret{i},msr{video.number},{video.video_id},{video.captions[0]}\n" for i, video in enumerate(test)]
    (folder / TEST_LIST).write_text("key,vid_key,video_id,sentence\n" + "".join(rows), encoding="utf-8")
    probes = [{"kind": kind, "videos": list(pair)} for kind, pair in plan.probes]
    (folder / PROBES).write_text(json.dumps(probes, indent=2) + "\n", encoding="utf-8")
