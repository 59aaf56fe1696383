"""Records of a reader become a split: what is missing is said, what occurs twice is refused, captions are tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from tvr_lightning.data.annotations.base import TEST, TRAIN, Annotations
from tvr_lightning.data.dataset import Augmentation, OnDecodeError, TokenizedCaptions, VideoReader
from tvr_lightning.data.given import GivenFeatures, folder_of
from tvr_lightning.data.protocol import read_distractors, read_relevance
from tvr_lightning.data.sanity import check_apart, check_repeated, report_missing
from tvr_lightning.data.split import Split
from tvr_lightning.data.stores.files import is_file
from tvr_lightning.data.stores.frames import FrameCache
from tvr_lightning.data.text import Tokenizer
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.types import Record

HOLDOUT_SHARE = 0.05


class SplitSettings(Protocol):
    """What of a data module's settings a split depends on; see `VideoTextDataModule`."""

    reads_files: bool
    annotations: Annotations
    tokenizer: Tokenizer
    frames: FrameOptions
    augment: Augmentation | None
    join_captions: bool
    subset: int | None
    allow_missing: bool
    allow_duplicates: bool
    on_decode_error: OnDecodeError
    cache_frames: bool
    distractors: str | None
    relevance: str | None
    frame_folders: str | None
    frame_features: str | None
    frame_rate: float
    frame_cache: FrameCache
    splits: dict[str, Split]

    @property
    def dataset(self) -> str:
        """The dataset's name."""


def make_split(data: SplitSettings, name: str, records: Sequence[Record]) -> Split:
    """Makes a split under a data module's settings.

    Args:
        data: with the splits that it has made so far, which a training split has no video in common with.
        name: `train`, `validation` or `test`.
        records: what the reader gives.

    Raises:
        DataError: the gallery is incomplete, no video is there, or a video occurs twice.
    """
    listed, what = len(records), f"{data.dataset} {name}"
    if data.join_captions:
        records = [replace(r, captions=(" ".join(r.captions),) if r.captions else ()) for r in records]
    if data.subset is not None:
        records = records[: data.subset]
    added: set[str] = set()
    if data.distractors is not None and name == TEST:
        listed_files = (r.video_path for split in data.annotations.splits for r in data.annotations.load(split))
        distractors = read_distractors(Path(data.distractors), listed_files)
        added = {r.video_id for r in distractors}
        records = [*records, *distractors]
        listed += len(distractors)
    records, given = _inputs(data, records)
    there = [i for i, r in enumerate(records) if (i in given if given else _is_there(r))]
    present = set(there)
    missing = tuple(r.video_id for i, r in enumerate(records) if i not in present)
    if missing:
        report_missing(what, name, records, missing, data.allow_missing)
        records = [records[i] for i in there]
        given = given and given.rows(there)
    repeats = check_repeated(what, records, data.allow_duplicates) if data.reads_files else 0
    for other in data.splits.values() if data.reads_files else ():
        if TRAIN in (name, other.name):
            training, tested = (records, other.records) if name == TRAIN else (other.records, records)
            evaluated = f"{data.dataset} {other.name if name == TRAIN else name}"
            check_apart(evaluated, training, tested, data.frame_cache.contents, data.allow_duplicates)
    rows = {r.video_id: i for i, r in enumerate(records)}
    captions = TokenizedCaptions(records, data.tokenizer)
    relevant, relevance = torch.empty(0, 2, dtype=torch.int64), ""
    if data.relevance is not None and name == TEST:
        relevant, relevance = read_relevance(Path(data.relevance), captions.captions, records)
    probes = data.annotations.probes(name) if name in data.annotations.splits else []
    frames = replace(data.frames, views=2) if data.augment and name == TRAIN else data.frames
    cache = data.frame_cache if data.cache_frames else None
    return Split(
        name,
        tuple(records),
        captions,
        listed,
        missing,
        tuple(r.video_id for r in records if not r.captions and r.video_id not in added),
        tuple((p.kind, rows[p.videos[0]], rows[p.videos[1]]) for p in probes if all(v in rows for v in p.videos)),
        repeats,
        sum(r.video_id in added for r in records),
        relevant,
        relevance,
        reader=VideoReader(records, frames, data.on_decode_error, cache, given),
    )


def check_inputs(folders: str | None, features: str | None, rate: float, changed: bool) -> None:
    """Refuses settings of what is read instead of videos that do not go together.

    Args:
        folders: `data.frame_folders`.
        features: `data.frame_features`.
        rate: `data.frame_rate`.
        changed: whether frames are drawn or augmented anew in each epoch.

    Raises:
        ConfigError: both are given, features of frames that change, or a rate that is none.
    """
    if not 0 < rate <= 1000:
        raise ConfigError(f"data.frame_rate is {rate}; it must be between 0 and 1000 frames a second")
    if folders is not None and features is not None:
        raise ConfigError("data.frame_folders and data.frame_features both replace the videos: leave one out")
    if features is not None and changed:
        raise ConfigError("data.frame_features holds one view of each video: set data.jitter=false, data.augment=null")


def _inputs(data: SplitSettings, records: Sequence[Record]) -> tuple[Sequence[Record], GivenFeatures | None]:
    """Records as they are read: videos, folders of pictures, or features that are given."""
    if data.frame_folders is not None:
        root = Path(data.frame_folders)
        if not root.is_dir():
            raise DataError(f"data.frame_folders: there is no folder {root}")
        return [replace(r, video_path=folder_of(root, r), frame_rate=data.frame_rate) for r in records], None
    if data.frame_features is not None:
        return records, GivenFeatures(Path(data.frame_features), records, data.frames, data.frame_rate)
    return records, None


def _is_there(record: Record) -> bool:
    return is_file(record.video_path) if record.frame_rate is None else record.video_path.is_dir()


def hold_out(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """Splits a seeded share of the videos off the training records; segments of one file stay together.

    Returns:
        The rest, and what is held out.
    """
    files = list(dict.fromkeys(r.video_path for r in records))
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
    held = {files[i] for i in order[: max(1, round(HOLDOUT_SHARE * len(files)))]}
    return [r for r in records if r.video_path not in held], [r for r in records if r.video_path in held]
