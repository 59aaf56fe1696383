"""What people see while a run is going on: what it starts with, how fast it is, how long it will take."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_warn
from rich.table import Table

from tvr_lightning.data.tools.bounds import usable_cores
from tvr_lightning.run.lightning_private import batch_index
from tvr_lightning.visible import console, say

if TYPE_CHECKING:
    from tvr_lightning.data.datamodule import VideoTextDataModule

LINE_EVERY_S = 20.0
WAITS_AFTER, WAITS_SHARE = 30, 0.1  # steps that are watched, and the share of their time that is worth a line


def duration(seconds: float) -> str:
    """Formats seconds as `1:02:03` or `02:03`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes:02}:{secs:02}"


class Throughput(Callback):
    """Logs training samples per second (data, forward, backward, optimiser; over all ranks) and time left.

    Where standard error is not a terminal, prints a line now and then instead of a bar.
    """

    def __init__(self) -> None:
        self._start = self._since = self._line = 0.0
        self._first = self._samples = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start = self._since = self._line = time.monotonic()
        self._first = batch_index(trainer)
        if trainer.accumulate_grad_batches > 1:
            rank_zero_warn(
                f"gradients of {trainer.accumulate_grad_batches} batches are added up; each caption is still "
                "contrasted with the videos of its own batch only: negatives do not grow with accumulation"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves validation out of the count."""
        self._since, self._samples = time.monotonic(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts, and reports where no bar does."""
        now = time.monotonic()
        self._samples += (len(batch) if batch is not None else 0) * trainer.world_size
        rate = self._samples / max(now - self._since, 1e-9)
        pl_module.log("samples_per_s", rate, prog_bar=True, batch_size=1)
        if sys.stderr.isatty() or now - self._line < LINE_EVERY_S or not trainer.is_global_zero:
            return
        self._line = now
        done = batch_index(trainer) + 1
        total = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
        left = (now - self._start) / (done - self._first) * max(0, total - done)
        shown = trainer.progress_bar_metrics
        scale = f", logit scale {shown['logit_scale']:.1f}" if "logit_scale" in shown else ""
        loss = shown.get("train/loss", float("nan"))
        say(
            f"epoch {trainer.current_epoch}, batch {done}/{total}: loss {loss:.3f}{scale}, {rate:.1f} samples/s, "
            f"{duration(left)} left",
            file=sys.stderr,
            flush=True,
        )


class DataWaits(Callback):
    """Says once when a GPU stands idle because the next batch is not there yet, and what helps.

    The clock runs from the end of a step to the arrival of the next batch, and counts where the GPU had by then done
    all that it was given; asking that does not wait for it.
    """

    def __init__(self) -> None:
        self._done: torch.cuda.Event | None = None
        self._ended = self._began = self._waited = 0.0
        self._steps = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Counts, and says it after some steps."""
        now = time.monotonic()
        if self._done is None:
            self._began = now
            return
        self._steps += 1
        self._waited += (now - self._ended) * self._done.query()
        if self._steps == WAITS_AFTER and trainer.is_global_zero:
            share = self._waited / max(now - self._began, 1e-9)
            if share > WAITS_SHARE:
                say(waiting_line(share, trainer.datamodule), file=sys.stderr)  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Marks what the GPU was given."""
        if pl_module.device.type == "cuda" and self._steps < WAITS_AFTER:
            self._done = torch.cuda.Event()
            self._done.record()
            self._ended = time.monotonic()


def waiting_line(share: float, data: VideoTextDataModule) -> str:
    """What a GPU waits for, and the settings that help."""
    cores = usable_cores()
    ways = []
    if not data.cache_frames and not data.jitter:
        ways.append("--data.cache_frames=true decodes each video once")
    if data.num_workers < cores:
        ways.append(f"--data.num_workers={cores} uses all cores")
    if data.cache_frames:
        ways.append("later epochs read cached frames")
    ways.append("`tvr data compress` makes small copies of the videos")
    return (
        f"GPU waits for decoding: {share:.0%} of the first {WAITS_AFTER} steps, with data.num_workers="
        f"{data.num_workers}. {'; '.join(ways)}."
    )


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, without the version number among the metrics."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Metrics that the bar shows."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class StartSummary(Callback):
    """Prints the data (videos, captions, what is missing) and the model (parameters) before the first step.

    Args:
        model: whether the model's table too, `trainer.enable_model_summary`.
    """

    def __init__(self, model: bool = True) -> None:
        self.model = model

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints both tables."""
        if not trainer.is_global_zero:
            return
        out = console(stderr=True)
        data = trainer.datamodule  # type: ignore[attr-defined]
        summaries = [split.summary() for split in data.splits.values()]
        names = ("videos", "captions", "listed", "missing", "without_captions", "truncated_captions", "truncated_nodes")
        columns = [name for name in names if all(name in summary for summary in summaries)]
        title = f"{data.dataset} {data.annotations.protocol}"
        table = Table("split", *(c.replace("_", " ") for c in columns), title=title)
        for summary in summaries:
            table.add_row(summary["split"], *(f"{summary[c]:,}" for c in columns))
        out.print(table)
        if self.model:
            out.print(_parameters_of(pl_module))
        selects = {
            "validation": "the validation split selects the checkpoint",
            "holdout": "5 % of the training videos, held out, select the checkpoint",
            "last": "nothing selects a checkpoint: the final weights are tested",
            "test": "the TEST split selects the checkpoint; every result is marked so",
        }
        out.print(selects[data.selection], highlight=False)


def _parameters_of(module: LightningModule) -> Table:
    table = Table("part", "parameters", "trainable", title=type(module).__name__)
    for name, part in (*module.named_children(), ("all", module)):
        count, trainable = count_parameters(part)
        table.add_row(name, f"{count:,}", f"{trainable:,}")
    return table


def count_parameters(module: Any) -> tuple[int, int]:
    """Number of parameters, and of those that train."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
