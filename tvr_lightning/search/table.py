"""Windows of an index, column by column."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST = 32  # bytes of a file's hash


@dataclass(frozen=True)
class Table:
    """Windows, column by column.

    Attributes:
        ids: (N,) int64, increasing within a shard.
        files: names from the index's root, or absolute.
        starts: (N,) float64 seconds, NaN for the video's beginning.
        ends: (N,) float64 seconds, NaN for its end.
        durations: (N,) float64 seconds of the whole video.
        contents: hashes of the files.
        pictures: JPEG files; empty where they were not read.
    """

    ids: NDArray[np.int64]
    files: Sequence[str]
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    durations: NDArray[np.float64]
    contents: Sequence[bytes]
    pictures: Sequence[bytes] = field(default=(), repr=False)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> Table:
        """Some of the rows."""
        found = rows.tolist()
        return Table(
            self.ids[rows], [self.files[r] for r in found], self.starts[rows], self.ends[rows], self.durations[rows],
            [self.contents[r] for r in found], [self.pictures[r] for r in found] if self.pictures else (),
        )  # fmt: skip

    @classmethod
    def cat(cls, parts: Sequence[Table]) -> Table:
        """Joins tables."""

        def column(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])

        files = [file for part in parts for file in part.files]
        contents = [content for part in parts for content in part.contents]
        pictures = [picture for part in parts for picture in part.pictures]
        return cls(column("ids"), files, column("starts"), column("ends"), column("durations"), contents, pictures)

    @classmethod
    def empty(cls) -> Table:
        """No window."""
        none = np.empty(0, dtype=np.float64)
        return cls(np.empty(0, dtype=np.int64), [], none, none, none, [])


def check_table(table: Table) -> None:
    """Refuses what no writer writes.

    Raises:
        ValueError: says what.
    """
    starts, ends, durations = table.starts, table.ends, table.durations
    if len(table) and table.ids.min() < 0:
        raise ValueError("a window has a negative number")
    if not (np.isfinite(durations) & (durations >= 0)).all():
        raise ValueError("a duration is negative or no number")
    whole = np.isnan(starts) & np.isnan(ends)
    if not (whole | ((starts >= 0) & (starts < ends) & (ends <= durations + 1e-3))).all():
        raise ValueError("a window begins or ends outside its video")
    if not {len(content) for content in table.contents} <= {0, DIGEST}:
        raise ValueError("a content is not a hash")
    for name in set(table.files):
        if not name or "\0" in name or os.path.normpath(name) != name or name.split("/")[0] == "..":
            raise ValueError(f"the file {name!r} leads out of the index's folder of videos")
