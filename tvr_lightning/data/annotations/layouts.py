"""Synthetic datasets as readers write them: what is known of each video, and what several layouts share.

Nothing here imports torch: the processes that render the videos start in a fraction of a second.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SyntheticVideo:
    """A generated video and what is known of it; a layout takes what its dataset tells.

    Attributes:
        number: position in the dataset, all splits together, from 0.
        seed: of the dataset; with the number it makes ids that differ between datasets.
        split: `train`, `validation` or `test`.
        captions: ten different sentences, lower case, without a full stop; a test video's first one names everything.
        seconds: duration, to two decimals.
        category: its main class, a position in the dataset's `classes`.
        labels: all its classes, ascending; the category is one of them.
        source: the longer video that it was cut from; None where it is one of its own.
        objects: what is to be seen.
        translations: captions in other languages, by the language's code: `zh`.
    """

    number: int
    seed: int
    split: str
    captions: tuple[str, ...]
    seconds: float
    category: int
    labels: tuple[int, ...]
    source: str | None = None
    objects: tuple[str, ...] = ()
    translations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def digest(self) -> bytes:
        """32 bytes by chance, the same for the same seed and number: for ids like those of real files."""
        return hashlib.sha256(f"{self.seed} {self.number}".encode()).digest()

    @property
    def youtube_id(self) -> str:
        """Eleven characters as YouTube's ids; some start with a dash or an underscore."""
        text = base64.urlsafe_b64encode(self.digest).decode()
        return {0: "-", 1: "_"}.get(self.number % 6, text[0]) + text[1:11]


@dataclass(frozen=True)
class SyntheticDataset:
    """Generated videos that a reader writes annotation files for.

    Attributes:
        videos: all of them, by number.
        classes: names of the classes that videos are labelled with.
        probes: minimal pairs: kind, and the numbers of two test videos.
        version: of the generator.
    """

    videos: tuple[SyntheticVideo, ...]
    classes: tuple[str, ...]
    probes: tuple[tuple[str, tuple[int, int]], ...] = ()
    version: int = 0

    def by_split(self, splits: Sequence[str]) -> dict[str, list[SyntheticVideo]]:
        """Videos by split; those of a split that is not in `splits` belong to the first."""
        groups: dict[str, list[SyntheticVideo]] = {split: [] for split in splits}
        for video in self.videos:
            groups[video.split if video.split in groups else splits[0]].append(video)
        return groups


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file on one line."""
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path: Path, lines: Iterable[str], end: str = "\n") -> None:
    """Writes a text file with Unix line ends, `end` after the last line."""
    path.write_bytes(("\n".join(lines) + end).encode())
