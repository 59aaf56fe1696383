"""What score.py measures: sizes of input, and forms of a scorer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Form = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Case:
    """A scorer's forms over one size of input.

    Attributes:
        method: the method's name.
        texts: T.
        videos: V.
        words: m.
        frames: n.
        dim: D.
        direction: `forward` or `forward+backward`.
    """

    method: str
    texts: int
    videos: int
    words: int
    frames: int
    dim: int
    direction: str = "forward"
