"""Encoders under torch.compile, while they train."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch

from tvr_lightning.encoders.base import Encoder
from tvr_lightning.errors import ConfigError


def compile_towers(encoders: Iterable[Encoder]) -> None:
    """Lets torch.compile compile the towers of encoders at their next call; names of weights stay.

    Raises:
        ConfigError: there is no C compiler, which it needs on every device.
    """
    compilers = (os.environ.get("CC"), "gcc", "clang", "cc")
    if not any(shutil.which(name) for name in compilers if name):
        raise ConfigError(
            "model.optimizer.compile_encoders=true needs a C compiler, and neither gcc nor clang was found: install "
            "one, or leave the setting out"
        )
    for encoder in encoders:
        for tower in encoder.towers:
            tower.compile(dynamic=False)


def uncompiled() -> AbstractContextManager[None]:
    """Inside, what was compiled runs as it is written: no other batch size or mode is compiled for."""
    return torch.compiler.set_stance("force_eager")
