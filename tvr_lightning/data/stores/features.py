"""Features on disk: what a frozen encoder made of a video or a caption is computed once, for all epochs and runs.

Items lie in blocks, one safetensors file each. A block's name is a hash of everything that its features depend on: for
each item what it is made of (a video's content and sampling, a caption's tokens), and the encoder's weights. A changed
video or encoder finds no old features; a run that was killed finds the blocks that it had finished.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from tvr_lightning.distributed import ranks, together
from tvr_lightning.errors import ConfigError, DataError


class FeatureRow(NamedTuple):
    """What is kept of one item.

    Attributes:
        features: (n, F).
        mask: (n,) bool.
        failed: whether the item could not be read; its features are zeros.
    """

    features: Tensor
    mask: Tensor
    failed: bool


class FeatureRows:
    """The features of a list of items, mapped from disk; each process opens the files for itself.

    Args:
        files: one for each block, in order.
        block: items of a block; the last may have fewer.
    """

    def __init__(self, files: Sequence[Path], block: int) -> None:
        self.files = tuple(files)
        self.block = block
        self._open: dict[int, Any] = {}

    def __getitem__(self, index: int) -> FeatureRow:
        """Reads one item.

        Raises:
            DataError: the file is damaged or has gone.
        """
        number, row = divmod(index, self.block)
        kept = self._open.get(number)
        if kept is None:
            kept = self._open[number] = _read(self.files[number])
        return FeatureRow(kept["features"][row], kept["mask"][row], bool(kept["failed"][row]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


class FeatureStore:
    """Blocks of features in a folder.

    Args:
        folder: where they lie; made when the first block is kept.
        block: items of a block.
    """

    def __init__(self, folder: Path, block: int) -> None:
        self.folder = folder
        self.block = block

    def rows(
        self, keys: Sequence[bytes], what: str, compute: Callable[[Sequence[range]], Iterable[dict[str, Tensor]]]
    ) -> FeatureRows:
        """The features of items; those that are not there are computed, by all ranks together.

        Args:
            keys: what each item's features depend on.
            what: names the items in the line that says that they are computed.
            compute: given ranges of items, yields for each `features` (N, n, F), `mask` (N, n), `failed` (N,).

        Raises:
            ConfigError: the folder cannot be written or has too little space.
        """
        spans = [range(i, min(i + self.block, len(keys))) for i in range(0, len(keys), self.block)]
        files = [self._file(keys[span.start : span.stop]) for span in spans]
        rank, world = ranks()
        missing = sum(not file.is_file() for file in files)
        began = time.monotonic()
        if missing and not rank:
            print(f"{what}: frozen features of {min(len(keys), missing * self.block):,} are computed once and kept in "
                  f"{self.folder}", file=sys.stderr, flush=True)  # fmt: skip
        with together():  # the shares of several ranks, then what another machine's ranks keep on another disk
            self._fill(spans[rank::world], files[rank::world], compute)
        with together():
            self._fill(spans, files, compute)
        if missing and not rank:
            print(f"{what}: done in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return FeatureRows(files, self.block)

    def _file(self, keys: Sequence[bytes]) -> Path:
        name = hashlib.blake2b(b"".join(keys), digest_size=20).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def _fill(
        self,
        spans: Sequence[range],
        files: Sequence[Path],
        compute: Callable[[Sequence[range]], Iterable[dict[str, Tensor]]],
    ) -> None:
        missing = [(span, file) for span, file in zip(spans, files, strict=True) if not file.is_file()]
        left = len(missing)
        for (_, file), block in zip(missing, compute([span for span, _ in missing]) if missing else (), strict=True):
            need = left * sum(x.nbytes for x in block.values())
            left -= 1
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                free = shutil.disk_usage(file.parent).free
                if need > free:
                    raise OSError(None, f"{need / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are free")
                _write(file, block)
            except OSError as error:
                raise ConfigError(
                    f"features cannot be kept in {self.folder}: {error.strerror or error}. Free space, set "
                    "--data.cache_dir to another folder, or --data.cache_features=false to compute them in each epoch."
                ) from None


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in ("features", "mask", "failed")}
    except (OSError, SafetensorError) as error:
        raise DataError(f"kept features {file} cannot be read ({error}); remove the file and start again") from None


def _write(file: Path, block: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    handle, temporary = tempfile.mkstemp(prefix=".", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(save({name: x.contiguous() for name, x in block.items()}))
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def key_of(*parts: object) -> bytes:
    """Hashes what an item's features depend on."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=20).digest()
