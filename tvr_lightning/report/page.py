"""A comparison as one static page: its tables, curves, ranks, queries with their videos. The page loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tvr_lightning import __version__
from tvr_lightning.data.stores.files import write_text
from tvr_lightning.errors import NothingToDraw
from tvr_lightning.names import METRICS, RANKS
from tvr_lightning.report import charts, text
from tvr_lightning.report.bits import bits_lines
from tvr_lightning.report.comparison import Block, Comparison
from tvr_lightning.report.plots import PLOTS, draw_plot
from tvr_lightning.report.pr_curves import names_of_codes, read_pr_curve
from tvr_lightning.run.curves import CURVES, read_curves
from tvr_lightning.run.gallery import FRAMES, GALLERY, Gallery, num_frames, rank_histogram, read_gallery
from tvr_lightning.run.reading import read_columns
from tvr_lightning.run.results import DIRECTIONS, Run
from tvr_lightning.visible import visible

MAX_RUNS = 24  # with curves, ranks and queries; the tables hold all
MAX_PICTURES = 8 << 20  # bytes of all pictures of a page
CHARTS = {
    "train/loss": "training loss",
    "val/SumR": "validation SumR",
    "val/t2v/R@1": "validation R@1, text → video",
    "val/v2t/R@1": "validation R@1, video → text",
}


@dataclass
class Shown:
    """A run as the page shows it below the tables.

    Attributes:
        name: `experiment/run`, and why it stands apart.
        row: its row's number in the block, which is its colour.
        curves: per epoch.
        histogram: of its ranks, None when it kept none.
        gallery: None when it kept none or the page is full.
        note: why there is no gallery.
    """

    name: str
    row: int
    curves: list[dict[str, float]]
    histogram: Markup | None
    gallery: Gallery | None
    note: str = ""


@dataclass
class Pictures:
    """Pictures of the page, each held once whatever number of runs shows it."""

    classes: dict[bytes, str] = field(default_factory=dict)
    size: int = 0

    def add(self, gallery: Gallery) -> bool:
        """Takes a gallery's pictures in, or none of them where they would make the page too large."""
        new = {jpeg for jpeg in gallery.thumbnails.values() if jpeg is not None} - self.classes.keys()
        size = sum(map(len, new)) * 4 // 3
        if self.size + size > MAX_PICTURES:
            return False
        self.size += size
        for jpeg in sorted(new):
            self.classes[jpeg] = f"p{len(self.classes)}"
        return True

    def style_sheet(self) -> Markup:
        """One rule a picture; base64 holds nothing that could end it."""
        rules = (
            f".{name}{{--n:{num_frames(jpeg)};"
            f"background-image:url(data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})}}"
            for jpeg, name in self.classes.items()
        )
        return Markup("\n".join(rules))


def write_page(comparison: Comparison, path: Path) -> str:
    """Writes the page atomically.

    Args:
        comparison: all its rows are in the tables; of the newest `MAX_RUNS` runs more is shown.
        path: the page's file; its folder exists.

    Returns:
        One line that says what was written.

    Raises:
        RunError: a run's files are damaged, or the page cannot be written.
    """
    content, count = render(comparison), len(comparison.runs)
    write_text(path, content)
    older = f", {count - MAX_RUNS} older ones in the tables only" if count > MAX_RUNS else ""
    return f"{path}: {count} runs{older}, {len(content.encode()) / 1e6:.1f} MB"


def render(comparison: Comparison) -> str:
    """The page's text."""
    newest = sorted(comparison.runs, key=lambda r: (r.path / METRICS).stat().st_mtime, reverse=True)
    shown = {run.path for run in newest[:MAX_RUNS]}
    pictures = Pictures()
    environment = Environment(
        loader=PackageLoader("tvr_lightning", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_finalize,
    )  # fmt: skip
    parts = [(over, len(list(columns))) for over, columns in groupby(comparison.columns, key=lambda c: c.over)]
    return environment.get_template("report.html.j2").render(
        blocks=[_block(block, comparison, shown, pictures) for block in comparison.blocks],
        columns=comparison.columns,
        heads=[(DIRECTIONS.get(over, over), width) for over, width in parts],
        firsts=[0, *accumulate(width for _, width in parts)],
        legend=text.legend(comparison),
        pictures=pictures,
        num_runs=len(newest),
        older=max(0, len(newest) - MAX_RUNS),
        directions=DIRECTIONS,
        frames=FRAMES,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        version=__version__,
    )


def _finalize(value: Any) -> Any:
    """What the template shows of a value; mark-up stays mark-up, since nothing that escapes is a part of one."""
    return type(value)(visible(value)) if isinstance(value, str) else value


def _block(block: Block, comparison: Comparison, shown: set[Path], pictures: Pictures) -> dict[str, Any]:
    """What the page says about the runs over one test set: lines of its table by part, then its runs one by one."""
    lines = [
        (charts.style_of(i), i < len(block.ranked), line)
        for i, row in enumerate(block.rows)
        for line in text.lines_of(row, block, comparison)
    ]
    runs = [_shown(run, i, pictures) for i, row in enumerate(block.rows) for run in row.group.runs if run.path in shown]
    return {
        "title": block.title,
        "ranked": [(style, line) for style, ranked, line in lines if ranked],
        "apart": [(style, line) for style, ranked, line in lines if not ranked],
        "runs": runs,
        "charts": [*_charts(runs), *_code_charts(block, shown)],
        "figures": list(_figures(block, comparison)),
    }


def _shown(run: Run, row: int, pictures: Pictures) -> Shown:
    gallery = read_gallery(run.path / GALLERY)
    note = "" if gallery else "This run kept no gallery."
    if gallery and not pictures.add(gallery):
        gallery, note = None, f"Left out: the pictures of the page would take more than {MAX_PICTURES >> 20} MB."
    marks = f" (not ranked: {'; '.join(run.marks)})" if run.marks else ""
    name = f"{run.content['experiment']}/{run.path.name}{marks}"
    return Shown(name, row, read_curves(run.path / CURVES), _histogram(run), gallery, note)


def _charts(runs: Sequence[Shown]) -> list[tuple[str, Markup]]:
    drawn = []
    for name, title in CHARTS.items():
        points = [(run, [(r["epoch"], r[name]) for r in run.curves if name in r]) for run in runs]
        lines = [charts.Line(run.name, run.row, found) for run, found in points if found]
        if lines:
            last = "; ".join(f"{line.name} ends at {line.points[-1][1]:.4g}" for line in lines)
            drawn.append((title, charts.line_chart(lines, f"{title} by epoch: {last}")))
    return drawn


def _code_charts(block: Block, shown: set[Path]) -> Iterator[tuple[str, Markup]]:
    """Precision over recall of the codes of the runs that are shown."""
    rows = [(i, run) for i, row in enumerate(block.rows) for run in row.group.runs]
    kept = [(i, run, found) for i, run in rows if run.path in shown and (found := read_pr_curve(run))]
    names = names_of_codes([run for _, run, _ in kept])
    for direction, title in DIRECTIONS.items():
        lines = [charts.Line(name, i, x[direction]) for name, (i, _, x) in zip(names, kept, strict=True)]
        if lines:
            yield (
                f"precision over recall, {title}",
                charts.line_chart(lines, f"precision over recall of {len(lines)} runs", "recall", whole=False),
            )


def _figures(block: Block, comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Pictures that no chart of the page can be, as data of PNG files; those that the runs have something for."""
    lengths = [line.points for d in DIRECTIONS for line in bits_lines([r for x in block.rows for r in x.group.runs], d)]
    names = [*(["bits"] if any(len(points) > 1 for points in lengths) else []), "tsne", "grid"]
    for name in names:
        try:
            png = draw_plot(name, replace(comparison, blocks=(block,)))
        except NothingToDraw:
            continue  # runs that are not a grid, or have no codes: the page shows what there is
        yield PLOTS[name].what, base64.b64encode(png).decode()


def _histogram(run: Run) -> Markup | None:
    """Shares of queries by rank in both directions; None when the run kept no ranks."""
    file = run.path / RANKS
    if not file.is_file():
        return None
    columns = read_columns(file, ["direction", "rank"])
    data = run.content["data"]
    # both directions over the same ranges, those of the larger gallery
    items = max(data["videos"], data["captions"] if run.content["v2t"] == "captions" else 0)
    names: list[str] = []
    series = []
    for direction, title in DIRECTIONS.items():
        ranks = [r for d, r in zip(columns["direction"], columns["rank"], strict=True) if d == direction]
        counts = rank_histogram(ranks, items)
        names = [name for name, _ in counts]
        series.append((title, [100 * count / max(1, len(ranks)) for _, count in counts]))
    said = "; ".join(f"{t}: {', '.join(f'{n} {h:.0f} %' for n, h in zip(names, s, strict=True))}" for t, s in series)
    return charts.bar_chart(names, series, f"share of queries by rank. {said}")
