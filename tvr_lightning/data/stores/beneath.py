"""Files beneath a folder that others may write to, such as a cache that a group shares: no link there is followed.

Somebody who plants a link there would otherwise have this user's files read or overwritten. The folder itself may be a
link: whoever named it did so.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def folder_beneath(folder: Path, parts: Sequence[str] = (), make: bool = False) -> Iterator[int]:
    """Opens a folder beneath another; gives its handle, which `dir_fd` of the functions of `os` takes.

    Args:
        folder: where it begins.
        parts: names of the folders on the way, none of which may be a link.
        make: makes what is not there.

    Raises:
        OSError: there is none, or one on the way is a link.
    """
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=handle)
            try:
                inner = os.open(part, _FOLDER, dir_fd=handle)
            except NotADirectoryError:  # what Linux says of a link too
                raise _refused(folder.joinpath(*parts), "is a link or a file where a folder belongs") from None
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


@contextmanager
def file_beneath(folder: Path, name: str, flags: int) -> Iterator[int]:
    """Opens a regular file beneath a folder; gives its handle.

    Args:
        folder: where it begins.
        name: relative, with `/` between folders.
        flags: as for `os.open`; a file that is made has the permissions that the umask leaves. To write into one that
            is there, it may have no other name: that would be a file from elsewhere.

    Raises:
        OSError: there is none, or it is a link or no regular file.
    """
    *parts, last = name.split("/")
    with folder_beneath(folder, parts, bool(flags & os.O_CREAT)) as inside:
        try:
            handle = os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666, dir_fd=inside)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise _refused(folder / name, "is a link or no regular file") from None
            raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _refused(folder / name, "is not a regular file")
        if flags & (os.O_WRONLY | os.O_RDWR) and status.st_nlink > 1:
            raise _refused(folder / name, "has another name elsewhere (a hard link)")
        yield handle
    finally:
        os.close(handle)


def _refused(path: Path, why: str) -> OSError:
    return OSError(errno.ELOOP, f"{path} {why}; nothing is read or written through it: remove it")


def write_all(handle: int, content: bytes) -> None:
    """Writes all bytes to an open file.

    Raises:
        OSError: the disk does not take them.
    """
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]
