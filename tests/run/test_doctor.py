"""`tvr doctor`: a report that says what is wrong, shows no key and no home folder, and survives what is broken."""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from tvr_lightning import __version__
from tvr_lightning.commands.main import main
from tvr_lightning.run import doctor
from tvr_lightning.run.doctor import Finding, examine, facts, text
from tvr_lightning.visible import from_home

KEY = "f" * 40


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a cache, a login and the working directory below it."""
    home = tmp_path / "home" / "somebody"
    (home / "desk").mkdir(parents=True)
    (home / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (home / ".cache/tvr_lightning/frames/aa").mkdir(parents=True)
    (home / ".cache/tvr_lightning/frames/aa" / f"aa{'0' * 62}.frames").write_bytes(b"x" * 5000)
    for name in ("XDG_CACHE_HOME", "NETRC", "WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WNSEARCHDIR", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "desk")
    return home


def of(found: list[Finding], part: str, name: str) -> Finding:
    (one,) = [finding for finding in found if (finding.part, finding.name) == (part, name)]
    return one


def test_report(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"https://me:{KEY}@wandb.lab.org")
    assert main(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    assert KEY not in out
    assert "somebody" not in out
    said = json.loads(out)
    assert said["versions"]["tvr_lightning"].startswith(__version__)
    assert said["versions"]["torch"] == version("torch")
    assert said["versions"]["FFmpeg"].endswith("inside PyAV")
    assert said["W&B"] == {"key": "there", "mode": "online", "project": "tvr_lightning"}
    assert said["variables"]["WANDB_BASE_URL"] == "https://wandb.lab.org"
    assert said["cache"]["folder"] == "~/.cache/tvr_lightning"
    assert re.fullmatch(r"\d+ KiB in 1 file: decoded frames", said["cache"]["frames"])  # by blocks of the file system
    cores = said["processor"]["cores"]
    assert cores.endswith("uses 1 thread") or not cores.endswith(" 1 threads")
    assert said["disk"]["working folder"].startswith("~/desk: ")
    assert said["devices"]["precision of `auto`"] in ("32-true", "bf16-mixed", "16-mixed")
    assert int(said["experiments"]["the suite's"].split()[0]) > 100
    assert set(said["extras"]) >= {"search", "milvus", "reports", "dev", "completion"}
    assert not [*home.glob("desk/*")]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("WANDB_BASE_URL", f"https://me:a@{KEY}@lab.org", "https://lab.org"),
        ("WANDB_BASE_URL", f"https://me:a/{KEY}@lab.org/x", "https://lab.org/x"),
        ("HF_HOME", f"https://lab.org/x?token={KEY}", "https://lab.org/x?..."),
        ("WANDB_PROJECT", f"https://me:{KEY}@lab.org", "https://lab.org"),
        ("WANDB_MODE", KEY, "..."),  # a key in the place of another value
    ],
)
def test_no_line_shows_a_secret(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, shown: str
) -> None:  # fmt: skip
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv(name, value)
    found = examine(Path(f"runs/https://me:{KEY}@lab.org"))
    assert KEY not in text(found) + json.dumps(facts(found))
    assert of(found, "variables", name).value == shown


def test_text_marks_warnings(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_DISK", 1 << 62)
    assert main(["doctor", "--runs_dir", "elsewhere"]) == 0
    out = capsys.readouterr().out
    assert "\ndisk\n  cache " in out
    assert "  ! ~/desk/elsewhere" not in out
    assert "are free at ~/desk/elsewhere" in out
    assert out.rstrip().endswith("warnings, marked !")
    assert text([Finding("a", "b", "c")]) == "a\n  b                    c\n\nnothing looks wrong"
    assert text([Finding("a", "b", "c", "d")]).endswith("  ! d\n\n1 warning, marked !")


def test_a_part_that_breaks_is_reported_and_the_others_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise RuntimeError(f"CUDA driver initialization failed\nin {home}/x")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    found = examine(Path("runs"))
    line = of(found, "devices", "cannot be found out")
    assert line.value == "RuntimeError: CUDA driver initialization failed in ~/x"
    assert line.warning in facts(found)["warnings"]
    assert of(found, "W&B", "key").value == "there"


def test_little_shared_memory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(64 << 20, 0, 64 << 20))
    warning = of(examine(Path("runs")), "shared memory", "/dev/shm").warning
    assert warning is not None
    assert warning.startswith(
        "2 workers with batches of 32 x 12 frames of 224 px need 275.6 MiB: docker run --shm-size=1g"
    )


def test_versions_that_are_too_old_and_missing_packages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._installed
    old = {"torch": "2.10.0", "av": None, "HanTa": None}
    monkeypatch.setattr(doctor, "_installed", lambda name: old[name] if name in old else real(name))
    found = examine(Path("runs"))
    assert (
        of(found, "versions", "torch").warning
        == "torch>=2.11 is needed, 2.10.0 is installed: pip install 'torch>=2.11'"
    )
    assert (of(found, "versions", "av").value, of(found, "versions", "HanTa").value) == ("not installed",) * 2
    assert "it is not installed" in str(of(found, "versions", "HanTa").warning)


def test_an_extra_that_is_not_installed_is_no_fault(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: None if name == "pymilvus" else real(name))
    found = examine(Path("runs"))
    assert of(found, "extras", "milvus") == Finding("extras", "milvus", "without pymilvus")


def test_online_without_a_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "online")
    found = examine(Path("runs"))
    assert of(found, "W&B", "key").value == "none: runs are kept offline"
    assert "there is no W&B key" in str(of(found, "W&B", "mode").warning)


def test_only_the_home_folder_itself_becomes_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert from_home("/home/me /home/me/x, /home/me2/x /home/me-2 a/home/me") == "~ ~/x, /home/me2/x /home/me-2 a~"
    monkeypatch.setenv("HOME", "/")
    assert from_home("/x") == "/x"
