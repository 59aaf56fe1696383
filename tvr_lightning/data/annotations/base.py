"""What every dataset reader gives, and what readers share: finding files without leaving the root."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tvr_lightning.errors import DataError, nearest
from tvr_lightning.types import Probe, Record

TRAIN, VALIDATION, TEST = "train", "validation", "test"


class Annotations(ABC):
    """A dataset's annotation files, read into records.

    A reader lists every video that its split names, whether or not the file exists: what is missing is reported,
    never dropped here.

    Attributes:
        name: the dataset's name as papers print it.
        root: the folder that holds annotation files and the video folder.
        protocol: which of the dataset's splits is meant, e.g. `9k`.
    """

    name: str
    root: Path
    protocol: str

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that exist: `train` and `test`, with `validation` where the dataset has one."""

    @abstractmethod
    def load(self, split: str) -> list[Record]:
        """Reads one split.

        Raises:
            DataError: a file is missing or broken, or the split does not exist.
        """

    def probes(self, split: str) -> list[Probe]:
        """Minimal pairs among the videos of a split; none unless the dataset brings them."""
        self.check_split(split)
        return []

    def check_split(self, split: str) -> None:
        """Raises DataError unless `split` exists."""
        if split not in self.splits:
            raise DataError(f"{self.name} ({self.protocol}) has no split '{split}': {nearest(split, self.splits)}")

    def require(self, *names: str) -> Path:
        """Returns the first of `names` that exists in the root.

        Raises:
            DataError: none exists; the message lists what the folder holds instead.
        """
        for name in names:
            if (self.root / name).is_file():
                return self.root / name
        wanted = " or ".join(f"'{n}'" for n in names)
        raise DataError(
            f"{self.name}: no {wanted} in {self.root} ({_describe(self.root)}). Put the annotation file there or "
            "set --data.annotations.init_args.root; see docs/datasets.md."
        )


def _describe(folder: Path) -> str:
    if not folder.is_dir():
        return "the folder does not exist"
    try:
        names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    except PermissionError:
        return "the folder may not be read"
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"found: {shown}" if names else "the folder is empty"


def check_relative(name: str, source: str) -> str:
    """Returns `name` if it stays inside a root; ids and paths of annotation files are data from the internet.

    Raises:
        DataError: an absolute path, a `..` part, a drive or a NUL byte.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not name or path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or ":" in path.parts[0]:
        raise DataError(f"{source}: {name!r} is not a file name inside the dataset's folder")
    return name


class VideoFolder:
    """The video files of a dataset, listed once, found by id whatever their extension.

    Args:
        folder: where the files lie; it need not exist (then nothing is found).
        extensions: the extensions to accept, in order of preference.
    """

    def __init__(self, folder: Path, extensions: Iterable[str] = ("mp4", "avi", "webm", "mkv", "mov")) -> None:
        self.folder = folder
        self.extensions = tuple(extensions)
        self.names = {e.name for e in os.scandir(folder) if e.is_file()} if folder.is_dir() else set()

    def path(self, video_id: str) -> Path:
        """Returns the file of a video, or the path of the preferred extension where none exists."""
        check_relative(video_id, str(self.folder))
        for extension in self.extensions:
            if f"{video_id}.{extension}" in self.names:
                return self.folder / f"{video_id}.{extension}"
        return self.folder / f"{video_id}.{self.extensions[0]}"
