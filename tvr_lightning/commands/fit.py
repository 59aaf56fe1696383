"""`tvr fit`, `validate`, `test` and `predict`: one experiment through Lightning's trainer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_lightning.errors import ConfigError
from tvr_lightning.visible import say

if TYPE_CHECKING:
    from tvr_lightning.config.arguments import Words

OVERVIEW = """\
  fit       train an experiment, then test it     tvr fit --config experiments/clip4clip_shapes.yaml
            continue one that was killed          tvr fit --config experiments/X.yaml --resume=last
            start from another run's weights      tvr fit --config experiments/X.yaml --weights=runs/X/RUN
  validate  evaluate weights on the split that selects checkpoints
  test      evaluate weights on the test split    tvr test --config experiments/X.yaml [--ckpt_path=best]
            of a method's released code           tvr test --config experiments/X.yaml --weights=pytorch_model.bin.2
            of a run, with its own settings       tvr test runs/X/RUN [--trust], see SECURITY.md
            pretrained encoders, zero-shot        tvr test --config experiments/clip_zero_shot_msrvtt.yaml
  predict   write the ten best items of every test caption and video
"""

HELP = """\
usage: tvr {command} {what} [--NAME=VALUE ...]

{title}

  -c FILE, --config FILE  an experiment: its name, its file or YAML in braces; later ones override earlier ones
  --print_config          print the resolved experiment and exit
  --NAME.help=CLASS       the arguments of a class given for a setting: --model.help=tvr_lightning.methods.lean.LEAN
  --trust                 a run's configuration may import modules of the working directory

Settings {which}
"""
TITLES = {
    "fit": "Train an experiment, then test it.",
    "validate": "Evaluate weights on the split that selects checkpoints.",
    "test": "Evaluate weights on the test split.",
    "predict": "Write the ten best items of every test caption and video.",
}
HELP_WIDTHS = 60, 120


def main(words: Sequence[str]) -> int:
    """Runs the command that `words` begin with; returns the exit code."""
    from tvr_lightning.config.arguments import TRUST, read_arguments, split_words

    command = words[0]
    settings = sorted(words[1:], key=TRUST.__eq__)  # a run's folder may follow it
    if command != "fit" and settings and not settings[0].startswith("-"):
        settings[0] = f"--ckpt_path={settings[0]}"
    given = split_words(settings)
    if {"-h", "--help"}.intersection(given.flags):
        return _print_help(command, given)
    # settings of parts can be read only with the classes that they are of, which a run's configuration may name
    whole = [f"--{name}={value}" for name, value in given.settings if "." not in name or name == "model.class_path"]
    files = [word for file in given.files for word in ("--config", file)]
    outline, flags = read_arguments([*files, *whole, *given.flags, *([TRUST] if given.trusted else [])])
    weights, run_path = dict(given.settings).get("weights"), outline.get("ckpt_path")
    if command != "fit" and weights is not None and run_path is not None:
        raise ConfigError(
            f"--weights={weights} and --ckpt_path={run_path} both name weights to evaluate: leave one out"
        )
    if command != "fit" and "model" not in outline and run_path not in (None, "last", "best"):
        config = _of_run(run_path, settings)
    elif "model" not in outline and not flags:
        run_too = "" if command == "fit" else f", or a run: tvr {command} runs/EXPERIMENT/RUN"
        raise ConfigError(f"`tvr {command}` needs an experiment: --config experiments/NAME.yaml{run_too}")
    else:
        config, _ = read_arguments(settings)
        if command != "fit" and weights is None and run_path is None and config.get("weights") is not None:
            _leave_out_weights(config, given.files)
    from tvr_lightning.run.training import run

    return run(command, config, flags)


def _print_help(command: str, given: Words) -> int:
    """Prints the settings of the experiment that is named, or those that all have."""
    from tvr_lightning.config.arguments import TRUST, read_arguments
    from tvr_lightning.config.compose import no_text
    from tvr_lightning.config.help import settings_help
    from tvr_lightning.data.stores.files import is_file
    from tvr_lightning.names import CONFIG

    files, settings = list(given.files), dict(given.settings)
    run = Path(settings.get("ckpt_path", "")) / CONFIG
    if not files and "ckpt_path" in settings and is_file(run):
        files = [no_text(run)]
    words = [word for file in files for word in ("--config", file)]
    words += [f"--{name}={value}" for name, value in given.settings] + ([TRUST] if given.trusted else [])
    config: Mapping[str, Any] = read_arguments(words, run)[0]
    low, high = HELP_WIDTHS
    width = max(low, min(high, shutil.get_terminal_size((high, 1)).columns - 1))
    what = "--config FILE" if command == "fit" else "[--config FILE | RUN]"
    which = f"of {', '.join(files)}, with their values there:" if files else (
        "that all experiments have, with their defaults; --config FILE --help lists those of one experiment:"
    )  # fmt: skip
    say(HELP.format(command=command, what=what, title=TITLES[command], which=which), end="")
    say(settings_help(config, width), end="")
    return 0


def _of_run(path: str, settings: Sequence[str]) -> dict[str, Any]:
    """The configuration of a run that is evaluated again, and settings over it."""
    from tvr_lightning.config.arguments import read_arguments
    from tvr_lightning.config.compose import no_text
    from tvr_lightning.names import CONFIG, run_of

    folder = run_of(path)  # before anything heavy is imported
    from tvr_lightning.run.released import released_of

    file = folder / CONFIG
    config, _ = read_arguments(["--config", no_text(file), *settings], file)
    released = released_of(folder)
    # such a run has no checkpoint, it only names its configuration
    if released is not None:
        config |= {"ckpt_path": None, "weights": str(released)}
    elif not config.get("trains", True):
        config["ckpt_path"] = None
    return config


def _leave_out_weights(config: dict[str, Any], files: Sequence[str]) -> None:
    """Drops the weights that a training began with where it has weights of its own, which are what is evaluated."""
    from tvr_lightning.config.compose import find_file, is_text
    from tvr_lightning.names import CONFIG, folder_below
    from tvr_lightning.run.checkpoints import has_weights
    from tvr_lightning.run.released import only_evaluates

    found = [find_file(file) for file in files if not is_text(file)]
    if any(only_evaluates(file.parent) for file in found if file.name == CONFIG):
        return
    if has_weights(folder_below(config.get("runs_dir", "runs"), config["experiment"])):
        config["weights"] = None
