"""Which precision a run computes in on the devices that it gets, and what to say where these do not suit it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator

from tvr_lightning.errors import ConfigError, one_line

# those of Lightning's whose weights are float32: of 16 bits they would not hold a step of 1e-7, and scores and losses
# are float32 whatever the encoders compute in
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16", 32, 16]
BF16_FROM = (8, 0)  # compute capability of the first cards that multiply bf16
OTHER_BUILD = "make setup TORCH=cu126"
_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


class ExperimentTrainer(Trainer):
    """Lightning's trainer, which can choose its precision by its devices.

    Args:
        precision: `auto`: bf16-mixed on cards that have it, 16-mixed on older ones, 32-true on a CPU.
        accelerator: `auto`, `gpu`, `cpu`, or another of Lightning's.
        devices: how many, or which.
        kwargs: the other arguments of Lightning's trainer.

    Raises:
        ConfigError: there are no such devices, they do not have this precision, or Lightning refuses an argument.
    """

    def __init__(
        self,
        *,
        precision: Precision | None = None,
        accelerator: str | Accelerator = "auto",
        devices: list[int] | str | int = "auto",
        **kwargs: Any,
    ) -> None:
        chosen = choose_precision(precision, accelerator, devices)
        try:
            super().__init__(precision=chosen, accelerator=accelerator, devices=devices, **kwargs)
        except (MisconfigurationException, ValueError, TypeError, ModuleNotFoundError) as error:  # of its own arguments
            raise ConfigError(f"trainer: {one_line(error)}") from error


def choose_precision(precision: Precision | None, accelerator: Any = "auto", devices: Any = "auto") -> Any:
    """What Lightning's trainer computes in: a precision as it stands, or what `auto` means on these devices.

    >>> choose_precision("auto", "cpu")
    '32-true'

    Args:
        precision: the setting.
        accelerator: the trainer's.
        devices: the trainer's.

    Raises:
        ConfigError: there are no such devices, or they do not have this precision.
    """
    cards = cuda_devices(accelerator, devices)
    if precision == "auto":
        if not cards:
            return "32-true"
        return "bf16-mixed" if all(has_bf16(card) for card in cards) else "16-mixed"
    if str(precision).startswith("16") and not cards and _is_cpu(accelerator):
        raise ConfigError(
            f"trainer.precision={precision} is for GPUs, and this run is on a CPU: set auto (32-true on a CPU, 16 bits "
            "on a GPU), 32-true or bf16-mixed"
        )
    return precision


def cuda_devices(accelerator: Any, devices: Any) -> list[int]:
    """Numbers of the cards that a trainer with these settings uses; none where it is not on cards of NVIDIA's.

    Raises:
        ConfigError: it asks for cards that torch does not see.
    """
    wanted = isinstance(accelerator, CUDAAccelerator) or accelerator in ("gpu", "cuda")
    if not wanted and accelerator != "auto":
        return []
    if not torch.cuda.is_available():
        if wanted and not torch.backends.mps.is_available():
            raise ConfigError(
                f"trainer.accelerator={accelerator}, but torch {torch.__version__} cannot use a GPU here: "
                f"{no_cuda_advice() or 'there is none; set trainer.accelerator=cpu'}"
            )
        return []
    try:
        return CUDAAccelerator.parse_devices(torch.cuda.device_count() if devices == "auto" else devices) or []
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"trainer.devices={devices}: {one_line(error)}") from None


def has_bf16(card: int) -> bool:
    """Whether a card multiplies bf16 itself; torch emulates it on older ones, slower than float32."""
    return torch.cuda.get_device_capability(card) >= BF16_FROM


def _is_cpu(accelerator: Any) -> bool:
    return (
        isinstance(accelerator, CPUAccelerator)
        or accelerator == "cpu"
        or (accelerator == "auto" and not torch.backends.mps.is_available())
    )


def device_advice(precision: Precision | None, accelerator: Any = "auto", devices: Any = "auto") -> str | None:
    """One line about cards that are there and cannot be used as they are; None where all is well.

    Args:
        precision: the trainer's setting.
        accelerator: the trainer's.
        devices: the trainer's.
    """
    cards = cuda_devices(accelerator, devices)
    if not cards:
        advice = no_cuda_advice() if accelerator == "auto" and not torch.cuda.is_available() else None
        return advice and f"the run is on the CPU, though there is a GPU: {advice}"
    built = torch.cuda.get_arch_list()
    for card in cards:
        (major, minor), name = torch.cuda.get_device_capability(card), torch.cuda.get_device_name(card)
        if not runs_on(built, (major, minor)):
            return (
                f"torch {torch.__version__} has no kernels for {name} (sm_{major}{minor}; it has "
                f"{', '.join(built)}): {OTHER_BUILD} installs a build for older cards and drivers"
            )
        if str(precision).startswith("bf16") and not has_bf16(card):
            return (
                f"trainer.precision={precision}, but {name} (compute capability {major}.{minor}) has no "
                "bf16 and computes it slowly; 16-mixed or auto suits it"
            )
    return None


def no_cuda_advice() -> str | None:
    """Why torch does not use a GPU that is there, and the command that helps; None where there is no GPU to be seen."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles") or not _gpu_is_there():
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA; make setup installs one with it"
    return (
        f"its driver is too old for torch {torch.__version__} (CUDA {torch.version.cuda}), or not loaded (try "
        f"nvidia-smi); {OTHER_BUILD} installs a build for older drivers"
    )


def _gpu_is_there() -> bool:
    if Path("/dev/nvidia0").exists():
        return True
    if not (program := shutil.which("nvidia-smi")):  # also without a device file: under WSL
        return False
    try:
        found = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and found.stdout.startswith("GPU ")


def runs_on(built: Iterable[str], capability: tuple[int, int]) -> bool:
    """Whether a build of torch has kernels for a card.

    Machine code (`sm_86`) runs on cards of its major version from its minor version on, portable code (`compute_90`)
    on all later cards; a letter behind binds it to one card (`a`) or to its family (`f`).

    >>> runs_on(["sm_75", "sm_86"], (8, 9)), runs_on(["sm_75", "sm_86"], (7, 0))
    (True, False)

    Args:
        built: what `torch.cuda.get_arch_list` gives.
        capability: the card's compute capability.
    """
    for name in built:
        if not (found := _ARCHITECTURE.fullmatch(name)):
            continue
        own = (int(found[2]), int(found[3]))
        if own == capability or (
            found[4] != "a" and own <= capability and (found[1] == "compute" or own[0] == capability[0])
        ):
            return True
    return False
