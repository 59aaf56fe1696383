"""Processes that die: a run of several ends at once and says which; and workers that have no room are not started."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from subprocess import Popen
from typing import Any

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer

from tvr_lightning.errors import INTERRUPTED, TERMINATED
from tvr_lightning.run.lightning_private import launched_processes
from tvr_lightning.visible import say

EVERY_S = 0.5
PATIENCE_S = 5.0
FIRST = "TVR_FIRST_PID"  # the process that starts the other ranks: it may be gone before they ask who it was
MEMORY = "usually memory ran out"
BY_SIGNAL = {
    INTERRUPTED: INTERRUPTED, -signal.SIGINT: INTERRUPTED, TERMINATED: TERMINATED, -signal.SIGTERM: TERMINATED
}  # fmt: skip


class RankWatchdog(Callback):
    """Watches the ranks of this machine that Lightning started: when one dies, the others end with the reason.

    Without it a rank that lives on waits for the dead one in a collective until the process group's timeout, or is
    killed without a word. torchrun and SLURM watch the ranks that they start themselves.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, trainer: Trainer) -> None:
        """Starts watching: the first rank its children, each child the first rank. They may die before any hook."""
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if isinstance(environment, LightningEnvironment) and trainer.world_size > 1:
            if trainer.local_rank == 0:
                os.environ[FIRST] = str(os.getpid())
            elif FIRST not in os.environ:
                return  # somebody started this rank by hand
            first = int(os.environ[FIRST])
            self._thread = threading.Thread(target=self._watch, args=(trainer, first), daemon=True)
            self._thread.start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ranks may end after the last stage; a fit is followed by a test."""
        if stage != "fit":
            self._over.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A collective that failed has a reason, which the watch finds; every other error speaks for itself."""
        if isinstance(exception, RuntimeError) and self._thread is not None:
            self._thread.join(PATIENCE_S)
        self._over.set()

    def _watch(self, trainer: Trainer, first: int) -> None:
        while not self._over.wait(EVERY_S):
            if trainer.local_rank > 0 and os.getppid() != first:
                _end(f"the run's first process (pid {first}) is gone; rank {trainer.global_rank} ends too", 1, [])
            processes = launched_processes(trainer)
            for number, process in enumerate(processes, start=1):
                code = process.poll()
                if code and not self._over.is_set():
                    reason = f"rank {trainer.global_rank + number} (pid {process.pid}) {_how(code)}; the run ends"
                    _end(reason, BY_SIGNAL.get(code, 1), processes)


class Room(Callback):
    """Looks before training whether shared memory has room for the batches that workers read ahead, test included."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to begin a run that would stop inside; frozen features, smaller than frames, are known now.

        Raises:
            ConfigError: too little room; names the ways out.
        """
        trainer.datamodule.check_shared_memory()  # type: ignore[attr-defined]


def _how(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (f" ({MEMORY})" if name == "SIGKILL" else "")
    return f"ended with exit code {code}, its message stands above"


def _end(reason: str, code: int, processes: list[Popen[Any]]) -> None:
    """Ends this process from any thread, others with it: the main thread may wait in a collective for ever."""
    say(f"tvr: {reason}", file=sys.stderr, flush=True)
    for rank in processes:
        rank.kill()
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(code)
