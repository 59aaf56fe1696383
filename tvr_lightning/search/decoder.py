"""Clips that come from others are decoded in a process of their own, which is ended when it takes too long."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import IO, Any

import torch

from tvr_lightning.data.video.records import read_record
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.errors import DecodeError
from tvr_lightning.types import Record, VideoInput

SECONDS = 30.0  # that a clip may take
START_S = 120.0  # that the process may take to import what it needs
MEMORY = 4 << 30  # bytes that it may write to


class Decoder:
    """Decodes one clip at a time in a process that is started when the first one comes.

    The process has bounded memory.

    Args:
        seconds: a clip may take.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._line: Connection | None = None

    def read(self, file: IO[bytes], frames: FrameOptions) -> VideoInput:
        """Gives a clip's frames; for use in a thread.

        Args:
            file: open, with a number of the system's; it needs no name.
            frames: how they are taken.

        Raises:
            DecodeError: with the decoder's reason, and when it takes too long or breaks down.
        """
        with self._lock:
            line = self._started()
            try:
                send_handle(line, file.fileno(), self._process.pid)  # type: ignore[union-attr]
                line.send(frames)
                if not line.poll(self.seconds):
                    self._end()
                    raise DecodeError(f"not decoded within {self.seconds:g} seconds: send a shorter or smaller clip")
                found = line.recv()
            except (EOFError, OSError):
                self._end()
                raise DecodeError("the decoder failed on it: the file is damaged, or too large") from None
        if isinstance(found, str):
            raise DecodeError(found)
        shown, mask = map(torch.from_numpy, found)
        return VideoInput(shown[None], mask[None], torch.zeros(1, dtype=torch.int64))

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def _started(self) -> Connection:
        if self._line is not None and self._process is not None and self._process.is_alive():
            return self._line
        self._end()
        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), name="decoder", daemon=True)
        self._process.start()
        theirs.close()
        with suppress(EOFError):
            if self._line.poll(START_S):
                self._line.recv()
                return self._line
        self._end()
        raise DecodeError("the process that decodes clips did not start; the server's terminal says why")

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._line is not None:
            self._line.close()
        self._process = self._line = None


def _work(line: Connection) -> None:
    """What the process does: takes an open file and how to read it, gives its frames or a reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's
    torch.set_num_threads(1)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most), most))
    line.send("ready")
    while True:
        try:
            handle = recv_handle(line)
            frames = line.recv()
        except EOFError:
            return
        path = Path(f"/dev/fd/{handle}")
        found: Any
        try:
            clip = read_record(
                Record("clip", path, ()), replace(frames, num_frames=frames.views * frames.num_frames, views=1)
            )
            found = clip.frames[:: frames.views].numpy(), clip.mask[:: frames.views].numpy()
        except DecodeError as error:
            found = str(error).removeprefix(f"{path}: ")
        except MemoryError:
            found = f"needs more than {MEMORY >> 30} GiB of memory to decode"
        finally:
            os.close(handle)
        line.send(found)
