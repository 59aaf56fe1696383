"""Random numbers of a training step that are the same however many ranks share its batch.

What is drawn over the joined batch, after the gather, comes from torch's own generators, which `drawing` seeds alike on
every rank. What is drawn over a rank's own rows, before the gather, is drawn for the joined batch and cut: see
`RowDropout`. Both depend on a key alone, so that a step repeats itself in a resumed run, and a chunk in its backward
pass. Seeding is the host's business: nothing waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def drawing(device: torch.device, *key: int) -> Iterator[None]:
    """Lets torch's generators, the CPU's and the device's, draw what a key says; afterwards they are as they were.

    Args:
        device: where is computed.
        key: numbers from 0 on; another key of as many numbers gives independent draws.

    >>> with drawing(torch.device("cpu"), 0, 7):
    ...     first = torch.rand(3)
    >>> with drawing(torch.device("cpu"), 0, 7):
    ...     bool((torch.rand(3) == first).all())
    True
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(_seed(key))
        yield


class _Rows:
    """Rows of a joined batch: where they begin, how many the batch has, and what their draws depend on."""

    def __init__(self, key: tuple[int, ...], first: int, total: int) -> None:
        self.key, self.first, self.total = key, first, total
        self.numbers = count()  # tells the draws of one key apart

    @contextmanager
    def present(self) -> Iterator[None]:
        """Makes them the rows that `RowDropout` sees."""
        token = _present.set(self)
        try:
            yield
        finally:
            _present.reset(token)

    def kept(self, like: Tensor, rate: float) -> Tensor:
        """Factors of dropout, 0 or 1 / (1 - rate): those of the rows of a tensor."""
        if len(like) > self.total:
            raise ValueError(
                f"{len(like)} rows, but the joined batch has {self.total}: dropout acts on rows of the batch"
            )
        generator = torch.Generator(like.device).manual_seed(_seed((*self.key, next(self.numbers))))
        if rate == 1:  # nothing is kept
            return torch.zeros_like(like)
        whole = like.new_empty(self.total, *like.shape[1:]).bernoulli_(1 - rate, generator=generator)
        first = min(self.first, self.total - len(like))  # a row that stands in for none has no place of its own
        return whole[first : first + len(like)] / (1 - rate)


_present: ContextVar[_Rows | None] = ContextVar("rows of the joined batch", default=None)


def joined_rows(first: int, total: int, *key: int) -> AbstractContextManager[None]:
    """Says which rows of the joined batch `row_parts` and `RowDropout` see.

    Args:
        first: the first one.
        total: rows of the joined batch.
        key: numbers from 0 on, the same on all ranks; another key gives independent draws.
    """
    return _Rows(key, first, total).present()


def row_parts() -> Callable[[int], AbstractContextManager[None]]:
    """Contexts for parts of a batch, for what is computed part by part and perhaps again in the backward pass.

    Every call of `row_parts` stands for another tensor of rows, with draws of its own. What it returns gives the
    context of the part that begins at a row; a part draws the same in each of its contexts. Outside of `joined_rows`
    they do nothing.
    """
    rows = _present.get()
    if rows is None:
        return lambda _: nullcontext()
    key, first, total = (*rows.key, next(rows.numbers)), rows.first, rows.total
    return lambda start: _Rows(key, first + start, total).present()


class RowDropout(nn.Dropout):
    """Dropout of a batch's rows: inside `joined_rows` each row drops what it would in a process that holds all of them.

    Outside, the rows are the batch, and it is plain dropout.

    Shapes: x (N, ...), leading dimension = rows; the others must be the same on all ranks.
    Raises ValueError for more rows than the joined batch has.

    >>> drop, whole = RowDropout(0.5), torch.ones(6, 2)
    >>> with joined_rows(0, 6, 3):
    ...     expected = drop(whole)
    >>> with joined_rows(4, 6, 3):
    ...     bool((drop(whole[4:]) == expected[4:]).all())
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drops."""
        rows = _present.get()
        if rows is None or not self.training or not self.p:
            return super().forward(x)
        return x * rows.kept(x, self.p)


class RowNoise:
    """Standard normal numbers of a batch's rows, each row from a seed of its own; asked again, they are the same.

    >>> noise = RowNoise([1, 2, 3])
    >>> bool((noise.of(0, 3, (4,), torch.zeros(1))[1:] == noise.of(1, 3, (4,), torch.zeros(1))).all())
    True
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds

    def of(self, start: int, stop: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """(stop - start, *shape), of the kind of a tensor."""
        generator, numbers = torch.Generator(like.device), like.new_empty(stop - start, *shape)
        for seed, row in zip(self.seeds[start:stop], numbers, strict=True):
            row.normal_(generator=generator.manual_seed(seed))
        return numbers


def row_noise(count: int) -> RowNoise:
    """Noise of so many rows: inside `joined_rows` what they get in a process that holds the whole batch.

    Outside, its seeds are drawn from torch's generator of the CPU.
    """
    rows = _present.get()
    if rows is None:
        return RowNoise(torch.randint(2**62, (count,)).tolist())
    key = (*rows.key, next(rows.numbers))
    return RowNoise([_seed((*key, rows.first + i)) for i in range(count)])


def _seed(key: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
