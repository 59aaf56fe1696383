"""Features in the disk store: what a frozen encoder made of a video or a caption is computed once, for all runs.

Items lie in blocks, an entry each. A block's key is everything that its features depend on: for each item what it is
made of (a video's content and sampling, a caption's tokens), and the encoder's weights. A changed video or encoder
finds no old features; a run that was killed finds the blocks that it had finished.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from tvr_lightning.data.stores.store import Store, StoreFullError, key_of
from tvr_lightning.distributed import raise_on_all_ranks, ranks
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.visible import say

Block = dict[str, Tensor]  # `features` (N, n, F), `mask` (N, n) and `failed` (N,) of neighbouring items
Compute = Callable[[Sequence[range]], Iterable[Block]]


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
    """The features of a list of items, mapped from disk; a process that is started afresh maps them for itself.

    Args:
        store: where they lie.
        keys: of the blocks, in order.
        size: items of a block; the last may have fewer.
        blocks: those that are mapped.
    """

    def __init__(self, store: Store, keys: Sequence[bytes], size: int, blocks: dict[bytes, Block]) -> None:
        self.store = store
        self.keys = keys
        self.size = size
        self._blocks = blocks

    def __getitem__(self, index: int) -> FeatureRow:
        """Reads one item.

        Raises:
            DataError: its block is gone or is damaged.
        """
        number, row = divmod(index, self.size)
        key = self.keys[number]
        block = self._blocks.get(key) or self.store.read("features", key, mapped=True)
        if block is None:
            raise DataError(f"kept features {self.store.path('features', key)} are damaged or gone; start again")
        self._blocks[key] = block
        return FeatureRow(block["features"][row], block["mask"][row], bool(block["failed"][row]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": {}}


class NotKeptError(ConfigError):
    """The store cannot take features: the disk is full or read-only, or the bound too small."""


class FeatureStore:
    """Features in the disk store. What was given stays mapped: nobody's removal takes it from a run.

    Args:
        store: where they lie.

    Attributes:
        seconds: that went by while features were computed.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.seconds = 0.0
        self._blocks: dict[bytes, Block] = {}
        self._reported = False

    def rows_or_none(self, keys: Sequence[bytes], size: int, what: str, compute: Compute) -> FeatureRows | None:
        """As `rows`; where the store cannot take them a warning says so once, and None: a run costs time then."""
        try:
            return self.rows(keys, size, what, compute)
        except NotKeptError as error:
            if not self._reported:
                rank_zero_warn(f"{error} This run computes them in each epoch.")
            self._reported = True
            return None

    def rows(self, keys: Sequence[bytes], size: int, what: str, compute: Compute) -> FeatureRows:
        """The features of items; those that are not there are computed, by all ranks together.

        Args:
            keys: what each item's features depend on.
            size: items of a block.
            what: names the items in the line that says that they are computed.
            compute: given ranges of items, yields their blocks.

        Raises:
            NotKeptError: the folder cannot be used or has too little space; on every rank.
        """
        spans = [range(i, min(i + size, len(keys))) for i in range(0, len(keys), size)]
        names = [key_of(*keys[span.start : span.stop]) for span in spans]
        wanted = dict(zip(names, spans, strict=True))
        rank, world = ranks()
        began = time.monotonic()
        # the shares of several ranks, then what another machine's ranks keep on another disk
        with raise_on_all_ranks():
            missing = self._missing(wanted)
            if missing and not rank:
                count = sum(len(span) for span in missing.values())
                say(f"{what}: frozen features of {count:,} are computed once and kept in {self.store.folder}",
                      file=sys.stderr, flush=True)  # fmt: skip
            share = set(names[rank::world])
            self._fill(wanted, {key: span for key, span in missing.items() if key in share}, compute)
        with raise_on_all_ranks():
            self._fill(wanted, self._missing(wanted), compute)
        if missing:
            took = time.monotonic() - began
            self.seconds += took
            if not rank:
                say(f"{what}: done in {took:.0f} s", file=sys.stderr, flush=True)
        return FeatureRows(self.store, names, size, {name: self._blocks[name] for name in names})

    def _missing(self, wanted: dict[bytes, range]) -> dict[bytes, range]:
        """Maps the blocks that are there; returns the others."""
        try:
            for key in wanted.keys() - self._blocks.keys():
                block = self.store.read("features", key, mapped=True)
                if block is not None:
                    self._blocks[key] = block
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from None
        return {key: span for key, span in wanted.items() if key not in self._blocks}

    def _fill(self, wanted: dict[bytes, range], missing: dict[bytes, range], compute: Compute) -> None:
        left = len(missing)
        for key, block in zip(missing, compute(list(missing.values())) if missing else (), strict=True):
            need = left * _bytes(block)
            left -= 1
            try:
                self.store.folder.mkdir(parents=True, exist_ok=True)
                free = shutil.disk_usage(self.store.folder).free
                if need > free:
                    raise self._unusable(f"{need / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are free")
                total = need + sum(_bytes(self._blocks[k]) for k in wanted if k in self._blocks)
                if total > self.store.bound:
                    raise self._unusable(f"data.cache_gib={self.store.gib:g}, they need {total / 2**30:.1f} GiB")
                self.store.write("features", key, block)
                kept = self.store.read("features", key, mapped=True)
            except OSError as error:
                raise self._unusable(error.strerror or str(error)) from None
            except StoreFullError:
                raise self._unusable(f"data.cache_gib={self.store.gib:g} is full of features in use") from None
            if kept is None:
                raise self._unusable("a block is gone as soon as it was written")
            self._blocks[key] = kept

    def _unusable(self, reason: str) -> NotKeptError:
        return NotKeptError(
            f"features cannot be kept in {self.store.folder}: {reason}. Free space, set --data.cache_dir to another "
            "folder or a larger --data.cache_gib, or --data.cache_features=false to compute them in each epoch."
        )


def _bytes(block: Block) -> int:
    return sum(x.nbytes for x in block.values())
