"""Cores and memory that this process may use, which in a container are fewer than the machine's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
UNBOUNDED = 1 << 60  # cgroup 1 has a number of about that size where there is no limit


def usable_cores() -> int:
    """CPU cores that this process can keep busy: those that it may run on, within the time that it is given."""
    quota = core_quota()
    return visible_cores() if quota is None else max(1, min(visible_cores(), round(quota)))


def visible_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_quota() -> float | None:
    """The smallest bound of processor time among the control groups, in cores; None where none is known."""
    shares = []
    for name, folder in _groups():
        if not name:
            numbers = _numbers(folder / "cpu.max")
        elif name == "cpu":
            numbers = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
        else:
            continue
        if len(numbers) == 2 and all(numbers):
            shares.append(numbers[0] / numbers[1])
    return min(shares, default=None)


def memory_limit() -> int | None:
    """The smallest bound of memory among the control groups, in bytes; None where none is known."""
    found = [
        number
        for name, folder in _groups()
        if name in ("", "memory")
        for number in _numbers(folder / ("memory.limit_in_bytes" if name else "memory.max"))
    ]
    return min((number for number in found if number < UNBOUNDED), default=None)


def _groups() -> Iterator[tuple[str, Path]]:
    """The process's control groups and those above, by controller; "" is that of all in version 2."""
    for line in _lines(OWN_CGROUPS):
        _, _, rest = line.partition(":")
        controllers, found, path = rest.partition(":")
        for name in controllers.split(",") if found else ():
            home = CGROUPS / name if name else CGROUPS
            inside = home / path.lstrip("/")
            # inside a container the path is the host's, and the group lies at the mount itself
            for folder in (inside, *inside.parents):
                if folder == home or home in folder.parents:
                    yield name, folder


def _numbers(file: Path) -> list[int]:
    """Whole numbers of a file's only line; none where it says something else, such as `max` or -1."""
    words = " ".join(_lines(file)).split()
    return [int(word) for word in words] if all(re.fullmatch("[0-9]{1,20}", word) for word in words) else []


def _lines(file: Path) -> list[str]:
    """Lines of a file of the system; none where there is no such file, or it may not be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []
