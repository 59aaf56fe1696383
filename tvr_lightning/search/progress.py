"""How far a long job has got: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tvr_lightning.distributed import ranks
from tvr_lightning.visible import console, say

EVERY_S = 30


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how many of `total` items are done and the time left; the block says what it has done by calling."""
    if ranks()[0]:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = console(stderr=True)
    if screen.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=screen, transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda count: bar.advance(task, count)
        return
    began = said = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= EVERY_S:
            said = now
            left = (now - began) / max(done, 1) * (total - done)
            say(f"{label}: {done:,} of {total:,}, {left / 60:.0f} min left", file=sys.stderr, flush=True)

    yield advance
