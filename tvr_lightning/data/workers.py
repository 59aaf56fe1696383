"""Processes that read for a loader: room for their batches in shared memory, and a limit to waiting for them."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from tvr_lightning.data.tools.bounds import usable_cores
from tvr_lightning.distributed import ranks
from tvr_lightning.errors import ConfigError
from tvr_lightning.visible import bytes_in_words, say_once

SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps it; a container of Docker has 64 MB of it unless told otherwise
BATCHES_AHEAD = 2  # that a worker prepares
LARGEST_BATCH, MOST_WORKERS = 1 << 20, 1024
WAIT_S = 1800
"""How long a batch may take: as long as ranks wait for each other."""


def check_loading(batch_size: int | None, num_workers: int | None) -> None:
    """Refuses numbers that no machine has room for; None is what was set before.

    Raises:
        ConfigError: says which.
    """
    if batch_size is not None and not 1 <= batch_size <= LARGEST_BATCH:
        raise ConfigError(f"the batch size is {batch_size}; at least 1, at most {LARGEST_BATCH:,}")
    if num_workers is not None and not 0 <= num_workers <= MOST_WORKERS:
        raise ConfigError(f"the number of workers is {num_workers}; at least 0, at most {MOST_WORKERS:,}")


def worker_settings(num_workers: int) -> dict[str, Any]:
    """Arguments of a `DataLoader`; without workers there is nobody to wait for.

    Says once where there are more workers than cores, in place of what torch says of each loader.

    >>> worker_settings(0)
    {'num_workers': 0, 'timeout': 0}
    """
    if not num_workers:
        return {"num_workers": 0, "timeout": 0}
    if num_workers > (cores := usable_cores()):
        warnings.filterwarnings("ignore", "This DataLoader will create")
        if not ranks()[0]:
            say_once(
                f"{num_workers} workers that read videos share {cores} CPU core{'s' * (cores > 1)}, "
                f"and each takes memory; {cores} would be one per core (data.num_workers, or --workers)"
            )
    return {"num_workers": num_workers, "timeout": WAIT_S, "prefetch_factor": BATCHES_AHEAD}


def make_loader(dataset: Any, batch_size: int, num_workers: int, seed: int, **settings: Any) -> DataLoader[Any]:
    """A loader whose workers stay, for training and evaluation.

    Args:
        dataset: what is read.
        batch_size: items of a batch.
        num_workers: processes that read.
        seed: of the workers; else each loader draws from the random state that training continues with, and a resumed
            run makes it anew.
        settings: more of `DataLoader`'s.
    """
    # Lightning rebuilds loaders from keyword arguments only
    return DataLoader(
        dataset, batch_size=batch_size, **worker_settings(num_workers), pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0, generator=torch.Generator().manual_seed(seed), **settings,
    )  # fmt: skip


def check_shared_memory(
    batch_bytes: int, num_workers: int, processes: int = 1, setting: str = "data.batch_size"
) -> None:
    """Refuses workers whose batches do not fit into shared memory: they would die, or be waited for in vain.

    Args:
        batch_bytes: size of a batch.
        num_workers: of one process.
        processes: that train on this machine, each with workers of its own.
        setting: what makes the batch smaller.

    Raises:
        ConfigError: there is too little room; names the ways out.
    """
    if not num_workers or not SHARED_MEMORY.is_dir():
        return
    batches = processes * (num_workers * BATCHES_AHEAD + 1)  # those ahead, and the one that is computed with
    need, free = batches * batch_bytes, shutil.disk_usage(SHARED_MEMORY).free
    if need > free:
        raise ConfigError(
            f"data.num_workers={num_workers} keeps {batches} batches of {bytes_in_words(batch_bytes)} in shared "
            f"memory, and {SHARED_MEMORY} has {bytes_in_words(free)} free, not {bytes_in_words(need)}: start the "
            f"container with more (docker run --shm-size={need // 2**30 + 1}g), or set --data.num_workers=0 or a "
            f"smaller --{setting}"
        )
