from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tvr_lightning.data import dataset as dataset_module
from tvr_lightning.data.dataset import VideoReader
from tvr_lightning.data.stores import contents as contents_module
from tvr_lightning.data.stores import frames as cache_module
from tvr_lightning.data.stores import store as store_module
from tvr_lightning.data.stores.files import cache_folder
from tvr_lightning.data.stores.frames import FrameCache
from tvr_lightning.data.stores.store import Store
from tvr_lightning.data.video.frames import VideoFrames, read_frames
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.errors import ConfigError, DecodeError
from tvr_lightning.types import Record

from ..clips import grainy, write_clip

Make = Callable[..., Any]
OPTIONS = FrameOptions(num_frames=4, sampling="uniform", fps=None, size=16)
CLIP_BYTES = 192 + 4 * 3 * 16 * 16 + 64 + 64  # header and table, frames, mask, times; places are multiples of 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def videos(tmp_path: Path) -> list[Record]:
    paths = [write_clip(tmp_path / f"{i}.mp4", 10 + i, width=32, height=32) for i in range(6)]
    return [Record(path.stem, path, (path.stem,)) for path in paths]


@pytest.fixture
def forbid_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on every decoding fails, also in workers that run already."""
    flag = tmp_path / "forbidden"

    def watched(*args: Any, **kwargs: Any) -> VideoFrames:
        assert not flag.exists(), f"decoded {args[0]}"
        return read_frames(*args, **kwargs)

    monkeypatch.setattr(dataset_module, "read_frames", watched)
    return flag.touch


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """A cache that gives up says so with a warning: no test may pass because it did unasked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="frame cache")
        yield


def gib(clips: float) -> float:
    return clips * CLIP_BYTES / 2**30


def decode(record: Record, options: FrameOptions = OPTIONS) -> VideoFrames:
    o = options
    return read_frames(
        record.video_path, o.num_frames, o.sampling, o.fps, o.size, start=record.start, end=record.end
    )  # fmt: skip


def cache_in(folder: Path, gib: float) -> FrameCache:
    return FrameCache(Store(folder, gib))


def fetch(cache: FrameCache, record: Record, options: FrameOptions = OPTIONS) -> tuple[VideoFrames, bool, bool]:
    """Frames, whether they were decoded, whether they are kept."""
    decoded = []

    def watched() -> VideoFrames:
        decoded.append(record)
        return decode(record, options)

    clip, kept = cache.fetch(record, options, watched)
    return clip, bool(decoded), kept


def clips_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("frames/??/*.frames"))


def same(a: VideoFrames, b: VideoFrames) -> bool:
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def age(folder: Path, seconds: float = 3600) -> None:
    """Makes what lies in the cache that of a run long ago."""
    for path in clips_of(folder):
        os.utime(path, (time.time() - seconds, path.stat().st_mtime - seconds))


def test_second_fetch_gives_the_very_frames_without_decoding(folder: Path, videos: list[Record]) -> None:
    for count, record in enumerate(videos, start=1):
        first, decoded, kept = fetch(cache_in(folder, 1), record)
        again, decoded_again, kept_again = fetch(cache_in(folder, 1), record)
        assert (decoded, kept, decoded_again, kept_again) == (True, True, False, True)
        assert same(first, decode(record))
        assert same(again, first)
        assert len(clips_of(folder)) == count
    again.frames.add_(1)  # what is given is the caller's own
    assert same(fetch(cache_in(folder, 1), record)[0], first)


def test_mask_and_times_of_a_short_video_are_exact(folder: Path, tmp_path: Path) -> None:
    record = Record("short", write_clip(tmp_path / "short.mp4", 2, width=32, height=32), ())
    cache = cache_in(folder, 1)
    fetch(cache, record)
    clip, decoded, _ = fetch(cache, record)
    assert not decoded
    assert clip.mask.tolist() == [True, True, False, False]
    assert same(clip, decode(record))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("again", ["epoch", "run"])
def test_second_epoch_and_second_run_decode_nothing_and_change_nothing(
    make_data: Make, folder: Path, forbid_decoding: Callable[[], None], workers: int, again: str
) -> None:
    def build(cached: bool) -> Any:
        data = make_data(cache_frames=cached, cache_dir=str(folder), num_workers=workers, batch_size=6)
        data.setup("fit")
        return data, data.train_dataloader()

    def epoch(loader: Any, number: int) -> list[Any]:
        loader.sampler.set_epoch(number)
        return [t for batch in loader for t in (batch.video.frames, batch.video.frame_mask, batch.text.tokens)]

    plain = build(cached=False)[1]
    expected = [epoch(plain, number) for number in (0, 1)]
    data, loader = build(cached=True)
    assert all(torch.equal(a, b) for a, b in zip(epoch(loader, 0), expected[0], strict=True))
    forbid_decoding()
    if again == "run":
        data, loader = build(cached=True)
    assert all(torch.equal(a, b) for a, b in zip(epoch(loader, 1), expected[1], strict=True))
    assert not data.splits["train"].reader.uncached.any()
    assert len(clips_of(folder)) == 12


def test_every_setting_and_segment_has_frames_of_its_own(folder: Path, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 48, width=32, height=32)
    whole = Record("a", path, ())
    cases = [(whole, OPTIONS), (Record("a", path, (), start=1.0), OPTIONS), (Record("a", path, (), end=2.0), OPTIONS)]
    for change in ({"num_frames": 5}, {"sampling": "tail"}, {"fps": 2.0}, {"size": 24}):
        cases.append((whole, FrameOptions(**{**vars(OPTIONS), **change})))
    cache = cache_in(folder, 1)
    for record, options in cases * 2:
        assert same(fetch(cache, record, options)[0], decode(record, options))
    assert len(clips_of(folder)) == len(cases)


def test_key_is_the_content(folder: Path, videos: list[Record], tmp_path: Path) -> None:
    cache = cache_in(folder, 1)
    fetch(cache, videos[0])
    copy = Record("copy", Path(shutil.copy(videos[0].video_path, tmp_path / "copy of a.mp4")), ())
    assert not fetch(cache, copy)[1]
    before = copy.video_path.stat()
    shutil.copy(videos[1].video_path, copy.video_path)
    os.utime(copy.video_path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same name and time, other frames
    assert same(fetch(cache, copy)[0], decode(videos[1]))


def test_changed_pixel_code_finds_nothing(folder: Path, videos: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(cache_in(folder, 1), videos[0])
    assert not fetch(cache_in(folder, 1), videos[0])[1]
    monkeypatch.setattr(cache_module, "pixel_version", lambda: "another")
    assert fetch(cache_in(folder, 1), videos[0])[1]


def test_settled_videos_are_hashed_once_over_all_runs(
    folder: Path, videos: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    digest = contents_module.hashlib.file_digest
    monkeypatch.setattr(contents_module.hashlib, "file_digest", lambda f, d: hashed.append(f.name) or digest(f, d))
    fetch(cache_in(folder, 1), videos[0])
    fetch(cache_in(folder, 1), videos[0])
    assert len(hashed) == 2  # it was written a moment ago and may change again unseen
    monkeypatch.setattr(contents_module, "SETTLE_S", 0)
    for cache in (cache_in(folder, 1), cache_in(folder, 1)):
        for record in videos * 2:
            fetch(cache, record)
    assert len(hashed) == 2 + len(videos)
    table = folder / "fingerprints"
    assert table.stat().st_blocks * 512 < 1 << 16  # sparse
    table.write_bytes(b"\xff" * 4096 * 16)  # foreign content is recognised, not believed
    fetch(cache_in(folder, 1), videos[0])
    assert len(hashed) == 3 + len(videos)


def test_video_replaced_while_it_is_decoded_is_not_kept(folder: Path, videos: list[Record]) -> None:
    first, second = videos[:2]

    def replacing() -> VideoFrames:
        clip = decode(first)
        shutil.copy(second.video_path, first.video_path)
        return clip

    _, kept = cache_in(folder, 1).fetch(first, OPTIONS, replacing)
    assert not kept
    assert clips_of(folder) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"",
        lambda b: b[:40],
        lambda b: b[:-1],
        lambda b: b + b"\0",
        lambda b: b[: len(b) // 2] + bytes(len(b) - len(b) // 2),
        lambda b: b"nothing of ours" * 1000,
        lambda b: b"tvrfrm01" + b[8:],
        lambda b: b[:-1] + bytes([b[-1] ^ 1]),
    ],
    ids=["empty", "header cut", "a byte short", "a byte more", "zeros", "foreign", "format", "bit"],
)
def test_torn_and_foreign_files_are_decoded_again(
    folder: Path, videos: list[Record], damage: Callable[[bytes], bytes]
) -> None:
    expected = fetch(cache_in(folder, 1), videos[0])[0]
    file = clips_of(folder)[0]
    whole = file.read_bytes()
    assert len(whole) == CLIP_BYTES
    file.write_bytes(damage(whole))
    clip, decoded, kept = fetch(cache_in(folder, 1), videos[0])
    assert decoded
    assert kept
    assert same(clip, expected)
    assert file.read_bytes() == whole


def test_frames_of_another_video_under_this_name_are_not_taken(folder: Path, videos: list[Record]) -> None:
    fetch(cache_in(folder, 1), videos[0])
    own = clips_of(folder)[0]
    fetch(cache_in(folder, 1), videos[1])
    other = next(p for p in clips_of(folder) if p != own)
    shutil.copy(other, own)
    clip, decoded, _ = fetch(cache_in(folder, 1), videos[0])
    assert decoded
    assert same(clip, decode(videos[0]))


def test_undecodable_and_vanished_videos_are_errors_and_never_kept(folder: Path, videos: list[Record]) -> None:
    reader = VideoReader(videos, OPTIONS, "raise", cache_in(folder, 1))
    reader.read(0)
    videos[0].video_path.unlink()
    videos[1].video_path.write_bytes(b"no video")
    for row in (0, 1):
        with pytest.raises(DecodeError, match=videos[row].video_path.name):
            reader.read(row)
    assert len(clips_of(folder)) == 1
    skipping = VideoReader(videos, OPTIONS, "skip", cache_in(folder, 1))
    with pytest.warns(UserWarning, match="skipped and counted"):
        assert skipping.read(1) is None
    assert skipping.failed.tolist() == [False, True, False, False, False, False]
    assert len(clips_of(folder)) == 1


def test_decoders_warning_of_a_damaged_file_is_given_again(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_clip(tmp_path / "cut.mp4", 60, width=64, height=64, paint=grainy, mux={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    copy = Path(shutil.copy(path, tmp_path / "copy.mp4"))
    cache = cache_in(folder, 1)
    said = []
    for video in (path, path, copy):
        caplog.clear()
        clip, decoded, _ = fetch(cache, Record("cut", video, ()))
        said.append([(r.name, r.levelno, r.getMessage().replace(str(video), "PATH")) for r in caplog.records])
        assert decoded is (len(said) == 1)
        assert 0 < clip.mask.sum() < 2
    assert said[0][0][:2] == ("tvr_lightning.data.video.frames", logging.WARNING)
    assert said[0][0][2].startswith("PATH: damaged: only 1 of 4 frames can be decoded")
    assert said[0] == said[1] == said[2]


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
    assert sorted(p.name for p in folder.iterdir() if not p.is_dir()) == ["lock"]
    assert int((folder / "lock").read_bytes()) == len(videos) * CLIP_BYTES


def test_bound_holds_while_several_processes_write(folder: Path, videos: list[Record]) -> None:
    warnings.filterwarnings("ignore", message="frame cache")  # each process is told that the cache is full
    in_processes(folder, videos, gib(3.2))
    assert 0 < sum(p.stat().st_size for p in clips_of(folder)) <= 3.2 * CLIP_BYTES


def _killed(folder: Path, record: Record, where: str) -> None:
    def die(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        die()

    if where == "in the write":
        Path.write_bytes = half  # type: ignore[assignment, method-assign]
    else:
        Path.replace = die  # type: ignore[assignment, method-assign]
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
    monkeypatch.setattr(store_module, "LOCK_S", 0.05)
    cache = cache_in(folder, 1)
    with (folder / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not fetch(cache, videos[0])[1]  # readers need no lock
        with pytest.warns(UserWarning, match="another process has held the lock"):
            assert not fetch(cache, videos[1])[2]
    assert fetch(cache_in(folder, 1), videos[1])[2]


def test_workers_started_afresh_know_what_the_run_knows(folder: Path) -> None:
    cache = cache_in(folder, 1)
    again = pickle.loads(pickle.dumps(cache))
    assert vars(again.store) == vars(cache.store)


def test_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder(None) == tmp_path / ".cache" / "tvr_lightning"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(None) == tmp_path / "xdg" / "tvr_lightning"
    assert cache_folder("~/mine") == tmp_path / "mine"
    with pytest.raises(ConfigError, match="cache_dir to a full path"):
        cache_folder("~nobody-of-that-name/x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache_gib": 0}, "cache_gib is 0; it must be above 0"),
        ({"cache_gib": float("nan")}, "cache_gib is nan"),
        ({"jitter": True}, "data.jitter draws other frames each epoch"),
    ],
)
def test_settings_that_do_not_fit(make_data: Make, folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_data(cache_frames=True, cache_dir=str(folder), **settings)
    assert not folder.exists()
