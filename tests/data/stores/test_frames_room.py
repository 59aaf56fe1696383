"""The frame cache's bound, and what else writes to its folder: other processes, killed ones, a full disk."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import resource
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tvr_lightning.data.dataset import VideoReader
from tvr_lightning.data.stores import store as store_module
from tvr_lightning.data.stores import use
from tvr_lightning.types import Record

from .frame_cases import CLIP_BYTES, OPTIONS, age, cache_in, clips_of, decode, fetch, gib, same

pytestmark = pytest.mark.usefixtures("strict")


def test_oldest_clips_make_room(folder: Path, videos: list[Record]) -> None:
    for record in videos[:4]:
        fetch(cache_in(folder, gib(4.5)), record)
    age(folder)
    cache = cache_in(folder, gib(4.5))
    assert not fetch(cache, videos[0])[1]  # used by this run
    for record in videos[4:]:
        assert fetch(cache, record)[2]
        assert sum(p.stat().st_size for p in clips_of(folder)) <= cache.store.bound
    assert [fetch(cache_in(folder, 1), v)[1] for v in (videos[0], *videos[4:])] == [False, False, False]
    assert len(clips_of(folder)) == 4  # the size fits the bound again: one in, one out


def test_clips_of_this_run_stay_and_the_cache_says_once_that_it_is_full(folder: Path, videos: list[Record]) -> None:
    reader = VideoReader(videos, OPTIONS, "raise", cache_in(folder, gib(2.5)))
    with pytest.warns(UserWarning, match=r"frame cache .* is full: data.cache_gib=.* Raise --data.cache_gib") as said:
        read = [reader.read(row) for row in (*range(6), *range(6))]
    assert None not in read
    assert len([w for w in said if "frame cache" in str(w.message)]) == 1
    assert reader.uncached.tolist() == [False, False, True, True, True, True]
    assert len(clips_of(folder)) == 2
    later = cache_in(folder, gib(2.5))
    later.store.started += 2 * store_module.GRACE_S
    assert fetch(later, videos[5])[2]  # a later run has other needs


def test_foreign_files_in_the_folder_are_left_alone(folder: Path, videos: list[Record]) -> None:
    own = [folder / "frames" / name for name in ("ab/notes.txt", "readme.frames", "long/x.frames")]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, (0, 0))
    for record in videos[:3]:
        fetch(cache_in(folder, gib(3.5)), record)
    age(folder)
    fetch(cache_in(folder, gib(1.5)), videos[3])
    assert len(clips_of(folder)) == 1
    assert all(path.read_text() == "mine" for path in own)


def _fill(folder: Path, videos: list[Record], first: int, bound: float, failed: Any) -> None:
    try:
        cache = cache_in(folder, bound)
        for record in (videos[first:] + videos[:first]) * 2:
            clip, _ = cache.fetch(record, OPTIONS, lambda r=record: decode(r))  # type: ignore[misc]
            assert same(clip, decode(record))
    except BaseException as error:
        failed.put(repr(error))
        raise


def in_processes(folder: Path, videos: list[Record], bound: float, count: int = 4) -> None:
    fork = multiprocessing.get_context("fork")
    failed = fork.SimpleQueue()
    processes = [fork.Process(target=_fill, args=(folder, videos, i, bound, failed)) for i in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert failed.empty(), failed.get()
    assert [p.exitcode for p in processes] == [0] * count


def test_processes_share_the_folder(folder: Path, videos: list[Record]) -> None:
    in_processes(folder, videos, 1)
    assert len(clips_of(folder)) == len(videos)
    # the table of fingerprints is there where the machine was slow: videos have settled meanwhile
    assert {p.name for p in folder.iterdir() if not p.is_dir()} - {"fingerprints"} == {"lock", "in_use"}
    assert int((folder / "lock").read_bytes()) == len(videos) * CLIP_BYTES


def test_bound_holds_while_several_processes_write(folder: Path, videos: list[Record]) -> None:
    warnings.filterwarnings("ignore", message="frame cache")  # each process is told that the cache is full
    in_processes(folder, videos, gib(3.2))
    assert 0 < sum(p.stat().st_size for p in clips_of(folder)) <= 3.2 * CLIP_BYTES


def _killed(folder: Path, record: Record, where: str) -> None:
    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(file: int, data: bytes) -> None:
        os.write(file, data[: len(data) // 2])
        die()

    if where == "in the write":
        store_module.write_all = half  # type: ignore[attr-defined]
    else:
        os.replace = die  # type: ignore[assignment]
    fetch(cache_in(folder, 1), record)


@pytest.mark.parametrize("where", ["in the write", "before the rename"])
def test_a_kill_leaves_nothing_that_is_believed(folder: Path, videos: list[Record], where: str) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(folder, videos[0], where))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert clips_of(folder) == []
    assert (folder / "incoming").exists()
    for record in videos:
        clip, decoded, kept = fetch(cache_in(folder, 1), record)
        assert decoded
        assert kept
        assert same(clip, decode(record))
    assert not (folder / "incoming").exists()
    assert int((folder / "lock").read_bytes()) == 7 * CLIP_BYTES  # too large by the killed one ...
    assert fetch(cache_in(folder, gib(7.5)), Record("a", videos[0].video_path, (), end=0.5))[2]
    assert int((folder / "lock").read_bytes()) == 7 * CLIP_BYTES  # ... until the folder is listed


def test_disk_full_warns_once_and_decodes_on(folder: Path, videos: list[Record]) -> None:
    """The limit of a file's size stands for the full disk: the system refuses in the middle of a write."""
    fetch(cache_in(folder, 1), videos[0])
    cache = cache_in(folder, 1)
    reader = VideoReader(videos, OPTIONS, "raise", cache)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (CLIP_BYTES // 2, limits[1]))
    try:
        with pytest.warns(UserWarning, match=r"frame cache .*: File too large\. .* Free space .*cache_dir") as said:
            clips = [reader.read(row) for row in (*range(6), *range(6))]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert len([w for w in said if "frame cache" in str(w.message)]) == 1
    assert reader.uncached.tolist() == [False, True, True, True, True, True]
    for row, clip in enumerate(clips):
        assert clip is not None
        assert torch.equal(clip.frames[0], decode(videos[row % 6]).frames)
    assert len(clips_of(folder)) == 1
    assert not (folder / "incoming").exists()


def test_unusable_folder_warns_once_with_path_and_reason(tmp_path: Path, videos: list[Record]) -> None:
    (tmp_path / "file").write_text("")
    reader = VideoReader(videos, OPTIONS, "raise", cache_in(tmp_path / "file", 1))
    with pytest.warns(UserWarning, match=rf"frame cache {tmp_path}/file .*: Not a directory") as said:
        read = [reader.read(row) for row in range(6)]
    assert None not in read
    assert len(said) == 1
    assert reader.uncached.all()


def test_a_stopped_writer_does_not_hang_the_others(
    folder: Path, videos: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(cache_in(folder, 1), videos[0])
    monkeypatch.setattr(use, "LOCK_S", 0.05)
    cache = cache_in(folder, 1)
    with (folder / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not fetch(cache, videos[0])[1]  # readers need no lock
        with pytest.warns(UserWarning, match="another process has held the lock"):
            assert not fetch(cache, videos[1])[2]
    assert fetch(cache_in(folder, 1), videos[1])[2]
