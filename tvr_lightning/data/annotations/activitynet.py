"""ActivityNet Captions (Krishna et al. 2017): long videos with a sentence for each segment; paragraph retrieval.

train.json, val_1.json, val_2.json   {id: {"duration", "timestamps", "sentences"}}; 10,009 / 4,917 / 4,885 videos
{train,val}_ids.json                 optional, [id, ...]
activity_net.v1-{2,3}.min.json       optional, ActivityNet's own file (Heilbron et al. 2015): labels, 100 or 200 classes

retrieval  train: all of train.json    test: all of val_1.json, or of val_2.json, other sentences for nearly all of them
hashing    4,816 / 2,382 of the videos that v1.2 labels, drawn with a seed (SPTCH, Sec. 4.1.1, does not list its own)
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from tvr_lightning.data.annotations.base import TEST, TRAIN, Extent, SplitAnnotations
from tvr_lightning.data.annotations.layouts import SyntheticDataset, SyntheticVideo, write_json
from tvr_lightning.data.annotations.readers import (
    check_fields,
    check_ids,
    check_kind,
    clean_captions,
    pick,
    read_json,
    warn_unlisted,
)
from tvr_lightning.errors import ConfigError, DataError, nearest
from tvr_lightning.types import Record

Protocol = Literal["retrieval", "hashing"]
References = Literal["val_1", "val_2"]
LABELS_V12, LABELS_V13 = "activity_net.v1-2.min.json", "activity_net.v1-3.min.json"
PREFIX = "v_"
HASHING_SIZES = {TRAIN: 4_816, TEST: 2_382}


class ActivityNet(SplitAnnotations):
    """Reader of ActivityNet Captions; nothing is read before it is asked for, and every file only once.

    A record's only caption joins its sentences by spaces, sorted by the start of their segments; sentences that start
    together keep their order, a reversed segment starts at the smaller of its two times. Ids keep their `v_`, which
    file names may leave off. There is no validation split: val_1 is what papers test on.

    Labels are classes by alphabetical rank in the labels' file: v1.3's, else v1.2's, for `retrieval`, where videos
    that it does not label have none; v1.2's for `hashing`.

    Args:
        root: the folder of the annotation files.
        protocol: which videos; see the module's table.
        references: the sentences of the test split. `val_ids.json` lists the videos of val_1 and is read for it only.
        seed: draws the videos of `hashing`.
        videos: the folder of the video files, inside the root.
        name: what results call the dataset; another one for another dataset in this layout.

    Raises:
        ConfigError: an unknown protocol or set of references.
    """

    def __init__(
        self,
        root: str | Path,
        protocol: Protocol = "retrieval",
        references: References = "val_1",
        seed: int = 0,
        videos: str = "videos",
        name: str = "ActivityNet",
    ) -> None:
        for value, known in ((protocol, get_args(Protocol)), (references, get_args(References))):
            if value not in known:
                raise ConfigError(f"ActivityNet: no protocol or references '{value}': {nearest(str(value), known)}")
        super().__init__(name, root, videos, protocol, splits=(TRAIN, TEST), prefix=PREFIX)
        self.references = references
        self.seed = seed

    def extent(self) -> Mapping[str, Extent]:
        """The published counts, and the length of a typical clip."""
        retrieval = {"val_1": 4917, "val_2": 4885}[self.references]
        train, test = (10_009, retrieval) if self.protocol == "retrieval" else (4816, 2382)
        return {TRAIN: Extent(train, train, 120.0), TEST: Extent(test, test, 120.0)}

    def load(self, split: str) -> list[Record]:
        """Reads one split.

        Raises:
            DataError: a file is missing, broken or another dataset's, a listed video is not described, a video is in
                two splits, no video has a label where `hashing` needs one, or the split does not exist.
        """
        self.check_split(split)
        path = self.require("train.json" if split == TRAIN else f"{self.references}.json")
        paragraphs = self.once(path, _parse)
        what = f"{self.name} ({self.protocol}) {split}"
        names = "train_ids.json" if split == TRAIN else "val_ids.json"
        if self.has(names) and (split == TRAIN or self.references == "val_1"):
            ids = self.once(self.root / names, _parse_ids)
            listed = pick(paragraphs, ids, what, str(path))
            warn_unlisted(paragraphs, ids, what, str(path))
            paragraphs = listed
        if self.protocol == "hashing":
            source = self.require(LABELS_V12)
            labels = self.once(source, _parse_labels)
            paragraphs = pick(paragraphs, self._draw(split, [i for i in paragraphs if i in labels]), what, str(path))
            return self.records(split, paragraphs, labels)
        files = [self.root / n for n in (LABELS_V13, LABELS_V12) if self.has(n)]
        return self.records(split, paragraphs, self.once(files[0], _parse_labels) if files else None)

    def _draw(self, split: str, labelled: Sequence[str]) -> list[str]:
        size = HASHING_SIZES[split]
        if not labelled:
            raise DataError(
                f"{self.name} ({self.protocol}): {self.root / LABELS_V12} labels no video of {split}. "
                "Is it a file of another dataset?"
            )
        if len(labelled) < size:
            warnings.warn(
                f"{self.name} ({self.protocol}) {split}: {len(labelled)} videos have captions and a label of v1.2, "
                f"where SPTCH draws {size}; all of them are taken",
                stacklevel=3,
            )
        # a digest draws the same videos with every Python version and from any order of the file
        drawn = sorted(labelled, key=lambda i: hashlib.sha256(f"{self.seed} {i}".encode()).digest())[:size]
        chosen = set(drawn)
        return [i for i in labelled if i in chosen]

    def write_layout(self, root: Path, dataset: SyntheticDataset) -> list[str]:
        """Writes captions, ids and labels; every second file name leaves off the id's prefix."""
        splits = dataset.by_split(self.splits)
        for name, videos in (("train", splits[TRAIN]), ("val", splits[TEST])):
            write_json(root / f"{name}_ids.json", [PREFIX + v.youtube_id for v in videos])
        for name, first, split in (("train", 0, TRAIN), ("val_1", 0, TEST), ("val_2", 3, TEST)):
            paragraphs = {PREFIX + v.youtube_id: _segments(v, v.captions[first : first + 3]) for v in splits[split]}
            write_json(root / f"{name}.json", paragraphs)
        database = {
            v.youtube_id: {
                "duration": v.seconds,
                "subset": "training" if split == TRAIN else "validation",
                "resolution": "96x96",
                "url": f"shapes:{v.number}",
                "annotations": [{"segment": [0.0, v.seconds], "label": dataset.classes[n]} for n in v.labels],
            }
            for split, videos in splits.items()
            for v in videos
        }
        for file, version in ((LABELS_V12, "1.2"), (LABELS_V13, "1.3")):
            write_json(root / file, {"version": f"VERSION {version}", "taxonomy": [], "database": database})
        return [f"{self.videos}/{PREFIX * (v.number % 2)}{v.youtube_id}.mp4" for v in dataset.videos]


def _segments(video: SyntheticVideo, captions: Sequence[str]) -> dict[str, Any]:
    """Three sentences, in every third video out of order, in some with stray spaces and a reversed segment."""
    seconds, sentences = video.seconds, [f" {caption.capitalize()}." for caption in captions]
    times = [[round(seconds * i / 3, 2), round(seconds * (i + 1) / 3, 2)] for i in range(3)]
    if video.number % 3 == 0:
        times, sentences = times[::-1], sentences[::-1]
    if video.number % 7 == 0:
        times[0], sentences[0] = times[0][::-1], sentences[0] + "\n"
    return {"duration": seconds, "timestamps": times, "sentences": sentences}


def _parse(path: Path) -> dict[str, tuple[str, ...]]:
    content: dict[str, Any] = check_kind(read_json(path), str(path), dict, "an object {video id: description}")
    check_ids(list(content), str(path))
    paragraphs: dict[str, tuple[str, ...]] = {}
    for video, entry in content.items():
        where = f"{path}: {video}"
        segments, texts = check_fields(entry, where, {"timestamps": list, "sentences": list})
        sentences = clean_captions(texts, where)
        if len(segments) != len(sentences) or not sentences:
            raise DataError(f"{where}: {len(segments)} timestamps and {len(sentences)} sentences. Fetch it again.")
        starts = [_start(segment, f"{where}: timestamp {n}") for n, segment in enumerate(segments)]
        order = sorted(range(len(starts)), key=starts.__getitem__)
        paragraphs[video] = (" ".join(sentences[n] for n in order),)
    return paragraphs


def _start(segment: Any, where: str) -> float:
    numbers = segment if isinstance(segment, list) else []
    if len(numbers) != 2 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise DataError(f"{where}: expected [start, end] in seconds, found {repr(segment)[:60]}.")
    return float(min(numbers))


def _parse_ids(path: Path) -> list[str]:
    ids = check_kind(read_json(path), str(path), list, "a list of video ids")
    wrong = [i for i in ids if not isinstance(i, str)]
    if wrong:
        raise DataError(f"{path}: video ids must be texts, found {repr(wrong[0])[:60]}.")
    return check_ids(ids, str(path))


def _parse_labels(path: Path) -> dict[str, tuple[int, ...]]:
    """Gives the classes of every labelled video by the id that the captions use."""
    (database,) = check_fields(read_json(path), str(path), {"database": dict})
    names: dict[str, set[str]] = {}
    for video, entry in database.items():
        where = f"{path}: {video}"
        (annotations,) = check_fields(entry, where, {"annotations": list})
        labels = {check_fields(a, f"{where}: annotation {n}", {"label": str})[0] for n, a in enumerate(annotations)}
        if labels:  # the testing subset has none
            names[PREFIX + video] = labels
    rank = {label: n for n, label in enumerate(sorted(set().union(*names.values())))}
    return {video: tuple(sorted(rank[label] for label in labels)) for video, labels in names.items()}
