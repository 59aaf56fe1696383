"""Keeps curves in the run folder, whatever the tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tvr_lightning.run.curves import CURVES, read_curves, write_curves


class Curves(Callback):
    """Writes `curves.csv`: per epoch the mean training loss, the logit scale at its end, validation metrics.

    Args:
        path: the run's folder; a file that lies there is gone on with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._losses: list[Tensor] = []
        self._validation: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """The losses of the epoch so far, so that a run that goes on inside it has the mean of all."""
        return {"losses": [float(x) for x in self._losses], "validation": self._validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with them."""
        self._losses = [torch.tensor(x) for x in state_dict["losses"]]
        self._validation = dict(state_dict["validation"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the epoch before."""
        self._losses, self._validation = [], {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the loss where it is: reading it would make the step wait for the device."""
        if outputs and "loss" in outputs:
            self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)  # Lightning divided it

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers the figures of this epoch's last validation."""
        if not trainer.sanity_checking:
            metrics = trainer.callback_metrics
            self._validation = {k: float(v) for k, v in metrics.items() if k.startswith("val/")}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the epoch's row."""
        if not trainer.is_global_zero:
            return
        row = {"epoch": float(trainer.current_epoch), "step": float(trainer.global_step), **self._validation}
        if self._losses:
            row["train/loss"] = float(torch.stack([x.float().cpu() for x in self._losses]).mean())
        if "logit_scale" in trainer.callback_metrics:
            row["logit_scale"] = float(trainer.callback_metrics["logit_scale"])
        before = [r for r in read_curves(self.path / CURVES) if r["epoch"] < row["epoch"]]
        write_curves(self.path / CURVES, [*before, row])
