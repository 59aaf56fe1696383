"""Queries that arrive together are answered together."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from tvr_lightning.errors import SearchError, TVRError
from tvr_lightning.search.hits import Answer

TOGETHER = 64  # queries of one batch
WAITING = 1024  # queries in line, above which no more are taken


class BusyError(SearchError):
    """More is asked at once than can wait."""


class _Asked(NamedTuple):
    query: str
    k: int
    future: asyncio.Future[Answer]

    def settle(self, answer: Answer | BaseException) -> None:
        """Gives the answer to who waits for it, from another thread."""

        def tell() -> None:
            if self.future.done():  # who asked is gone
                return
            if isinstance(answer, BaseException):
                self.future.set_exception(answer)
            else:
                self.future.set_result(answer)

        self.future.get_loop().call_soon_threadsafe(tell)


class Batcher:
    """One thread that answers; what arrives while it is busy forms the next batch, so nobody waits for a batch to fill.

    Args:
        answers: of several queries and one k, as `Index.answers` gives them.

    >>> async def both() -> list[Answer]:
    ...     batcher = Batcher(lambda queries, k: [Answer([], (q,)) for q in queries])
    ...     found = await asyncio.gather(batcher.ask("a", 1), batcher.ask("b", 2))
    ...     batcher.close()
    ...     return found
    >>> [answer.notes for answer in asyncio.run(both())]
    [('a',), ('b',)]
    """

    def __init__(self, answers: Callable[[Sequence[str], int], Sequence[Answer]]) -> None:
        self._answers = answers
        self._line: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    async def ask(self, query: str, k: int) -> Answer:
        """Waits for an answer.

        Raises:
            BusyError: too many wait already.
            TVRError: as `answers`.
        """
        if self._line.qsize() >= WAITING:
            raise BusyError(f"{WAITING} queries are waiting already: try again in a moment")
        asked = _Asked(query, k, asyncio.get_running_loop().create_future())
        self._line.put(asked)
        return await asked.future

    def close(self) -> None:
        """Ends the thread once it has answered those in line."""
        self._line.put(None)
        self._thread.join()

    def _work(self) -> None:
        going = True
        while going:
            batch: list[_Asked] = []
            while len(batch) < TOGETHER and not (batch and self._line.empty()):
                asked = self._line.get()
                if asked is None:
                    going = False
                    break
                if not asked.future.cancelled():
                    batch.append(asked)
            batch.sort(key=lambda a: a.k)
            for k, group in groupby(batch, lambda a: a.k):
                self._answer(list(group), k)

    def _answer(self, asked: list[_Asked], k: int) -> None:
        try:
            answers = self._answers([a.query for a in asked], k)
        except TVRError as error:
            if len(asked) == 1:
                asked[0].settle(error)
                return
            for one in asked:  # one query's fault is not the others'
                self._answer([one], k)
        except Exception as error:
            for one in asked:
                one.settle(error)
        else:
            for one, answer in zip(asked, answers, strict=True):
                one.settle(answer)
