"""Figures over the one or two settings in which runs differ (SPTCH, Fig. 6; the grids of `tvr ablate`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tvr_lightning.config.layers import flat
from tvr_lightning.errors import NothingToDraw, few
from tvr_lightning.report.columns import Column
from tvr_lightning.report.comparison import Comparison
from tvr_lightning.report.groups import Group
from tvr_lightning.report.pr_curves import short
from tvr_lightning.run.results import NOT_SETTINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PREFERRED = ("hash/t2v/mAP", "hash/v2t/mAP"), ("t2v/R@1", "v2t/R@1")


def varied_settings(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """The settings in which rows differ, each with the value of every row; names and places do not count."""
    found = [flat(group.first.config) for group in groups]
    names = dict.fromkeys(name for settings in found for name in settings)
    varied = {}
    for name in names:
        values = [settings.get(name) for settings in found]
        if name.split(".")[0] not in (*NOT_SETTINGS, "experiment") and len({json.dumps(v) for v in values}) > 1:
            varied[name.replace(".init_args.", ".")] = values  # as on the command line
    return varied


def draw_grid(comparison: Comparison) -> Figure:
    """A line over one varied setting, a surface over two, a panel a metric.

    The metrics are those of `--metrics`, up to four; hashing mAP, else R@1, when none is named.

    Raises:
        NothingToDraw: the rows do not differ in one or two settings of numbers, or have other test sets.
    """
    from matplotlib.figure import Figure

    groups = [row.group for row in comparison.rows]
    axes_of = varied_settings(groups)
    if len({g.first.test_set for g in groups}) > 1:
        raise NothingToDraw("the runs have other test sets; name those of one grid")
    if not 1 <= len(axes_of) <= 2 or not all(_is_number(v) for values in axes_of.values() for v in values):
        rows = "one row differs" if len(groups) == 1 else f"{len(groups)} rows differ"
        raise NothingToDraw(
            f"a grid varies one or two settings of numbers, {rows} in {few(axes_of) or 'nothing'}; name those of one "
            "grid, e.g. those that `tvr ablate` made"
        )
    columns = _columns(comparison)
    figure = Figure(figsize=(5.2 * len(columns), 4.4), dpi=110, layout="constrained")
    for number, column in enumerate(columns):
        means = [fmean(values) if (values := group.values(column.key)) else None for group in groups]
        axes = figure.add_subplot(1, len(columns), number + 1, projection="3d" if len(axes_of) == 2 else None)
        (_surface if len(axes_of) == 2 else _line)(axes, axes_of, means)
        axes.set_title(f"{column.over} {column.title}".strip(), fontsize=10)
    figure.suptitle(f"{short(groups[0].experiment)}: {groups[0].first.test_set}", fontsize=9)
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _columns(comparison: Comparison) -> list[Column]:
    known = {c.key: c for c in comparison.columns if not c.is_cost}
    for keys in PREFERRED:
        if comparison.named or not set(keys) <= set(known):
            continue
        return [known[key] for key in keys]
    return list(known.values())[:4]


def _line(axes: Axes, settings: Mapping[str, Sequence[float]], means: Sequence[float | None]) -> None:
    [(name, values)] = settings.items()
    points = sorted((x, y) for x, y in zip(values, means, strict=True) if y is not None)
    places = range(len(points))  # the values of a grid are chosen, their distances mean little
    axes.plot(places, [y for _, y in points], "o-")
    axes.set_xticks(places, [f"{x:g}" for x, _ in points])
    axes.set_xlabel(name, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _surface(axes: Any, settings: Mapping[str, Sequence[float]], means: Sequence[float | None]) -> None:
    """Bars, as many as there are points: a grid that is not full has holes, not made-up heights."""
    (name_x, xs), (name_y, ys) = settings.items()
    ticks_x, ticks_y = sorted(set(xs)), sorted(set(ys))
    points = [(ticks_x.index(x), ticks_y.index(y), z) for x, y, z in zip(xs, ys, means, strict=True) if z is not None]
    heights = [z for _, _, z in points]
    low = max(0.0, min(heights) - 0.3 * (max(heights) - min(heights) or max(heights)))  # the top of a bar is its value
    axes.bar3d(
        [x - 0.35 for x, _, _ in points], [y - 0.35 for _, y, _ in points], low, 0.7, 0.7, [z - low for z in heights],
        color=_colours(heights), shade=True,
    )  # fmt: skip
    axes.set_xticks(range(len(ticks_x)), [f"{x:g}" for x in ticks_x], fontsize=7)
    axes.set_yticks(range(len(ticks_y)), [f"{y:g}" for y in ticks_y], fontsize=7)
    axes.set_xlabel(name_x, fontsize=8)
    axes.set_ylabel(name_y, fontsize=8)
    axes.set_zlim(low, None)
    axes.tick_params(axis="z", labelsize=7)
    axes.set_box_aspect(None, zoom=0.85)


def _colours(heights: Sequence[float]) -> Any:
    import matplotlib

    low, high = min(heights), max(heights)
    return matplotlib.colormaps["viridis"]([(h - low) / ((high - low) or 1) for h in heights])
