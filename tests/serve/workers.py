"""Decoders that misbehave, in place of `decoder._work`; a process of their own imports this file alone."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection


def hanging(line: Connection) -> None:
    """Never comes to an end with its first clip."""
    line.send("ready")
    time.sleep(600)


def dying(line: Connection) -> None:
    """Crashes over its first clip."""
    line.send("ready")
    line.poll(None)
    os._exit(1)


def broken(line: Connection) -> None:
    """Does not even start."""
    os._exit(1)
