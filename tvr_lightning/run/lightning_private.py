"""What the suite reads of Lightning's inside: members of its loops, and where its checkpoints keep their counts.

Lightning promises none of it, hence one file for all, which the versions that were read may use and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from subprocess import Popen
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger

from tvr_lightning.errors import RunError

FROM, BELOW = (2, 6), (3, 0)  # as in pyproject.toml
INSTALLED = version("pytorch_lightning")


class Member(StrEnum):
    """Members of a trainer that no hook gives, each with what it tells."""

    DATA_FETCHER = "fit_loop._data_fetcher"  # what iterates over the training batches: the next member asks for it
    VALIDATES_NOW = "fit_loop.epoch_loop._should_check_val_fx"  # a validation follows this batch
    ACCUMULATES = "fit_loop.epoch_loop._should_accumulate"  # gradients of this batch wait for those of others
    ENDS_EPOCH = "fit_loop.epoch_loop._num_ready_batches_reached"  # this batch is the epoch's last
    BATCH_INDEX = "fit_loop.epoch_loop.total_batch_idx"  # over all epochs, batches that took no step among them
    SAVED_AT_END = "fit_loop.restarted_on_epoch_end"  # the checkpoint was saved after its epoch's last batch
    END_EPOCH = "fit_loop.epoch_progress.increment_completed"
    RESTARTING = "fit_loop.epoch_loop.restarting"
    FORGET_RESTART = "fit_loop.reset_restart_stage"


def check_lightning(trainer: Trainer) -> None:
    """Refuses to train under a Lightning whose inside nobody has read, rather than to fail at its first checkpoint.

    Raises:
        RunError: another version, or a member is gone; names it.
    """
    if not FROM <= tuple(int(part) for part in INSTALLED.split(".")[:2]) < BELOW:
        raise _unsupported("its checkpoints may lie otherwise")
    for member in Member:
        _get(trainer, member)


def _get(trainer: Trainer, member: Member) -> Any:
    try:
        return attrgetter(member)(trainer)
    except AttributeError as error:
        raise _unsupported(f"its trainer has no {member}") from error


def _unsupported(what: str) -> RunError:
    wanted = f"pytorch-lightning>={'.'.join(map(str, FROM))},<{BELOW[0]}"
    return RunError(
        f"pytorch-lightning {INSTALLED} is installed, and {what}; runs could not be resumed. "
        f"Install the version that the suite was tested with: make setup, or pip install '{wanted}'"
    )


def can_resume_after_batch(trainer: Trainer) -> bool:
    """Whether a checkpoint saved right after a training batch holds all that the next batch needs.

    It does not inside an accumulation window, whose gradients are nowhere kept, nor before a validation or an epoch's
    end, which Lightning would leave out.
    """
    if _get(trainer, Member.ACCUMULATES)() or _get(trainer, Member.ENDS_EPOCH)():
        return False
    return not _get(trainer, Member.VALIDATES_NOW)(_get(trainer, Member.DATA_FETCHER))


def batch_index(trainer: Trainer) -> int:
    """Number of the last training batch, over all epochs; -1 before the first."""
    return int(_get(trainer, Member.BATCH_INDEX))


def finish_resumed_epoch(trainer: Trainer) -> None:
    """Ends the epoch of a checkpoint saved at its end: under max_steps Lightning ends it twice and omits the next."""
    if _get(trainer, Member.SAVED_AT_END):
        _get(trainer, Member.END_EPOCH)()
        trainer.fit_loop.epoch_loop.restarting = False
        _get(trainer, Member.FORGET_RESTART)()


def launched_processes(trainer: Trainer) -> list[Popen[Any]]:
    """The ranks of this machine that this process started: none before the start, nor in those ranks themselves."""
    launcher: Any = trainer.strategy.launcher  # each kind of launcher has its own, and a started rank has none
    return [] if launcher is None else [process for process in launcher.procs if isinstance(process, Popen)]


def count_skipped_batches(checkpoint: Mapping[str, Any]) -> None:
    """Counts skipped batches as begun: Lightning does not, and would then resume at another batch."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for count in (progress["total"], progress["current"]):
        count["started"] = count["ready"]


def position(checkpoint: Mapping[str, Any]) -> tuple[int, int]:
    """Epoch, and batches of it that a rank has trained on, from Lightning's own counts in a checkpoint."""
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]["current"]
    inside = epochs["started"] > epochs["processed"]
    return epochs["processed"], batches["processed"] if inside else 0


def without_deprecated(logger: WandbLogger) -> WandbLogger:
    """Takes out of what Lightning hands to W&B a setting that W&B only warns of."""
    getattr(logger, "_wandb_init", {}).pop("anonymous", None)
    return logger


def move_selection(state: dict[str, Any], folder: str) -> None:
    """Rewrites the paths in a `ModelCheckpoint`'s state: Lightning forgets the best of a run whose folder was moved."""
    if not state:
        return

    def moved(path: str) -> str:
        return str(Path(folder) / Path(path).name) if path else path

    state |= {key: moved(state[key]) for key in ("best_model_path", "kth_best_model_path")}
    state |= {"best_k_models": {moved(k): v for k, v in state["best_k_models"].items()}, "dirpath": folder}
