"""Disks that fill, processes that die, videos that break while a run goes on: it ends soon, and says why."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tvr_lightning.errors import RunError
from tvr_lightning.run.checkpoints import AtomicCheckpointIO
from tvr_lightning.run.smoke import smoke_arguments

from ..small_runs import EXPERIMENT, SIZE

ROOT = Path(__file__).parents[2]
WITHIN_S = 60


def arguments(data: Path, runs: Path, *more: str) -> list[str]:
    small = [a for a in smoke_arguments(EXPERIMENT, data, runs) if "fast_dev_run" not in a]
    return [
        *small,
        *(f"--model.init_args.encoder.init_args.size={SIZE}", "--model.init_args.num_layers=1"),
        *("--data.batch_size=2", "--data.num_frames=2", "--data.cache_frames=false", "--tracker=none"),
        *("--trainer.check_val_every_n_epoch=1000", "--run_id=r", *more),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "clip4clip_shapes" / "r"


@pytest.fixture
def start(shapes_root: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `tvr fit` in a process group of its own; what is left of it is killed when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def run(*more: str, data: Path = shapes_root, **options: Any) -> subprocess.Popen[str]:
        words = arguments(data, tmp_path / "runs", *more)
        process = subprocess.Popen(
            [sys.executable, "-m", "tvr_lightning", "fit", *words], cwd=ROOT, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, start_new_session=True, **options,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None or members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def members(group: int) -> dict[int, str]:
    """Living processes of a process group, and how they were started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgrp = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


def ended(process: subprocess.Popen[str]) -> str:
    """Waits for the end within a minute, and for every process of the group; returns standard error."""
    error = process.communicate(timeout=WITHIN_S)[1]
    wait_for(lambda: not members(process.pid), 15, "orphans are left")
    return error


def without_traceback(error: str) -> str:
    assert "Traceback" not in error, error
    return next(line for line in error.splitlines() if line.startswith("tvr: "))


class TestDisk:
    def limited(self, size: int) -> Callable[[], None]:
        def limit() -> None:  # a file that grows beyond it fails as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        return limit

    @pytest.mark.slow
    @pytest.mark.timeout(180)
    def test_full_disk_keeps_the_checkpoint_before(
        self, start: Callable[..., subprocess.Popen[str]], folder: Path, shapes_root: Path
    ) -> None:
        more = ("--trainer.max_epochs=100000", "--data.selection=last")
        last = folder / "checkpoints" / "last.ckpt"
        process = start(*more)
        wait_for(last.exists, 90, "no checkpoint")
        process.kill()
        ended(process)
        kept = last.read_bytes()
        process = start("--resume=last", *more, preexec_fn=self.limited(len(kept) // 2))
        message = without_traceback(ended(process))
        assert process.returncode == 1
        assert f"cannot save the checkpoint {last}: File too large. The checkpoint that was there is unt" in message
        assert f"--resume={folder}" in message
        assert last.read_bytes() == kept
        assert {p.name for p in last.parent.iterdir()} <= {"last.ckpt", "best.ckpt"}

    def test_small_file_system(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=False).returncode:
            pytest.skip("this user cannot mount")
        try:
            path = disk / "checkpoints" / "last.ckpt"
            AtomicCheckpointIO().save_checkpoint({"step": 1, "x": torch.zeros(100_000)}, path)
            with pytest.raises(RunError, match=f"{re.escape(str(path))}: No space left on device"):
                AtomicCheckpointIO().save_checkpoint({"step": 2, "x": torch.zeros(200_000)}, path)
            assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
            assert torch.load(path, weights_only=True)["step"] == 1
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            with pytest.raises(RunError, match=r"Read-only file system\. The checkpoint that was there is untouched"):
                AtomicCheckpointIO().save_checkpoint({"step": 3}, path)
            assert torch.load(path, weights_only=True)["step"] == 1
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_before_the_first_checkpoint_there_is_nothing_to_go_on_from(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        path = tmp_path / "run" / "checkpoints" / "best.ckpt"
        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(RunError, match=r"There was none before\. .* then start it again: .*--runs_dir") as refused:
            AtomicCheckpointIO().save_checkpoint({}, path)
        assert "--resume" not in str(refused.value)
        path.with_name("last.ckpt").write_text("")
        with pytest.raises(RunError, match=f"then go on: --resume={re.escape(str(path.parents[1]))}"):
            AtomicCheckpointIO().save_checkpoint({}, path)

    def test_an_error_that_is_not_the_disk_s_stays_itself(self, tmp_path: Path) -> None:
        path = tmp_path / "run" / "checkpoints" / "last.ckpt"
        with pytest.raises(AttributeError, match="lambda"):
            AtomicCheckpointIO().save_checkpoint({"x": lambda: 0}, path)
        AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
        assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_worker_that_dies(start: Callable[..., subprocess.Popen[str]], folder: Path) -> None:
    process = start("--trainer.max_epochs=100000", "--data.selection=last", "--data.num_workers=2")
    wait_for((folder / "checkpoints" / "last.ckpt").exists, 90, "no checkpoint")
    worker = max(members(process.pid).keys() - {process.pid})
    os.kill(worker, signal.SIGKILL)
    message = without_traceback(ended(process))
    assert process.returncode == 1
    assert f"a process that decodes videos died (pid {worker}, " in message
    assert "memory ran out" in message
    assert "--data.num_workers" in message


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("workers", [2, 0])
def test_a_video_that_breaks_while_training(
    start: Callable[..., subprocess.Popen[str]], folder: Path, shapes_root: Path, tmp_path: Path, workers: int
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes_root, data)
    more = ("--trainer.max_epochs=100000", "--data.selection=last", f"--data.num_workers={workers}")
    process = start(*more, "--data.cache_features=false", data=data)
    wait_for((folder / "checkpoints" / "last.ckpt").exists, 90, "no checkpoint")
    broken = data / "videos" / "video0.mp4"
    replacement = tmp_path / "text"
    replacement.write_bytes(b"not a video")
    replacement.replace(broken)
    error = ended(process)
    message = without_traceback(error)
    assert process.returncode == 1
    assert message.startswith(f"tvr: {broken}: cannot be decoded: ")
    assert len(message.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_broken_training_video_is_counted_when_skipped(
    start: Callable[..., subprocess.Popen[str]], folder: Path, shapes_root: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes_root, data)
    (data / "videos" / "video0.mp4").write_bytes(b"not a video")
    more = ("--trainer.max_epochs=1", "--data.num_workers=2", "--data.on_decode_error=skip")
    process = start(*more, data=data)
    error = ended(process)
    assert process.returncode == 0, error
    assert f"skipped and counted: {data / 'videos' / 'video0.mp4'}" in error
    splits = json.loads((folder / "metrics.json").read_text())["data"]["splits"]
    assert {s["split"]: s["undecodable"] for s in splits} == {"train": 1, "validation": 0, "test": 0}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies(start: Callable[..., subprocess.Popen[str]], folder: Path, rank: int) -> None:
    process = start(
        "--trainer.max_epochs=100000", "--data.selection=last", "--trainer.devices=2", "--data.num_workers=1"
    )
    wait_for((folder / "checkpoints" / "last.ckpt").exists, 120, "no checkpoint")
    children = (Path(f"/proc/{process.pid}/task/{process.pid}/children")).read_text().split()
    ranks = [int(c) for c in children if b"LOCAL_RANK=1" in Path(f"/proc/{c}/environ").read_bytes()]
    assert len(ranks) == 1
    dead = ranks[0] if rank else process.pid
    os.kill(dead, signal.SIGKILL)
    error = ended(process)
    assert "Traceback" not in error
    if rank:
        assert process.returncode == 1
        assert f"tvr: rank 1 (pid {dead}) was killed by SIGKILL (usually memory ran out); the run ends" in error
    else:
        assert f"tvr: the run's first process (pid {dead}) is gone; rank 1 ends too" in error


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_first_process_dies_before_the_others_are_ready(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("--trainer.devices=2")
    wait_for(lambda: len(members(process.pid)) > 1, 120, "no second rank")
    process.kill()
    assert "rank 1 ends too" in ended(process)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rank_with_an_error_of_its_own(
    start: Callable[..., subprocess.Popen[str]], folder: Path, shapes_root: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes_root, data)
    more = ("--trainer.max_epochs=100000", "--data.selection=last", "--trainer.devices=2")
    process = start(*more, "--data.cache_features=false", data=data)
    wait_for((folder / "checkpoints" / "last.ckpt").exists, 180, "no checkpoint")
    (data / "videos" / "video0.mp4").unlink()
    error = ended(process)
    assert process.returncode == 1
    assert "Traceback" not in error
    assert f"tvr: {data / 'videos' / 'video0.mp4'}" in error
