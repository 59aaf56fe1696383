"""Pictures over several runs: `tvr compare --plot NAME`, and on the page of `tvr dashboard`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tvr_lightning.data.stores.files import atomic_write
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


def write_plot(name: str, comparison: Comparison, folder: Path) -> Path:
    """Draws a picture into a PNG file, atomically.

    Args:
        name: of `PLOTS`.
        comparison: the runs.
        folder: where it goes.

    Raises:
        NothingToDraw: the runs lack what it shows.
        RunError: their files are damaged, or the picture cannot be written.
    """
    plot = PLOTS[name]
    figure = plot.draw(comparison)
    with atomic_write(folder / plot.file) as temporary:
        figure.savefig(temporary, format="png")
    return folder / plot.file
