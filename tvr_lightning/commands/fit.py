"""`tvr fit`, `validate`, `test` and `predict`: one experiment through Lightning's trainer."""

from __future__ import annotations

from collections.abc import Sequence

from tvr_lightning.errors import ConfigError

OVERVIEW = """\
  fit       train an experiment, then test it     tvr fit --config experiments/clip4clip_shapes.yaml
            go on with one that was killed        tvr fit --config experiments/X.yaml --resume=last
            start from another run's weights      tvr fit --config experiments/X.yaml --weights=runs/X/RUN
  validate  evaluate weights on the split that selects
  test      evaluate weights on the test split    tvr test --config experiments/X.yaml [--ckpt_path=best]
            of a run, under its own settings      tvr test runs/X/RUN [--trust], see SECURITY.md
            encoders as they come, zero-shot      tvr test --config experiments/clip_zero_shot_msrvtt.yaml
  predict   write the ten best items of every test caption and video
"""


def main(words: Sequence[str]) -> int:
    """Runs the command that `words` begin with; returns the exit code."""
    from tvr_lightning.config.arguments import TRUST, read_arguments

    command = words[0]
    settings = sorted(words[1:], key=TRUST.__eq__)  # a run's folder may follow it
    if command != "fit" and settings and not settings[0].startswith("-"):
        settings[0] = f"--ckpt_path={settings[0]}"
    if command != "fit" and any(word.partition("=")[0] == "--weights" for word in settings):
        raise ConfigError(f"--weights starts a new training, it is for `tvr fit`; `tvr {command}` takes --ckpt_path")
    config, flags = read_arguments(settings)
    if command != "fit" and "model" not in config and config.get("ckpt_path") not in (None, "last", "best"):
        from tvr_lightning.names import CONFIG
        from tvr_lightning.run.checkpoints import run_of

        config = read_arguments(["--config", str(run_of(config["ckpt_path"]) / CONFIG), *settings])[0]
        if not config.get("trains", True):  # such a run has no checkpoint, it only names its configuration
            config["ckpt_path"] = None
    if "model" not in config and not flags:
        run_too = "" if command == "fit" else f", or a run: tvr {command} runs/EXPERIMENT/RUN"
        raise ConfigError(f"`tvr {command}` needs an experiment: --config experiments/NAME.yaml{run_too}")
    from tvr_lightning.run.training import run

    return run(command, config, flags)
