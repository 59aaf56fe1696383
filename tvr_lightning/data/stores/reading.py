"""Files that are read whole: regular ones of bounded size, so that no pipe, device or forged file stops a command."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, most: int) -> bytes:
    """All bytes of a regular file; a link to one counts as the file.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        OSError: there is none, it cannot be read, is no regular file, or is larger.

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
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"is larger than {most >> 20} MiB")
    return content
