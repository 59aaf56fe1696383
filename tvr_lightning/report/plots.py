"""Pictures over several runs: `tvr compare --plot NAME`, and on the page of `tvr dashboard`."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tvr_lightning.data.stores.files import atomic_write
from tvr_lightning.errors import RunError
from tvr_lightning.report.bits import draw_bits
from tvr_lightning.report.code_clouds import draw_code_clouds
from tvr_lightning.report.comparison import Comparison
from tvr_lightning.report.grids import draw_grid
from tvr_lightning.report.pr_curves import draw_pr_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plot(NamedTuple):
    """A kind of picture.

    Attributes:
        file: its name in the folder of runs.
        draw: makes it, or says in a `NothingToDraw` what the runs lack.
        what: it shows, in a few words.
    """

    file: str
    draw: Callable[[Comparison], Figure]
    what: str


PLOTS: Mapping[str, Plot] = {
    "bits": Plot("map_by_bits.png", draw_bits, "mAP by code length"),
    "pr": Plot("pr_curves.png", draw_pr_curves, "precision over recall of codes"),
    "tsne": Plot("code_clouds.png", draw_code_clouds, "codes in two dimensions, coloured by class"),
    "grid": Plot("grid.png", draw_grid, "figures over the settings that a grid varied"),
}


def draw_plot(name: str, comparison: Comparison) -> bytes:
    """Draws a picture as a PNG file's bytes.

    Args:
        name: of `PLOTS`.
        comparison: the runs.

    Raises:
        NothingToDraw: the runs lack what it shows.
        RunError: their files are damaged.
    """
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):  # a run's name is not a formula
        PLOTS[name].draw(comparison).savefig(content, format="png")
    return content.getvalue()


def write_plot(name: str, comparison: Comparison, folder: Path) -> Path:
    """Draws a picture into a PNG file, atomically; see `draw_plot`.

    Raises:
        RunError: the file cannot be written.
    """
    content = draw_plot(name, comparison)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}") from error
    with atomic_write(folder / PLOTS[name].file) as temporary:
        temporary.write_bytes(content)
    return folder / PLOTS[name].file
