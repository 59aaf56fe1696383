"""What depends on the device that computes: sizes of blocks, and whether there are kernels for it.

Everything else asks here, so that a processor's cache and a GPU's launches are weighed in one place. Figures behind the
sizes: docs/training.md, benchmarks/score.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from tvr_lightning.errors import ConfigError, one_line

KERNELS_FROM = (8, 0)  # compute capability: older cards take the PyTorch forms


@dataclass(frozen=True)
class Sizes:
    """How much a kind of device computes at a time; a processor wants what stays in its cache, a GPU few launches.

    Attributes:
        score_chunk: texts and videos that the evaluator gives to `score` at a time.
        similarities: words with frames, or words with words, of a block of texts.
        ghan_numbers: hidden numbers (nodes x width) of a block of pairs.
        ghan_kept_numbers: ... of all pairs whose activations wait for the backward pass; above it, blocks are computed
            again there.
        lean_pairs: pairs of a block.
        insertion: up to so many largest values insertion beats sorting.
    """

    score_chunk: int
    similarities: int
    ghan_numbers: int
    ghan_kept_numbers: int
    lean_pairs: int
    insertion: int


CPU = Sizes(
    score_chunk=256, similarities=1 << 21, ghan_numbers=1 << 21, ghan_kept_numbers=1 << 26, lean_pairs=96, insertion=4
)
GPU = Sizes(
    score_chunk=4096, similarities=1 << 28, ghan_numbers=1 << 29, ghan_kept_numbers=1 << 28, lean_pairs=4096,
    insertion=0,
)  # fmt: skip


def sizes(device: torch.device) -> Sizes:
    """The sizes for a device.

    >>> sizes(torch.device("cpu")) is CPU
    True
    """
    return CPU if device.type == "cpu" else GPU


def open_device(name: str | torch.device | None) -> torch.device:
    """The device that a user names; a GPU where there is one when None.

    Raises:
        ConfigError: there is no such device.

    >>> open_device("cpu")
    device(type='cpu')
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has one kind for each device
        raise ConfigError(
            f"device {name}: {one_line(error)}. Give cpu, cuda or cuda:N, N below the number of GPUs"
        ) from error
    return device


def has_kernels(*tensors: Tensor) -> bool:
    """Whether the kernels of `nn.kernels` can take these tensors: float32 on a GPU that Triton supports.

    >>> has_kernels(torch.ones(2))
    False
    """
    return all(x.is_cuda and x.dtype == torch.float32 for x in tensors) and _triton_knows(tensors[0].device)


@cache
def _triton_knows(device: torch.device) -> bool:
    return find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= KERNELS_FROM


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether results of this size may stay where they were computed: on a GPU, half of whose memory stays free.

    >>> fits(1, torch.device("cpu"))
    False
    """
    if device.type != "cuda":
        return False
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free - num_bytes >= total / 2


def to_host(x: Tensor) -> Tensor:
    """A copy on the CPU, from a GPU without waiting for it: read it after `wait`."""
    if not x.is_cuda:
        return x.to("cpu")
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


class Rows(Protocol):
    """What `to_device` moves: tensors under one name."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Returns a copy with `function` applied to every tensor."""


RowsT = TypeVar("RowsT", bound=Rows)


def to_device(rows: RowsT, device: torch.device) -> RowsT:
    """Moves a batch; to a GPU, from pinned memory, while it still computes what it was given before.

    Copies go through a stream of their own. Kernels launched from now on wait for them, the program does not.

    >>> from tvr_lightning.types import ItemIndex
    >>> to_device(ItemIndex(torch.arange(2)), torch.device("cpu")).index
    tensor([0, 1])
    """
    if device.type != "cuda":
        return rows.map(lambda x: x.to(device))
    computing, copying = torch.cuda.current_stream(device), _copying(device)

    def move(x: Tensor) -> Tensor:
        with torch.cuda.stream(copying):
            moved = x.to(device, non_blocking=True)
        moved.record_stream(computing)  # else its memory could be taken for the next copy while kernels read it
        return moved

    moved = rows.map(move)
    computing.wait_stream(copying)
    return moved


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def wait(device: torch.device) -> None:
    """Until what was sent to a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Graphs(dict[Any, Callable[..., tuple[Tensor, ...]]]):
    """CUDA graphs that a module has recorded, by what they were recorded for; a copy of the module has none."""

    limit = 4  # sets of input shapes; each keeps its activations' memory

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()

    def __reduce__(self) -> Any:
        return type(self), ()


def graphed(
    graphs: Graphs,
    function: Callable[..., tuple[Tensor, ...]],
    tensors: Sequence[Tensor],
    modules: Iterable[nn.Module],
    name: object = None,
) -> tuple[Tensor, ...]:
    """Calls a function, while training on a GPU as a CUDA graph: the step then waits for no launch.

    Forward and backward pass replay what was recorded at the first call with inputs of these shapes; random numbers are
    new each time. On a CPU, without gradients and beyond the limit of `Graphs` it is the plain call.

    Args:
        graphs: those that were recorded before.
        function: tensors to a tuple of tensors; on a GPU it must not ask for a value.
        tensors: its arguments.
        modules: have the parameters that the function uses.
        name: tells functions with the same `graphs` apart.

    >>> layer = nn.Linear(2, 3)
    >>> graphed(Graphs(), lambda x: (layer(x),), [torch.ones(4, 2)], [layer])[0].shape
    torch.Size([4, 3])
    """
    if not (tensors[0].is_cuda and torch.is_grad_enabled()):
        return function(*tensors)
    modules = list(modules)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    shapes = tuple((x.shape, x.dtype, x.requires_grad) for x in tensors)
    key = (name, shapes, tuple(p.data_ptr() for p in parameters), tuple(module.training for module in modules))
    if key not in graphs:
        if len(graphs) >= graphs.limit:
            return function(*tensors)
        samples = [x.detach().clone().requires_grad_(x.requires_grad) for x in tensors]
        with torch.random.fork_rng([tensors[0].device]):  # a step draws the same, recorded in it or before
            recorded: Any = torch.cuda.make_graphed_callables(
                lambda *x: function(*x[: len(tensors)]), (*samples, *parameters), allow_unused_input=True
            )
        graphs[key] = recorded
    return graphs[key](*_OwnGradients.apply(*tensors, *parameters))  # type: ignore[no-untyped-call]


class _OwnGradients(torch.autograd.Function):
    """Its arguments; their gradients are copies, for a graph's own are overwritten by its next replay."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if g is None else g.clone() for g in grads)
