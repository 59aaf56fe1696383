"""Full precision where rounding would be multiplied: scores and losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from pytorch_lightning import LightningModule

from tvr_lightning.types import TensorRows


def full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a module that runs with autocast off and gets arguments that are features in float32 at least.

    A similarity rounded to three digits and multiplied by 100, twice, has a gradient of noise.
    """

    @wraps(function)
    def wrapped(self: LightningModule, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self.device.type, enabled=False):
            return function(self, *map(_widened, args), **{k: _widened(v) for k, v in kwargs.items()})

    wrapped.is_full_precision = True  # type: ignore[attr-defined]
    return wrapped


def is_full_precision(function: Callable[..., Any]) -> bool:
    """Whether it comes from `full_precision`."""
    return getattr(function, "is_full_precision", False)


def _widened(value: Any) -> Any:
    reduced = (torch.bfloat16, torch.float16)
    return value.map(lambda x: x.float() if x.dtype in reduced else x) if isinstance(value, TensorRows) else value
