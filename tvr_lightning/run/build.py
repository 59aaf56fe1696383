"""A configuration checked against the classes it names, and built."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from tvr_lightning.config.class_paths import check_named, check_parsed
from tvr_lightning.config.compose import check_shape
from tvr_lightning.config.objects import class_of, readable_errors
from tvr_lightning.config.options import OF_ENCODER, RunOptions, followed
from tvr_lightning.config.text import parse_yaml
from tvr_lightning.data.datamodule import VideoTextDataModule
from tvr_lightning.encoders.base import TextEncoder
from tvr_lightning.encoders.kept import check_finished, checkpoint_errors
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.names import CONFIG
from tvr_lightning.nn.temporal import check_frames
from tvr_lightning.run.accelerators import ExperimentTrainer
from tvr_lightning.run.checkpoints import encoders_of


class ExperimentCLI(LightningCLI):
    """LightningCLI over `VideoTextDataModule` and any `RetrievalModule`; the trainer is built when a run starts."""

    def __init__(
        self, config: Mapping[str, Any], flags: Sequence[str] = (), find: Callable[[Any], Path | None] | None = None
    ) -> None:
        self.find_weights = find
        self.composed = config
        super().__init__(
            RetrievalModule,
            VideoTextDataModule,
            trainer_class=ExperimentTrainer,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False},
            subclass_mode_model=True,
            args=["--config", dump_config(config), *flags],
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what belongs to a run, and links what data and model share."""
        parser.add_class_arguments(RunOptions, instantiate=False)
        for target, source in followed(self.composed.get("model") or {}, _takes).items():
            self._refuse_given(target, source)
            parser.link_arguments(source, target)
        for name, source in OF_ENCODER.items():
            self._refuse_given(f"data.{name}", "the encoder")
            parser.link_arguments(f"model.{source}", f"data.{name}", apply_on="instantiate")

    def _refuse_given(self, target: str, source: str) -> None:
        value: Any = self.composed
        for name in target.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            short = target.replace(".init_args.", ".")
            raise ConfigError(f"{short} is {value}, but it is derived from {source}: set that, and leave {short} out")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses without Lightning's warning about `sys.argv`, which is not for this program's own callers."""
        self.config = parser.parse_args(args)
        _keep_whole_numbers(self.composed.get("trainer"), self.config.trainer)
        check_parsed(self.config)

    def instantiate_classes(self) -> None:
        """Builds model and data module; the encoders as the checkpoint says, where there is one."""
        path = None if self.find_weights is None else self.find_weights(self.config)
        if path is None:
            super().instantiate_classes()
            take_along(self.model, self.datamodule)
        else:
            with encoders_of(path), checkpoint_errors(path):
                super().instantiate_classes()
        _keep_whole_numbers(self.composed.get("trainer"), self.config_init.trainer)
        check_frames(self.model, self.datamodule.frames.num_frames)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Nothing yet: see `run`."""
        return None


def _keep_whole_numbers(given: Mapping[str, Any] | None, trainer: Namespace | dict[str, Any]) -> None:
    """Takes back that 1, a batch, became 1.0, all of them.

    `Optional[Union[int, float]]` has whichever order some library wrote first, and the parser tries them in order.
    """
    for name, value in (given or {}).items():
        if type(value) is int and isinstance(trainer.get(name), float):
            trainer[name] = value


def take_along(model: RetrievalModule[Any, Any], data: VideoTextDataModule) -> None:
    """Takes along what belongs to weights of encoders out of runs: a learnt vocabulary, and which videos they saw.

    Raises:
        CheckpointError: it is damaged, or the tokeniser cannot take it.
        ConfigError: an encoder's class leaves weights unloaded.
    """
    for encoder in model.encoders:
        check_finished(encoder)
        if isinstance(encoder, TextEncoder) and encoder.origin is not None:
            data.tokenizer.restore(encoder.origin.vocabulary)
    seen = [e.origin.seen for e in model.encoders if e.origin is not None and e.origin.seen is not None]
    model.seen = torch.cat(seen).unique() if seen else None


def _takes(value: Any, argument: str) -> bool:
    """Whether a value names a class whose constructor has an argument of that name."""
    part = class_of(value)
    return part is not None and argument in signature(part).parameters


def build_cli(
    config: Mapping[str, Any], flags: Sequence[str] = (), find: Callable[[Any], Path | None] | None = None
) -> ExperimentCLI:
    """Checks a configuration against the classes it names, and builds model and data module.

    Args:
        config: a composed experiment; see `arguments.read_arguments`.
        flags: `--help` or `--print_config`.
        find: the checkpoint that the parsed configuration goes with; None, or a function that returns None, where the
            encoders begin with their own weights.

    Raises:
        TVRError: a key or value does not fit, or the method or a part of it refuses its arguments.
    """
    check_shape(config, "settings")
    check_named(config)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # what it says about itself
    with readable_errors():
        return ExperimentCLI(config, flags, find)


class _Dumper(yaml.SafeDumper):
    """Quotes text that other readers of YAML take for a number: `1e3`."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*\.?\d*[eE][-+]?\d+"), list("-+0123456789")
)


def dump_config(config: Mapping[str, Any]) -> str:
    """A configuration as YAML, in its own order."""
    return yaml.dump(dict(config), Dumper=_Dumper, sort_keys=False)


def resolved_config(cli: ExperimentCLI) -> dict[str, Any]:
    """The complete configuration; it runs again alone."""
    return _dumped(cli, cli.config)


def with_defaults(cli: ExperimentCLI, content: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration with the defaults of settings that the suite did not have yet when it was written.

    Args:
        cli: of an experiment with the same classes.
        content: what `resolved_config` gave then.

    Raises:
        ConfigError: it has settings that do not exist any more, or values that do not fit.
    """
    check_shape(content, CONFIG)
    with readable_errors():
        config = cli.parser.parse_args(["--config", dump_config(content)])
    _keep_whole_numbers(content.get("trainer"), config.trainer)
    return _dumped(cli, config)


def _dumped(cli: ExperimentCLI, config: Any) -> dict[str, Any]:
    content: dict[str, Any] = parse_yaml(cli.parser.dump(config, skip_unset=False, skip_validation=True, format="yaml"))
    _keep_whole_numbers(vars(config.trainer), content["trainer"])
    content.pop("config", None)
    return content
