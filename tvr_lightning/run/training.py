"""Builds what an experiment describes and runs it: `fit`, `validate`, `test`, `predict`."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerStatus

from tvr_lightning.config.objects import class_of
from tvr_lightning.data.annotations.base import TEST, Annotations
from tvr_lightning.data.stores.files import written_atomically
from tvr_lightning.errors import INTERRUPTED, ConfigError, RunError
from tvr_lightning.run.build import ExperimentCLI, build_cli, resolved_config
from tvr_lightning.run.callbacks.attention import AttentionFigures
from tvr_lightning.run.callbacks.curves import Curves
from tvr_lightning.run.callbacks.faults import Siblings, explained
from tvr_lightning.run.callbacks.galleries import Galleries
from tvr_lightning.run.callbacks.guard import FiniteLoss
from tvr_lightning.run.callbacks.hashing_plots import HashingPlots
from tvr_lightning.run.callbacks.progress import Bar, StartSummary, Throughput
from tvr_lightning.run.callbacks.resume import KeepLast
from tvr_lightning.run.callbacks.run_folder import RunFolder
from tvr_lightning.run.checkpoints import (
    LAST,
    AtomicCheckpointIO,
    check_settings,
    find_checkpoint,
    find_unfinished,
    held,
)
from tvr_lightning.run.results import CHECKPOINTS, CONFIG, METRICS, PREDICTIONS
from tvr_lightning.run.trackers import build_tracker, is_first_rank

ATTEMPT = "TVR_RUN_ID"  # processes that Lightning starts for further devices write to the same run


def run(command: str, arguments: Mapping[str, Any], flags: Sequence[str] = ()) -> int:
    """Runs `fit` (with a test at its end), `validate`, `test` or `predict`; returns the exit code.

    Args:
        command: which of them.
        arguments: a composed experiment; see `arguments.read_arguments`.
        flags: `--help` or `--print_config`.
    """
    _quieten()
    if not flags:
        check_annotations(arguments)
    cli = build_cli(arguments, flags)
    config = cli.config
    if command != "fit" and config.ckpt_path is None:
        raise ConfigError(
            f"`tvr {command}` needs weights: --ckpt_path=last or best (of the experiment's newest run that has it), "
            "a run folder or a file"
        )
    if command == "validate" and cli.datamodule.selection == "last":
        raise ConfigError("nothing to validate on: data.selection is `last`; set it to validation, holdout or test")
    if config.checkpoint_every < 1:
        raise ConfigError(f"checkpoint_every is {config.checkpoint_every}; it must be at least 1")
    home = Path(config.runs_dir) / config.experiment
    resumed = None if config.resume is None else resumed_folder(cli, command, home)
    if resumed is not None:
        config.ckpt_path = str(find_checkpoint(home, str(resumed), True))
    elif config.ckpt_path is not None:
        config.ckpt_path = str(find_checkpoint(home, config.ckpt_path, command == "fit"))
    cli.datamodule.setup(command)  # what is missing is said before a run folder exists
    folder = resumed or make_run_folder(home, config.run_id, config.seed_everything)
    weights = {"ckpt_path": config.ckpt_path, "weights_only": True} if config.ckpt_path else {}
    use = ExitStack()
    try:
        if is_first_rank():
            if not resumed:
                with written_atomically(folder / CONFIG) as temporary:
                    temporary.write_text(yaml.safe_dump(resolved_config(cli), sort_keys=False), encoding="utf-8")
            use.enter_context(held(folder))
        trainer = make_trainer(cli, command, folder)
        next(c for c in trainer.callbacks if isinstance(c, Siblings)).watch(trainer)  # type: ignore[attr-defined]
        try:
            if command == "fit":
                trainer.fit(cli.model, cli.datamodule, **weights)
                trainer.test(cli.model, datamodule=cli.datamodule, verbose=False, **trained_weights(trainer, folder))
            else:
                getattr(trainer, command)(cli.model, datamodule=cli.datamodule, **weights)
        except SystemExit:  # Lightning's answer to Ctrl-C, after its own clean-up
            if trainer.state.status == TrainerStatus.INTERRUPTED:
                return INTERRUPTED
            raise
    except Exception as error:
        readable = explained(error)
        if readable is None:
            raise
        raise readable from error
    finally:
        use.close()
        kept = any((folder / name).exists() for name in (METRICS, PREDICTIONS, CHECKPOINTS))
        if not kept and is_first_rank():
            shutil.rmtree(folder, ignore_errors=True)  # it failed before it had anything to keep, or only validated
    if trainer.is_global_zero and folder.exists():
        print(f"run folder: {folder}")
    return 0


def check_annotations(config: Mapping[str, Any]) -> None:
    """Makes a dataset that can be made, and reads its test split before any weights are fetched: faults come first.

    Raises:
        DataError: annotation files are missing or broken.
    """
    part = config.get("data", {}).get("annotations")
    kind = class_of(part)
    if kind is not None and issubclass(kind, Annotations):
        reader = kind(**((part.get("init_args") or {}) if isinstance(part, Mapping) else {}))
        reader.prepare()
        reader.load(TEST)


def _quieten() -> None:
    """Silences what Lightning says about itself; its warnings about the run stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    noise = (
        "LeafSpec",
        "does not have many workers",
        "in eval mode at the start",  # frozen encoders
        "exists and is not empty",
        "dirpath has changed",
        "logging interval",
        "across ranks is zero",
        "your dataloader is not resumable",  # it is: see `KeepLast`
        "sync_dist=True",  # every rank has the whole result
        "Using `DistributedSampler` with the dataloaders",  # shares are exact: no sample is repeated
    )
    for message in (f".*{words}.*" for words in noise):
        warnings.filterwarnings("ignore", message)


def resumed_folder(cli: ExperimentCLI, command: str, home: Path) -> Path:
    """The folder of the unfinished run that goes on, under the settings it began with.

    Raises:
        ConfigError: settings that contradict `--resume`.
        RunError: there is no such run, it is finished, or it began with other settings.
    """
    config = cli.config
    if command != "fit" or config.ckpt_path is not None:
        raise ConfigError(
            "--resume goes on with a run that did not finish: it is for `tvr fit`, and --ckpt_path is for new runs"
        )
    if "LOCAL_RANK" in os.environ and ATTEMPT in os.environ:
        return Path(os.environ[ATTEMPT])
    folder = find_unfinished(home, config.resume)
    if config.run_id not in (None, folder.name):
        raise ConfigError(f"--resume goes on in {folder}; --run_id={config.run_id} names another folder")
    check_settings(folder, resolved_config(cli))
    os.environ[ATTEMPT] = str(folder)
    return folder


def make_run_folder(home: Path, run_id: str | None, seed: int) -> Path:
    """Makes `home/run_id`; processes of further devices get the folder that the first one made.

    Raises:
        RunError: the folder exists, or cannot be made.
        ConfigError: the processes of a cluster need a common name.
    """
    if ATTEMPT in os.environ and "LOCAL_RANK" in os.environ:
        return Path(os.environ[ATTEMPT])
    rank = next((int(os.environ[name]) for name in ("RANK", "SLURM_PROCID") if name in os.environ), None)
    if run_id is None:
        if rank is not None and int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1:
            raise ConfigError("several processes start this run, so they need a common name: set --run_id=NAME")
        run_id = f"{datetime.now():%Y%m%d-%H%M%S}-s{seed}"
    folder = home / run_id
    if not rank:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise RunError(
                f"run folder {folder} exists; a run never writes over another. Choose another --run_id or remove it."
            ) from None
        except OSError as error:
            raise RunError(f"cannot make the run folder {folder}: {error.strerror}; set --runs_dir") from None
    os.environ[ATTEMPT] = str(folder)
    return folder


def make_trainer(cli: ExperimentCLI, command: str, folder: Path) -> Trainer:
    """Builds the trainer with the callbacks that every run has."""
    config, data, model = cli.config, cli.datamodule, cli.model
    settings: dict[str, Any] = cli.config_init.trainer.as_dict()
    check_strategy(settings["strategy"])
    encoder = " + ".join(encoder.name for encoder in model.encoders)
    smoke = bool(settings["fast_dev_run"])
    if command == "validate" or smoke:
        settings["logger"] = False
    elif settings["logger"] is None:
        tags = [type(model).__name__, encoder, data.annotations.protocol]
        settings["logger"] = build_tracker(config.tracker, folder, config.experiment, data.dataset, tags)
    callbacks: list[Callback] = list(settings["callbacks"] or [])
    callbacks += [
        StartSummary(),
        Throughput(),
        FiniteLoss(),
        Siblings(),
        RunFolder(folder, config.experiment, encoder, config.seed_everything),
        Curves(folder),
        HashingPlots(folder),
        Galleries(folder),
        AttentionFigures(),
    ]
    if settings["logger"] and command == "fit":
        callbacks.append(LearningRateMonitor("step"))
    if settings["enable_progress_bar"] is not False and sys.stderr.isatty():
        callbacks.append(Bar())
    else:
        settings["enable_progress_bar"] = False
    if not smoke and settings["enable_checkpointing"] is not False:
        kept: dict[str, Any] = {"dirpath": folder / CHECKPOINTS, "enable_version_counter": False}
        if data.selection != "last":
            callbacks.append(ModelCheckpoint(filename="best", monitor=model.monitor, mode="max", **kept))
        callbacks.append(KeepLast(folder, config.checkpoint_every))
    if data.selection == "last":
        settings["limit_val_batches"] = 0
    if settings["num_sanity_val_steps"] is None:
        settings["num_sanity_val_steps"] = 0  # a few batches of captions and videos score nothing
    # the sampler shares samples among ranks itself; Lightning's would repeat some in evaluation
    settings |= {"callbacks": callbacks, "use_distributed_sampler": False, "default_root_dir": folder}
    settings |= {"enable_model_summary": False, "plugins": [*_listed(settings["plugins"]), AtomicCheckpointIO()]}
    return Trainer(**settings)


def check_strategy(strategy: Any) -> None:
    """Refuses strategies that leave no rank with the whole model.

    Raises:
        ConfigError: FSDP, DeepSpeed or another that cuts parameters into shards.
    """
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if any(word in name.lower().replace("_", "") for word in ("fsdp", "deepspeed", "modelparallel")):
        raise ConfigError(
            f"trainer.strategy={name} cuts parameters into shards that are whole only inside the module's forward "
            "pass; scoring all pairs and checking a checkpoint's shapes happen outside of it. Use ddp (what "
            "--trainer.devices=N chooses); for memory: bf16-mixed, gradient_checkpointing and "
            "model.optimizer.loss_chunk, see docs/training.md"
        )


def _listed(plugins: Any) -> list[Any]:
    return list(plugins) if isinstance(plugins, list) else [plugins] if plugins else []


def trained_weights(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """The checkpoint that a fit ends with: the selected one, else the last; none after a smoke run."""
    paths = [Path(c.best_model_path) for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    # a resumed run remembers the best of the run that it goes on from: that is not its own
    home = folder.resolve() / CHECKPOINTS
    own = [p for p in (*paths, home / LAST) if p.is_file() and p.is_relative_to(home)]
    return {"ckpt_path": str(own[0]), "weights_only": True} if own else {}
