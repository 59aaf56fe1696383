"""Stops a run whose loss is no number."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tvr_lightning.errors import ScoreError, few
from tvr_lightning.types import VideoTextBatch


class FiniteLoss(Callback):
    """Stops with the step and the batch's videos when a loss is NaN or infinite, before a checkpoint can hold it.

    On a GPU the answer is read one step later, or before weights are saved, from a copy that is then ready: reading it
    at once would make every step wait for the device.
    """

    def __init__(self) -> None:
        self._batch: VideoTextBatch | None = None
        self._pending: tuple[int, VideoTextBatch | None, Tensor, torch.cuda.Event] | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers the batch, whose videos the message names."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Checks the loss of this step (CPU) or of the one before (GPU)."""
        finite = torch.isfinite(loss.detach())
        if loss.device.type != "cuda":
            if not bool(finite):
                raise self._error(trainer.global_step, self._batch, trainer)
            return
        self._check_pending(trainer)
        host = torch.empty((), dtype=torch.bool, pin_memory=True)
        host.copy_(finite, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = (trainer.global_step, self._batch, host, event)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Checks the last step of a GPU run before its weights are kept."""
        self._check_pending(trainer)

    def _check_pending(self, trainer: Trainer) -> None:
        if self._pending is None:
            return
        step, batch, host, event = self._pending
        self._pending = None
        event.synchronize()
        if not bool(host):
            raise self._error(step, batch, trainer)

    def _error(self, step: int, batch: VideoTextBatch | None, trainer: Trainer) -> ScoreError:
        records = trainer.datamodule.splits["train"].records  # type: ignore[attr-defined]
        ids = [records[i].video_id for i in batch.video.index.tolist()] if batch else []
        return ScoreError(
            f"the loss of step {step} is not finite; its batch holds the videos {few(ids, 10)}. The "
            "last checkpoint was not overwritten. A lower learning rate, gradient clipping or bf16 instead of fp16 "
            "usually helps; if the same videos come up again, look at them."
        )
