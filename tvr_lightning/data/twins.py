"""Records that show the same video: within a split, and in two.

This module imports no torch: `data.tools.check` uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvr_lightning.types import Record


def repeated(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Pairs of records of one split that are one: the same id, or the same segment of the same file.

    Returns:
        For each record that repeats an earlier one, the ids of that one and of itself.

    >>> from tvr_lightning.types import Record
    >>> repeated([Record("a", Path("a.mp4"), ("x",)), Record("a again", Path("a.mp4"), ("y",))])
    [('a', 'a again')]
    """
    ids: dict[str, str] = {}
    files: dict[tuple[object, ...], str] = {}
    found = []
    for r in records:
        place = (str(r.video_path), r.start, r.end)
        first = ids.get(r.video_id) or files.get(place)
        if first is not None:
            found.append((first, r.video_id))
        ids.setdefault(r.video_id, r.video_id)
        files.setdefault(place, r.video_id)
    return found


def common(first: Sequence[Record], second: Sequence[Record], contents: Mapping[Path, object]) -> list[tuple[str, str]]:
    """Records of the second split that show a video of the first, whatever the segment: by id, file or content.

    Args:
        first: the training videos.
        second: those of a split that is evaluated.
        contents: by path, what is equal for files of equal content; a file that is not in it is like no other.

    Returns:
        For each such record, the id of its twin in the first split and its own.

    >>> from tvr_lightning.types import Record
    >>> train, test = Record("a", Path("a.mp4"), ("x",)), Record("b", Path("b.mp4"), ("y",))
    >>> common([train], [test], {}), common([train], [test], {Path("a.mp4"): 1, Path("b.mp4"): 1})
    ([], [('a', 'b')])
    """
    ids = {r.video_id for r in first}
    owners = {contents.get(r.video_path, r.video_path): r.video_id for r in first}
    found = []
    for r in second:
        twin = r.video_id if r.video_id in ids else owners.get(contents.get(r.video_path, r.video_path))
        if twin is not None:
            found.append((twin, r.video_id))
    return found
