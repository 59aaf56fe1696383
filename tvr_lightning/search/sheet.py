"""A contact sheet: what a search found, as one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tvr_lightning.data.stores.files import atomic_write
from tvr_lightning.errors import SearchError, one_line
from tvr_lightning.run.fonts import missing_letters, render
from tvr_lightning.run.pictures import wrapped
from tvr_lightning.search.hits import Hit, clock
from tvr_lightning.search.index import Index
from tvr_lightning.visible import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, INCHES = 5, 2.2
LONGEST = 26  # letters of a file's name under its picture
MOST = 400  # letters of the title
MOST_HITS = 500  # pictures of a sheet; the largest file that matplotlib makes has 65,536 lines


def write_sheet(path: Path, title: str, index: Index, hits: Sequence[Hit]) -> list[str]:
    """Writes the pictures of hits in rows, with rank, score, time and file.

    Returns:
        Notes: letters that no font has, hits that are not shown.

    Raises:
        RunError: the file cannot be written.
        SearchError: a picture of the index is damaged.
    """
    from PIL import Image

    notes = [f"the sheet shows the first {MOST_HITS} of {len(hits):,} hits"] if len(hits) > MOST_HITS else []
    hits = hits[:MOST_HITS]
    labels = [f"{h.rank}  {h.score:.2f}  {clock(h.start)}\n{_short(' '.join(visible(h.file).split()))}" for h in hits]
    # matplotlib's own wrapping reads formulas between dollar signs, and takes minutes for a long text
    title = wrapped(visible(title if len(title) <= MOST else f"{title[: MOST - 1]}…"), COLUMNS * INCHES)
    try:
        pictures = [_opened(index.picture(hit.window)) for hit in hits]
    except (OSError, ValueError, Image.DecompressionBombError) as error:  # PIL's, of what is not a whole JPEG
        raise SearchError(
            f"{index.folder} holds a picture that is damaged ({one_line(error)}): make it again"
        ) from None

    def draw() -> Figure:
        from matplotlib.figure import Figure

        rows = -(-max(len(hits), 1) // COLUMNS)
        figure = Figure(figsize=(COLUMNS * INCHES, rows * (INCHES + 0.5) + 0.5), dpi=110, layout="constrained")
        figure.suptitle(title, fontsize=11)
        axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for place in axes:
            place.axis("off")
        for place, picture, label in zip(axes, pictures, labels, strict=False):
            place.imshow(picture)
            place.set_title(label, fontsize=8, loc="left")
        return figure

    content, missing = render(draw, "".join([title, *labels]))
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return [*notes, *([missing_letters(missing)] if missing else [])]


def _opened(content: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content), formats=["JPEG"]).convert("RGB"))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"
