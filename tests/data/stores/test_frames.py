"""The frame cache: what it gives back, and what it does not believe."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tvr_lightning.data.dataset import VideoReader
from tvr_lightning.data.stores import contents as contents_module
from tvr_lightning.data.stores import frames as cache_module
from tvr_lightning.data.stores.files import cache_folder
from tvr_lightning.data.video import records as clip_module
from tvr_lightning.data.video.frames import VideoFrames, read_frames
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.errors import ConfigError, DecodeError
from tvr_lightning.types import Record

from ...kinds import first_fast
from ..clips import grainy, write_clip
from .frame_cases import CLIP_BYTES, OPTIONS, cache_in, clips_of, decode, fetch, same

Make = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("strict")


@pytest.fixture
def forbid_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on every decoding fails, also in workers that run already."""
    flag = tmp_path / "forbidden"

    def watched(*args: Any, **kwargs: Any) -> VideoFrames:
        assert not flag.exists(), f"decoded {args[0]}"
        return read_frames(*args, **kwargs)

    monkeypatch.setattr(clip_module, "read_frames", watched)
    return flag.touch


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


@pytest.mark.parametrize("workers", first_fast([2, 0]))
@pytest.mark.parametrize("again", first_fast(["epoch", "run"]))
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
        ({"jitter": True}, "data.jitter draws different frames each epoch"),
    ],
)
def test_settings_that_do_not_fit(make_data: Make, folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_data(cache_frames=True, cache_dir=str(folder), **settings)
    assert not folder.exists()
