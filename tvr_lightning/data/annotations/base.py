"""What every dataset reader provides, and what readers share: finding files without leaving the root."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from tvr_lightning.data.annotations.layouts import SyntheticDataset
from tvr_lightning.errors import ConfigError, DataError, few, nearest
from tvr_lightning.types import Probe, Record

TRAIN, VALIDATION, TEST = "train", "validation", "test"
EXTENSIONS = ("mp4", "avi", "webm", "mkv", "mov")

_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True)
class Extent:
    """How large a split is.

    Attributes:
        videos: records.
        captions: of all of them.
        seconds: length of a typical record.
    """

    videos: int
    captions: int
    seconds: float


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

    def extent(self) -> Mapping[str, Extent]:
        """How large the splits are by what its authors say, without reading a file; empty where nobody can tell."""
        return {}

    def prepare(self) -> None:
        """Makes what is missing, where a program can make it: nothing, but for generated datasets."""
        return

    def probes(self, split: str) -> list[Probe]:
        """Minimal pairs among the videos of a split; none unless the dataset brings them."""
        self.check_split(split)
        return []

    def write_layout(self, root: Path, dataset: SyntheticDataset) -> Sequence[str]:
        """Writes a synthetic dataset's annotation files, as careless as the real ones, for tests and `tvr smoke`.

        Args:
            root: an empty folder, which takes the place of `self.root`.
            dataset: what the files say.

        Returns:
            Where each of the dataset's videos belongs, in their order, relative to `root`: `videos/x.mp4`.

        Raises:
            ConfigError: the reader does not say how.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot be tried on generated videos: give it a method `write_layout(root, dataset)`"
            " that writes the annotation files and returns where the videos belong; see docs/add_a_dataset.md"
        )

    def notes(self) -> Sequence[str]:
        """What `tvr data check` says of how the annotation files were read; nothing where their form is fixed."""
        return ()

    def annotation_files(self) -> Sequence[Path]:
        """Files that are not videos although they may lie among them; those of a fixed layout lie elsewhere."""
        return ()

    def check_split(self, split: str) -> None:
        """Raises DataError unless `split` exists."""
        if split not in self.splits:
            raise DataError(f"{self.name} ({self.protocol}) has no split '{split}': {nearest(split, self.splits)}")

    def has(self, name: str) -> bool:
        """Whether the root holds a file of this name; a root that may not be entered holds none."""
        try:
            return (self.root / name).is_file()
        except OSError:
            return False

    def require(self, *names: str) -> Path:
        """Returns the first of `names` that exists in the root.

        Raises:
            DataError: none exists; the message lists what the folder holds instead.
        """
        for name in names:
            if self.has(name):
                return self.root / name
        wanted = " or ".join(f"'{n}'" for n in names)
        raise DataError(
            f"{self.name}: no {wanted} in {self.root} ({describe_folder(self.root)}). Put the annotation file there or "
            "set --data.annotations.init_args.root; see docs/datasets.md."
        )


def describe_folder(folder: Path) -> str:
    """What a folder holds, for a message."""
    try:
        if not folder.is_dir():
            return "the folder does not exist"
        names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    except OSError as error:
        return f"the folder cannot be read: {error.strerror}"
    return f"found: {few(names)}" if names else "the folder is empty"


class SplitAnnotations(Annotations):
    """Base of readers whose splits are fixed and described by files of their own.

    Args:
        name: the dataset's name as papers print it.
        root: the folder of the annotation files.
        videos: the folder of the video files, inside the root.
        protocol: which of the dataset's splits is meant.
        splits: the splits that exist.
        extensions: of video files, in order of preference.
        prefix: what file names may leave off the front of an id.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        videos: str,
        protocol: str = "official",
        splits: tuple[str, ...] = (TRAIN, VALIDATION, TEST),
        extensions: tuple[str, ...] = EXTENSIONS,
        prefix: str = "",
    ) -> None:
        self.name = name
        self.root = Path(root)
        self.videos = videos
        self.protocol = protocol
        self._splits = splits
        self._extensions = extensions
        self._prefix = prefix
        self._loaded: dict[str, frozenset[str]] = {}
        self._parsed: dict[Path, object] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that exist; no file is read."""
        return self._splits

    def once(self, path: Path, parse: Callable[[Path], _Parsed]) -> _Parsed:
        """Parses a file at the first call and returns the same result at every later one."""
        if path not in self._parsed:
            self._parsed[path] = parse(path)
        return self._parsed[path]  # type: ignore[return-value]

    def records(
        self,
        split: str,
        captions: Mapping[str, tuple[str, ...]],
        labels: Mapping[str, tuple[int, ...]] | None = None,
        end: float | None = None,
    ) -> list[Record]:
        """Joins captions, labels and files of a split, in the order of `captions`.

        Raises:
            DataError: a video also stands in another split that was loaded, or the video folder cannot be read.
        """
        for other, ids in self._loaded.items():
            both = [i for i in captions if i in ids] if other != split else []
            if both:
                raise DataError(
                    f"{self.name} ({self.protocol}) in {self.root}: {len(both)} videos are in {other} and in {split}: "
                    f"{', '.join(both[:3])}{' ...' if len(both) > 3 else ''}. Training on test videos makes results "
                    "worthless; fetch the annotation files again."
                )
        self._loaded[split] = frozenset(captions)
        folder = VideoFolder(self.root / self.videos, self._extensions, self._prefix)
        known = labels or {}
        return [Record(i, folder.path(i), texts, known.get(i, ()), end=end) for i, texts in captions.items()]


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
    """The video files of a dataset, listed once, found by id whatever their extension, in capitals or not.

    `x.avi.mp4`, as conversion that appends makes it, is found for `x` too, after any `x.avi` or `x.mp4`.

    Args:
        folder: where the files lie; it need not exist (then nothing is found).
        extensions: the extensions to accept, in order of preference; `""` is none, or a bare dot.
        prefix: what file names may leave off the front of an id.

    Raises:
        DataError: the folder exists and cannot be read.
    """

    def __init__(self, folder: Path, extensions: Iterable[str] = EXTENSIONS, prefix: str = "") -> None:
        self.folder = folder
        self.extensions = tuple(extensions)
        self.prefix = prefix
        order = {extension: i for i, extension in enumerate(self.extensions)}
        self._best: dict[str, tuple[int, int, str]] = {}
        for name in _files(folder):
            stem = name
            for appended in range(2):
                head, dot, extension = stem.rpartition(".")
                stem, extension = (head, extension.lower()) if dot else (stem, "")
                if not stem or extension not in order:
                    break
                rank = (appended, order[extension], name)
                self._best[stem] = min(rank, self._best.get(stem, rank))

    def path(self, video_id: str) -> Path:
        """Returns the file of a video, or the path of the preferred extension where none exists."""
        check_relative(video_id, str(self.folder))
        for stem in (video_id, video_id.removeprefix(self.prefix)):
            if stem in self._best:
                return self.folder / self._best[stem][2]
        return self.folder / f"{video_id}.{self.extensions[0]}"


def _files(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if _leads_to_a_file(entry)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}). Check the folder's permissions.") from error


def _leads_to_a_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # links in a loop: one video is missing, not the folder
        return False
