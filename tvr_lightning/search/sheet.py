"""A contact sheet: what a search found, as one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvr_lightning.data.stores.files import atomic_write
from tvr_lightning.run.fonts import missing_letters, render
from tvr_lightning.search.hits import Hit, clock
from tvr_lightning.search.index import Index

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, INCHES = 5, 2.2
LONGEST = 26  # letters of a file's name under its picture


def write_sheet(path: Path, title: str, index: Index, hits: Sequence[Hit]) -> list[str]:
    """Writes the pictures of hits in rows, with rank, score, time and file.

    Returns:
        Notes: letters that no font has.

    Raises:
        RunError: the file cannot be written.
    """
    labels = [f"{h.rank}  {h.score:.2f}  {clock(h.start)}\n{_short(h.file)}" for h in hits]

    def draw() -> Figure:
        from matplotlib.figure import Figure
        from PIL import Image

        rows = -(-max(len(hits), 1) // COLUMNS)
        figure = Figure(figsize=(COLUMNS * INCHES, rows * (INCHES + 0.5) + 0.5), dpi=110, layout="constrained")
        figure.suptitle(title, wrap=True, fontsize=11)
        axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for place in axes:
            place.axis("off")
        for place, hit, label in zip(axes, hits, labels, strict=False):
            place.imshow(Image.open(io.BytesIO(index.picture(hit.window)), formats=["JPEG"]))
            place.set_title(label, fontsize=8, loc="left")
        return figure

    content, missing = render(draw, "".join([title, *labels]))
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return [missing_letters(missing)] if missing else []


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"
