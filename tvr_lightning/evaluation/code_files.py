"""Binary codes at rest and in search: packed 8 bits to a byte, kept with their ids, looked up by Hamming distance."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tvr_lightning.data.stores.archives import check_archive
from tvr_lightning.data.stores.files import atomic_write
from tvr_lightning.errors import DataError

if TYPE_CHECKING:
    from tvr_lightning.metrics.matrix import ArrayLike

CODES = "codes.npz"
TIMES_UNPACKED = 200  # of its size on disk: ids are texts that resemble one another, as wide as the longest
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    MemoryError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
)


def pack_codes(codes: ArrayLike) -> NDArray[np.uint8]:
    """Packs codes, (N, K) of any real dtype to (N, ceil(K/8)) bytes.

    Bit k of a code is bit 7 - k mod 8 of byte k div 8, set where the sign is positive; 0 counts as positive, and bits
    beyond K are not set, so that they add nothing to a distance.

    Raises:
        ValueError: not a matrix, or NaN.
    """
    matrix = codes.detach().cpu().numpy() if isinstance(codes, Tensor) else np.asarray(codes)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"codes must be (items, bits), got shape {matrix.shape}")
    if np.isnan(matrix).any():
        raise ValueError("codes hold NaN, which has no sign")
    return np.packbits(matrix >= 0, axis=1)


def unpack_codes(packed: NDArray[np.uint8], bits: int) -> Tensor:
    """Unpacks what `pack_codes` packed, to (N, K) int8 of -1 and +1.

    Raises:
        ValueError: not bytes, or not as many as `bits` need.
    """
    _check_packed(packed, bits)
    return torch.from_numpy(np.unpackbits(packed, axis=1, count=bits).astype(np.int8) * 2 - 1)


def _check_packed(packed: NDArray[Any], bits: int) -> None:
    if bits < 1 or packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != -(-bits // 8):
        raise ValueError(f"codes of {bits} bits are uint8 (items, {-(-bits // 8)}), got {packed.dtype} {packed.shape}")


@dataclass(frozen=True)
class Codes:
    """Codes with the names of what they stand for.

    Attributes:
        packed: (N, ceil(K/8)) uint8, see `pack_codes`.
        bits: K.
        ids: (N,) unicode.
        labels: class labels of each item; empty where the dataset has none.

    Raises:
        ValueError: the parts do not fit.
    """

    packed: NDArray[np.uint8]
    bits: int
    ids: NDArray[np.str_]
    labels: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        _check_packed(self.packed, self.bits)
        if self.ids.shape != (len(self.packed),) or self.ids.dtype.kind != "U":
            raise ValueError(
                f"{len(self.packed)} codes need as many ids of text, got {self.ids.dtype} {self.ids.shape}"
            )
        if len(self.labels) not in (0, len(self.packed)):
            raise ValueError(f"{len(self.packed)} codes need labels of as many items or none, got {len(self.labels)}")

    @classmethod
    def pack(cls, codes: Tensor, ids: Sequence[str], labels: Sequence[tuple[int, ...]] = ()) -> Codes:
        """Packs (N, K) codes or relaxed codes under N ids, with the class labels of each item or without any."""
        known = tuple(labels) if any(labels) else ()
        return cls(pack_codes(codes), codes.shape[1], np.asarray(ids, dtype=np.str_).reshape(-1), known)

    @property
    def signs(self) -> Tensor:
        """(N, K) int8 of -1 and +1."""
        return unpack_codes(self.packed, self.bits)

    def __len__(self) -> int:
        """Number of codes."""
        return len(self.packed)


def save_codes(path: Path, codes: Mapping[str, Codes]) -> None:
    """Writes named sets of codes as one compressed file, atomically; numpy reads it without pickle.

    Each set has the arrays `NAME/codes` (packed), `NAME/bits` and `NAME/ids`; with labels also `NAME/labels`, (L, 2)
    int64 of an item's row and one of its classes.

    Raises:
        RunError: the file cannot be written.
    """
    arrays: dict[str, Any] = {}
    for name, part in codes.items():
        arrays |= {f"{name}/codes": part.packed, f"{name}/bits": np.int64(part.bits), f"{name}/ids": part.ids}
        if part.labels:
            pairs = [(row, label) for row, own in enumerate(part.labels) for label in own]
            arrays[f"{name}/labels"] = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _labels(arrays: Mapping[str, NDArray[Any]], name: str) -> tuple[tuple[int, ...], ...]:
    pairs = arrays.get(f"{name}/labels")
    if pairs is None:
        return ()
    count = len(arrays[f"{name}/ids"])
    fits = pairs.dtype == np.int64 and pairs.ndim == 2 and pairs.shape[1] == 2
    if not fits or not ((pairs[:, 0] >= 0) & (pairs[:, 0] < count)).all():
        raise ValueError(f"{name}/labels are not rows of {count} items with classes")
    own: list[list[int]] = [[] for _ in range(count)]
    for row, label in pairs.tolist():
        own[row].append(label)
    return tuple(map(tuple, own))


def load_codes(path: Path) -> dict[str, Codes]:
    """Reads what `save_codes` wrote.

    Raises:
        DataError: there is no such file, it is damaged, or holds no codes.
    """
    try:
        check_archive(path, TIMES_UNPACKED)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = dict.fromkeys(name.rpartition("/")[0] for name in arrays)
        found = {
            n: Codes(arrays[f"{n}/codes"], int(arrays[f"{n}/bits"]), arrays[f"{n}/ids"], _labels(arrays, n))
            for n in names
            if n
        }
    except FileNotFoundError:
        raise DataError(f"no codes at {path}; make them with: tvr encode RUN --split test --out {path}") from None
    except (*DAMAGED, AttributeError) as error:
        raise DataError(f"{path} holds no codes or is damaged ({error}); make it again with `tvr encode`") from None
    if not found:
        raise DataError(f"{path} holds no codes (found: {', '.join(arrays) or 'nothing'}); make it with `tvr encode`")
    return found


class HammingIndex:
    """Exact search by Hamming distance over packed codes: FAISS's IndexBinaryFlat, with ids.

    Args:
        codes: the items.

    Raises:
        ValueError: no codes.
    """

    def __init__(self, codes: Codes) -> None:
        import faiss

        if not len(codes):
            raise ValueError("an index needs at least one code")
        self.ids = codes.ids
        self.bits = codes.bits
        # FAISS counts whole bytes: the unused bits of the last one are 0 on both sides
        self._index: Any = faiss.IndexBinaryFlat(8 * codes.packed.shape[1])
        self._index.add(codes.packed)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.ids)

    def search(self, queries: ArrayLike, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Finds the nearest items of each query.

        Args:
            queries: packed, (Q, ceil(K/8)) uint8; see `pack_codes`.
            k: how many; all items where there are fewer.

        Returns:
            Hamming distances (Q, k) in ascending order and the rows of the items (Q, k); `ids[rows]` names them. Among
            equal distances the order means nothing.

        Raises:
            ValueError: queries of another length, or `k` below 1.
        """
        packed = queries.numpy() if isinstance(queries, Tensor) else queries
        _check_packed(packed, self.bits)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        distances, rows = self._index.search(np.ascontiguousarray(packed), min(k, len(self)))
        return distances, rows
