"""The same work over many files, in processes of their own, with a progress bar on a terminal.

Processes are fresh, since a fork of a process that has threads (as any with torch) may hang; keep the module of the
work free of torch, and each starts in a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import TypeVar

from tvr_lightning.data.tools.bounds import usable_cores
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.visible import console

JOBS_PER_WORKER = 64
"""Fewer jobs than this are done sooner here than in a process that must start first."""

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
_stop: Event | None = None


class Stopped(BaseException):
    """Raised inside a long job after Ctrl-C; no handler of errors may take it for one."""


def map_in_processes(
    work: Callable[[_Job], _Result],
    jobs: Sequence[_Job],
    workers: int | None,
    label: str,
    chunk: int = 1,
    jobs_per_worker: int = JOBS_PER_WORKER,
) -> list[_Result]:
    """Does `work` on every job and returns the results in the order of the jobs.

    Ctrl-C ends jobs that call `stop_if_asked`, waits for the others that run, and begins no more.

    Args:
        work: a function of a module.
        jobs: its arguments, one each.
        workers: processes; None for one per core, fewer for few jobs. One works in this process.
        label: stands before the bar.
        chunk: jobs handed over at a time.
        jobs_per_worker: see `JOBS_PER_WORKER`.

    Raises:
        ConfigError: `workers` is less than one.
        DataError: a process died.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}; it must be 1 or more")
    count = min(workers or usable_cores(), -(-len(jobs) // jobs_per_worker) if workers is None else len(jobs))
    if count <= 1:
        return list(_with_bar(map(work, jobs), len(jobs), label))
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(count, context, initializer=_begin, initargs=(stop,)) as pool:
        try:
            return list(_with_bar(pool.map(work, jobs, chunksize=chunk), len(jobs), label))
        except BrokenProcessPool as error:
            raise DataError(
                f"{label}: a worker process died, from lack of memory or from a file that crashes the decoder. "
                "Try again with --workers 1; the file at work then is the cause."
            ) from error
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def stop_if_asked() -> None:
    """Raises Stopped when this is a worker and the run was interrupted."""
    if _stop is not None and _stop.is_set():
        raise Stopped


def _begin(stop: Event) -> None:
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent decides


def _with_bar(results: Iterable[_Result], total: int, label: str) -> Iterable[_Result]:
    from rich.progress import track

    out = console(stderr=True)
    if not out.is_terminal:
        return results
    return track(results, description=label, total=total, console=out)
