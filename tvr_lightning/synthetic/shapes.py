"""`shapes`, the embedded dataset, as files: made on the spot, laid out as any reader reads it.

Nothing is downloaded: scenes are drawn at random, captioned by a grammar and encoded as real video files, so that the
whole path from files to metrics runs on a bare machine. A reader writes the annotation files of its own dataset
(`Annotations.write_layout`); the bytes of a video are those of an MP4 file whatever its name. This module and its parts
import neither torch nor anything that does: each worker process starts in a fraction of a second.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_lightning.data.tools.parallel import map_in_processes
from tvr_lightning.errors import ConfigError, DataError, few
from tvr_lightning.synthetic.plan import CAPTIONS_PER_VIDEO, NUM_VIDEOS, VERSION, plan_shapes, probe_counts, split_sizes
from tvr_lightning.synthetic.rendering import write_video
from tvr_lightning.synthetic.scenes import Scene

if TYPE_CHECKING:
    from tvr_lightning.data.annotations.base import Annotations

MANIFEST = "shapes.json"
LAYOUT = "MSRVTT"  # the reader of the dataset itself


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


def make_shapes(root: Path, num_videos: int = NUM_VIDEOS, seed: int = 0, workers: int | None = None) -> ShapesSummary:
    """Writes the dataset in MSR-VTT's layout into `root` unless it is there already, complete and of this version.

    A partial or older dataset is replaced as a whole, once the new one is complete.

    Args:
        root: the dataset's folder.
        num_videos: videos in all; see `plan.split_sizes`.
        seed: same seed and version give the same captions and the same decoded pixels, whatever `workers` is.
        workers: processes that render; None for one per core, none beside this one for small sets.

    Raises:
        ConfigError: `num_videos` is too small.
        DataError: `root` is a file, or holds files that are not this dataset.
    """
    start, root = time.perf_counter(), Path(root).resolve()
    created = not is_current(root, num_videos, seed)
    if created:
        from tvr_lightning.data.annotations.msrvtt import MSRVTT

        export_shapes(MSRVTT(root), num_videos, seed, workers)
    sizes = split_sizes(num_videos)
    megabytes = sum(p.stat().st_size for p in root.rglob("*") if p.is_file()) / 1e6
    return ShapesSummary(root, sizes, probe_counts(sizes["test"]), created, megabytes, time.perf_counter() - start)


def export_shapes(reader: Annotations, num_videos: int = 24, seed: int = 0, workers: int | None = None) -> None:
    """Writes the dataset into the root of a reader, in the layout that the reader reads.

    An earlier dataset there is replaced as a whole, once the new one is complete.

    Args:
        reader: a reader with `write_layout`; its root need not exist.
        num_videos: videos of all splits.
        seed: same seed, same dataset.
        workers: see `make_shapes`.

    Raises:
        ConfigError: too few videos for three splits, a reader without `write_layout`, or one that does not say where
            every video belongs.
        DataError: the root is a file, or holds something else.
    """
    from tvr_lightning.data.annotations.base import check_relative

    plan, root, layout = plan_shapes(num_videos, seed), Path(reader.root).resolve(), type(reader).__name__
    _check_replaceable(root)
    with _replacing(root) as folder:
        places = reader.write_layout(folder, plan.dataset())
        if len(places) != num_videos or len(set(places)) != num_videos:
            raise ConfigError(
                f"{layout}.write_layout returned {len(places)} places, {len(set(places))} different ones, for "
                f"{num_videos} videos; it returns where each video belongs, in their order"
            )
        files = [folder / check_relative(place, f"{layout}.write_layout") for place in places]
        for parent in {file.parent for file in files}:
            parent.mkdir(parents=True, exist_ok=True)
        jobs = [(video.scene, file) for video, file in zip(plan.videos, files, strict=True)]
        map_in_processes(_write, jobs, workers, "shapes", chunk=16, jobs_per_worker=100)
        written = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        content = {**_manifest(layout, num_videos, seed), "files": written}
        (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_current(root: Path, num_videos: int, seed: int) -> bool:
    """Whether `root` holds this dataset, of this version and complete: every file is there and none is empty."""
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        files = [root / name for name in found.pop("files")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return found == _manifest(LAYOUT, num_videos, seed) and all(p.is_file() and p.stat().st_size > 0 for p in files)


def _manifest(layout: str, num_videos: int, seed: int) -> dict[str, Any]:
    sizes = split_sizes(num_videos)
    return {
        "dataset": "shapes",
        "version": VERSION,
        "layout": layout,
        "seed": seed,
        "num_videos": num_videos,
        "splits": sizes,
        "captions_per_video": CAPTIONS_PER_VIDEO,
        "probes": probe_counts(sizes["test"]),
    }


def _write(job: tuple[Scene, Path]) -> None:
    write_video(*job)


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
