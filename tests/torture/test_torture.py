"""The torture itself: its judge sees what is wrong, and a small round of it finds nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import av
import numpy as np
import pytest

from tvr_lightning.data.video.frames import VideoFrames, read_frames

from ..data.clips import grainy, write_clip
from ..kinds import first_fast, slow_unless
from . import judge as judge_module
from .__main__ import DAMAGED, MARKS, NONE, SOUND, media_jobs, write
from .damage import DAMAGES, damages
from .judge import Verdict, in_order, judge_damaged, judge_refusal, judge_sound
from .kills import STORES, half_written
from .media import edited_clips, named_clips, no_videos, property_clips
from .table import Table
from .workers import Job, judged


@pytest.mark.parametrize("make", first_fast([named_clips, edited_clips, property_clips]))
def test_sound_videos_are_right(tmp_path: Path, make: object) -> None:
    clips = list(make(tmp_path))  # type: ignore[operator]
    assert len(clips) >= 10
    for clip in clips[:: max(1, len(clips) // 8)]:
        assert judge_sound(clip.path, clip.number) == Verdict("right"), clip


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    for clip in no_videos(tmp_path):
        assert judge_refusal(clip.path) == Verdict("refused"), clip


def test_damage_is_the_same_for_a_seed() -> None:
    content = bytes(random.Random(0).randbytes(5000))
    first, again, other = (list(damages(content, seed, 2)) for seed in ("a", "a", "b"))
    assert first == again != other
    assert {kind for kind, _ in first} == DAMAGES.keys()
    assert all(damaged != content for _, damaged in first)


@pytest.mark.slow
def test_damaged_videos_are_right_or_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 36, paint=grainy, options={"g": "12", "bf": "2"})
    film = in_order(path)
    outcomes = set()
    for number, (_, damaged) in enumerate(damages(path.read_bytes(), "test", 2)):
        bad = tmp_path / f"{number}.mp4"
        bad.write_bytes(damaged)
        verdict = judge_damaged(bad, film)
        assert verdict.outcome != "wrong", verdict
        outcomes.add(verdict.outcome)
    assert outcomes >= {"right", "refused"}


@pytest.mark.parametrize("fault", ["of another time", "late by one", "doubled", "lost"])
def test_the_judge_sees_wrong_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    path = write_clip(tmp_path / "a.mp4", 36, options={"g": "12"})
    film = in_order(path)

    def lying(*arguments: object, **settings: object) -> VideoFrames:
        frames, mask, times = read_frames(*arguments, **settings)  # type: ignore[arg-type]
        if fault == "of another time":
            frames[1] = frames[2]
        elif fault == "late by one":
            times = times + 1 / 12
        elif fault == "doubled":
            times[1] = times[0]
        else:
            mask[3:] = False
        return VideoFrames(frames, mask, times)

    monkeypatch.setattr(judge_module, "read_frames", lying)
    assert judge_sound(path, lambda t: round(12 * t)).outcome == "wrong"
    if fault in ("of another time", "doubled"):
        assert judge_damaged(path, film).outcome == "wrong"


def test_crashes_and_endless_loops_are_verdicts() -> None:
    def fall() -> Verdict:
        os.kill(os.getpid(), signal.SIGKILL)
        return Verdict("right")

    def sleep() -> Verdict:
        time.sleep(60)
        return Verdict("right")

    def fail() -> Verdict:
        raise KeyError("x")

    def work() -> Verdict:
        return Verdict("right")

    jobs = [Job("p", act.__name__, "", act) for act in (fall, sleep, fail, work)]
    found = {job.kind: verdict for job, verdict in judged(jobs, workers=1, limit_s=2)}
    assert found["fall"] == Verdict("wrong", f"crashed ({-signal.SIGKILL})")
    assert found["sleep"] == Verdict("wrong", "hangs for 2 s")
    assert found["fail"].why.startswith("KeyError")
    assert found["work"] == Verdict("right")


@pytest.mark.parametrize("kind", slow_unless(STORES, [kind for kind in STORES if "triples" not in kind]))
def test_killed_writers_leave_what_is_whole(tmp_path: Path, kind: str) -> None:
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert STORES[kind](folder, f"test {number}") == Verdict("right")


def test_half_written_files_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert half_written(tmp_path) == ""
    (tmp_path / "b.json").write_text('{"metrics": ')
    assert half_written(tmp_path).startswith("b.json is half written")


def test_the_table_counts_and_the_page_holds_it(tmp_path: Path) -> None:
    table = Table()
    for verdict in (Verdict("right"), Verdict("refused", "x"), Verdict("unseen", "y"), Verdict("wrong", "z")):
        table.add("Part", "kind", verdict, "file")
    assert "| kind | 4 | 1 | 1 | 1 | 1 |\n| **all** | 4 | 1 | 1 | 1 | 1 |" in table.markdown()
    assert table.wrong == ["Part, kind: file: z"]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    for _ in range(2):
        write(page, table.markdown())
    assert page.read_text() == f"before\n{MARKS[0]}\n\n{table.markdown()}\n{MARKS[1]}\nafter\n"


def test_a_packet_that_its_container_calls_incomplete_is_read_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A size in the table that reaches beyond the file's end: FFmpeg gives what is there, flagged."""
    path = write_clip(tmp_path / "a.mov", 36, codec="mjpeg", pix_fmt="yuvj420p", paint=grainy)
    content = bytearray(path.read_bytes())
    place = content.index(b"stsz") + 16 + 4 * 30  # behind version, common size and count
    content[place : place + 4] = (len(content) + 5000).to_bytes(4, "big")
    path.write_bytes(bytes(content))
    with av.open(str(path)) as file:
        assert [p.is_corrupt for p in file.demux(video=0) if p.size].index(True) == 30
    with caplog.at_level("DEBUG"):
        frames = read_frames(path, 1, size=32, start=30 / 12 + 0.01, end=31 / 12)
    assert "a packet is incomplete; decoding from the start" in caplog.text
    film = in_order(path)
    time = float(frames.times[0])
    assert any(np.abs(frames.frames[0].numpy().astype(int) - p).mean() < 1 for p in film.on_screen(time))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_round_of_media_finds_nothing(tmp_path: Path) -> None:
    table = Table()
    for job, verdict in judged(media_jobs(tmp_path, 1, 1), 2):
        table.add(job.part, job.kind, verdict, job.what)
    assert not table.wrong
    assert {row.part for row in table.rows.values()} == {SOUND, NONE, DAMAGED}
