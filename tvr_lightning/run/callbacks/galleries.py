"""Shows what a test found, in the tracker and in the run folder: queries, failures, ranks, figures with intervals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_warn

from tvr_lightning.errors import RunError
from tvr_lightning.evaluation import EvaluationResult
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.run.gallery import (
    FOUND,
    FRAMES,
    GALLERY,
    SIDE,
    TOP,
    Gallery,
    Query,
    make_gallery,
    num_frames,
    rank_histogram,
    write_gallery,
)
from tvr_lightning.run.results import Run, read_run

if TYPE_CHECKING:
    from PIL.Image import Image

GREEN, GREY = (0, 140, 70), (128, 128, 128)
BORDER = 5
MISSING = "not decodable"


class Galleries(Callback):
    """Keeps `gallery.json` and logs tables of queries with pictures; it follows `RunFolder`, whose figures it logs.

    What cannot be shown does not fail a test that is over: its results lie in the run folder already.

    Args:
        path: the run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Builds, keeps and logs the gallery."""
        if not trainer.is_global_zero or not isinstance(pl_module, RetrievalModule) or pl_module.result is None:
            return
        result, run = pl_module.result, read_run(self.path)
        split = trainer.datamodule.split_of("test")  # type: ignore[attr-defined]
        gallery, reasons = make_gallery(result, split)
        if reasons:
            more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            rank_zero_warn(f"the gallery shows videos as {MISSING}: {reasons[0]}{more}")
        try:
            write_gallery(self.path / GALLERY, gallery)
        except RunError as error:
            rank_zero_warn(f"the run is finished, but its gallery was not saved: {error}")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                _log_wandb(logger.experiment, gallery, result, run)
            elif isinstance(logger, TensorBoardLogger):
                _log_tensorboard(logger.experiment, gallery, result, run)


def picture(gallery: Gallery, video: str, correct: bool) -> Image:
    """A video's frames for a tracker, of one size for all; the correct video has a green frame."""
    from PIL import Image, ImageDraw, ImageOps

    jpeg = gallery.thumbnails[video]
    strip = Image.new("RGB", (FRAMES * SIDE, SIDE), GREY if jpeg is None else "white")
    draw = ImageDraw.Draw(strip)
    if jpeg is None:
        draw.text((FRAMES * SIDE // 2, SIDE // 2), MISSING, "white", anchor="mm")
    else:
        strip.paste(Image.open(io.BytesIO(jpeg)))
        for i in range(1, num_frames(jpeg)):
            draw.line((i * SIDE, 0, i * SIDE, SIDE), "white", 2)
    return ImageOps.expand(strip, BORDER, GREEN if correct else "white")


def mosaic(gallery: Gallery, queries: Sequence[Query]) -> Image:
    """Two lines a query: the correct video and the best ones behind it."""
    from PIL import Image

    across = max(len(q.top) + 2 for q in queries) // 2
    width, height = FRAMES * SIDE + 2 * BORDER, SIDE + 2 * BORDER
    image = Image.new("RGB", (across * width, len(queries) * (2 * height + BORDER)))
    for row, q in enumerate(queries):
        for i, (video, correct) in enumerate(cells(q)):
            down = row * (2 * height + BORDER) + i // across * height
            image.paste(picture(gallery, video, correct), (i % across * width, down))
    return image


def cells(query: Query) -> list[tuple[str, bool]]:
    """The videos shown of a query and whether each is correct: the correct one, then the best ones."""
    return [(query.video, True), *zip(query.top, query.right, strict=True)]


def label(gallery: Gallery, video: str, correct: bool) -> str:
    """What stands below a picture."""
    return video + (" (correct)" if correct else "") + ("" if gallery.thumbnails[video] else f" ({MISSING})")


def figures(run: Run) -> list[tuple[str, float, float | None, float | None]]:
    """Every test metric with its 95 % interval, None where it has none."""
    rows = []
    for name, value in run.content["metrics"].items():
        low, high = run.content["intervals"].get(name, (None, None))
        rows.append((name, value, low, high))
    return rows


def _histograms(result: EvaluationResult) -> dict[str, list[tuple[str, int]]]:
    items = {"t2v": len(result.video_ids), "v2t": len(result.caption_ids)}
    return {d: rank_histogram(getattr(result.ranks, d).expected_rank.tolist(), n) for d, n in items.items()}


def _log_wandb(experiment: Any, gallery: Gallery, result: EvaluationResult, run: Run) -> None:
    import wandb

    content = run.content
    # what a report filters and groups by
    keys = ("experiment", "method", "encoder", "dataset", "split", "seed")
    settings = {k: content.get(k) for k in keys} | {"marks": "; ".join(run.marks)}
    settings |= {"test_set": run.test_set, "settings": run.settings()}
    settings |= {"bits": content["hashing"]["bits"]} if content.get("hashing") else {}
    experiment.config.update(settings, allow_val_change=True)
    if run.marks:  # beside what the user noted: WANDB_NOTES
        why = f"Not ranked with plain figures: {'; '.join(run.marks)}. See docs/comparing.md."
        experiment.notes = "\n".join([*([experiment.notes] if experiment.notes else []), why])
    for name, _, low, high in figures(run):
        if low is not None:
            experiment.summary.update({f"{name}/low": low, f"{name}/high": high})

    def table(queries: Sequence[Query], top: int) -> Any:
        filled = wandb.Table(columns=["query", "caption", "rank", "correct", *(f"top {i + 1}" for i in range(top))])
        for q in queries:
            images = [wandb.Image(picture(gallery, v, own), caption=label(gallery, v, own)) for v, own in cells(q)]
            filled.add_data(q.query, q.caption, q.rank, *images, *[None] * (top - len(q.top)))
        return filled

    answers = wandb.Table(columns=["video", "rank", *(f"top {i + 1}" for i in range(TOP))])
    for answer in gallery.answers:
        found = [text + (" (correct)" if right else "") for _, text, right in answer.captions]
        shown = wandb.Image(picture(gallery, answer.video, False), caption=label(gallery, answer.video, False))
        answers.add_data(shown, answer.rank, *found, *[None] * (TOP - len(found)))
    logged = {
        "gallery/queries": table(gallery.queries, TOP),
        "gallery/answers": answers,
        "gallery/worst": table(gallery.worst, FOUND),
        "gallery/metrics": wandb.Table(
            columns=["metric", "value", "low", "high"], data=[list(f) for f in figures(run)]
        ),
    }
    for direction, counts in _histograms(result).items():
        ranks = wandb.Table(columns=["rank", "queries"], data=[list(c) for c in counts])
        logged[f"gallery/ranks_{direction}"] = wandb.plot.bar(ranks, "rank", "queries", title=f"ranks, {direction}")
    experiment.log(logged)


def _log_tensorboard(writer: Any, gallery: Gallery, result: EvaluationResult, run: Run) -> None:
    import numpy as np

    for name, queries in (("queries", gallery.queries), ("worst", gallery.worst)):
        if not queries:
            continue
        lines = ["| caption | rank | correct | found |", "|---|---|---|---|"]
        lines += [
            f"| {_cell(q.caption)} | {q.rank:g} | {_cell(q.video)} | {_cell(', '.join(q.top))} |" for q in queries
        ]
        writer.add_text(f"gallery/{name}", "\n".join(lines))
        writer.add_image(f"gallery/{name}", np.asarray(mosaic(gallery, queries)), dataformats="HWC")
    lines = ["| metric | value | 95 % interval |", "|---|---|---|"]
    lines += [f"| {n} | {v:.2f} | {'' if lo is None else f'{lo:.2f} to {hi:.2f}'} |" for n, v, lo, hi in figures(run)]
    writer.add_text("gallery/metrics", "\n".join(lines))
    for direction in ("t2v", "v2t"):
        writer.add_histogram(f"gallery/ranks_{direction}", getattr(result.ranks, direction).expected_rank)
    writer.flush()


def _cell(text: str) -> str:
    """Text that cannot end a Markdown cell or be taken for HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
