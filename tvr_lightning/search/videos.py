"""Which videos there are, and into which windows they are cut."""

from __future__ import annotations

import math
import mimetypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tvr_lightning.data.stores.files import is_file
from tvr_lightning.errors import ConfigError, DataError, few

MORE_SUFFIXES = {".mkv", ".webm", ".ts", ".m2ts", ".mts", ".flv", ".f4v", ".wmv", ".asf", ".ogv", ".ogm", ".m4v",
                 ".3gp", ".3g2", ".vob", ".rm", ".rmvb", ".mxf", ".divx", ".y4m", ".ivf", ".nut", ".gif"}  # fmt: skip
"""Names of videos besides those that the system's table of media types has."""


class Listed(NamedTuple):
    """Videos of a folder or a list.

    Attributes:
        root: what relative names are relative to.
        files: names from there, or absolute ones, sorted.
        others: files of the folder that are no videos by their name.
    """

    root: Path
    files: Sequence[str]
    others: Sequence[str]


def is_video_name(name: str) -> bool:
    """Whether a file is a video by its name.

    >>> is_video_name("a.MP4"), is_video_name("b.mkv"), is_video_name("c.txt")
    (True, True, False)
    """
    suffix = Path(name).suffix.lower()
    kind = mimetypes.guess_type(f"x{suffix}", strict=False)[0] or ""
    return suffix in MORE_SUFFIXES or kind.startswith("video/")


def list_videos(source: Path) -> Listed:
    """Finds the videos of a folder at any depth, or those that a text file names, one path a line.

    A list takes files of any name; its relative paths begin at its own folder. Hidden files are passed over.
    Links to files count as the files, links to folders are not followed.

    Raises:
        DataError: there is no such folder or list, or no video in it.
    """
    if source.is_dir():
        found: list[str] = []
        others: list[str] = []
        for folder, folders, names in os.walk(source):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in names:
                if not name.startswith("."):
                    path = Path(folder, name)
                    (found if is_video_name(name) and is_file(path) else others).append(str(path.relative_to(source)))
        if not found:
            held = f"it holds {few(sorted(others))}" if others else "it is empty"
            raise DataError(
                f"no videos in {source}: {held}. Files of other names are indexed when a text file names them, one "
                "path a line, in the folder's place"
            )
        return Listed(source.absolute(), sorted(found), sorted(others))
    try:
        lines = source.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"no folder of videos and no list at {source}: {error.strerror}") from None
    if b"\0" in b"".join(lines[:8]):
        raise DataError(f"{source} is neither a folder of videos nor a text file that names them, one path a line")
    names = [os.fsdecode(line.strip()) for line in lines if line.strip() and not line.strip().startswith(b"#")]
    if not names:
        raise DataError(f"{source} names no video: write one path a line")
    return Listed(source.absolute().parent, sorted(dict.fromkeys(os.path.normpath(name) for name in names)), ())


def windows(duration: float, window: float | None, stride: float) -> list[tuple[float | None, float | None]]:
    """Cuts a video into windows of one length, the last of which ends with it; a short video is one, uncut.

    Args:
        duration: seconds.
        window: seconds; None never cuts.
        stride: seconds between two beginnings.

    Returns:
        Beginning and end of each; None for the video's own.

    >>> windows(12.0, 5.0, 2.5), windows(4.0, 5.0, 2.5)
    ([(0.0, 5.0), (2.5, 7.5), (5.0, 10.0), (7.0, 12.0)], [(None, None)])
    """
    if window is None or duration <= window:
        return [(None, None)]
    count = math.ceil(round((duration - window) / stride, 9))
    starts = [*(i * stride for i in range(count)), duration - window]
    return [(round(start, 6), round(start + window, 6)) for start in starts]


def check_windows(window: float | None, stride: float | None) -> tuple[float | None, float]:
    """The window, None for 0, and the stride, half of it unless given.

    Raises:
        ConfigError: one is out of range.
    """
    if window is not None and not 0 <= window < math.inf:
        raise ConfigError(f"--window is {window}; seconds, or 0 for videos as a whole")
    if stride is not None and not 0 < stride < math.inf:
        raise ConfigError(f"--stride is {stride}; seconds above 0")
    if stride is not None and window and stride > window:
        raise ConfigError(f"--stride {stride} is longer than --window {window}: what lies between would never be found")
    window = window or None
    return window, stride or (window or 2.0) / 2
