"""Pairs scored a few texts at a time, so that what is computed of each stays small."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from tvr_lightning.device import sizes
from tvr_lightning.nn.masked import filled_length
from tvr_lightning.types import TensorRows, TextFeatures

RowsT = TypeVar("RowsT", bound=TensorRows)


def in_blocks(score: Callable[[RowsT], Tensor], texts: RowsT, numbers: int) -> Tensor:
    """Scores texts in blocks of so many that their similarities fit `device.Sizes.similarities`, one at least.

    Args:
        score: features of any number of texts to their rows of the score matrix.
        texts: features of T texts.
        numbers: similarities of one text with all videos.

    Returns:
        (T, V).

    >>> from tvr_lightning.types import SentenceFeatures
    >>> in_blocks(lambda part: part.sentence * 2, SentenceFeatures(torch.ones(3, 2)), numbers=1 << 60).sum()
    tensor(12.)
    """
    first = next(iter(texts.tensors().values()))
    block = max(1, sizes(first.device).similarities // max(1, numbers))
    return torch.cat([score(texts[i : i + block]) for i in range(0, max(1, len(texts)), block)])


def without_common_padding(texts: TextFeatures) -> TextFeatures:
    """Cuts places that no caption fills: they take part in nothing, but cost like words."""
    longest = filled_length(texts.word_mask)
    return TextFeatures(texts.sentence, texts.words[:, :longest], texts.word_mask[:, :longest])
