"""Workers have room for what they read ahead, and nobody waits for them for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tvr_lightning.data import workers
from tvr_lightning.data.workers import WAIT_S, check_shared_memory
from tvr_lightning.errors import ConfigError
from tvr_lightning.visible import say_once

from ..small_runs import run_arguments

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The shared memory of a container of Docker."""
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: SimpleNamespace(free=64 * MIB))
    return tmp_path


def test_batches_that_do_not_fit_are_refused_with_the_ways_out(container: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        check_shared_memory(231 * MIB, num_workers=2)
    assert str(refused.value) == (
        f"data.num_workers=2 keeps 5 batches of 231.0 MiB in shared memory, and {container} has 64.0 MiB free, not 1.1 "
        "GiB: start the container with more (docker run --shm-size=2g), or set --data.num_workers=0 or a smaller "
        "--data.batch_size"
    )
    check_shared_memory(231 * MIB, num_workers=0)
    check_shared_memory(12 * MIB, num_workers=2)
    with pytest.raises(ConfigError, match="keeps 10 batches"):
        check_shared_memory(12 * MIB, num_workers=2, processes=2)


def test_systems_without_it_are_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path / "none")
    check_shared_memory(1 << 60, num_workers=2)


def test_the_size_is_that_of_the_batch(make_data: Callable[..., Any], container: Path) -> None:
    data = make_data(num_workers=2)
    data.setup("fit")
    train = data.splits["train"]
    batch = next(iter(data.train_dataloader()))
    assert batch.video.frames.nbytes == 4 * train.reader.bytes_of_one()
    data.check_shared_memory()
    large = make_data(num_workers=2, size=1024)
    large.setup("fit")
    with pytest.raises(ConfigError, match=r"of 48\.0 MiB .*data\.eval_batch_size$"):  # 4 videos of 4 frames
        large.check_shared_memory()
    del large.splits["validation"]
    with pytest.raises(ConfigError, match=r"of 48\.0 MiB .*data\.batch_size$"):
        large.check_shared_memory()
    with pytest.raises(ConfigError, match=r"data\.eval_batch_size$"):
        large.evaluation_loaders(large.splits["test"])


@pytest.mark.parametrize("count", [0, 2])
def test_no_wait_is_unlimited(make_data: Callable[..., Any], count: int) -> None:
    data = make_data(num_workers=count)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.evaluation_loaders(data.splits["test"])[1]):
        assert loader.timeout == (WAIT_S if count else 0)


def test_more_workers_than_cores_are_said_once_and_not_by_each_loader(
    make_data: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    cores = os.cpu_count() or 1
    data = make_data(num_workers=cores + 1)
    data.setup("fit")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            data.train_dataloader()
            data.evaluation_loaders(data.splits["test"])
    assert not [w for w in said if "worker" in str(w.message)]
    error = capsys.readouterr().err
    assert error.count(f"tvr: {cores + 1} workers that read videos share ") == 1
    monkeypatch.setattr(workers, "usable_cores", lambda: 1)
    say_once.cache_clear()
    workers.worker_settings(1)
    assert capsys.readouterr().err == ""
    workers.worker_settings(2)
    assert "2 workers that read videos share 1 CPU core, and" in capsys.readouterr().err
    say_once.cache_clear()
    monkeypatch.setattr(workers, "ranks", lambda: (1, 2))
    workers.worker_settings(2)
    assert capsys.readouterr().err == ""  # the first rank says it for all


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_with_little_shared_memory_ends_before_training(shapes_root: Path, tmp_path: Path) -> None:
    words = run_arguments(shapes_root, tmp_path / "runs", "--data.num_workers=2", "--data.cache_features=false")
    script = 'mount -t tmpfs -o size=100k none /dev/shm || exit 77; exec "$@"'
    command = ["unshare", "-m", "bash", "-c", script, "bash", sys.executable, "-m", "tvr_lightning", "fit", *words]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    except FileNotFoundError:
        pytest.skip("no unshare")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this user cannot mount")
    assert done.returncode == 2, done.stderr
    assert "--shm-size=1g" in done.stderr
    assert not list((tmp_path / "runs").glob("*/*/config.yaml"))
