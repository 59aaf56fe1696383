"""Charades (Sigurdsson et al. 2016): videos of daily indoor activities, 7,985 / 1,863, with 157 action classes.

Charades_v1_{train,test}.csv      id, ..., script, descriptions (separated by `;`), actions, length; lines end in CRLF
Charades_v1_classes.txt           `c000 Holding some clothes`, one class a line
"""

from __future__ import annotations

import csv
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from tvr_lightning.data.annotations.base import TEST, TRAIN, Extent, SplitAnnotations
from tvr_lightning.data.annotations.layouts import SyntheticDataset, SyntheticVideo, write_lines
from tvr_lightning.data.annotations.readers import check_ids, clean, pick, read_csv, read_text
from tvr_lightning.errors import ConfigError, DataError, few, nearest
from tvr_lightning.types import Record

Text = Literal["descriptions", "script"]
COLUMNS = ("id", "script", "descriptions", "actions")
CLASSES = "Charades_v1_classes.txt"
_CLASS = re.compile(r"(c[0-9]{3}) \S.*")
_ACTION = re.compile(r"(c[0-9]{3}) [0-9]+(?:\.[0-9]+)? [0-9]+(?:\.[0-9]+)?")


class Charades(SplitAnnotations):
    """Reader of Charades; nothing is read before it is asked for, and every file only once.

    A record's only caption is its descriptions joined by spaces, or the script that was acted. Its labels are the
    numbers of the classes in `actions`, each once, in ascending order; 174 training and 49 test videos have none.
    Times of actions are not used: many end after the video. There is no validation split.

    Args:
        root: the folder of the annotation files.
        text: which column gives the caption.
        videos: the folder of the video files, inside the root.
        name: what results call the dataset; another one for another dataset in this layout.

    Raises:
        ConfigError: an unknown column for `text`.
    """

    def __init__(
        self,
        root: str | Path,
        text: Text = "descriptions",
        videos: str = "Charades_v1_480",
        name: str = "Charades",
    ) -> None:
        if text not in get_args(Text):
            raise ConfigError(f"Charades: no text '{text}': {nearest(str(text), get_args(Text))}")
        super().__init__(name, root, videos, splits=(TRAIN, TEST))
        self.text = text

    def extent(self) -> Mapping[str, Extent]:
        """The published counts, and the length of a typical clip."""
        return {TRAIN: Extent(7985, 7985, 30.0), TEST: Extent(1863, 1863, 30.0)}

    def load(self, split: str) -> list[Record]:
        """Reads one split.

        Raises:
            DataError: a file is missing, broken or another dataset's, a video has no text or an action of no class,
                a video is in two splits, or the split does not exist.
        """
        self.check_split(split)
        path = self.require(f"Charades_v1_{split}.csv")
        classes = self.once(self.require(CLASSES), _parse_classes)
        rows = self.once(path, lambda file: read_csv(file, COLUMNS))
        ids = check_ids([row["id"] for _, row in rows], str(path))
        captions = {row["id"]: self._captions(row[self.text]) for _, row in rows}
        labels = {row["id"]: _labels(row["actions"], classes, f"{path}: line {line}") for line, row in rows}
        return self.records(split, pick(captions, ids, f"{self.name} {split}", f"'{self.text}' of {path}"), labels)

    def _captions(self, cell: str) -> tuple[str, ...]:
        parts = cell.split(";") if self.text == "descriptions" else [cell]
        joined = " ".join(text for part in parts if (text := clean(part)))
        return (joined,) if joined else ()

    def write_layout(self, root: Path, dataset: SyntheticDataset) -> list[str]:
        """Writes classes and tables; some actions end after the video, some videos have none."""
        write_lines(root / CLASSES, (f"c{n:03} {name}" for n, name in enumerate(dataset.classes)))
        for split, videos in dataset.by_split(self.splits).items():
            with (root / f"Charades_v1_{split}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\r\n")
                writer.writerow(
                    ["id", "subject", "scene", "quality", "relevance", "verified", "script", "objects", "descriptions",
                     "actions", "length"]
                )  # fmt: skip
                for video in videos:
                    end = video.seconds + (2.0 if video.number % 4 == 0 else 0.0)
                    actions = [f"c{n:03} 0.00 {end:.2f}" for n in video.labels if video.number % 9]
                    writer.writerow(
                        [_id(video), "HR43", "Kitchen", "6", "7", "Yes", f'{video.captions[0]}, "slowly".',
                         ";".join(video.objects), ";".join(video.captions[1:3]), ";".join(actions), video.seconds]
                    )  # fmt: skip
        return [f"{self.videos}/{_id(video)}.mp4" for video in dataset.videos]


def _parse_classes(path: Path) -> dict[str, int]:
    classes: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        match = _CLASS.fullmatch(line.strip())
        if line.strip() and not match:
            raise DataError(f"{path}: line {number}: expected 'c000 name of the class', found {line[:60]!r}.")
        if match:
            classes[match[1]] = int(match[1][1:])
    if not classes:
        raise DataError(f"{path}: no class is listed. Fetch the file again.")
    return classes


def _labels(actions: str, classes: Mapping[str, int], where: str) -> tuple[int, ...]:
    labels = set()
    for action in actions.split(";") if actions else []:
        match = _ACTION.fullmatch(action.strip())
        if not match:
            raise DataError(f"{where}: expected actions such as 'c092 11.90 21.20;c147 0.00 12.60', found {action!r}.")
        if match[1] not in classes:
            raise DataError(f"{where}: '{match[1]}' is not in {CLASSES} ({few(classes)}).")
        labels.add(classes[match[1]])
    return tuple(sorted(labels))


def _id(video: SyntheticVideo) -> str:
    """Five letters and digits; the factor shares no divisor with 36, so no two videos get the same."""
    rest, digits = (video.number + 1) * 1_000_003 + video.seed, ""
    for _ in range(5):
        rest, digit = divmod(rest, 36)
        digits += (string.digits + string.ascii_uppercase)[digit]
    return digits
