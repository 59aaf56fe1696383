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
            of a method's released code           tvr test --config experiments/X.yaml --weights=pytorch_model.bin.2
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
    given = next((word for word in settings if len(word) > 3 and "--weights".startswith(word.partition("=")[0])), None)
    config, flags = read_arguments(settings)
    if command != "fit" and given and config.get("ckpt_path") is not None:
        raise ConfigError(f"{given} and --ckpt_path={config['ckpt_path']} are both weights to evaluate: leave one out")
    if command != "fit" and "model" not in config and config.get("ckpt_path") not in (None, "last", "best"):
        from tvr_lightning.names import CONFIG
        from tvr_lightning.run.checkpoints import run_of
        from tvr_lightning.run.released import released_of

        folder = run_of(config["ckpt_path"])
        config = read_arguments(["--config", str(folder / CONFIG), *settings])[0]
        # such a run has no checkpoint, it only names its configuration
        if not config.get("trains", True) or released_of(folder) is not None:
            config["ckpt_path"] = None
    elif command != "fit" and not given and config.get("weights") is not None and config.get("ckpt_path") is None:
        from tvr_lightning.names import folder_below
        from tvr_lightning.run.checkpoints import has_weights

        # a configuration that began with them has trained weights since
        if has_weights(folder_below(config.get("runs_dir", "runs"), config["experiment"])):
            config["weights"] = None
    if "model" not in config and not flags:
        run_too = "" if command == "fit" else f", or a run: tvr {command} runs/EXPERIMENT/RUN"
        raise ConfigError(f"`tvr {command}` needs an experiment: --config experiments/NAME.yaml{run_too}")
    from tvr_lightning.run.training import run

    return run(command, config, flags)
