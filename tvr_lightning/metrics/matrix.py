"""What every metric asks of a score matrix: shapes that fit, finite entries, and a walk in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from tvr_lightning.errors import ScoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    ArrayLike: TypeAlias = Tensor | NDArray[Any]

CHUNK = 1 << 24  # entries of a matrix looked at together: 64 MiB of float32, wide enough for memory-mapped columns


def as_matrix(values: ArrayLike, name: str) -> Tensor:
    """Returns a detached (rows, columns) tensor that shares the values' memory.

    Raises:
        ValueError: not two-dimensional, or empty.
    """
    matrix = torch.as_tensor(values).detach()
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ValueError(f"{name} must be a matrix with rows and columns, got shape {tuple(matrix.shape)}")
    return matrix


def as_scores(scores: ArrayLike, name: str = "scores") -> Tensor:
    """Returns scores as a detached (rows, columns) tensor that shares their memory.

    Raises:
        ValueError: not two-dimensional, empty, or complex numbers.
    """
    matrix = as_matrix(scores, name)
    if matrix.is_complex():
        raise ValueError(f"{name} must be real numbers, got {matrix.dtype}")
    return matrix


def as_relation(caption_video: ArrayLike, scores: Tensor) -> Tensor:
    """Returns the caption -> video relation as (T,) int64 on the scores' device.

    Raises:
        ValueError: not one integer per row of `scores`, or a video that is not a column of `scores`.
    """
    relation = torch.as_tensor(caption_video)
    if relation.shape != scores.shape[:1]:
        raise ValueError(
            f"caption_video must name one video for each row of scores {tuple(scores.shape)}, "
            f"got shape {tuple(relation.shape)}"
        )
    if relation.is_floating_point() or relation.is_complex() or relation.dtype == torch.bool:
        raise ValueError(f"caption_video must hold integers, got {relation.dtype}")
    low, high = int(relation.min()), int(relation.max())
    if low < 0 or high >= scores.shape[1]:
        raise ValueError(f"caption_video must lie in 0..{scores.shape[1] - 1} (columns of scores), got {low}..{high}")
    return relation.to(scores.device, torch.int64)


def as_pairs(pairs: ArrayLike, scores: Tensor) -> Tensor:
    """Returns pairs of rows and columns as (R, 2) int64 on the scores' device.

    Raises:
        ValueError: another shape or type, or a pair outside of the matrix.
    """
    found = torch.as_tensor(pairs)
    if found.ndim != 2 or found.shape[1] != 2 or found.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"pairs must be (R, 2) integers, got {found.dtype} {tuple(found.shape)}")
    if bool((found < 0).any()) or bool((found >= torch.tensor(scores.shape, device=found.device)).any()):
        raise ValueError(f"pairs must lie inside the scores {tuple(scores.shape)}")
    return found.to(scores.device, torch.int64)


def chunks(length: int, width: int, chunk: int) -> Iterator[slice]:
    """Splits `length` lines of `width` entries each into slices of at most `chunk` entries, at least one line."""
    step = max(1, chunk // width)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def widen(block: Tensor) -> Tensor:
    """Returns a block in float32 or float64, exactly: reduced precision as float32, integers as float64."""
    if block.dtype in (torch.float32, torch.float64):
        return block
    return block.float() if block.is_floating_point() else block.double()


def require_finite(scores: Tensor, chunk: int = CHUNK, rows: str = "text", columns: str = "video") -> None:
    """Raises ScoreError if any entry is NaN or infinite, naming the first such pair and how many there are."""
    first, count = "", 0
    for part in chunks(len(scores), scores.shape[1], chunk):
        block = widen(scores[part])
        # both extremes of a block that holds a NaN are NaN; looking at each entry takes several times as long
        if bool(torch.isfinite(torch.stack(block.aminmax())).all()):
            continue
        broken = ~torch.isfinite(block)
        if not count:
            row, column = broken.nonzero()[0].tolist()
            row += part.start
            first = f"({rows} {row}, {columns} {column}) is {scores[row, column].item()}"
        count += int(broken.sum())
    if count:
        raise ScoreError(
            f"the score of {first}; {count} of {scores.numel()} scores are not finite, and a rank among them would "
            "mean nothing. Look at the weights (a diverged run?) and at the features of that pair."
        )
