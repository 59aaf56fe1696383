"""MSVD (Chen and Dolan 2011): 1,970 clips with 18 to 81 English captions each; 1,200 / 100 / 670 videos.

raw-captions.pkl                  {id: [[token, ...], ...]}, or a JSON file {id: [caption, ...]}
{train,val,test}_list.txt         one id a line (split of Venugopalan et al. 2015)
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

from tvr_lightning.data.annotations.base import TEST, TRAIN, VALIDATION, Extent, SplitAnnotations
from tvr_lightning.data.annotations.layouts import SyntheticDataset, SyntheticVideo, write_json, write_lines
from tvr_lightning.data.annotations.readers import (
    caption_table,
    pick,
    read_json,
    read_list,
    read_pickle,
    warn_unlisted,
)
from tvr_lightning.errors import ConfigError
from tvr_lightning.types import Record

LISTS = {TRAIN: "train_list.txt", VALIDATION: "val_list.txt", TEST: "test_list.txt"}


class MSVD(SplitAnnotations):
    """Reader of MSVD; nothing is read before it is asked for, and every file only once.

    Videos are in the order of their list, captions in the order of the file, tokens joined by spaces. The pickle is
    data from the internet: only containers, str and int are read from it.

    Args:
        root: the folder of the annotation files.
        captions: the caption file, a `.pkl` or a `.json`.
        videos: the folder of the video files, inside the root.
        name: what results call the dataset; another one for another dataset in this layout.

    Raises:
        ConfigError: `captions` is neither a `.pkl` nor a `.json`.
    """

    def __init__(
        self, root: str | Path, captions: str = "raw-captions.pkl", videos: str = "videos", name: str = "MSVD"
    ) -> None:
        if not captions.endswith((".pkl", ".json")):
            raise ConfigError(f"MSVD: captions is '{captions}'; expected a .pkl or a .json file in {root}")
        super().__init__(name, root, videos, extensions=("avi", "mp4", "webm", "mkv", "mov"))
        self.captions = captions

    def extent(self) -> Mapping[str, Extent]:
        """The published counts, and the length of a typical clip."""
        return {TRAIN: Extent(1200, 48_774, 10.0), VALIDATION: Extent(100, 4290, 10.0), TEST: Extent(670, 27_763, 10.0)}

    def load(self, split: str) -> list[Record]:
        """Reads one split.

        Raises:
            DataError: a file is missing, broken or another dataset's, a listed video is unknown or has no caption,
                a video is in two splits, or the split does not exist.
        """
        self.check_split(split)
        ids = self.once(self.require(LISTS[split]), read_list)
        path = self.require(self.captions)
        captions = self.once(path, _parse)
        chosen = pick(captions, ids, f"{self.name} {split}", str(path))
        listed = [i for name in LISTS.values() if self.has(name) for i in self.once(self.root / name, read_list)]
        warn_unlisted(captions, listed, self.name, str(path))
        return self.records(split, chosen)

    def write_layout(self, root: Path, dataset: SyntheticDataset) -> list[str]:
        """Writes the captions' file and the lists, of which only the test list ends its last line."""
        for split, videos in dataset.by_split(self.splits).items():
            write_lines(root / LISTS[split], map(_id, videos), end="\n" if split == TEST else "")
        if self.captions.endswith(".json"):
            write_json(root / self.captions, {_id(v): v.captions for v in dataset.videos})
        else:
            tokens = {_id(v): [caption.split() for caption in v.captions] for v in dataset.videos}
            (root / self.captions).write_bytes(pickle.dumps(tokens, protocol=2))
        return [f"{self.videos}/{_id(v)}.avi" for v in dataset.videos]


def _id(video: SyntheticVideo) -> str:
    return f"{video.youtube_id}_{video.number % 60}_{video.number % 60 + 10}"


def _parse(path: Path) -> dict[str, tuple[str, ...]]:
    return caption_table(read_pickle(path) if path.suffix == ".pkl" else read_json(path), str(path))
