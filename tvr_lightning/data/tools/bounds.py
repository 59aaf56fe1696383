"""Cores and memory that this process may use, which in a container are fewer than the machine's."""

from __future__ import annotations

import os
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
    """The smallest bound of processor time among the control groups, in cores; None where there is none."""
    shares = []
    for name, folder in _groups():
        if not name and (file := folder / "cpu.max").is_file():
            quota, period = file.read_text(encoding="ascii").split()
        elif name == "cpu" and (file := folder / "cpu.cfs_quota_us").is_file():
            quota = file.read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        else:
            continue
        if quota.isdigit():
            shares.append(int(quota) / int(period))
    return min(shares, default=None)


def memory_limit() -> int | None:
    """The smallest bound of memory among the control groups, in bytes; None where there is none."""
    texts = []
    for name, folder in _groups():
        file = folder / ("memory.max" if not name else "memory.limit_in_bytes")
        if name in ("", "memory") and file.is_file():
            texts.append(file.read_text(encoding="ascii").strip())
    return min((int(text) for text in texts if text.isdigit() and int(text) < UNBOUNDED), default=None)


def _groups() -> Iterator[tuple[str, Path]]:
    """The process's control groups and those above, by controller; "" is that of all in version 2."""
    lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines() if OWN_CGROUPS.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            home = CGROUPS / name if name else CGROUPS
            inside = home / path.lstrip("/")
            # inside a container the path is the host's, and the group lies at the mount itself
            for folder in (inside, *inside.parents):
                if folder == home or home in folder.parents:
                    yield name, folder
