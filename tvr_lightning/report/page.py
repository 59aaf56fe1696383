"""One static page over run folders: comparison, curves, ranks, queries with pictures. It loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tvr_lightning import __version__
from tvr_lightning.data.stores.files import written_atomically
from tvr_lightning.errors import RunError
from tvr_lightning.report.charts import Line, bar_chart, line_chart, style_of
from tvr_lightning.run.curves import CURVES, read_curves
from tvr_lightning.run.gallery import GALLERY, Gallery, rank_histogram, read_gallery
from tvr_lightning.run.results import LOWER_IS_BETTER, METRICS, RANKS, Run, leaky_prefix

MAX_RUNS = 24
MAX_PICTURES = 8 << 20  # bytes of all pictures of a page
DIRECTIONS = {"t2v": "text → video", "v2t": "video → text"}
COLUMNS = ("R@1", "R@5", "R@10", "MdR", "MnR", "mAP")
CHARTS = {
    "train/loss": "training loss",
    "val/SumR": "validation SumR",
    "val/t2v/R@1": "validation R@1, text → video",
    "val/v2t/R@1": "validation R@1, video → text",
}


@dataclass(frozen=True)
class Figure:
    """A cell of the comparison."""

    text: str
    interval: str = ""
    best: bool = False


@dataclass
class Shown:
    """A run as the page shows it."""

    run: Run
    name: str
    about: list[str]
    style: str
    cells: list[Figure]
    extras: list[str]
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
            f".{name}{{background-image:url(data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})}}"
            for jpeg, name in self.classes.items()
        )
        return Markup("\n".join(rules))


def write_page(runs: Sequence[Run], path: Path) -> str:
    """Writes the page atomically.

    Args:
        runs: finished runs; the newest `MAX_RUNS` are shown.
        path: the page's file; its folder exists.

    Returns:
        One line that says what was written.

    Raises:
        RunError: a run's files are damaged, or the page cannot be written.
    """
    text = render(runs)
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    left_out = f", {len(runs) - MAX_RUNS} older ones left out" if len(runs) > MAX_RUNS else ""
    return f"{path}: {min(len(runs), MAX_RUNS)} runs{left_out}, {len(text.encode()) / 1e6:.1f} MB"


def render(runs: Sequence[Run]) -> str:
    """The page's text."""
    newest = sorted(runs, key=lambda r: (r.path / METRICS).stat().st_mtime, reverse=True)[:MAX_RUNS]
    pictures = Pictures()
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in newest:
        groups.setdefault((run.content["dataset"], run.content["split"]), []).append(run)
    environment = Environment(
        loader=PackageLoader("tvr_lightning", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shown = [_group(*key, members, pictures) for key, members in sorted(groups.items())]
    return environment.get_template("report.html.j2").render(
        groups=shown,
        pictures=pictures,
        num_runs=len(newest),
        left_out=len(runs) - len(newest),
        directions=DIRECTIONS,
        columns=COLUMNS,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        version=__version__,
    )


def _group(dataset: str, split: str, runs: Sequence[Run], pictures: Pictures) -> dict[str, Any]:
    """What the page says about the runs over one split; runs with marks stand apart, after the others."""
    # the best one first; colours follow this order too
    runs = sorted(runs, key=lambda r: (bool(r.marks), -r.content["metrics"].get("test/SumR", 0.0)))
    columns = [*(f"test/{d}/{c}" for d in DIRECTIONS for c in COLUMNS), "test/SumR"]
    extras = _extra_metrics(runs)
    plain = [r for r in runs if not r.marks]
    best = {name: _best(name, plain) for name in columns} if len(plain) > 1 else {}
    rows = []
    for index, run in enumerate(runs):
        gallery, seed = read_gallery(run.path / GALLERY), f"seed {run.content['seed']}"
        note = "" if gallery else "This run kept no gallery."
        if gallery and not pictures.add(gallery):
            gallery, note = None, f"Left out: the pictures of the page would take more than {MAX_PICTURES >> 20} MB."
        rows.append(
            Shown(
                run,
                f"{run.content['experiment']}/{run.path.name}",
                [run.path.name, *(str(run.content[k]) for k in ("method", "encoder") if k in run.content), seed],
                style_of(index),
                [_figure(run, name, best) for name in columns],
                [f"{run.content['metrics'][m]:.1f}" if m in run.content["metrics"] else "" for m in extras],
                read_curves(run.path / CURVES),
                _histogram(run),
                gallery,
                note,
            )
        )
    return {
        "title": f"{dataset} {split}",
        "plain": [r for r in rows if not r.run.marks],
        "marked": [r for r in rows if r.run.marks],
        "rows": rows,
        "extras": [m.removeprefix("test/") for m in extras],
        "charts": _charts(rows),
        "without_curves": [r.name for r in rows if not r.curves],
    }


def _extra_metrics(runs: Sequence[Run]) -> list[str]:
    names = dict.fromkeys(m for r in runs for m in r.content["metrics"])
    kept = ("R@1", "SumR")
    adjusted = [m for m in names if m.startswith(("test/dsl/", "test/qb/")) and m.rpartition("/")[2] in kept]
    return [m for m in names if m.startswith("test/probe/")] + adjusted


def _best(name: str, runs: Sequence[Run]) -> float | None:
    values = [r.content["metrics"][name] for r in runs if name in r.content["metrics"]]
    return (min if name.endswith(LOWER_IS_BETTER) else max)(values, default=None)


def _figure(run: Run, name: str, best: dict[str, float | None]) -> Figure:
    name = leaky_prefix(run.content) + name.removeprefix("test/")
    if name not in run.content["metrics"]:
        return Figure("–")
    value = run.content["metrics"][name]
    interval = run.content["intervals"].get(name)
    return Figure(
        f"{value:.1f}",
        f"{interval[0]:.1f}–{interval[1]:.1f}" if interval else "",
        not run.marks and value == best.get(name),
    )


def _charts(rows: Sequence[Shown]) -> list[tuple[str, Markup]]:
    charts = []
    for name, title in CHARTS.items():
        lines = []
        for index, row in enumerate(rows):
            points = [(r["epoch"], r[name]) for r in row.curves if name in r]
            if points:
                lines.append(Line(row.name, index, points))
        if lines:
            last = "; ".join(f"{line.name} ends at {line.points[-1][1]:.4g}" for line in lines)
            charts.append((title, line_chart(lines, f"{title} by epoch: {last}")))
    return charts


def _histogram(run: Run) -> Markup | None:
    """Shares of queries by rank in both directions; None when the run kept no ranks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = run.path / RANKS
    if not file.is_file():
        return None
    try:
        columns = pq.read_table(file, columns=["direction", "rank"]).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{file} is damaged ({error}); remove it, or test the run again") from None
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
    return bar_chart(names, series, f"share of queries by rank. {said}")
