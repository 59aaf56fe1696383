"""Lightning's own switches: each does what it says, or is refused in one line before data is read."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from typing import Any

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Trainer

from tvr_lightning.data.annotations.base import TEST, VALIDATION
from tvr_lightning.data.datamodule import VideoTextDataModule
from tvr_lightning.errors import ConfigError, nearest
from tvr_lightning.names import LEAKY
from tvr_lightning.run.accelerators import ExperimentTrainer
from tvr_lightning.run.results import DIRECTIONS, LOWER_IS_BETTER

REFUSED = {
    "overfit_batches": "Lightning would put its own sampler in place of the seeded one. For a few videos that "
    "every epoch sees: --data.subset=N (of each split), with --data.batch_size at most N",
    "barebones": "it leaves out checkpoints, metrics and everything else that a result is made of",
    "default_root_dir": "a run keeps all it writes in its own folder: set --runs_dir",
    "model_registry": "a run's checkpoints lie in its folder: `checkpoints/best.ckpt`, `checkpoints/last.ckpt`",
}
AT_LEAST = {
    "check_val_every_n_epoch": 1, "accumulate_grad_batches": 1, "gradient_clip_val": 0, "log_every_n_steps": 0,
    "num_nodes": 1,
}  # fmt: skip
SHARDS = ("fsdp", "deepspeed", "modelparallel")
COPIES = ("spawn", "fork", "notebook")
METRICS = ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "RSum", "mAP")
OF_VALIDATION = re.compile(
    rf"val/({re.escape(LEAKY)})?(SumR|((dsl|qb|sk1?)/)?(SumR|({'|'.join(DIRECTIONS)})/({'|'.join(METRICS)}))|(hash|probe)/.+)$"
)
NAMED_BY_HAND = ("MASTER_ADDR", "NODE_RANK", "GROUP_RANK")  # what says where a node's partners are


def check_switches(settings: Mapping[str, Any], command: str) -> None:
    """Refuses trainer settings that a run would fail under, or end under with figures that are none.

    What depends on the data is left to `check_with_data`.

    Args:
        settings: arguments of `ExperimentTrainer`.
        command: `fit`, `validate`, `test` or `predict`.

    Raises:
        ConfigError: names the setting, and what does what it was meant to.

    >>> check_switches({"overfit_batches": 1}, "fit")
    Traceback (most recent call last):
    ...
    tvr_lightning.errors.ConfigError: trainer.overfit_batches=1: ...
    """
    for name, reason in REFUSED.items():
        if settings.get(name):
            raise ConfigError(f"trainer.{name}={settings[name]}: {reason}")
    for name, least in AT_LEAST.items():
        value = settings.get(name)
        if isinstance(value, int | float) and value < least:
            raise ConfigError(f"trainer.{name} is {value}; it must be at least {least}")
    check_strategy(settings.get("strategy", "auto"))
    _check_lengths(settings, command)
    _check_limits(settings, command)
    # what is left is Lightning's to judge; a trainer is built in milliseconds
    bare = {"callbacks": None, "logger": False, "enable_progress_bar": False, "plugins": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run's own trainer says them
        check_nodes(ExperimentTrainer(**{**settings, **bare}))


def check_strategy(strategy: Any) -> None:
    """Refuses strategies that leave no process with the whole model, or the first one without what was trained.

    Raises:
        ConfigError: FSDP, DeepSpeed or another that shards parameters; or one whose ranks are copies of this process.
    """
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    plain = name.lower().replace("_", "")
    if any(word in plain for word in SHARDS):
        raise ConfigError(
            f"trainer.strategy={name} splits parameters into shards that are whole only inside the module's forward "
            "pass; scoring all pairs and checking a checkpoint's shapes happen outside of it. Use ddp (what "
            "--trainer.devices=N chooses); for memory: bf16-mixed, gradient_checkpointing and "
            "model.optimizer.loss_chunk, see docs/training.md"
        )
    method = getattr(strategy, "_start_method", None)  # of an object
    if any(word in plain for word in COPIES) or method in ("spawn", "fork", "forkserver"):
        raise ConfigError(
            f"trainer.strategy={name} trains in copies of this process, and what they trained ends with them. Use ddp "
            "(what --trainer.devices=N chooses), whose processes each run this command"
        )


def check_nodes(trainer: Trainer) -> None:
    """Refuses several machines that nothing has started together: each would wait for the others without a word.

    Raises:
        ConfigError: names a launcher.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    by_hand = any(name in os.environ for name in NAMED_BY_HAND)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and not by_hand:
        raise ConfigError(
            f"trainer.num_nodes={trainer.num_nodes}, but nothing started this process as one of several machines': "
            "start it with torchrun or under SLURM, see docs/training.md"
        )


def _check_lengths(settings: Mapping[str, Any], command: str) -> None:
    for what in ("epochs", "steps"):
        most, least = settings.get(f"max_{what}"), settings.get(f"min_{what}")
        if command == "fit" and most == 0:
            raise ConfigError(
                f"trainer.max_{what} is 0: nothing would be trained. To evaluate weights: tvr test ... --ckpt_path=RUN"
            )
        if most is not None and 0 < most < (least or 0):
            raise ConfigError(f"trainer.min_{what} is {least}, more than trainer.max_{what}, {most}")


def _check_limits(settings: Mapping[str, Any], command: str) -> None:
    used = {"fit": ("train", "test"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}[command]
    for part in used:
        if settings.get(f"limit_{part}_batches") == 0:
            raise ConfigError(f"trainer.limit_{part}_batches is 0: `tvr {command}` would end without a result")


def check_with_data(settings: Mapping[str, Any], data: VideoTextDataModule, command: str) -> None:
    """Refuses what does not go with the data's selection, and shares of batches that come to none.

    Args:
        settings: arguments of `ExperimentTrainer`.
        data: its splits are set up.
        command: `fit`, `validate`, `test` or `predict`.

    Raises:
        ConfigError: names the setting, and what works.
    """
    if command == "fit":
        check_selection(settings, data.selection)
    for part, names in (("test", (TEST,)), ("predict", (TEST,)), ("val", (VALIDATION,))):
        limit = settings.get(f"limit_{part}_batches")
        for split in (data.splits[name] for name in names if name in data.splits):
            batches = min(-(-len(items) // data.eval_batch_size) for items in (split.captions, split.records))
            if isinstance(limit, float) and 0 < limit < 1 and int(limit * batches) < 1:
                raise ConfigError(
                    f"trainer.limit_{part}_batches={limit} of {batches} batches of {split.name} leaves none: set a "
                    "number "
                    "of batches, a smaller data.eval_batch_size, or data.subset"
                )


def check_selection(settings: Mapping[str, Any], selection: str) -> None:
    """Refuses training in which nothing can choose what is to be chosen.

    Args:
        settings: arguments of `ExperimentTrainer`.
        selection: what chooses the checkpoint, see `VideoTextDataModule.selection`.

    Raises:
        ConfigError: names the setting or the callback.
    """
    if selection != "last" and settings.get("limit_val_batches") == 0:
        raise ConfigError(
            f"trainer.limit_val_batches is 0, but data.selection={selection} chooses the checkpoint by validating: set "
            "data.selection=last to test the last weights"
        )
    for callback in settings.get("callbacks") or []:
        _check_monitor(callback, selection)


def _check_monitor(callback: Any, selection: str) -> None:
    """Refuses callbacks that wait for a figure that never comes, or take the worst for the best."""
    name, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
    if not isinstance(name, str) or not name.startswith("val"):
        return
    what = f"{type(callback).__name__}: monitor is {name}"
    if not OF_VALIDATION.match(name):
        known = [f"val/{direction}/{metric}" for direction in DIRECTIONS for metric in METRICS]
        raise ConfigError(f"{what}, which no validation computes; {nearest(name, ['val/SumR', *known])}")
    if selection == "last":
        raise ConfigError(f"{what}, but data.selection is `last`: nothing validates. Set validation or holdout")
    best = "min" if name.rpartition("/")[2] in LOWER_IS_BETTER else "max"
    if mode in ("min", "max") and mode != best:
        raise ConfigError(f"{what}, whose {best}imum is best, but mode is {mode}: set mode={best}")
