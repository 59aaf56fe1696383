from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tvr_lightning.data.video import key_frames
from tvr_lightning.data.video.frames import VideoFrames, read_frames
from tvr_lightning.data.video.key_frames import choose_key_frames, read_key_frames
from tvr_lightning.data.video.packets import Timeline
from tvr_lightning.errors import ConfigError, DecodeError

from ..clips import Picture, cut_file, grainy, number_of, numbered, write_clip, write_silence


def scenes(*cuts: int) -> Any:
    """Paints the number of the scene: scene k begins at frame cuts[k - 1]."""

    def paint(number: int, width: int, height: int) -> Picture:
        return numbered(sum(number >= cut for cut in cuts) + 1, width, height)

    return paint


def frame_numbers(result: VideoFrames, fps: int = 12) -> list[int]:
    return [round(t * fps) for t in result.times[result.mask].tolist()]


def timeline(times: Any) -> Timeline:
    times = np.asarray(times, dtype=np.float64)
    stop = float(times[-1] + (times[-1] / (len(times) - 1) if len(times) > 1 else 0.1))
    return Timeline(times, stop, stop)


def pick(changes: Any, num_frames: int, fps: float = 12.0) -> list[int]:
    line = timeline(np.arange(len(changes)) / fps)
    frames = np.arange(len(changes))
    return choose_key_frames(line, frames, np.asarray(changes, np.float64), num_frames, 0.0, line.end).tolist()


@pytest.mark.parametrize("codec", [{}, {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "g": "12"}}])
def test_cuts_are_found_in_time_order(tmp_path: Path, codec: dict[str, Any]) -> None:
    cuts = (11, 30, 55, 61)
    path = write_clip(tmp_path / ("a.webm" if codec else "a.mp4"), 72, paint=scenes(*cuts), **codec)
    result = read_key_frames(path, 5, 32)
    assert frame_numbers(result) == [0, *cuts]
    assert [number_of(f) for f in result.frames] == [1, 2, 3, 4, 5]
    assert result.mask.all()
    assert result.frames.shape == (5, 3, 32, 32)
    assert result.frames.dtype == torch.uint8
    assert result.times.dtype == torch.float64


def test_pixels_are_those_of_every_other_sampling(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 12, paint=scenes(3, 8))
    every = read_frames(path, 12, size=48).frames
    keys = read_key_frames(path, 3, 48)
    for frame, number in zip(keys.frames, (0, 3, 8), strict=True):
        assert torch.equal(frame, every[number])


def test_larger_changes_go_before_smaller_ones(tmp_path: Path) -> None:
    levels = {0: 100, 10: 110, 24: 200, 40: 205, 50: 60}  # from which frame on: brightness

    def paint(number: int, width: int, height: int) -> Picture:
        return np.full((height, width, 3), levels[max(k for k in levels if k <= number)], np.uint8)

    path = write_clip(tmp_path / "a.mp4", 60, paint=paint)
    assert frame_numbers(read_key_frames(path, 2, 16)) == [0, 50]
    assert frame_numbers(read_key_frames(path, 3, 16)) == [0, 24, 50]
    assert frame_numbers(read_key_frames(path, 4, 16)) == [0, 10, 24, 50]


def test_a_fade_is_one_change(tmp_path: Path) -> None:
    def paint(number: int, width: int, height: int) -> Picture:  # a fade of eight frames, much later two small cuts
        level = 40 + 25 * min(max(number - 20, 0), 8) - 12 * (number >= 60) - 12 * (number >= 90)
        return np.full((height, width, 3), level, np.uint8)

    path = write_clip(tmp_path / "a.mp4", 120, paint=paint)
    got = frame_numbers(read_key_frames(path, 4, 16))
    assert got[0] == 0
    assert 21 <= got[1] <= 28
    assert got[2:] == [60, 90]


def test_a_turn_of_hue_alone_is_a_change(tmp_path: Path) -> None:
    def paint(number: int, width: int, height: int) -> Picture:
        colour = (200, 40, 40) if number < 17 else (40, 40, 200)
        return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()

    path = write_clip(tmp_path / "a.mp4", 36, paint=paint)
    assert frame_numbers(read_key_frames(path, 2, 16)) == [0, 17]


@pytest.mark.parametrize("paint", [lambda _, w, h: numbered(7, w, h), lambda _, w, h: grainy(3, w, h)])
def test_a_static_clip_gives_uniform_frames(tmp_path: Path, paint: Any) -> None:
    path = write_clip(tmp_path / "a.mp4", 60, paint=paint)
    for options in ({}, {"start": 1.3, "end": 4.2}):
        keys, uniform = read_key_frames(path, 4, 32, **options), read_frames(path, 4, size=32, **options)
        assert torch.equal(keys.frames, uniform.frames)
        assert torch.equal(keys.times, uniform.times)


def test_places_left_over_are_spread(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 60, paint=scenes(48))
    got = frame_numbers(read_key_frames(path, 4, 32))
    assert {0, 48} <= set(got)
    assert len(set(got)) == 4
    assert max(np.diff(got)) <= 24


@pytest.mark.parametrize("count", [1, 2, 5])
def test_short_clips_give_all_frames_masked(tmp_path: Path, count: int) -> None:
    path = write_clip(tmp_path / "a.mp4", count)
    result = read_key_frames(path, 5, 32)
    assert frame_numbers(result) == list(range(count))
    assert result.mask.tolist() == [k < count for k in range(5)]
    assert not result.frames[~result.mask].any()
    assert not result.times[~result.mask].any()
    assert frame_numbers(read_key_frames(path, 1, 32)) == [0]


def test_segment(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 96, paint=scenes(10, 30, 44, 50, 80), options={"g": "12"})
    assert frame_numbers(read_key_frames(path, 2, 32, start=2.0, end=6.0)) == [24, 44]  # three blocks turn at once
    assert frame_numbers(read_key_frames(path, 4, 32, start=2.0, end=6.0)) == [24, 30, 44, 50]
    assert frame_numbers(read_key_frames(path, 2, 32, start=5.0, end=99.0)) == [60, 80]
    with pytest.raises(DecodeError, match=r"a\.mp4: the segment starts at 9.0 s, outside the video"):
        read_key_frames(path, 4, 32, start=9.0)
    with pytest.raises(DecodeError, match="its start must be before its end"):
        read_key_frames(path, 4, 32, start=3.0, end=2.0)


def test_a_far_segment_is_not_decoded_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "a.mp4", 120, paint=scenes(95, 108), options={"g": "12", "bf": "0"})
    seen: list[int] = []
    original = key_frames.numbered_frames

    def counting(*args: Any) -> Any:
        for number, frame in original(*args):
            seen.append(number)
            yield number, frame

    monkeypatch.setattr(key_frames, "numbered_frames", counting)
    assert frame_numbers(read_key_frames(path, 3, 32, start=7.5)) == [90, 95, 108]
    assert min(seen) == 84


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("raw.h264", {"options": {"bf": "2"}}),
        ("b_frames.avi", {"options": {"bf": "3", "g": "12"}}),
        ("open_groups.mp4", {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3"}}),
        ("old.ts", {"container": "mpegts", "options": {"g": "12"}}),
        ("palette.gif", {"codec": "gif", "pix_fmt": "rgb8", "fps": 25}),
    ],
)
def test_formats(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = write_clip(tmp_path / name, 48, paint=scenes(9, 25, 40), **options)
    result = read_key_frames(path, 4, 32)
    assert [number_of(f) for f in result.frames] == [1, 2, 3, 4]
    later = read_key_frames(path, 2, 32, start=float(result.times[1]) + 0.2)
    assert [number_of(f) for f in later.frames] == [2, 3] or [number_of(f) for f in later.frames] == [2, 4]


def test_the_same_frames_every_time_and_with_threads(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 48, paint=grainy)
    one = read_key_frames(path, 6, 32)
    for other in (read_key_frames(path, 6, 32), read_key_frames(path, 6, 32, threads=0)):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    peaks = []
    for count in (60, 600):
        path = write_clip(tmp_path / f"{count}.mp4", count, paint=scenes(20, 40), options={"preset": "ultrafast"})
        tracemalloc.start()
        read_key_frames(path, 3, 32)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 540 * 32 * 32 * 3 / 4  # the small pictures alone would take four times that


def test_unreadable_files_say_why(tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    text = tmp_path / "text.mp4"
    text.write_text("no video at all, " * 50)
    silence = write_silence(tmp_path / "sound.mp4")
    for path, message in {
        tmp_path / "gone.mp4": "No such file",
        tmp_path: "a folder",
        empty: r"empty \(0 bytes\)",
        text: "cannot be decoded",
        silence: "no video stream",
    }.items():
        with pytest.raises(DecodeError, match=message):
            read_key_frames(path, 4, 32)


def test_damage_is_passed_over(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 96, options={"g": "12"}, paint=grainy)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 12] = np.random.default_rng(0).bytes(len(data) // 12)
    path.write_bytes(data)
    result = read_key_frames(path, 8, 32)
    assert result.mask.all()
    assert [number_of(f) for f in result.frames] == frame_numbers(result)


def test_all_frames_damaged_is_an_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 24, options={"g": "1"}, mux={"movflags": "faststart"})
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + bytes(len(data) - start))
    with pytest.raises(DecodeError, match=r"a\.mp4: none of \d+ frames can be decoded: Invalid data"):
        read_key_frames(path, 4, 32)


@pytest.mark.parametrize("share", [0.35, 0.7])
def test_cut_files_give_their_beginning(tmp_path: Path, share: float, caplog: pytest.LogCaptureFixture) -> None:
    options: Any = {"mux": {"movflags": "faststart"}, "options": {"g": "12"}}
    path = cut_file(write_clip(tmp_path / "a.mp4", 120, paint=grainy, **options), share)
    got = read_key_frames(path, 5, 32)
    assert got.mask.all()
    assert got.times.max() < 10 * share + 1
    assert ("damaged: key frames come from the first" in caplog.text and str(path) in caplog.text) == (share < 0.5)
    with pytest.raises(DecodeError, match=r"none of 1 frames can be decoded: the header promises 10\.0 s"):
        read_key_frames(path, 5, 32, start=9.0)


def test_wrong_arguments(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 4)
    for wrong in ((0, 32), (4, 0)):
        with pytest.raises(ConfigError, match="must be 1 or more"):
            read_key_frames(path, *wrong)
    with pytest.raises(ConfigError, match="threads"):
        read_key_frames(path, 4, 32, threads=-1)


def test_choice_is_the_largest_changes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        changes = rng.permutation(np.linspace(1, 200, 40))
        got = pick(changes, 6, fps=1.0)  # a second apart: no two belong to one change
        assert got == sorted({0, *(1 + np.argsort(-changes[1:])[:5]).tolist()})


def test_choice_with_missing_frames_and_ties() -> None:
    assert pick([0, 9, np.nan, 9, 9, 9, 9, 9], 3, fps=1.0) == [0, 1, 3]
    assert pick([0, 0, 0, 5, 9, 5, 0, 5, 0, 0, 0, 0], 3) == [0, 4, 7]  # between 4 and 7 the picture rests
    assert pick([np.nan, 0, 0, np.nan, 0, 0, np.nan, 0], 5) == [1, 2, 4, 5, 7]
    assert len(pick([np.nan] * 9, 3)) == 3  # the decoder says why none of them can be given
    everything = np.where(np.arange(30) % 3 == 0, np.nan, 0.0)
    still = pick(everything, 4)
    assert len(still) == 4
    assert not np.isnan(everything[still]).any()


def test_choice_is_always_full_distinct_and_ordered() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        count, wanted = int(rng.integers(1, 40)), int(rng.integers(1, 12))
        line = timeline(np.concatenate([[0.0], np.cumsum(rng.exponential(0.2, count - 1) + 1e-3)]))
        changes = np.where(rng.random(count) < 0.3, 0.0, rng.exponential(5, count))
        changes[rng.integers(count)] = 30.0
        got = choose_key_frames(line, np.arange(count), changes, wanted, 0.0, line.end)
        assert (np.diff(got) > 0).all()
        assert len(got) == min(count, wanted) or not (changes[1:] >= key_frames.STATIC).any()
