"""Kernels as the tests run them: on a GPU as they are, elsewhere in Triton's interpreter."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import torch
from packaging.version import Version

import tvr_lightning.nn.kernels as package
from tvr_lightning import device

NAMES = sorted(p.stem for p in Path(package.__path__[0]).glob("*.py") if p.stem != "__init__")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(name: str) -> ModuleType:
    """A module of kernels."""
    triton = pytest.importorskip("triton", reason="Triton is not installed: its kernels cannot be tested")
    if (
        DEVICE.type == "cpu"
        and Version(triton.__version__) < Version("3.7")
        and Version(np.__version__) >= Version("2.4")
    ):
        pytest.skip("Triton's interpreter takes NumPy 2.4 from its release 3.7 on")
    return importlib.import_module(f"{package.__name__}.{name}")


@contextmanager
def everywhere() -> Iterator[None]:
    """Lets the suite take its kernels whatever the device."""
    for name in NAMES:
        load(name)
    own = [module for name, module in list(sys.modules.items()) if name.startswith("tvr_lightning.")]
    users = [module for module in own if hasattr(module, "has_kernels") and module is not device]
    with ExitStack() as patches:
        for module in users:
            patches.enter_context(patch.object(module, "has_kernels", lambda *x: x[0].dtype == torch.float32))
        yield
