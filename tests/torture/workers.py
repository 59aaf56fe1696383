"""Judges in processes of their own: a crash or an endless loop is a verdict, not an end."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from .judge import Verdict

LIMIT_S = 30
"""What takes longer hangs."""

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Job:
    """A verdict to be found: which row it counts in, what is judged, and how."""

    part: str
    kind: str
    what: str
    judge: Callable[[], Verdict]


def judged(jobs: Iterable[Job], workers: int, limit_s: float = LIMIT_S) -> Iterator[tuple[Job, Verdict]]:
    """Yields each job with its verdict, as they come.

    Args:
        jobs: made while others are judged.
        workers: processes at a time.
        limit_s: seconds for one.
    """
    rest = iter(jobs)
    busy: dict[Connection, tuple[Any, list[Job], int]] = {}
    while True:
        while len(busy) < workers:
            batch = [job for _, job in zip(range(40), rest, strict=False)]
            if not batch:
                break
            _start(batch, 0, busy)
        if not busy:
            return
        ready = multiprocessing.connection.wait(list(busy), limit_s)
        for place in ready or list(busy):
            assert isinstance(place, Connection)
            process, batch, done = busy.pop(place)
            try:
                if not ready:
                    raise TimeoutError
                verdict = place.recv()
            except (EOFError, TimeoutError) as error:
                hung = isinstance(error, TimeoutError)
                process.kill()
                process.join()
                verdict = Verdict("wrong", f"hangs for {limit_s:g} s" if hung else f"crashed ({process.exitcode})")
                place.close()
                if done + 1 < len(batch):
                    _start(batch, done + 1, busy)
            else:
                if done + 1 < len(batch):
                    busy[place] = process, batch, done + 1
                else:
                    process.join()
                    place.close()
            yield batch[done], verdict


def _start(batch: list[Job], first: int, busy: dict[Connection, tuple[Any, list[Job], int]]) -> None:
    here, there = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_judge, args=(batch[first:], there), daemon=True)
    process.start()
    there.close()
    busy[here] = process, batch, first


def _judge(batch: list[Job], answers: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # FFmpeg's encoders and decoders write there
    for job in batch:
        try:
            verdict = job.judge()
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            verdict = Verdict(
                "wrong", f"{type(error).__name__}: {error} ({where.filename.rpartition('/')[2]}:{where.lineno})"
            )
        answers.send(verdict)
