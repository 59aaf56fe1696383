"""Whole runs that a test can afford: two epochs over 24 tiny videos, with a CLIP of 32 px and width 32."""

from __future__ import annotations

from pathlib import Path

from tvr_lightning.run.smoke import smoke_arguments

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "clip4clip_shapes.yaml"
SIZE = (
    "{image_size: 32, patch_size: 16, image_width: 32, image_layers: 1, image_heads: 2, text_width: 32, "
    "text_layers: 1, text_heads: 2, embed_dim: 32}"
)


def short_run(name: str, data: Path, runs: Path, *more: str) -> list[str]:
    """The words after `tvr fit` of any experiment, with its smallest encoders, for one epoch.

    Args:
        name: of the experiment.
        data: the folder of the dataset.
        runs: where run folders go.
        more: further settings.
    """
    file = EXPERIMENT.with_name(f"{name}.yaml")
    small = [word for word in smoke_arguments(file, data, runs) if "fast_dev_run" not in word]
    epoch = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--data.selection=last"]
    return [*small, *epoch, "--tracker=none", "--run_id=a", *more]


def run_arguments(data: Path, runs: Path, *more: str) -> list[str]:
    """The words after `tvr fit`.

    Args:
        data: the folder of the dataset.
        runs: where run folders go.
        more: further settings.
    """
    small = [a for a in smoke_arguments(EXPERIMENT, data, runs) if "fast_dev_run" not in a]
    small += [f"--model.encoder.size={SIZE}", "--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1"]
    return [*small, "--tracker=none", *more]
