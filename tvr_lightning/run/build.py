"""A configuration checked against the classes it names, and built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import yaml
from jsonargparse import ArgumentError
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from tvr_lightning.config.objects import class_of
from tvr_lightning.data.datamodule import VideoTextDataModule
from tvr_lightning.errors import ConfigError, TVRError
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.run.trackers import Tracker


class ExperimentCLI(LightningCLI):
    """LightningCLI over `VideoTextDataModule` and any `RetrievalModule`; the trainer is built when a run starts."""

    def __init__(self, config: Mapping[str, Any], flags: Sequence[str] = ()) -> None:
        self.model_settings: Mapping[str, Any] = (config.get("model") or {}).get("init_args") or {}
        super().__init__(
            RetrievalModule,
            VideoTextDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False},
            subclass_mode_model=True,
            args=["--config", yaml.safe_dump(dict(config)), *flags],
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what belongs to a run, and links what data and model share."""
        parser.add_argument("--experiment", type=str, default="unnamed", help="Name; the configuration file's own.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="Where run folders are made.")
        parser.add_argument("--run_id", type=str | None, default=None, help="The folder's name; the time when null.")
        parser.add_argument("--tracker", type=Tracker, default="wandb", help="Where curves go.")
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Weights to test, or to start from.")
        parser.add_argument("--resume", type=str | None, default=None, help="Unfinished run: `last`, folder, last.ckpt")
        parser.add_argument("--checkpoint_every", type=int, default=200, help="Steps between two savings of last.ckpt.")
        parser.link_arguments("seed_everything", "data.seed")
        for name, value in self.model_settings.items():
            part = class_of(value)
            if part is not None and "context_length" in signature(part).parameters:
                parser.link_arguments("data.max_words", f"model.init_args.{name}.init_args.context_length")
        parser.link_arguments("data.max_words", "data.tokenizer.init_args.context_length")
        parser.link_arguments("model.image_size", "data.size", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses without Lightning's warning about `sys.argv`, which is not for this program's own callers."""
        self.config = parser.parse_args(args)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Nothing yet: see `run`."""
        return None


def build_cli(config: Mapping[str, Any], flags: Sequence[str] = ()) -> ExperimentCLI:
    """Checks a configuration against the classes it names, and builds model and data module.

    Args:
        config: a composed experiment; see `arguments.read_arguments`.
        flags: `--help` or `--print_config`.

    Raises:
        TVRError: a key or value does not fit, or the method or a part of it refuses its arguments.
    """
    try:
        return ExperimentCLI(config, flags)
    except ArgumentError as error:
        raise ConfigError(_readable(error)) from None
    except ValueError as error:  # the parser wraps what a constructor raises
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, TVRError):
            cause = cause.__cause__
        raise cause or error from None


def _readable(error: ArgumentError) -> str:
    """The parser's message without the configuration's text, which it repeats."""
    lines = [line for line in str(error.message or error).splitlines() if not line.lstrip().startswith("Given value:")]
    return "\n".join(lines)


def resolved_config(cli: ExperimentCLI) -> dict[str, Any]:
    """The complete configuration; it runs again alone."""
    content: dict[str, Any] = yaml.safe_load(cli.parser.dump(cli.config, skip_unset=False, format="yaml"))
    content.pop("config", None)
    return content
