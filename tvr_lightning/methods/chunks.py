"""A batch encoded a few rows at a time: cached-gradient contrastive training (Gao et al. 2021) as one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tvr_lightning.nn.draws import row_parts
from tvr_lightning.types import TensorRows

RowsT = TypeVar("RowsT", bound=TensorRows)
InputT = TypeVar("InputT", bound=TensorRows)


def in_chunks(encode: Callable[[InputT], RowsT], rows: InputT, size: int | None) -> RowsT:
    """Encodes rows, `size` at a time where it is given: a chunk's activations are computed again for its gradient.

    Args:
        encode: a row's features depend on that row alone.
        rows: any number of them, none too.
        size: rows of a chunk; null for all at once, whose activations are kept.
    """
    if not len(rows):  # one row, cut off again: every parameter gets the gradient that DDP waits for, zero
        return in_chunks(encode, dummy_row(rows), size)[:0]
    draws = row_parts()

    def encode_from(start: int, *fields: Tensor) -> RowsT:
        with draws(start):
            return encode(type(rows)(*fields))

    if size is None:
        return encode_from(0, *rows.tensors().values())
    parts: list[RowsT] = []
    for i in range(0, len(rows), size):
        # weights cast once for all chunks would add up the chunks' gradients in low precision
        torch.clear_autocast_cache()
        fields = rows[i : i + size].tensors().values()  # as tensors: checkpoint finds their device's random state
        parts.append(checkpoint(encode_from, i, *fields, use_reentrant=False))
    return type(parts[0]).cat(parts)


def dummy_row(rows: InputT) -> InputT:
    """One row that means nothing, with every place filled: of the same shapes."""
    return rows.map(lambda x: x.new_ones(1, *x.shape[1:]))
