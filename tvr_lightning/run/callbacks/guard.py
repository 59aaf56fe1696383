"""Stops a run whose loss, gradients or weights are not numbers, before a checkpoint holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from tvr_lightning.errors import ScoreError, few
from tvr_lightning.optim import scales_losses

REMEDY = (
    "The last checkpoint was not overwritten. A lower learning rate, gradient clipping or bf16 instead of fp16 usually "
    "helps; if the same videos come up again, look at them."
)
SMALLEST_SCALE = 2.0**-24  # fp16's scale of losses begins at 2^16 and is halved with every step that is left out


class _Answer(NamedTuple):
    """Whether something was finite, on its way from a GPU."""

    what: str
    step: int
    videos: list[Tensor]
    host: Tensor
    event: torch.cuda.Event


class FiniteTraining(Callback):
    """Stops when a loss, a gradient or a weight is NaN or infinite, before a checkpoint can hold it.

    Names the step and the batch's videos. On a GPU the answer is read one step later, or before weights are saved, from
    a copy that is then ready: reading it at once would make every step wait for the device. Under fp16 gradients are
    the scaler's to judge, which leaves such steps out; they are a fault only when no step is taken any more.
    """

    def __init__(self) -> None:
        self._videos: list[Tensor] = []  # of each batch since the last optimiser step, rows of the split
        self._stepped = True
        self._pending: list[_Answer] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers the videos that a step is made of, which the message names."""
        self._videos = ([] if self._stepped else self._videos) + ([] if batch is None else [batch.video.index])
        self._stepped = False

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Checks the loss of this step (CPU), or all of the one before (GPU)."""
        self._check_pending(trainer, pl_module)
        self._check("loss", torch.isfinite(loss.detach()), trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Checks the gradients that this optimiser is about to use, whatever the loss was."""
        self._stepped = True
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients and not scales_losses(trainer):
            # the largest value, NaN where there is one: a few kernels for all gradients together
            self._check("gradient", torch.isfinite(get_total_norm(gradients, math.inf)), trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Checks the last step of a GPU run, and the weights themselves, before they are kept.

        Raises:
            ScoreError: a weight is not finite, or fp16 has left out every step for long.
        """
        self._check_pending(trainer, pl_module)
        if wrong := not_finite((name, p) for name, p in pl_module.named_parameters()):
            raise ScoreError(
                f"weights are not finite after step {trainer.global_step}: {few(wrong)}. The last checkpoint was not "
                "overwritten. A lower learning rate or gradient clipping usually helps."
            )
        plugin = trainer.precision_plugin
        scaler = plugin.scaler if isinstance(plugin, MixedPrecision) else None
        if scaler is not None and scaler.get_scale() < SMALLEST_SCALE:
            raise ScoreError(
                f"fp16 training takes no more steps at step {trainer.global_step}: gradients were not finite so often "
                "that "
                f"its scale fell to {scaler.get_scale():.0e}. {REMEDY}"
            )

    def _check(self, what: str, finite: Tensor, trainer: Trainer, module: nn.Module) -> None:
        videos = self._videos[-1:] if what == "loss" else self._videos  # a loss is one batch's
        if finite.device.type != "cuda":
            if not bool(finite):
                raise self._error(what, trainer.global_step, videos, trainer, module)
            return
        host = torch.empty((), dtype=torch.bool, pin_memory=True)
        host.copy_(finite, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append(_Answer(what, trainer.global_step, videos, host, event))

    def _check_pending(self, trainer: Trainer, module: nn.Module) -> None:
        pending, self._pending = self._pending, []
        for answer in pending:
            answer.event.synchronize()
            if not bool(answer.host):
                raise self._error(answer.what, answer.step, answer.videos, trainer, module)

    def _error(self, what: str, step: int, videos: list[Tensor], trainer: Trainer, module: nn.Module) -> ScoreError:
        records = trainer.datamodule.splits["train"].records  # type: ignore[attr-defined]
        ids = [records[i].video_id for rows in videos for i in rows.tolist()]
        where, batches = "", "batch holds" if len(videos) == 1 else "batches hold"
        if what == "gradient":
            wrong = not_finite((name, p.grad) for name, p in module.named_parameters() if p.grad is not None)
            where = f", though the loss is ({few(wrong)})"
        return ScoreError(
            f"the {what} of step {step} is not finite{where}; its {batches} the videos {few(ids, 10)}. {REMEDY}"
        )


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of those tensors that hold a NaN or an infinite value; waits for the device once.

    >>> not_finite([("a", torch.ones(2)), ("b", torch.tensor([1.0, torch.nan]))])
    ['b']
    """
    names, finite = [], []
    with torch.no_grad():
        for name, tensor in tensors:
            names.append(name)
            finite.append(torch.isfinite(tensor).all())
        return [n for n, whole in zip(names, torch.stack(finite).tolist(), strict=True) if not whole] if names else []
