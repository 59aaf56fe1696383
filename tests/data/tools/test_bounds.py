"""What control groups allow: version 1 and 2, inside a container and outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvr_lightning.data.tools import bounds

ODD = [("", ""), ("9" * 5000, "max"), ("ü", "100000 0"), ("max", "ü ü"), ("-1", "1 2 3"), ("x", "5")]


@pytest.mark.parametrize(
    ("groups", "files", "memory", "cores", "usable"),
    [
        (
            "0::/a/b",
            {"a/memory.max": "1073741824", "a/b/memory.max": "max", "a/b/cpu.max": "150000 100000"},
            1 << 30, 1.5, 2,
        ),
        ("0::/not/inside", {"memory.max": "2147483648", "cpu.max": "max 100000"}, 2 << 30, None, 8),
        (
            "4:memory:/x\n1:cpu,cpuacct:/y",
            {"memory/x/memory.limit_in_bytes": "9223372036854771712", "memory/memory.limit_in_bytes": "4294967296",
             "cpu/y/cpu.cfs_quota_us": "50000", "cpu/y/cpu.cfs_period_us": "100000"},
            4 << 30, 0.5, 1,
        ),
        ("0::/", {}, None, None, 8),
        *(
            (lines, {"memory.max": memory, "cpu.max": cpu}, None, None, 8)
            for lines in ("0::/", "\n0::/\n::\nno group", "0::/" + "x" * 300)
            for memory, cpu in ODD
        ),
    ],
)  # fmt: skip
def test_limits_of_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], memory: int | None,
    cores: float | None, usable: int,
) -> None:  # fmt: skip
    (tmp_path / "cgroup").write_text(groups + "\n")
    mount = tmp_path / "mount"
    mount.mkdir()
    for name, content in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(content + "\n")
    monkeypatch.setattr(bounds, "CGROUPS", mount)
    monkeypatch.setattr(bounds, "OWN_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(bounds, "visible_cores", lambda: 8)
    assert (bounds.memory_limit(), bounds.core_quota(), bounds.usable_cores()) == (memory, cores, usable)


def test_a_system_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "OWN_CGROUPS", tmp_path / "cgroup")
    assert (bounds.memory_limit(), bounds.core_quota()) == (None, None)
