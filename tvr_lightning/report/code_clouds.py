"""Codes of several runs in two dimensions, coloured by class (SPTCH, Fig. 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvr_lightning.errors import NothingToDraw, RunError
from tvr_lightning.report.comparison import Comparison
from tvr_lightning.report.pr_curves import names_of_codes
from tvr_lightning.run.results import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

MOST = 6  # runs of a picture
FEWEST = 10  # items of a run
ITEMS = 2000  # of a run: t-SNE takes a minute beyond


def codes_by_class(run: Run) -> list[Tensor]:
    """Codes of the test videos and captions that have one class label only, (n, K) float32 for each class.

    Raises:
        NothingToDraw: the run kept no codes of its test.
    """
    import torch

    from tvr_lightning.evaluation.code_files import CODES, load_codes

    if not (run.path / CODES).is_file():
        raise NothingToDraw(f"{run.path} has no {CODES}; make it with: tvr encode {run.path} --split test")
    parts = load_codes(run.path / CODES).values()
    if len(lengths := {part.bits for part in parts}) > 1:
        raise RunError(f"{run.path / CODES} holds codes of {sorted(lengths)} bits; make it again with `tvr encode`")
    found: dict[int, list[Tensor]] = {}
    for part in parts:
        for code, labels in zip(part.signs.float(), part.labels, strict=False):
            if len(labels) == 1:
                found.setdefault(labels[0], []).append(code)
    step = -(-sum(map(len, found.values())) // ITEMS) or 1
    return [torch.stack(codes[::step]) for _, codes in sorted(found.items())]


def draw_code_clouds(comparison: Comparison) -> Figure:
    """t-SNE of the codes of items with one label, a panel a run, a colour a class.

    Raises:
        NothingToDraw: scikit-learn is not installed, no run has codes, or too many have.
    """
    from tvr_lightning.report.distributions import NO_TSNE, can_draw_clouds, draw_clouds

    runs = [run for run in comparison.runs if run.content.get("hashing")]
    if not runs:
        raise NothingToDraw("no run has hashing metrics: the methods make no codes, or the dataset has no class labels")
    if len(runs) > MOST:
        raise NothingToDraw(f"{len(runs)} runs have codes; a picture holds {MOST} at most: name them")
    if not can_draw_clouds():
        raise NothingToDraw(f"no picture of codes: {NO_TSNE}")
    clouds = {name: codes_by_class(run) for name, run in zip(names_of_codes(runs), runs, strict=True)}
    for name, classes in clouds.items():
        if sum(map(len, classes)) < FEWEST:
            raise NothingToDraw(f"{name}: fewer than {FEWEST} test items have exactly one label, too few for a picture")
    return draw_clouds("codes of test videos and captions with one label", clouds, "class", "classes")
