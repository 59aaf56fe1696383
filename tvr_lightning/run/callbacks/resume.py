"""Keeps `last.ckpt` such that a killed run continues from it as if nothing had happened."""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from tvr_lightning.errors import RunError
from tvr_lightning.names import CHECKPOINTS, LAST
from tvr_lightning.nn.similarity import LogitScale
from tvr_lightning.run.lightning_private import (
    can_resume_after_batch,
    check_lightning,
    count_skipped_batches,
    finish_resumed_epoch,
    move_selection,
    position,
)
from tvr_lightning.visible import say


class KeepLast(Checkpoint):
    """Saves `last.ckpt` at the end of every epoch, and inside it every few optimiser steps.

    A checkpoint holds the random state of each rank; the position in the epoch comes from the trainer's own count of
    batches that were trained on, not from what workers read ahead. Where `can_resume_after_batch` says no, nothing is
    saved: the next step or the epoch's end does it.

    The first Ctrl-C on one device waits for the next of these places, saves and ends the run; the second ends it at
    once. After a SIGTERM Lightning ends the run with the step, which is saved if it is such a place. Several devices
    would have to agree on the place at every step: there the checkpoint before stands.

    Args:
        folder: the run's folder.
        every: optimiser steps between two checkpoints.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.path = folder / CHECKPOINTS / LAST
        self.every = every
        self._saved = 0
        self._stop = False
        self._random: list[dict[str, Any]] | None = None
        self._handler: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks whether this Lightning can be resumed at all, before anything is trained."""
        if stage == "fit":
            check_lightning(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Random states of all ranks, in their order; every rank calls this."""
        states = [random_state()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, states[0])
            states = gathered
        return {"random": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the random states until training starts: what is set up before may draw."""
        self._random = state_dict["random"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Corrects the count of batches, and notes the precision, which `auto` chooses by the devices."""
        count_skipped_batches(checkpoint)
        checkpoint["precision"] = str(trainer.precision)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Tells the data where training goes on, and the selection where the run's folder lies now.

        Raises:
            RunError: the run began in another precision.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        trainer.datamodule.start = position(checkpoint)  # type: ignore[attr-defined]
        if Path(str(trainer.ckpt_path)).absolute() == self.path.absolute():
            began, here = checkpoint.get("precision", str(trainer.precision)), str(trainer.precision)
            if began != here:
                raise RunError(
                    f"the run was started in {began}, but its devices here give {here} (trainer.precision is auto): "
                    "resume it "
                    f"where they give {began}, or start a new run from its weights: --ckpt_path={self.path.parents[1]}"
                )
            selecting = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
            for callback in selecting:
                move_selection(checkpoint["callbacks"].get(callback.state_key, {}), str(callback.dirpath))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the random state back, and takes over Ctrl-C."""
        self._saved = trainer.global_step
        finish_resumed_epoch(trainer)
        if self._random is not None:
            states, rank = self._random, trainer.global_rank
            set_random_state(states[rank if len(states) == trainer.world_size else 0])
            self._random = None
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupted)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time and the place is one that a run can go on from."""
        stop = self._stop or (trainer.world_size == 1 and trainer.received_sigterm)
        if not stop and trainer.global_step - self._saved < self.every:
            return
        if not can_resume_after_batch(trainer):
            return
        for module in pl_module.modules():
            if isinstance(module, LogitScale):
                module.clamp_()  # the method's own turn comes after the callbacks'
        self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves; what selects the best checkpoint has had its turn."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved = trainer.global_step
        if self._stop:
            raise KeyboardInterrupt

    def _interrupted(self, number: int, frame: Any) -> None:
        self._stop = True
        self._release()
        say(
            "ends after this step and saves its weights; press Ctrl-C again to end at once", file=sys.stderr, flush=True
        )

    def _release(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives Ctrl-C back."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives Ctrl-C back, and says what an interrupted run leaves."""
        self._release()
        interrupted = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if not interrupted or trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero:
            return
        kept = (
            f"weights of step {self._saved} kept in {self.path}; go on with --resume={self.path.parents[1]}"
            if self.path.is_file()
            else "no checkpoint was due yet"
        )
        say(f"interrupted at step {trainer.global_step}; {kept}", file=sys.stderr)


def random_state() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators, as plain containers that load without pickle."""
    version, words, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, np.int64)), int(place), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores what `random_state` gave; a GPU's only where there is one."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"].cpu())
