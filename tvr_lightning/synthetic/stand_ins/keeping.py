"""A weight file that says what it depends on, and is made only when it is not there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tvr_lightning.data.stores.files import written_atomically
from tvr_lightning.errors import ConfigError, RunError

_METADATA = "tvr_lightning.synthetic.stand_ins"


@dataclass(frozen=True)
class Settings:
    """What weights depend on.

    Attributes:
        steps: training steps.
        batch_size: pictures of a step.
        lr: highest learning rate.
        seed: of weights and pictures.
    """

    steps: int
    batch_size: int
    lr: float
    seed: int


@dataclass(frozen=True)
class Pretrained:
    """Weights on disk.

    Attributes:
        file: where they lie.
        accuracy: shares of right answers on held-out pictures, by what was asked.
        created: False when the file was there already.
        seconds: time taken.
    """

    file: Path
    accuracy: Mapping[str, float]
    created: bool
    seconds: float


class Trained(NamedTuple):
    """What training gives: a state dict, and shares of right answers."""

    state: Mapping[str, Tensor]
    accuracy: Mapping[str, float]


def keep_weights(file: Path, settings: Settings, version: str, train: Callable[[], Trained]) -> Pretrained:
    """Trains unless `file` holds the result of these settings already.

    Args:
        file: safetensors.
        settings: equal ones give equal weights on one machine.
        version: which encoder, by which code; another one makes existing files again.
        train: under its own seed; the global generators are left as they were.

    Raises:
        ConfigError: settings that train nothing.
        RunError: the file cannot be written, or is something else.
    """
    began = time.perf_counter()
    if settings.steps < 1 or settings.batch_size < 1 or settings.lr <= 0:
        raise ConfigError(f"steps, batch size and learning rate must be positive, got {settings}")
    wanted = {"version": version, **asdict(settings)}
    found = _description(file)
    if found is not None and found["settings"] == wanted:
        return Pretrained(file, found["accuracy"], False, time.perf_counter() - began)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        state, accuracy = train()
    _write(file, state, {"settings": wanted, "accuracy": accuracy})
    return Pretrained(file, accuracy, True, time.perf_counter() - began)


def _description(file: Path) -> dict[str, Any] | None:
    """Returns settings and accuracy of a file, None where there is none.

    Raises:
        RunError: it holds something else.
    """
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(_METADATA)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read as weights ({error}). Choose another file, or move it away.") from error
    if text is None:
        raise RunError(f"{file} holds other weights. Choose another file, or move it away.")
    return json.loads(text)  # type: ignore[no-any-return]


def _write(file: Path, state: Mapping[str, Tensor], description: Mapping[str, object]) -> None:
    from safetensors.torch import save_file

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {file.parent}: {error.strerror}") from error
    with written_atomically(file) as temporary:
        save_file({name: value.detach().contiguous() for name, value in state.items()}, temporary,
                  {_METADATA: json.dumps(description)})  # fmt: skip
