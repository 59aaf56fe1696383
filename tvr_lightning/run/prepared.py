"""A split of a run, ready to be encoded by the run's weights; what `tvr encode`, `features` and `scores` begin with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tvr_lightning.data.datamodule import VideoTextDataModule
from tvr_lightning.data.split import Split
from tvr_lightning.errors import ConfigError, DataError, RunError, few
from tvr_lightning.evaluation.encoding import EncodedSplit, encode_split
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.run.load import load_run

SplitName = Literal["train", "validation", "test"]
STAGES: dict[SplitName, str] = {"train": "fit", "validation": "validate", "test": "test"}


@dataclass(frozen=True)
class PreparedSplit:
    """A split with the method that encodes it.

    Attributes:
        model: with the run's weights, on a GPU where there is one.
        data: with the split set up.
        split: the split.
    """

    model: RetrievalModule[Any, Any]
    data: VideoTextDataModule
    split: Split

    def encode(self) -> EncodedSplit[Any, Any]:
        """Features of all captions and videos, on the CPU.

        Raises:
            DataError: videos cannot be decoded, and `data.allow_missing` does not allow it.
        """
        self.data.splits = {self.split.name: self.split}  # frozen encoders run over no other
        self.data.precompute_features(self.model.frozen_video(), self.model.frozen_text(), self.model.device)
        encoded = encode_split(self.model, self.split, self.data.evaluation_loaders(self.split)).to("cpu")
        if self.split.undecodable and not self.data.allow_missing:
            raise DataError(
                f"{self.data.dataset} {self.split.name}: {len(self.split.undecodable)} videos cannot be decoded "
                f"({few(self.split.undecodable)}): replace the files, or let the run's config.yaml say "
                "data.allow_missing: true"
            )
        return encoded


def prepare_split(path: Path, split: SplitName, trust: bool = False) -> PreparedSplit:
    """Loads a run and sets up one of its splits.

    Args:
        path: the run's folder, or one of its checkpoints.
        split: which.
        trust: see `load_run`.

    Raises:
        RunError: no run.
        ConfigError: the dataset has no such split.
        CheckpointError: no readable weights, or the tokeniser is another than they were trained with.
        DataError: the split is incomplete.
    """
    run = load_run(path, trust=trust)
    run.data.setup(STAGES[split])
    if split not in run.data.splits:
        raise ConfigError(f"{run.data.dataset} has no {split} split under data.selection={run.data.selection}")
    run.model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return PreparedSplit(run.model, run.data, run.data.splits[split])


def check_room(target: Path) -> None:
    """Says before the work, not after it, that there is no folder for what it makes.

    Raises:
        RunError: there is none.
    """
    if not target.parent.is_dir():
        raise RunError(f"cannot write {target}: there is no folder {target.parent}")
