"""What several processes do together: gather rows with gradients, share an evaluation, fail as one.

Tensors of a training step travel through the training group (NCCL on GPUs); what lies on the CPU goes through a gloo
group beside it, so that exchanging a few counts never makes the host wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tvr_lightning.errors import TVRError
from tvr_lightning.types import TensorRows

RowsT = TypeVar("RowsT", bound=TensorRows)


def ranks() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) outside a distributed run."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share(length: int, block: int, rank: int, world: int) -> range:
    """The rows of `length` that a rank takes: neighbouring whole blocks, none twice, as even as blocks allow.

    Blocks stay whole because the last digits of a product depend on how many rows are multiplied at a time: with the
    blocks of a single process its features and scores come out bit for bit.
    """
    blocks = -(-length // block)
    first, end = (blocks * r // world * block for r in (rank, rank + 1))
    return range(first, min(end, length))


def gather_counts(count: int) -> list[int]:
    """How many rows each rank has; every rank calls this with its own number."""
    return gather_objects(count)


def gather(rows: RowsT, counts: Sequence[int]) -> RowsT:
    """Joins the rows of all ranks in rank order, with gradients; alone it is the identity.

    Every rank then computes the loss of the whole batch. Averaged over ranks, as DDP does, gradients are those of one
    process that holds the batch: parameters after the gather have the same gradient on every rank, and the backward
    pass sums over ranks what each rank's features are due. Ranks may have different numbers of rows, or none.

    Args:
        rows: this rank's rows, on the training device.
        counts: of `gather_counts`.
    """
    if len(counts) == 1:
        return rows
    return rows.map(lambda x: _Gather.apply(x, counts))  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """(B, ...) of each rank to (sum of B, ...), on tensors padded to the largest share."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts = counts
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rank, counts = dist.get_rank(), ctx.counts
        total = grad.to(torch.promote_types(grad.dtype, torch.float32), copy=True).contiguous()
        dist.all_reduce(total)
        first = sum(counts[:rank])
        return total[first : first + counts[rank]].to(grad.dtype), None


def gather_on_cpu(rows: RowsT | None) -> RowsT | None:
    """Joins CPU rows of all ranks, in rank order and without gradients; None where a rank has none, or nobody has."""
    if ranks()[1] == 1:
        return rows
    fields = rows.tensors() if rows is not None else {}
    shapes = {name: (x.shape[1:], x.dtype) for name, x in fields.items()}
    kinds = gather_objects(None if rows is None else (type(rows), len(rows), shapes))
    known = next((kind for kind in kinds if kind is not None), None)
    if known is None:
        return None
    counts = [kind[1] if kind is not None else 0 for kind in kinds]
    ends = torch.tensor(counts).cumsum(0).tolist()
    shares = [range(end - count, end) for count, end in zip(counts, ends, strict=True)]
    own = shares[ranks()[0]]
    joined = {}
    for name, (shape, dtype) in known[2].items():
        out = torch.empty(sum(counts), *shape, dtype=dtype)
        if rows is not None:
            out[own.start : own.stop] = fields[name]
        broadcast_shards(out, shares)
        joined[name] = out
    cls: type[RowsT] = known[0]
    return cls(**joined)


def broadcast_shards(out: Tensor, shares: Sequence[range]) -> None:
    """Gives every rank all rows of a CPU tensor of which each has filled its own share; in place."""
    for rank, rows in enumerate(shares):
        if len(rows) and len(shares) > 1:
            dist.broadcast(out[rows.start : rows.stop], src=rank, group=_cpu_group())


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Gives every rank the first one's values, in place; tensors lie on the training device."""
    if ranks()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def all_reduce_any(flags: Tensor) -> None:
    """Sets the flags (bool, on the CPU, in place) that are set on any rank."""
    if ranks()[1] > 1:
        merged = flags.to(torch.uint8)
        dist.all_reduce(merged, dist.ReduceOp.MAX, group=_cpu_group())
        flags.copy_(merged.bool())


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Raises an error of the suite that one rank meets in the block on every rank, so that none waits for the other."""
    error = None
    try:
        yield
    except TVRError as met:
        error = met
    first = next((e for e in gather_objects(error) if e is not None), None)
    if first is not None:
        raise first


def gather_objects(value: Any) -> list[Any]:
    """Small picklable values of all ranks, in rank order."""
    world = ranks()[1]
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value, group=_cpu_group())
    return values


def _cpu_group() -> Any:
    return _gloo_group_beside(dist.group.WORLD)


@cache
def _gloo_group_beside(group: Any) -> Any:
    return group if dist.get_backend(group) == "gloo" else dist.new_group(backend="gloo")
