"""What must not happen to a result unnoticed: videos that are missing, that occur twice, or that were trained on.

Two records show the same video where they have the same id, the same file, or files of equal content. To compare
contents, only files of equal size are read, and what was read is remembered (`stores.contents`). Weights carry what
they were trained on as numbers: one for each id and its dataset, one for each file, of its size and 4 KiB from its
middle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from tvr_lightning.data.annotations.base import TRAIN
from tvr_lightning.data.stores.contents import Contents, file_state
from tvr_lightning.data.twins import common, repeated
from tvr_lightning.errors import DataError, few
from tvr_lightning.types import Record

SAMPLE = 4096  # bytes of a file that a mark is made of
_THREADS = 16
ALLOW = "--data.allow_duplicates=true"


def report_missing(what: str, split: str, records: Sequence[Record], missing: Sequence[str], allowed: bool) -> None:
    """Says which videos of a split have no file.

    Args:
        what: names dataset and split.
        split: its name.
        records: the listed videos.
        missing: ids of those without a file, at least one.
        allowed: whether a split may be evaluated without them.

    Raises:
        DataError: all are missing, or some of a gallery are and that is not allowed.
    """
    absent = missing[0]
    example = next(r for r in records if r.video_id == absent).video_path
    said = (
        f"{what}: {len(missing)} of {len(records)} listed videos have no file ({few(missing)}; looked for {example})."
    )
    if len(missing) == len(records):
        raise DataError(f"{said} Put the videos there; see docs/datasets.md.")
    if split != TRAIN and not allowed:
        raise DataError(
            f"{said} A smaller gallery makes retrieval easier, so evaluation refuses to run on it. Fetch the "
            "videos, or set --data.allow_missing=true to go on; every result then says how many were left out."
        )
    rank_zero_warn(f"{said} They are left out.")


def same_contents(first: Sequence[Record], second: Sequence[Record], contents: Contents) -> dict[Path, bytes]:
    """Hashes of the files that may be equal to one of the other split: those of a size that both have."""
    sizes = [_sizes({r.video_path for r in records}) for records in (first, second)]
    both = {size for _, size in sizes[0]} & {size for _, size in sizes[1]} - {0}
    found = {path: contents.digest(path) for part in sizes for path, size in part if size in both}
    return {path: digest for path, digest in found.items() if digest is not None}


def _sizes(paths: Iterable[Path]) -> list[tuple[Path, int]]:
    states = [(path, file_state(path)) for path in paths]
    return [(path, state.size) for path, state in states if state is not None]


def check_repeated(what: str, records: Sequence[Record], allowed: bool) -> int:
    """Refuses a split in which one video is several records; returns how many records repeat another.

    Raises:
        DataError: it is one, and that is not allowed.
    """
    pairs = repeated(records)
    if pairs:
        _refuse(
            f"{what}: {len(pairs)} records repeat a video of the split: {_listed(pairs)}. A query would then find one "
            "right video of several. Let the reader give one record per video, with all its captions",
            allowed,
            "results are marked",
        )
    return len(pairs)


def check_apart(
    what: str, training: Sequence[Record], evaluated: Sequence[Record], contents: Contents, allowed: bool
) -> None:
    """Refuses videos that are trained on and evaluated.

    Raises:
        DataError: there are some, and that is not allowed.
    """
    pairs = common(training, evaluated, same_contents(training, evaluated, contents))
    if pairs:
        _refuse(
            f"{what}: {len(pairs)} videos are in the training split too, by id, file or content: {_listed(pairs)}. "
            "Training on test videos makes results worthless: take them out of one of the two",
            allowed,
            "results say how many test videos were trained on",
        )


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    return few([a if a == b else f"{b} (= {a})" for a, b in pairs])


def _refuse(said: str, allowed: bool, then: str) -> None:
    if not allowed:
        raise DataError(f"{said}, or set {ALLOW}: {then}.")
    rank_zero_warn(f"{said}. Allowed by data.allow_duplicates; {then}.")


def marks(dataset: str, records: Sequence[Record]) -> Tensor:
    """What weights keep of the videos that they were trained on: (N,) int64, ascending, without repeats."""
    ids, files = _marks(dataset, records)
    numbers = {*ids, *(f for f in files if f is not None)}
    return torch.tensor(sorted(numbers), dtype=torch.int64)


def trained_on(trained: Tensor, dataset: str, records: Sequence[Record]) -> list[str]:
    """Ids of the records whose id or file is among what `marks` gave for others.

    >>> clips = [Record(name, Path(f"{name}.mp4"), ()) for name in "abc"]
    >>> trained_on(marks("mine", clips[:2]), "mine", clips[1:])
    ['b']
    """
    known = set(trained.tolist())
    ids, files = _marks(dataset, records)
    return [r.video_id for r, i, f in zip(records, ids, files, strict=True) if i in known or f in known]


def marks_in(checkpoint: Mapping[str, Any]) -> Tensor | None:
    """The marks that a checkpoint holds; None in one of an earlier version."""
    found = checkpoint.get("seen")
    return found if isinstance(found, Tensor) and found.dtype == torch.int64 and found.ndim == 1 else None


def _marks(dataset: str, records: Sequence[Record]) -> tuple[list[int], list[int | None]]:
    ids = [_number(f"{dataset}\0{r.video_id}".encode()) for r in records]
    paths = list(dict.fromkeys(r.video_path for r in records))
    with ThreadPoolExecutor(_THREADS) as pool:
        of_path = dict(zip(paths, pool.map(_mark_of_file, paths, chunksize=64), strict=True))
    return ids, [of_path[r.video_path] for r in records]


def _mark_of_file(path: Path) -> int | None:
    """A number for what a file holds; None where it cannot be read."""
    state = file_state(path)
    if state is None or not state.size:
        return None
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(max(0, (state.size - SAMPLE) // 2))
            return _number(state.size.to_bytes(8, "little") + file.read(SAMPLE))
    except OSError:
        return None


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)
