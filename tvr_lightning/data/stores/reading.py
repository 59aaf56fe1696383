"""Files that are read whole: regular ones of bounded size, so that no pipe, device or forged file stops a command."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def is_there(path: Path, folder: bool = False) -> bool:
    """Whether there is a file or folder; one that the system cannot even look for is none.

    Args:
        path: of it.
        folder: whether it must be a folder.

    >>> is_there(Path("x" * 300)), is_there(Path(__file__)), is_there(Path(__file__), folder=True)
    (False, True, False)
    """
    try:
        return path.is_dir() if folder else path.exists()
    except (OSError, ValueError):  # too long, links in a loop, a folder that may not be entered, letters of no name
        return False


def read_regular(path: Path, most: int) -> bytes:
    """All bytes of a regular file; a link to one counts as the file.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        OSError: there is none, it cannot be read, is not a regular file, or is larger.

    >>> read_regular(Path("/dev/zero"), 100)
    Traceback (most recent call last):
        ...
    OSError: [Errno 22] is a device, a pipe or a folder, no regular file
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would wait
    except ValueError:
        raise OSError(errno.EINVAL, "its name holds a zero byte") from None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is a device, a pipe or a folder, no regular file")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"is larger than {most >> 20} MiB")
        content = file.read(status.st_size)  # of `most` bytes Python would take the memory at once
        if file.read(1):
            raise OSError(errno.EBUSY, "grew while it was read")
    return content
