"""Figures of hashing metrics: precision over recall and radius of a run, mAP by code length over runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from tvr_lightning.data.stores.files import written_atomically
from tvr_lightning.errors import RunError
from tvr_lightning.report.comparison import NOT_SETTINGS
from tvr_lightning.run.hashing_curves import DIRECTIONS
from tvr_lightning.run.results import HASH_BASELINES, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BITS_FIGURE = "map_by_bits.png"


@dataclass(frozen=True)
class BitsLine:
    """One line of mAP by code length.

    Attributes:
        name: of the runs.
        points: by code length in ascending order, the mAP of each run.
        learned: whether it is a method's, not a baseline's.
    """

    name: str
    points: Mapping[int, Sequence[float]]
    learned: bool


def bits_lines(runs: Sequence[Run], direction: str) -> list[BitsLine]:
    """Lines of runs that differ in code length and seed alone, then those of codes that nobody learned.

    Args:
        runs: those without hashing metrics are left out.
        direction: `t2v` or `v2t`.
    """
    lines: dict[str, tuple[str, dict[int, list[float]]]] = {}
    baselines: dict[str, tuple[str, dict[int, list[float]]]] = {}
    for run in (r for r in runs if r.content.get("hashing")):
        c, facts = run.content, run.content["hashing"]
        where = [c["dataset"], c["split"], facts["database"]]
        name = str(c["experiment"]).removesuffix(f"_{facts['bits']}")
        marks = f" ({'; '.join(run.marks)})" if run.marks else ""
        key = json.dumps([c.get("method"), *where, run.marks, _other_settings(run.config)], sort_keys=True, default=str)
        label = f"{name}, database {facts['database']}{marks}"
        _, points = lines.setdefault(key, (label, {}))
        points.setdefault(facts["bits"], []).append(c["metrics"][f"test/hash/{direction}/mAP"])
        for kind in HASH_BASELINES:
            value = c["metrics"].get(f"test/hash/{kind}/{direction}/mAP")
            if value is not None:
                label = f"{kind}, {' '.join(map(str, where[:2]))}, database {where[2]}{marks}"
                baselines.setdefault(label, (label, {}))[1].setdefault(facts["bits"], []).append(value)
    return [
        BitsLine(name, dict(sorted(points.items())), learned)
        for found, learned in ((lines, True), (baselines, False))
        for name, points in found.values()
    ]


def _other_settings(config: Any) -> Any:
    """What runs of other code length or seed share."""
    apart = {*NOT_SETTINGS, "experiment", "code_length"}
    if not isinstance(config, Mapping):
        return config
    return {k: _other_settings(v) for k, v in config.items() if k not in apart}


def draw_bits(runs: Sequence[Run]) -> Figure:
    """The mAP of each direction by code length, mean and standard deviation over seeds; baselines dashed.

    Raises:
        RunError: no run has hashing metrics.
    """
    from matplotlib.figure import Figure

    if not any(run.content.get("hashing") for run in runs):
        raise RunError("no run has hashing metrics: the methods make no codes, or the dataset has no class labels")
    figure = Figure(figsize=(10.0, 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (direction, title) in zip(panels, DIRECTIONS.items(), strict=True):
        lengths: set[int] = set()
        for line in bits_lines(runs, direction):
            means = [fmean(values) for values in line.points.values()]
            deviations = [stdev(values) if len(values) > 1 else 0.0 for values in line.points.values()]
            axes.errorbar(
                list(line.points), means, deviations, marker="o", markersize=4, capsize=2, label=line.name,
                linestyle="-" if line.learned else "--", linewidth=1.6 if line.learned else 0.9,
            )  # fmt: skip
            lengths |= set(line.points)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(lengths), [str(n) for n in sorted(lengths)])
        axes.set(xlabel="bits", title=title, ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mAP, %")
    panels[1].legend(fontsize=7)
    return figure


def write_bits(runs: Sequence[Run], path: Path) -> Path:
    """Draws `draw_bits` into a PNG file, atomically.

    Raises:
        RunError: no run has hashing metrics, or the file cannot be written.
    """
    figure = draw_bits(runs)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
