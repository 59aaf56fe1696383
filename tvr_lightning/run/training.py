"""Builds what an experiment describes and runs it: `fit`, `validate`, `test`, `predict`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerStatus
from rich.table import Table

from tvr_lightning.config.objects import build_reader
from tvr_lightning.data.annotations.base import TEST
from tvr_lightning.data.galleries import check_galleries
from tvr_lightning.data.stores.files import write_text
from tvr_lightning.data.stores.hub import FetchPostponedError, without_fetching
from tvr_lightning.errors import INTERRUPTED, TERMINATED, ConfigError
from tvr_lightning.names import BEST, CHECKPOINTS, CONFIG, LAST
from tvr_lightning.run.accelerators import ExperimentTrainer, device_advice
from tvr_lightning.run.build import ExperimentCLI, build_cli, dump_config, resolved_config
from tvr_lightning.run.callbacks.curves import Curves
from tvr_lightning.run.callbacks.faults import RankWatchdog, Room
from tvr_lightning.run.callbacks.galleries import Galleries
from tvr_lightning.run.callbacks.guard import FiniteTraining
from tvr_lightning.run.callbacks.hashing_plots import HashingPlots
from tvr_lightning.run.callbacks.pictures import Pictures
from tvr_lightning.run.callbacks.progress import DataWaits, ProgressBar, StartSummary, Throughput
from tvr_lightning.run.callbacks.resume import KeepLast
from tvr_lightning.run.callbacks.run_folder import RunFolder
from tvr_lightning.run.checkpoints import (
    AtomicCheckpointIO,
    find_checkpoint,
    find_weights,
    has_weights,
    restore,
    run_folder_lock,
)
from tvr_lightning.run.folders import (
    check_names,
    going_on_in,
    make_run_folder,
    remove_without_result,
    resumed_folder,
    run_home,
)
from tvr_lightning.run.readable import readable_error
from tvr_lightning.run.released import is_released
from tvr_lightning.run.starting import check_goes_on, check_trained, command_of, say_untrained, start_from, steps_of
from tvr_lightning.run.switches import check_switches, check_with_data
from tvr_lightning.run.trackers import Tracked, build_tracker, is_first_rank
from tvr_lightning.run.wandb_account import check_online
from tvr_lightning.visible import console, say


def run(command: str, arguments: Mapping[str, Any], flags: Sequence[str] = (), kept: bool = True) -> int:
    """Runs `fit` (with a test at its end), `validate`, `test` or `predict`; returns the exit code.

    Args:
        command: which of them; where an experiment trains nothing, `fit` tests alone.
        arguments: a composed experiment; see `arguments.read_arguments`.
        flags: `--help` or `--print_config`.
        kept: whether the run's folder outlives the program, and is named at the end.
    """
    silence_lightning()
    wanted, command = command, command_of(command, arguments)
    cli, folder = build_for(command, arguments, flags)
    if not cli.config.trains and is_first_rank() and not cli.config.trainer.fast_dev_run:
        say_untrained(cli.model, wanted)
    cli.datamodule.setup(command)  # what is missing is said before a run folder exists
    check_with_data(cli.config_init.trainer.as_dict(), cli.datamodule, command)
    if is_first_rank():
        check_galleries(cli.datamodule)
    is_new = folder is None
    folder = folder or make_run_folder(cli.config)
    try:
        code = _execute(cli, command, folder, is_new)
    except Exception as error:
        readable = readable_error(error, going_on(folder))
        if readable is None:
            raise
        raise readable from error
    finally:
        if is_first_rank():
            remove_without_result(folder)
    if code == 0 and kept and is_first_rank() and folder.exists():
        say(f"run folder: {folder}")
    return code


def going_on(folder: Path) -> str:
    """How a run that ended early is taken up again, as a sentence."""
    if (folder / CHECKPOINTS / LAST).is_file():
        return f"The run can continue from its last checkpoint: --resume={folder}"
    return "There was no checkpoint yet: start it again"


def build_for(
    command: str, arguments: Mapping[str, Any], flags: Sequence[str] = ()
) -> tuple[ExperimentCLI, Path | None]:
    """Builds an experiment; faults show in the order of what they cost: in arguments, in data, in downloads.

    Everything is built at first without downloads, which shows wrong arguments. Then the dataset is made and read.
    Where weights have to be fetched, the first attempt ended there, and all is built again. With a checkpoint nothing
    is fetched: its encoders are built as it says, and have its weights before anything is computed.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        arguments: a composed experiment.
        flags: `--help` or `--print_config`, which end the program.

    Returns:
        The experiment, and the folder of the run that goes on; None for a new run.

    Raises:
        TVRError: an argument, the data or the weights do not fit.
    """
    find = partial(wanted_weights, command=command)
    try:
        with without_fetching():
            cli = build_cli(arguments, flags, find)
    except FetchPostponedError:
        check_annotations(arguments)
        cli = build_cli(arguments, (), find)
        folder = choose_weights(cli, command)
    else:
        folder = choose_weights(cli, command)
        check_annotations(arguments)
    if cli.config.ckpt_path is not None:
        restore(cli.model, Path(cli.config.ckpt_path))
    elif cli.config.weights is not None:
        start_from(cli.model, Path(cli.config.weights), resolved_config(cli)["model"])
        cli.datamodule.trained_tokenizer = (cli.model.started_from or {}).get("tokenizer")
    cli.datamodule.tokenizer.restore(cli.model.vocabulary)
    return cli, folder


def wanted_weights(config: Any, command: str) -> Path | None:
    """The checkpoint that a command begins with; None where it begins with the encoders' own weights.

    A test without `--ckpt_path` is of the experiment's newest run that has weights, as under `--ckpt_path=best`.

    Raises:
        ConfigError: the command needs one, none is named, and there is no run.
        TVRError: there is no such checkpoint or run.
    """
    check_names(config)
    if not config.trains:
        return None
    if config.resume is not None:
        return find_checkpoint(run_home(config), str(going_on_in(config, command)), resume=True)
    if command != "fit" and config.ckpt_path is None and config.weights is not None:
        weights = find_weights(run_home(config), config.weights)
        if not is_released(weights):
            raise ConfigError(
                f"--weights={config.weights} starts a new training, it is for `tvr fit`; to evaluate a run's weights: "
                f"--ckpt_path={config.weights}. Weights of a method's released code `tvr {command}` takes"
            )
        return weights
    if command != "fit" and config.ckpt_path is None:
        if not has_weights(run_home(config)):
            raise ConfigError(
                f"`tvr {command}` needs weights, and no run in {run_home(config)} has any: train first, or name "
                "others, --ckpt_path=RUN (a run's folder or a checkpoint)"
            )
        config.ckpt_path = "best"
    if command == "fit" and config.weights is not None:
        if config.ckpt_path is not None:
            raise ConfigError(
                f"--weights={config.weights} starts a new run with weights alone, --ckpt_path={config.ckpt_path} goes "
                "on with optimiser and schedule too: leave one out"
            )
        return find_weights(run_home(config), config.weights)
    return config.ckpt_path and find_checkpoint(run_home(config), config.ckpt_path, command == "fit")


def check_annotations(config: Mapping[str, Any]) -> None:
    """Makes a dataset that can be made, and reads its test split.

    Raises:
        DataError: annotation files are missing or broken.
    """
    if part := (config.get("data") or {}).get("annotations"):
        reader = build_reader(part)
        reader.prepare()
        reader.load(TEST)


def check_options(cli: ExperimentCLI, command: str) -> None:
    """Refuses options of a run that its command or its devices cannot follow.

    Raises:
        ConfigError: says which, and what to do.
    """
    config = cli.config
    if command == "validate" and cli.datamodule.selection == "last":
        raise ConfigError("nothing to validate on: data.selection is `last`; set it to validation, holdout or test")
    if config.checkpoint_every < 1:
        raise ConfigError(f"checkpoint_every is {config.checkpoint_every}; it must be at least 1")
    check_switches(cli.config_init.trainer.as_dict(), command)
    if config.tracker == "wandb" and cli.config_init.trainer.logger is None and _is_tracked(cli, command):
        check_online()


def _is_tracked(cli: ExperimentCLI, command: str) -> bool:
    return command != "validate" and not cli.config_init.trainer.fast_dev_run


def choose_weights(cli: ExperimentCLI, command: str) -> Path | None:
    """Puts a checkpoint's path in place of `last`, `best`, a run folder or `--resume`.

    Returns:
        The folder of the run that goes on; None for a new run.

    Raises:
        TVRError: there is no such checkpoint or run, it cannot be used so, or an option does not fit the command.
    """
    check_options(cli, command)
    config = cli.config
    resumed = None if config.resume is None else resumed_folder(cli, command)
    wanted = config.ckpt_path if resumed is None else str(resumed)
    if wanted is not None:
        config.ckpt_path = str(find_checkpoint(run_home(config), wanted, command == "fit"))
        if command == "fit" and resumed is None:
            check_goes_on(Path(config.ckpt_path), config.trainer.max_epochs, config.trainer.max_steps)
    elif config.weights is not None:
        config.weights = str(find_weights(run_home(config), config.weights))
    return resumed


def _execute(cli: ExperimentCLI, command: str, folder: Path, is_new: bool) -> int:
    """Runs a command in its folder; returns 0 when it came to its end, else the code of the signal that ended it."""
    weights = {"ckpt_path": cli.config.ckpt_path, "weights_only": True} if cli.config.ckpt_path else {}
    with ExitStack() as use:
        if is_first_rank():
            if is_new:
                write_text(folder / CONFIG, dump_config(resolved_config(cli)))
            use.enter_context(run_folder_lock(folder))
        trainer = make_trainer(cli, command, folder)
        next(c for c in trainer.callbacks if isinstance(c, RankWatchdog)).watch(trainer)  # type: ignore[attr-defined]
        try:
            if command == "fit":
                began = steps_of(Path(cli.config.ckpt_path)) if weights and is_new else 0
                trainer.fit(cli.model, cli.datamodule, **weights)
                check_trained(trainer, began)
                trainer.test(cli.model, datamodule=cli.datamodule, verbose=False, **trained_weights(trainer, folder))
            elif command == "predict":
                trainer.predict(cli.model, datamodule=cli.datamodule, **weights)
            else:  # Lightning's own table has a column for the loader of captions and the same for that of videos
                getattr(trainer, command)(cli.model, datamodule=cli.datamodule, verbose=False, **weights)
                if command == "validate" and is_first_rank():
                    console().print(_validation_table(cli))
        except SystemExit:  # Lightning's answer to a signal, after its own clean-up
            if trainer.state.status == TrainerStatus.INTERRUPTED:
                return TERMINATED if trainer.received_sigterm else INTERRUPTED
            raise
        except Exception as error:
            # the signal went to all processes of the group: those that decode died of it before the step had ended
            said = readable_error(error, going_on(folder)) if trainer.received_sigterm else None
            if said is None:
                raise
            say(f"tvr: {said}", file=sys.stderr)
            return TERMINATED
    return 0


def _validation_table(cli: ExperimentCLI) -> Table:
    data, result = cli.datamodule, cli.model.result
    table = Table("metric", title=f"{cli.config.experiment}: {data.dataset} {data.split_of('validate').name}")
    table.add_column("value", justify="right")
    for name, value in (result.metrics if result else {}).items():
        table.add_row(f"val/{name}", f"{float(value):.1f}")
    return table


def silence_lightning() -> None:
    """Silences warnings about Lightning itself; those about the run stay."""
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
        "predict returned None",  # features are collected, and predictions.parquet written from them
        "could not find the monitored key",  # no validation was due yet: see `trained_weights`
        "Using `DistributedSampler` with the dataloaders",  # shares are exact: no sample is repeated
    )
    for message in (f".*{words}.*" for words in noise):
        warnings.filterwarnings("ignore", message)


def make_trainer(cli: ExperimentCLI, command: str, folder: Path) -> Trainer:
    """Builds the trainer with the callbacks that every run has."""
    config, data, model = cli.config, cli.datamodule, cli.model
    settings: dict[str, Any] = cli.config_init.trainer.as_dict()
    if is_first_rank() and (advice := device_advice(*_devices(cli))):
        say(f"tvr: {advice}", file=sys.stderr)
    encoder = " + ".join(encoder.name for encoder in model.encoders)
    smoke = bool(settings["fast_dev_run"])
    if not _is_tracked(cli, command):
        settings["logger"] = False
    elif settings["logger"] is None:
        tracked = Tracked(
            config.experiment, config.seed_everything, resolved_config(cli), data.dataset,
            "train" if command == "fit" else "test", (type(model).__name__, encoder, data.annotations.protocol),
        )  # fmt: skip
        settings["logger"] = build_tracker(config.tracker, folder, tracked)
    callbacks: list[Callback] = list(settings["callbacks"] or [])
    callbacks += [
        StartSummary(model=settings["enable_model_summary"] is not False),
        Throughput(),
        DataWaits(),
        FiniteTraining(),
        RankWatchdog(),
        Room(),
        RunFolder(folder, config.experiment, config.seed_everything, config.trains),
        Curves(folder),
        HashingPlots(folder),
        Galleries(folder),
        Pictures(),
    ]
    if settings["logger"] and command == "fit":
        callbacks.append(LearningRateMonitor("step"))
    if settings["enable_progress_bar"] is not False and sys.stderr.isatty():
        callbacks.append(ProgressBar())
    else:
        settings["enable_progress_bar"] = False
    if not smoke and settings["enable_checkpointing"] is not False:
        kept: dict[str, Any] = {"dirpath": folder / CHECKPOINTS, "enable_version_counter": False}
        if data.selection != "last":
            callbacks.append(ModelCheckpoint(filename=Path(BEST).stem, monitor=model.monitor, mode="max", **kept))
        callbacks.append(KeepLast(folder, config.checkpoint_every))
    if data.selection == "last":
        settings["limit_val_batches"] = 0
    if settings["num_sanity_val_steps"] is None:
        settings["num_sanity_val_steps"] = 0  # a few batches of captions and videos score nothing
    # the sampler shares samples among ranks itself; Lightning's would repeat some in evaluation
    settings |= {"callbacks": callbacks, "use_distributed_sampler": False, "default_root_dir": folder}
    settings["inference_mode"] = False  # parameters that move to a device inside it can never be trained again
    settings |= {"enable_model_summary": False, "plugins": [*_listed(settings["plugins"]), AtomicCheckpointIO()]}
    return ExperimentTrainer(**settings)


def _devices(cli: ExperimentCLI) -> tuple[Any, Any, Any]:
    settings = cli.config_init.trainer
    return settings.precision, settings.accelerator, settings.devices


def _listed(plugins: Any) -> list[Any]:
    return list(plugins) if isinstance(plugins, list) else [plugins] if plugins else []


def trained_weights(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """The checkpoint that a fit ends with: the selected one, else the last, said in a line; none after a smoke run."""
    data, home = trainer.datamodule, folder.resolve() / CHECKPOINTS  # type: ignore[attr-defined]
    own = [path for name in (BEST, LAST) if (path := home / name).is_file()]
    if own and own[0].name == LAST and data.selection != "last" and is_first_rank():
        say("tvr: training ended before a validation was due: the last weights are tested", file=sys.stderr)
    return {"ckpt_path": str(own[0]), "weights_only": True} if own else {}
