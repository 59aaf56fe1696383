"""Precomputed frame features: read instead of video files, for methods whose encoder is frozen.

FOLDER/<id>.npy              an array (N, F): one row per frame, in order; (F,) is one frame
FOLDER/<id>.safetensors      one tensor, or the one called `features`
FILE.safetensors, FILE.h5    an array for each id
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tvr_lightning.data.annotations.base import check_relative
from tvr_lightning.data.annotations.video_tree import VIDEO_EXTENSIONS
from tvr_lightning.data.protocol import DISTRACTOR
from tvr_lightning.data.stores.features import FeatureRow
from tvr_lightning.data.stores.files import is_file
from tvr_lightning.data.video.records import choose_rows
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.errors import ConfigError, DataError, few
from tvr_lightning.types import Record

FILES = ("npy", "safetensors")
CONTAINERS = ("safetensors", "h5", "hdf5")
_Array = NDArray[Any]


def names_of(record: Record) -> list[str]:
    """What a record's frames or features may be called: its id, without a video's ending, without a segment's mark."""
    names = [record.video_id.removeprefix(DISTRACTOR)]
    if record.start is not None or record.end is not None:
        names.append(names[0].rpartition("@")[0])
    for name in tuple(names):
        stem, _, ending = name.rpartition(".")
        names += [stem] if ending.lower() in VIDEO_EXTENSIONS else []
    return [name for name in dict.fromkeys(names) if name]


def folder_of(root: Path, record: Record) -> Path:
    """The folder of a record's pictures; where it would lie when there is none."""
    found = [root / check_relative(name, f"{root}: frames of {record.video_id}") for name in names_of(record)]
    return next((path for path in found if path.is_dir()), found[0])


class GivenFeatures:
    """Frame features of records, read when they are asked for; processes that read open files for themselves.

    Args:
        place: a folder or one file.
        records: whose features.
        options: which frames are kept.
        rate: rows of an array a second of video.

    Raises:
        DataError: there is no such place, or it is of no kind that is read.
        ConfigError: h5py is needed and is not there, or frames are chosen by their pixels.
    """

    def __init__(self, place: Path, records: Sequence[Record], options: FrameOptions, rate: float) -> None:
        if options.sampling == "key":
            raise ConfigError("data.sampling=key compares pixels: set it to uniform, head or tail for frame features")
        self.place, self.records, self.options, self.rate = place, records, options, rate
        self._open: tuple[int, Any] | None = None  # of a process, and its open file
        self._width: int | None = None
        if place.is_dir():
            self._keys: list[str | None] = [self._file(record) for record in records]
            return
        kind = place.suffix.lower().removeprefix(".")
        if not is_file(place) or kind not in CONTAINERS:
            raise DataError(
                f"data.frame_features: {place} is not a folder of {' or '.join('.' + e for e in FILES)} files, and no "
                f"file that ends in {', '.join('.' + e for e in CONTAINERS)}"
            )
        known = set(self._container().keys())
        self._keys = [next((n for n in names_of(record) if n in known), None) for record in records]

    def __contains__(self, row: int) -> bool:
        """Whether the record in a row has features."""
        return self._keys[row] is not None

    def rows(self, kept: Sequence[int]) -> GivenFeatures:
        """The same for some of the records."""
        return GivenFeatures(self.place, [self.records[i] for i in kept], self.options, self.rate)

    def __getitem__(self, row: int) -> FeatureRow:
        """Features of a record's chosen frames, zeros after them.

        Raises:
            DataError: they cannot be read, are not numbers (N, F), or of another width than the first that was read.
        """
        array, where = self._read(row)
        numbers = array.dtype.kind in "fiub" and array.ndim in (1, 2) and array.size and np.isfinite(array).all()
        if not numbers:
            raise DataError(f"{where}: expected finite numbers (frames, width), found {array.dtype} {array.shape}")
        values = torch.from_numpy(np.array(array, dtype=np.float32, ndmin=2))
        self._width = self._width or values.shape[1]
        if values.shape[1] != self._width:
            raise DataError(f"{where}: a frame has {values.shape[1]} features, those read before have {self._width}")
        chosen = choose_rows(len(values), self.rate, self.options, self.place, self.records[row])
        features = values.new_zeros(self.options.num_frames, self._width)
        features[: len(chosen)] = values[torch.from_numpy(chosen)]
        return FeatureRow(features, torch.arange(self.options.num_frames) < len(chosen), False)

    def check_width(self, width: int, what: str) -> None:
        """Refuses features that an encoder would not give.

        Raises:
            ConfigError: the first record's are of another width.
        """
        found = self[0].features.shape[1] if self.records else width
        if found != width:
            raise ConfigError(
                f"data.frame_features: frames in {self.place} have {found} features, {what} gives {width}: take the "
                "encoder that they were computed with"
            )

    def _file(self, record: Record) -> str | None:
        for name in names_of(record):
            check_relative(name, f"{self.place}: features of {record.video_id}")
            for ending in FILES:
                if is_file(self.place / f"{name}.{ending}"):
                    return f"{name}.{ending}"
        return None

    def _read(self, row: int) -> tuple[_Array, str]:
        key = self._keys[row]
        if key is None:
            raise DataError(f"data.frame_features: {self.place} has none of {self.records[row].video_id}")
        where = f"{self.place / key}" if self.place.is_dir() else f"{self.place}: {key}"
        try:
            if not self.place.is_dir():
                return self._array(key), where
            return _load(self.place / key), where
        except DataError:
            raise
        except Exception as error:  # readers of damaged files raise almost anything
            raise DataError(f"{where}: cannot be read ({error}). Compute these features again.") from error

    def _array(self, key: str) -> _Array:
        if self.place.suffix.lower() == ".safetensors":
            return _plain(self._container().get_tensor(key))
        return np.asarray(self._container()[key])

    def _container(self) -> Any:
        """The open file; one opened by another process is opened again."""
        if self._open is None or self._open[0] != os.getpid():
            self._open = os.getpid(), _opener(self.place)()
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


def _load(path: Path) -> _Array:
    if path.suffix.lower() == ".npy":
        array: _Array = np.load(path, allow_pickle=False)
        return array
    from safetensors.torch import load_file

    tensors = load_file(path)
    if "features" not in tensors and len(tensors) != 1:
        raise DataError(f"{path}: holds {len(tensors)} tensors ({few(tensors)}); call the one of the frames `features`")
    return _plain(tensors.get("features", next(iter(tensors.values()))))


def _plain(tensor: Tensor) -> _Array:
    return tensor.float().numpy()  # numpy knows no bfloat16


def _opener(place: Path) -> Callable[[], Any]:
    if place.suffix.lower() == ".safetensors":
        from safetensors import safe_open

        return lambda: safe_open(str(place), framework="pt")
    try:
        import h5py
    except ImportError:
        raise ConfigError(f"data.frame_features: {place.name} is HDF5, which needs h5py: pip install h5py") from None
    return lambda: h5py.File(place, "r")
