"""Video files in folders of any depth, found by what people write in a table: a path, a name, a name without ending."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tvr_lightning.data.annotations.base import EXTENSIONS, check_relative
from tvr_lightning.errors import DataError, few

VIDEO_EXTENSIONS = (
    *EXTENSIONS,
    "m4v", "wmv", "flv", "mpg", "mpeg", "mpe", "m2v", "m1v", "mpv", "3gp", "3g2", "ts", "mts", "m2ts", "m2t",
    "ogv", "ogg", "vob", "asf", "f4v", "divx", "xvid", "rm", "rmvb", "gif", "y4m", "mxf", "dv", "nut", "ivf", "amv",
    "mjpg", "mjpeg", "wtv", "qt", "lrv", "insv", "h264", "h265", "264", "265", "hevc", "av1", "obu", "apng", "webp",
)  # fmt: skip
"""What is taken for a video by its ending; any other file is one where a table writes its ending too."""


_PLAIN = re.compile(r"[^/\\:\0.]+(?:\.[^/\\:\0.]+)*")  # a name that leads nowhere: paths are looked at closely


class VideoTree:
    """The files below a folder, listed once; links are followed, circles of links are not.

    A file is found by its path below the folder, then by that path without its ending, by its name, by its name without
    ending, then by these in other capitals. Accents count the same whether they are written as one character or two
    (NFC, NFD). What means several files is refused: the path says which.

    Args:
        folder: where the files lie; it need not exist (then nothing is found).
        outside: whether absolute paths may lead out of the folder.

    Raises:
        DataError: the folder cannot be read.
    """

    def __init__(self, folder: Path, outside: bool = False) -> None:
        self.folder = folder
        self.outside = outside
        self.files = sorted(_walk(folder))
        order = {extension: i for i, extension in enumerate(VIDEO_EXTENSIONS)}
        self._exact: dict[str, str] = {}
        self._tiers: tuple[dict[str, list[str]], ...] = ({}, {}, {}, {})
        best: dict[str, tuple[int, str]] = {}
        for file in self.files:
            self._exact[nfc(file)] = file
            stem, _, ending = file.rpartition(".")
            place = order.get(ending.lower())
            if stem and place is not None:
                key = nfc(stem)
                best[key] = min((place, file), best.get(key, (place, file)))
        without = {key: file for key, (_, file) in best.items()}
        for table, tier in ((self._exact, 1), (without, 2)):
            for key, file in table.items():
                if tier == 1 and _ending(file) not in order:
                    continue
                self._add(0, key, file)
                self._add(tier, key.rpartition("/")[2], file)
                self._add(3, key.rpartition("/")[2].casefold(), file)

    def _add(self, tier: int, key: str, file: str) -> None:
        found = self._tiers[tier].setdefault(key, [])
        if file not in found:
            found.append(file)

    def find(self, name: str, source: str) -> Path | None:
        """The file that a cell of a table means; None where there is none.

        Args:
            name: the cell.
            source: names the row in messages.

        Raises:
            DataError: the cell leads out of the folder, is an address of the web, or means several files.
        """
        name = self.inside(name, source)
        if name.startswith("/"):
            return Path(name)
        key = nfc(name)
        if key in self._exact:
            return self.folder / self._exact[key]
        stem, dot, ending = key.rpartition(".")
        keys = [key, stem] if dot and stem and ending.lower() in VIDEO_EXTENSIONS else [key]
        for wanted in keys:
            for tier, form in enumerate((wanted, wanted, wanted, wanted.casefold())):
                found = self._tiers[tier].get(form, ())
                if len(found) > 1:
                    raise DataError(
                        f"{source}: '{name}' means {len(found)} files in {self.folder}: {few(found, 3)}. Write the "
                        "path below that folder in the table, or rename one of them."
                    )
                if found:
                    return self.folder / found[0]
        return None

    def inside(self, name: str, source: str) -> str:
        """A cell as a path below the folder; an absolute path only where `outside` allows it.

        Raises:
            DataError: as `find`.
        """
        if _PLAIN.fullmatch(name):
            return name
        if "://" in name:
            raise DataError(f"{source}: '{name}' is an address; fetch the video and name its file")
        path = name.replace("\\", "/")
        while path.startswith("./"):
            path = path[2:]
        if PurePosixPath(path).is_absolute() and "\0" not in path and ".." not in PurePosixPath(path).parts:
            for folder in (self.folder.absolute(), self.folder.resolve()):
                if PurePosixPath(path).is_relative_to(folder):
                    return str(PurePosixPath(path).relative_to(folder))
            if self.outside:
                return path
            raise DataError(
                f"{source}: {name} is not inside {self.folder.absolute()}. Write paths below that folder, name another "
                "with --data.annotations.videos, or allow such paths: --data.annotations.outside=true"
            )
        return check_relative(path, source)

    def missing(self, name: str, source: str) -> Path:
        """Where a video that is not there would lie."""
        name = self.inside(name, source)
        return self.folder / (name if _ending(name) in VIDEO_EXTENSIONS else f"{name}.{EXTENSIONS[0]}")


def nfc(text: str) -> str:
    """A text in the form in which an accented letter is one character; file systems and spreadsheets differ."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _walk(folder: Path) -> Iterator[str]:
    """Files below a folder, relative to it with `/`; hidden ones are skipped."""
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        below, above = waiting.pop()
        try:
            status = os.stat(folder / below)  # noqa: PTH116
            here = (status.st_dev, status.st_ino)
            if here in above:  # a link to a folder that holds it
                continue
            with os.scandir(folder / below) as entries:
                found = [(entry.name, _kind(entry)) for entry in entries if not entry.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            where = folder / below
            raise DataError(f"{where}: cannot be read ({error.strerror}). Check the folder's permissions.") from error
        for name, kind in found:
            if kind == "file":
                yield f"{below}{name}"
            elif kind == "folder":
                waiting.append((f"{below}{name}/", above | {here}))


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "file" if entry.is_file() else "folder" if entry.is_dir() else "other"
    except OSError:  # links in a loop
        return "other"
