"""Weights as the package carries them: in half precision, what made them in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from tvr_lightning.data.stores.files import atomic_write, save_tensors
from tvr_lightning.errors import ConfigError, RunError

METADATA = "tvr_lightning.synthetic.stand_ins"
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """What weights depend on.

    Attributes:
        steps: training steps.
        batch_size: pictures of a step.
        lr: highest learning rate.
        seed: of weights and pictures.

    Raises:
        ConfigError: nothing would be trained.
    """

    steps: int
    batch_size: int
    lr: float
    seed: int

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.lr <= 0:
            raise ConfigError(f"steps, batch size and learning rate must be positive, got {self}")


@dataclass(frozen=True)
class Recipe:
    """How a stand-in is made.

    Attributes:
        version: which encoder, by which code.
        settings: equal ones give equal weights on one machine.
        train: gives a state dict; runs under its own seed, and the global generators are left as they were.
        measure: reads a weight file as users do; its shares of right answers on held-out pictures, by what was asked.
    """

    version: str
    settings: Settings
    train: Callable[[], State]
    measure: Callable[[Path], Mapping[str, float]]

    def make(self, file: Path) -> Mapping[str, float]:
        """Trains and writes; returns what `measure` finds.

        Raises:
            RunError: the file exists or cannot be written.
        """
        if file.exists():
            raise RunError(f"{file} exists; weights are never overwritten. Name another file, or move it away.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            state = self.train()
        return self.write(file, state)

    def write(self, file: Path, state: State) -> Mapping[str, float]:
        """Writes trained weights in half precision; returns what `measure` finds in the file.

        Raises:
            RunError: the file cannot be written.
        """
        half = {n: (x.half() if x.is_floating_point() else x).detach().contiguous() for n, x in state.items()}
        with TemporaryDirectory() as folder:
            draft = Path(folder, "draft.safetensors")
            save_tensors(draft, half)
            with torch.random.fork_rng(devices=[]):
                accuracy = self.measure(draft)
        made = {"settings": {"version": self.version, **asdict(self.settings)}, "accuracy": accuracy}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {file.parent}: {error.strerror}") from error
        with atomic_write(file) as temporary:
            save_tensors(temporary, half, {METADATA: json.dumps(made)})
        return accuracy
