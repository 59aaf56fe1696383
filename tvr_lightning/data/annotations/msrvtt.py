"""MSR-VTT (Xu et al. 2016): 10,000 clips with 20 captions each, in four protocols.

9k     train: MSRVTT_train.9k.csv    test: 1k-A, the one sentence of MSRVTT_JSFUSION_test.csv (Yu et al. 2018)
7k     train: MSRVTT_train.7k.csv    test: 1k-A
7k3k   train: MSRVTT_train.7k.csv    test: the 2,990 videos labelled `test`, all captions (Yu, Hu, Li 2022)
full   6,513 / 497 / 2,990, by the `split` label of every video
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from tvr_lightning.data.annotations.base import TEST, TRAIN, VALIDATION, Annotations, Extent, VideoFolder
from tvr_lightning.data.annotations.layouts import SyntheticDataset, write_json, write_lines
from tvr_lightning.data.annotations.readers import (
    check_fields,
    check_ids,
    clean,
    natural_key,
    read_csv,
    read_json,
)
from tvr_lightning.errors import ConfigError, DataError, few, nearest
from tvr_lightning.types import Probe, Record

Protocol = Literal["9k", "7k", "7k3k", "full"]
LABELS = {TRAIN: "train", VALIDATION: "validate", TEST: "test"}
COMBINED, TRAIN_VAL_FILE, TEST_FILE = "MSRVTT_data.json", "train_val_videodatainfo.json", "test_videodatainfo.json"
TEST_LIST, PROBES = "MSRVTT_JSFUSION_test.csv", "probes.json"
TRAIN_LISTS: dict[str, str] = {  # of `full` its labels tell
    "9k": "MSRVTT_train.9k.csv", "7k": "MSRVTT_train.7k.csv", "7k3k": "MSRVTT_train.7k.csv",
}  # fmt: skip
TRAINING_VIDEOS: Mapping[str, int] = {"9k": 9000, "7k": 7010, "7k3k": 7010, "full": 6513}
CAPTIONS, SECONDS = 20, 15.0  # of a video
ONE_K_A = ("9k", "7k")  # protocols that test on TEST_LIST


@dataclass(frozen=True, slots=True)
class _Video:
    label: str
    category: int
    source: str | None
    captions: tuple[str, ...]


class MSRVTT(Annotations):
    """Reader of MSR-VTT; nothing is read before it is asked for, and every file only once.

    Annotations come from `MSRVTT_data.json`, or, where it is absent, from the official release's two files, of which
    only those are opened that the split needs. Captions lose outer and repeated spaces and stand in the order of
    their `sen_id`; a caption that repeats within its video stays, it is data. Videos are in the order of their
    list, or by number where a label chooses them. Labels are the video's category, 0-19. Records have no start and
    end: the released clips are already cut, `start time` and `end time` refer to the video they were cut from.

    Protocols with a training list have a validation split when videos labelled `validate` are in none of their lists;
    with the real lists there are none.

    Args:
        root: the folder of the annotation files.
        protocol: which splits; see the module's table.
        videos: the folder of the video files, inside the root.
        name: what results call the dataset; another one for another dataset in this layout.

    Raises:
        ConfigError: an unknown protocol.
    """

    def __init__(
        self, root: str | Path, protocol: Protocol = "9k", videos: str = "videos", name: str = "MSR-VTT"
    ) -> None:
        if protocol not in get_args(Protocol):
            raise ConfigError(f"MSR-VTT: no protocol '{protocol}': {nearest(str(protocol), get_args(Protocol))}")
        self.name = name
        self.root = Path(root)
        self.protocol = protocol
        self.videos = videos
        self._parsed: dict[Path, dict[str, _Video]] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that exist; asking reads the files that tell whether `validation` does."""
        return (TRAIN, VALIDATION, TEST) if self._labelled(VALIDATION) else (TRAIN, TEST)

    def extent(self) -> Mapping[str, Extent]:
        """The published counts, and the length of a typical clip."""
        train, test = TRAINING_VIDEOS[self.protocol], 1000 if self.protocol in ONE_K_A else 2990
        each = 1 if self.protocol in ONE_K_A else CAPTIONS
        return {TRAIN: Extent(train, train * CAPTIONS, SECONDS), TEST: Extent(test, test * each, SECONDS)}

    def check_split(self, split: str) -> None:
        """Raises DataError unless `split` exists; train and test always do, so for them no file is read."""
        if split not in (TRAIN, TEST):
            super().check_split(split)

    def load(self, split: str) -> list[Record]:
        """Reads one split.

        Raises:
            DataError: a file is missing, broken or another dataset's, a listed video is unknown or has no caption,
                or the split does not exist.
        """
        self.check_split(split)
        ids = self._ids(split)
        videos = self._find(ids, split)
        if split == TRAIN and self.protocol not in ONE_K_A:
            self._check_apart({i for i in ids if videos[i].label == LABELS[TEST]}, f"are labelled '{LABELS[TEST]}'")
        captions = {i: videos[i].captions for i in ids}
        if split == TEST and self.protocol in ONE_K_A:
            captions = {i: (sentence,) for i, sentence in self._test_sentences.items()}
        silent = [i for i in ids if not captions[i]]
        if silent:
            raise DataError(
                f"MSR-VTT ({self.protocol}): {len(silent)} of {len(ids)} {split} videos have no caption in "
                f"{self._sources()}: {few(silent)}. Is the file complete? Fetch it again."
            )
        folder = VideoFolder(self.root / self.videos)
        return [Record(i, folder.path(i), captions[i], (videos[i].category,), source=videos[i].source) for i in ids]

    def probes(self, split: str) -> list[Probe]:
        """Minimal pairs of the test split, from `probes.json` where the root has one.

        Raises:
            DataError: the split does not exist, or the file is not a list of
                `{"kind": str, "videos": [id, id]}` with two videos of the test split.
        """
        self.check_split(split)
        path = self.root / PROBES
        if split != TEST or not path.is_file():
            return []
        entries = read_json(path)
        if not isinstance(entries, list):
            raise DataError(f"{path}: expected a list of probes, found {type(entries).__name__}.")
        known = set(self._ids(TEST))
        probes = []
        for number, entry in enumerate(entries):
            where = f"{path}: entry {number}"
            kind, pair = check_fields(entry, where, {"kind": str, "videos": list})
            if len(pair) != 2 or not all(isinstance(i, str) for i in pair) or pair[0] == pair[1]:
                raise DataError(f"{where}: 'videos' must be two different ids, found {repr(pair)[:60]}.")
            strange = [i for i in pair if i not in known]
            if strange:
                raise DataError(f"{where}: not in the test split of protocol {self.protocol}: {few(strange)}.")
            probes.append(Probe(kind, (pair[0], pair[1])))
        return probes

    def write_layout(self, root: Path, dataset: SyntheticDataset) -> list[str]:
        """Writes the JSON file, both training lists, the test list with a caption each, and the probes."""
        videos = [
            {
                "category": v.category,
                "url": v.source or f"shapes:{_id(v.number)}",
                "video_id": _id(v.number),
                "start time": 0.0,
                "end time": v.seconds,
                "split": LABELS[v.split],
                "id": v.number,
            }
            for v in dataset.videos
        ]
        pairs = [(v, caption) for v in dataset.videos for caption in v.captions]
        info = {
            "contributor": "tvr_lightning",
            "data_created": "",
            "version": str(dataset.version),
            "description": "shapes: generated videos in MSR-VTT's layout",
            "year": "",
        }
        sentences = [{"caption": c, "video_id": _id(v.number), "sen_id": i} for i, (v, c) in enumerate(pairs)]
        write_json(root / COMBINED, {"info": info, "videos": videos, "sentences": sentences})
        splits = dataset.by_split(tuple(LABELS))
        for name in dict.fromkeys(TRAIN_LISTS.values()):
            write_lines(root / name, ["video_id", *(_id(v.number) for v in splits[TRAIN])])
        rows = [f"ret{i},msr{v.number},{_id(v.number)},{v.captions[0]}" for i, v in enumerate(splits[TEST])]
        write_lines(root / TEST_LIST, ["key,vid_key,video_id,sentence", *rows])
        probes = [{"kind": kind, "videos": [_id(number) for number in pair]} for kind, pair in dataset.probes]
        (root / PROBES).write_text(json.dumps(probes, indent=2) + "\n", encoding="utf-8")
        return [f"{self.videos}/{_id(v.number)}.mp4" for v in dataset.videos]

    def _ids(self, split: str) -> list[str]:
        listed = ONE_K_A if split == TEST else TRAIN_LISTS
        if split == VALIDATION or self.protocol not in listed:
            ids = self._labelled(split)
            if not ids:
                raise DataError(
                    f"MSR-VTT ({self.protocol}): no video is labelled '{LABELS[split]}' in {self._sources()}."
                )
            return ids
        return self._train_list if split == TRAIN else list(self._test_sentences)

    def _labelled(self, split: str) -> list[str]:
        listed: set[str] = set()
        if split != TEST:
            trained = set(self._train_list) if self.protocol in TRAIN_LISTS else set()
            tested = set(self._test_sentences) if self.protocol in ONE_K_A else set()
            self._check_apart(trained & tested, f"in {TEST_LIST}")
            listed = trained | tested
        videos = self._catalogue(TEST_FILE if split == TEST else TRAIN_VAL_FILE)
        ids = (i for i, video in videos.items() if video.label == LABELS[split] and i not in listed)
        return sorted(ids, key=natural_key)

    def _check_apart(self, both: set[str], where: str) -> None:
        if both:
            raise DataError(
                f"{self.root}: {len(both)} ids are in {TRAIN_LISTS[self.protocol]} and {where}: "
                f"{few(sorted(both, key=natural_key))}. Training on test videos makes results worthless; fetch the "
                "lists again."
            )

    @cached_property
    def _train_list(self) -> list[str]:
        path = self.require(TRAIN_LISTS[self.protocol])
        return check_ids([row["video_id"] for _, row in read_csv(path, ["video_id"])], str(path))

    @cached_property
    def _test_sentences(self) -> dict[str, str]:
        path = self.require(TEST_LIST)
        rows = read_csv(path, ["video_id", "sentence"])
        for line, row in rows:
            if not row["sentence"]:
                raise DataError(f"{path}: the sentence at line {line} is empty. Fetch the file again.")
            if "\n" in row["sentence"]:  # a lone quotation mark swallows the rows up to the next one
                raise DataError(f"{path}: the sentence that ends at line {line} spans several lines: stray quotes?")
        check_ids([row["video_id"] for _, row in rows], str(path))
        return {row["video_id"]: clean(row["sentence"]) for _, row in rows}

    def _find(self, ids: list[str], split: str) -> dict[str, _Video]:
        near, far = (TEST_FILE, TRAIN_VAL_FILE) if split == TEST else (TRAIN_VAL_FILE, TEST_FILE)
        videos = self._catalogue(near)
        if any(i not in videos for i in ids):  # 9k trains on videos that are labelled `test`
            videos = self._catalogue(near, far)
        unknown = [i for i in ids if i not in videos]
        if unknown:
            raise DataError(
                f"MSR-VTT ({self.protocol}): {len(unknown)} of {len(ids)} listed {split} videos are not in "
                f"{self._sources()}: {few(unknown)}. Do list and JSON belong to the same dataset?"
            )
        return videos

    def _catalogue(self, *names: str) -> dict[str, _Video]:
        merged: dict[str, _Video] = {}
        for path in dict.fromkeys(self.require(COMBINED, name) for name in names):
            if path not in self._parsed:
                self._parsed[path] = _parse(path)
            twice = [i for i in self._parsed[path] if i in merged]
            if twice:
                raise DataError(f"{self.root}: {len(twice)} videos are in both of {self._sources()}: {few(twice)}.")
            merged |= self._parsed[path]
        return merged

    def _sources(self) -> str:
        return " and ".join(str(path) for path in self._parsed)


def _id(number: int) -> str:
    return f"video{number}"


def _parse(path: Path) -> dict[str, _Video]:
    entries, sentences = check_fields(read_json(path), str(path), {"videos": list, "sentences": list})
    labels = {TRAIN_VAL_FILE: ["train", "validate"], TEST_FILE: ["test"]}.get(path.name, list(LABELS.values()))
    facts: dict[str, tuple[str, int, str | None]] = {}
    ids = []
    for number, entry in enumerate(entries):
        where = f"{path}: videos[{number}]"
        video, label, category = check_fields(entry, where, {"video_id": str, "split": str, "category": int})
        if label not in labels:
            raise DataError(f"{where} ({video}): 'split' is '{label}', expected {' or '.join(labels)} in this file.")
        ids.append(video)
        url = entry.get("url")
        facts[video] = (label, category, url if isinstance(url, str) else None)
    check_ids(ids, str(path))

    captions: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, entry in enumerate(sentences):
        where = f"{path}: sentences[{number}]"
        video, order, caption = check_fields(entry, where, {"video_id": str, "sen_id": int, "caption": str})
        caption = clean(caption)
        if not caption:
            raise DataError(f"{where}: the caption of {video} (sen_id {order}) is empty. Fetch the file again.")
        captions[video].append((order, caption))
    strange = [video for video in captions if video not in facts]
    if strange:
        raise DataError(
            f"{path}: sentences describe {len(strange)} videos that 'videos' does not list: {few(strange)}. "
            "Is the file complete? Fetch it again."
        )
    return {
        video: _Video(*fact, tuple(c for _, c in sorted(captions.get(video, []), key=lambda pair: pair[0])))
        for video, fact in facts.items()
    }
