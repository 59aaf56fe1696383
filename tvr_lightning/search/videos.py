"""Which videos there are, and into which windows they are cut."""

from __future__ import annotations

import codecs
import errno
import math
import mimetypes
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from tvr_lightning.data.stores.reading import is_there, read_regular
from tvr_lightning.errors import ConfigError, DataError, DecodeError, few

MORE_SUFFIXES = {".mkv", ".webm", ".ts", ".m2ts", ".mts", ".flv", ".f4v", ".wmv", ".asf", ".ogv", ".ogm", ".m4v",
                 ".3gp", ".3g2", ".vob", ".rm", ".rmvb", ".mxf", ".divx", ".y4m", ".ivf", ".nut", ".gif"}  # fmt: skip
"""Names of videos besides those that the system's table of media types has."""


LONGEST = 1e15  # seconds of anything
LARGEST_LIST = 256 << 20  # bytes of a text file that names videos
LEAST = 0.1  # seconds of a window, and between two
MOST_WINDOWS = 100_000  # of one video: a day in windows every second


class Listed(NamedTuple):
    """Videos of a folder or a list.

    Attributes:
        root: what relative names are relative to.
        files: names from there, or absolute ones, sorted.
        others: files of the folder that are not videos by their name.
        repeats: names of a list that lead to a file which another name has led to.
    """

    root: Path
    files: Sequence[str]
    others: Sequence[str]
    repeats: int = 0


def is_video_name(name: str) -> bool:
    """Whether a file is a video by its name.

    >>> is_video_name("a.MP4"), is_video_name("b.mkv"), is_video_name("c.txt")
    (True, True, False)
    """
    suffix = Path(name).suffix.lower()
    kind = mimetypes.guess_type(f"x{suffix}", strict=False)[0] or ""
    return suffix in MORE_SUFFIXES or kind.startswith("video/")


def list_videos(source: Path) -> Listed:
    """Finds the videos of a folder at any depth, or those that a text file names, one path per line.

    A list takes files of any name; its relative paths begin at its own folder, and a file that it names twice counts
    once. Hidden files are skipped. Links to files count as the files, links to folders are not followed.

    Raises:
        DataError: there is no such folder or list, or no video in it, or a part of it cannot be listed.
    """
    return _of_folder(source) if is_there(source, folder=True) else _of_list(source)  # reading a list says why


def _of_folder(source: Path) -> Listed:
    found: list[str] = []
    others: list[str] = []

    def refuse(error: OSError) -> NoReturn:  # what is not seen would leave the index
        raise DataError(
            f"cannot list {error.filename or source}: {error.strerror}. Allow this user to read it, or take it out of "
            f"{source}: an index follows all videos of its folder, and would drop those in there"
        ) from None

    for folder, folders, names in os.walk(source, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                path = Path(folder, name)
                try:
                    regular = is_video_name(name) and stat.S_ISREG(path.stat().st_mode)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ELOOP):  # a link that leads nowhere is not a video
                        refuse(error)
                    regular = False
                (found if regular else others).append(str(path.relative_to(source)))
    if not found:
        held = f"it holds {few(sorted(others))}" if others else "it is empty"
        raise DataError(
            f"no videos in {source}: {held}. Files of other names are indexed when a text file names them, one "
            "path a line, in the folder's place"
        )
    return Listed(source.absolute(), sorted(found), sorted(others))


def _of_list(source: Path) -> Listed:
    try:
        content = read_regular(source, LARGEST_LIST)
    except OSError as error:
        raise DataError(f"no folder of videos and no list at {source}: {error.strerror}") from None
    if b"\0" in content:
        raise DataError(
            f"{source} is neither a folder of videos nor a text file in UTF-8 that names them, one path per line"
        )
    lines = [line.strip() for line in content.removeprefix(codecs.BOM_UTF8).splitlines()]
    names = [os.fsdecode(line) for line in lines if line and not line.startswith(b"#")]
    if not names:
        raise DataError(f"{source} names no video: write one path per line")
    root = source.absolute().parent
    files: dict[str, str] = {}  # by where each leads to
    for name in names:
        short = os.path.normpath(name)
        leads_out = short.split("/")[0] == ".."
        files.setdefault(os.path.realpath(root / name), os.path.normpath(root / short) if leads_out else short)
    return Listed(root, sorted(files.values()), (), len(names) - len(files))


def windows(duration: float, window: float | None, stride: float) -> list[tuple[float | None, float | None]]:
    """Cuts a video into windows of one length, the last of which ends with it; a short video is one, uncut.

    Args:
        duration: seconds.
        window: seconds; None never cuts.
        stride: seconds between two beginnings.

    Returns:
        Beginning and end of each; None for the video's own.

    Raises:
        DecodeError: there would be more than `MOST_WINDOWS`.

    >>> windows(12.0, 5.0, 2.5), windows(4.0, 5.0, 2.5)
    ([(0.0, 5.0), (2.5, 7.5), (5.0, 10.0), (7.0, 12.0)], [(None, None)])
    """
    if window is None or duration <= window:
        return [(None, None)]
    if not duration / stride < MOST_WINDOWS:
        raise DecodeError(
            f"{duration:.6g} seconds in windows every {stride:g} are more than {MOST_WINDOWS:,}: index it with a "
            "longer --stride, or whole with --window 0"
        )
    count = math.ceil(round((duration - window) / stride, 9))
    starts = [*(i * stride for i in range(count)), duration - window]
    return [(round(start, 6), round(start + window, 6)) for start in starts]


def check_windows(window: float | None, stride: float | None) -> tuple[float | None, float]:
    """The window, None for 0, and the stride, half of it unless given.

    Raises:
        ConfigError: one is out of range.
    """
    if window and not LEAST <= window < LONGEST:
        raise ConfigError(f"--window is {window}; it must be at least {LEAST} seconds, or 0 for whole videos")
    if stride is not None and not LEAST <= stride < LONGEST:
        raise ConfigError(f"--stride is {stride}; it must be at least {LEAST} seconds")
    if stride is not None and window and stride > window:
        raise ConfigError(
            f"--stride {stride} is longer than --window {window}: what is in between would never be found"
        )
    window = window or None
    return window, stride or max((window or 2.0) / 2, LEAST)
