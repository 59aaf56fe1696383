"""What a file unpacks to, looked at before it is unpacked: some kilobytes of an archive can hold terabytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

SLACK = 64 << 20
"""Bytes that any archive may unpack to: what is small costs nobody anything."""


class UnpackedSizeError(ValueError):
    """An archive would take far more memory than it takes on disk."""


def check_archive(path: Path, times: int) -> None:
    """Looks at the sizes that a zip archive's own list gives; a file of another kind passes.

    Readers unpack no more of a member than its entry says, so the list's sum bounds what they can take.

    Args:
        path: a readable file.
        times: how many times its size on disk it may unpack to, where that is more than `SLACK`.

    Raises:
        UnpackedSizeError: it would unpack to more.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    packed = path.stat().st_size
    if unpacked > max(SLACK, times * packed):
        raise UnpackedSizeError(
            f"{packed / 2**20:,.1f} MiB on disk unpack to {unpacked / 2**20:,.0f} MiB, more than {times} times as much"
        )
