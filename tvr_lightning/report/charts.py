"""Charts as inline SVG: lines and bars, coloured by the page's style sheet, without scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 300, 200  # about a phone's width, so that letters keep their size there
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36
COLOURS = 8  # of the style sheet; further lines are dashed


@dataclass(frozen=True)
class Line:
    """One run's curve.

    Attributes:
        name: the run.
        style: a number that stands for the run on the whole page.
        points: (x, y), by x.
    """

    name: str
    style: int
    points: Sequence[tuple[float, float]]


def line_chart(lines: Sequence[Line], label: str, x: str = "epoch", whole: bool = True) -> Markup:
    """Draws curves over epochs, or over what `x` names.

    Args:
        lines: one or more, each with a point or more.
        label: what the chart shows, for those who cannot see it.
        x: what stands below the axis.
        whole: whether only whole numbers do.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks = [t for t in ticks(min(xs), max(xs), 6) if (t == round(t) or not whole) and min(xs) <= t <= max(xs)]
    y_ticks = ticks(min(ys), max(ys), 5)
    low, high = y_ticks[0], y_ticks[-1]

    def place(at: float, y: float) -> tuple[float, float]:
        across = (at - min(xs)) / (max(xs) - min(xs)) if max(xs) > min(xs) else 0.5
        return _x(across), _y((y - low) / (high - low))

    parts = [_grid(y, place(xs[0], y)[1]) for y in y_ticks]
    parts += [_text(place(t, low)[0], HEIGHT - BOTTOM + 16, f"{t:g}", "middle") for t in x_ticks]
    parts.append(_text(_x(0.5), HEIGHT - 4, x, "middle"))
    for line in lines:
        places = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(Markup('<polyline class="line {}" points="{}"><title>{}</title></polyline>').format(
            style_of(line.style), path, line.name
        ))  # fmt: skip
        if len(places) == 1:
            parts.append(Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(
                style_of(line.style), *places[0]
            ))  # fmt: skip
    return _svg(label, parts)


def bar_chart(names: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], label: str) -> Markup:
    """Draws groups of bars, shares in percent from 0 to 100.

    Args:
        names: one of each group.
        series: a name and a height for each group; up to `COLOURS`.
        label: what the chart shows, for those who cannot see it.
    """
    parts = [_grid(y, _y(y / 100)) for y in (0, 25, 50, 75, 100)]
    step = 1 / len(names)
    for g, name in enumerate(names):
        parts.append(_text(_x((g + 0.5) * step), HEIGHT - BOTTOM + 16, name, "middle"))
        for s, (series_name, heights) in enumerate(series):
            width = 0.8 * step / len(series)
            left, top = _x((g + 0.1) * step + s * width), _y(heights[g] / 100)
            parts.append(
                Markup('<rect class="bar s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">').format(
                    s, left, top, width * (WIDTH - LEFT - RIGHT) - 1, HEIGHT - BOTTOM - top
                )
                + Markup("<title>{}, rank {}: {:.1f} %</title></rect>").format(series_name, name, heights[g])
            )
    parts.append(_text(_x(0.5), HEIGHT - 4, "rank", "middle"))
    return _svg(label, parts)


def style_of(style: int) -> str:
    """The style sheet's classes of a run."""
    return f"c{style % COLOURS} d{style // COLOURS % 3}"


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers around a range: at least two, the first not above `low`, the last not below `high`."""
    if high <= low:
        room = abs(low) * 0.05 or 1.0
        low, high = low - room, high + room
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _grid(value: float, y: float) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, y, y)
    return line + _text(LEFT - 6, y + 4, f"{value:g}", "end")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _svg(label: str, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, escape(label))
    return head + Markup("").join(parts) + Markup("</svg>")
