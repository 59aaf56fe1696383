import logging
import os
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import torch

from tvr_lightning.data.video import decoding
from tvr_lightning.data.video.container import OpenVideo, first_that_decodes
from tvr_lightning.data.video.frames import VideoFrames, draw_frames, probe_video, read_frames
from tvr_lightning.data.video.packets import Timeline, scan
from tvr_lightning.data.video.sampling import choose_frames
from tvr_lightning.errors import ConfigError, DecodeError

from ..clips import cut_file, grainy, number_of, write_clip, write_silence

FORMATS: dict[str, dict[str, Any]] = {
    "b_frames.mp4": {"options": {"bf": "3", "g": "12"}},
    "b_frames.mkv": {"options": {"bf": "3", "g": "12"}},
    "b_frames.avi": {"options": {"bf": "3", "g": "12"}},
    "open_groups.mp4": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3"}},
    "raw.h264": {"options": {"bf": "2"}},
    "fragments.mp4": {"mux": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "12"}},
    "cmaf.mp4": {"mux": {"movflags": "frag_keyframe+cmaf"}, "options": {"g": "12", "bf": "3"}},
    "negative_offsets.mp4": {"mux": {"movflags": "negative_cts_offsets"}, "options": {"g": "12", "bf": "3"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "12"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "8", "b": "500k", "g": "12"}},
    "live.webm": {"codec": "libvpx", "container": "webm", "mux": {"live": "1"}, "options": {"b": "500k"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "0", "q": "2"}},
    "mpeg4_b.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "phone.3gp": {"codec": "mpeg4"},
    "stream.ts": {"container": "mpegts", "options": {"g": "12"}},
    "old.mpg": {"codec": "mpeg2video", "fps": 25, "options": {"bf": "2"}},
    "flash.flv": {"options": {"g": "12"}},
    "windows.wmv": {"codec": "wmv2", "container": "asf"},
    "deep.mkv": {"pix_fmt": "yuv420p10le"},
    "grey.mkv": {"codec": "ffv1", "pix_fmt": "gray"},
    "motion.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "palette.gif": {"codec": "gif", "pix_fmt": "rgb8", "fps": 25},
}


def numbers(result: VideoFrames) -> list[int]:
    return [number_of(frame) for frame in result.frames[result.mask]]


def read_both_ways(path: Path, n: int, size: int = 32, **options: Any) -> tuple[VideoFrames, VideoFrames]:
    """The same frames with seeking and without."""

    def read(video: OpenVideo, seek: bool) -> VideoFrames:
        packets = scan(video)
        sampling, fps, end = options.get("sampling", "uniform"), options.get("fps"), packets.timeline.end
        chosen = choose_frames(packets.timeline, n, sampling, fps, 0.0, end, None)
        return draw_frames(video, packets, chosen, n, size, seek=seek)

    seeking, plain = (first_that_decodes(path, lambda video, seek=seek: read(video, seek)) for seek in (True, False))
    return seeking, plain


def slow_on_screen(times: list[float], moment: float) -> int:
    return max(k for k, time in enumerate(times) if time <= moment)


@pytest.mark.parametrize("sampling", ["uniform", "head", "tail"])
@pytest.mark.parametrize("fps", [None, 1.0, 2.5, 60.0])
@pytest.mark.parametrize("segment", [(0.0, 10.0), (1.7, 6.2), (3.0, 3.1)])
def test_choice_equals_slow_reference(sampling, fps, segment):
    times = np.cumsum([0.0, *np.random.default_rng(1).uniform(0.02, 0.6, 31)])
    times *= 9.7 / times[-1]
    start, end = segment
    chosen = choose_frames(Timeline(times, 10.0, 10.0), 6, sampling, fps, start, end)

    if fps is not None:
        moments, k = [], 0
        while start + k / fps < end:
            moments.append(start + k / fps)
            k += 1
        candidates = sorted({slow_on_screen(times, m) for m in moments})
    elif sampling == "uniform":
        candidates = sorted({slow_on_screen(times, start + (k + 0.5) / 6 * (end - start)) for k in range(6)})
    else:
        candidates = [k for k in range(len(times)) if times[k] < end and (k + 1 == len(times) or times[k + 1] > start)]
    if len(candidates) > 6:
        if sampling == "head":
            candidates = candidates[:6]
        elif sampling == "tail":
            candidates = candidates[-6:]
        else:
            candidates = [candidates[int(k * (len(candidates) - 1) / 5 + 1e-9)] for k in range(6)]
    assert chosen.tolist() == candidates


def test_jitter_stays_in_its_part_and_repeats_with_the_seed():
    timeline = Timeline(np.arange(1000) / 100, 10.0, 10.0)

    def pick(seed):
        return choose_frames(timeline, 8, "uniform", None, 2.0, 10.0, np.random.default_rng(seed))

    assert pick(3).tolist() == pick(3).tolist() != pick(4).tolist()
    assert ((pick(3) - 200) // 100).tolist() == list(range(8))


def test_lost_frames_are_counted_after_the_present_ones():
    timeline = Timeline(np.arange(50) / 10, stop=5.0, end=10.0)
    assert choose_frames(timeline, 20, "uniform", 1.0, 0.0, 10.0).tolist() == [0, 10, 20, 30, 40, 50, 51, 52, 53, 54]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_exact_frames(tmp_path, name):
    options = {"fps": 12, **FORMATS[name]}
    path = write_clip(tmp_path / name, 48, **options)
    duration = 48 / options["fps"]
    for n in (5, 48):
        seeking, plain = read_both_ways(path, n)
        expected = [int((k + 0.5) / n * 48) for k in range(n)]
        assert numbers(seeking) == expected
        assert seeking.times.numpy() == pytest.approx(np.array(expected) / options["fps"], abs=0.006)
        for one, other in zip(seeking, plain, strict=True):
            assert torch.equal(one, other)
    probe = probe_video(path, full=True)
    assert (probe.width, probe.height) == (96, 64)
    assert probe.duration == pytest.approx(duration, abs=0.02)
    assert probe.fps == pytest.approx(options["fps"], rel=0.01)


def test_a_far_frame_is_reached_by_seeking(tmp_path, caplog):
    path = write_clip(tmp_path / "long.mp4", 240, options={"g": "24"})
    fed: list[int] = []
    original = decoding._decode

    def counting(packet):
        fed.append(1)
        return original(packet)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_decode", counting)
        with caplog.at_level(logging.DEBUG):
            assert numbers(read_frames(path, 2, size=32)) == [60, 180]
    assert len(fed) < 80
    assert not caplog.records


def test_variable_frame_rate_goes_by_time(tmp_path):
    stamps = [0, 100, 150, 1000, 2400, 2500, 2600, 5000, 5001, 5900]
    path = write_clip(tmp_path / "vfr.mkv", 10, stamps=stamps)
    result = read_frames(path, 8, fps=1.0, size=32)
    assert numbers(result) == [0, 3, 6, 7]  # 0, 1, 2 (3 is on screen still), 3 and 4 (6), 5 s (7)
    assert result.times.tolist() == [0, 1.0, 2.6, 5.0, 0, 0, 0, 0]
    assert result.mask.tolist() == [True] * 4 + [False] * 4
    assert not result.frames[4:].any()


def test_ntsc_rate_and_rounded_stamps(tmp_path):
    path = write_clip(tmp_path / "ntsc.mkv", 120, stamps=[round(k * 1001 / 30) for k in range(120)])
    assert numbers(read_frames(path, 9, fps=1.0, size=32)) == [0, 29, 59, 89, 119]
    path = write_clip(tmp_path / "thirty.mkv", 30, fps=30, stamps=[round(k * 1000 / 30) for k in range(30)])
    assert numbers(read_frames(path, 9, fps=3.0, size=32)) == [0, 10, 20]  # 667 ms stands for 2/3 s


@pytest.mark.parametrize("offset", [-700, 5300])
def test_times_count_from_the_first_frame(tmp_path, offset):
    stamps = [offset + 100 * k for k in range(20)]
    path = write_clip(tmp_path / "late.mp4", 20, stamps=stamps, mux={"use_editlist": "0"}, options={"bf": "0"})
    result = read_frames(path, 4, fps=2.0, size=32)
    assert numbers(result) == [0, 5, 10, 15]
    assert result.times.tolist() == pytest.approx([0, 0.5, 1, 1.5])
    result = read_frames(path, 4, fps=2.0, size=32, start=1.0)
    assert numbers(result) == [10, 15]
    assert result.times[:2].tolist() == pytest.approx([1, 1.5])


def test_head_tail_and_one_per_second(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 60)
    assert numbers(read_frames(path, 4, "head", size=32)) == [0, 1, 2, 3]
    assert numbers(read_frames(path, 4, "tail", size=32)) == [56, 57, 58, 59]
    assert numbers(read_frames(path, 3, "head", 1.0, size=32)) == [0, 12, 24]
    assert numbers(read_frames(path, 3, "tail", 1.0, size=32)) == [24, 36, 48]
    assert numbers(read_frames(path, 3, "uniform", 1.0, size=32)) == [0, 24, 48]
    assert numbers(read_frames(path, 2, "uniform", 1.0, size=32)) == [0, 48]


def test_no_frame_is_given_twice(tmp_path):
    path = write_clip(tmp_path / "short.mp4", 5)
    for sampling in ("uniform", "head", "tail"):
        result = read_frames(path, 9, cast(Any, sampling), size=32)
        assert numbers(result) == [0, 1, 2, 3, 4]
        assert result.mask.tolist() == [True] * 5 + [False] * 4
    assert numbers(read_frames(path, 9, fps=100.0, size=32)) == [0, 1, 2, 3, 4]


def test_segment(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 60)
    result = read_frames(path, 12, fps=1.0, size=32, start=1.5, end=3.6)
    assert numbers(result) == [18, 30, 42]
    assert result.times[:3].tolist() == pytest.approx([1.5, 2.5, 3.5])
    assert numbers(read_frames(path, 12, fps=1.0, size=32, start=2.0, end=999.0)) == [24, 36, 48]
    assert numbers(read_frames(path, 2, size=32, start=2.0, end=4.0)) == [30, 42]
    assert numbers(read_frames(path, 3, "tail", size=32, start=2.0, end=4.0)) == [45, 46, 47]
    with pytest.raises(DecodeError, match=r"a\.mp4: the segment starts at 5\.0 s, outside the video \(0 to 5\.00 s\)"):
        read_frames(path, 4, start=5.0)
    with pytest.raises(DecodeError, match=r"runs from 3\.0 s to 2\.0 s"):
        read_frames(path, 4, start=3.0, end=2.0)
    with pytest.raises(DecodeError, match="starts at -1"):
        read_frames(path, 4, start=-1.0)


def test_jitter_is_deterministic(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 96)

    def read(seed):
        return numbers(read_frames(path, 4, size=32, generator=np.random.default_rng(seed)))

    assert read(1) == read(1) != read(2)
    assert [number // 24 for number in read(1)] == [0, 1, 2, 3]


def test_threads_change_nothing(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 48)
    one, many = read_frames(path, 6), read_frames(path, 6, threads=0)
    assert torch.equal(one.frames, many.frames)


def test_cover_pictures_are_no_videos(tmp_path):
    path = write_silence(tmp_path / "song.mp4", cover=True)
    with av.open(str(path)) as file:
        assert file.streams.video[0].disposition & av.stream.Disposition.attached_pic
    with pytest.raises(DecodeError, match=r"no video stream.*found 1 audio stream and 1 video stream"):
        read_frames(path, 2)


def test_the_first_stream_that_decodes_is_read(tmp_path):
    path = write_clip(tmp_path / "two.mkv", 24, clips=2, codec="mpeg4", audio=True)
    assert numbers(read_frames(path, 3, size=32)) == [4, 12, 20]


def test_a_broken_stream_gives_way_to_another(tmp_path):
    path = write_clip(tmp_path / "two.mp4", 24, clips=2, codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(path)) as file:
        best = file.streams.best("video")
        assert best is not None
        places = [(p.pos, p.size) for p in file.demux(best) if p.size]
        other = 1 - best.index
    data = bytearray(path.read_bytes())
    for place, length in places:
        data[place : place + length] = bytes(length)
    path.write_bytes(data)
    assert numbers(read_frames(path, 3, size=32)) == [number + 100 * other for number in (4, 12, 20)]
    assert probe_video(path, full=True).duration == pytest.approx(2.0)


NAMES = [
    "-x.mp4",
    "a b.mp4",
    "+&=?%.mp4",
    "100%03d.mp4",
    "concat:a|b.mp4",
    "file:z.mp4",
    "żółw ü 日本.mp4",
    "a#t=1.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names(tmp_path, name, monkeypatch):
    plain = write_clip(tmp_path / "plain.mp4", 12)
    plain.rename(tmp_path / name)
    assert numbers(read_frames(tmp_path / name, 2, size=32)) == [3, 9]
    monkeypatch.chdir(tmp_path)
    assert numbers(read_frames(name, 2, size=32)) == [3, 9]


def test_no_file_stays_open(tmp_path):
    good, bad = write_clip(tmp_path / "a.mp4", 12), tmp_path / "b.mp4"
    bad.write_text("no video")
    read_frames(good, 2, size=32)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        read_frames(good, 2, size=32)
        with pytest.raises(DecodeError):
            read_frames(bad, 2)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_unreadable_files_say_why(tmp_path, capfd):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("<html><body>Video unavailable</body></html>\n" * 40)
    (tmp_path / "folder.mp4").mkdir()
    cut_file(write_clip(tmp_path / "cut.mp4", 24))
    write_silence(tmp_path / "sound.mp4")
    cases = {
        "gone.mp4": "No such file",
        "empty.mp4": "empty",
        "text.mp4": "a page or playlist of XML",
        "folder.mp4": "folder",
        "cut.mp4": "Invalid data",
        "sound.mp4": "no video stream.*found 1 audio stream",
    }
    for name, reason in cases.items():
        for read in (lambda p: read_frames(p, 4), probe_video):
            with pytest.raises(DecodeError, match=f"{name}: .*({reason})"):
                read(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_permission_denied(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", 4)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything

        def refuse(self, *_):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DecodeError, match=r"a\.mp4: Permission denied"):
        read_frames(path, 4)


def test_wrong_arguments(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(ConfigError, match="did you mean uniform"):
        read_frames(path, 4, cast(Any, "unifrom"))
    for options in ({"num_frames": 0}, {"size": 0}, {"fps": 0.0}, {"fps": float("nan")}, {"threads": -1}):
        with pytest.raises(ConfigError):
            read_frames(path, **{"num_frames": 4, **cast(Any, options)})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"mux": {"movflags": "faststart"}, "options": {"g": "12"}}),
        ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("a.mkv", {"options": {"g": "12"}}),
    ],
)
@pytest.mark.parametrize("share", [0.35, 0.7])
def test_cut_files_give_their_beginning(tmp_path, name, options, share, caplog):
    path = cut_file(write_clip(tmp_path / name, 120, paint=grainy, **options), share)
    got = numbers(read_frames(path, 10, size=32))
    expected = [6, 18, 30, 42, 54, 66, 78, 90, 102, 114][: len(got)]
    assert got[:-1] == expected[:-1]
    assert 0 <= expected[-1] - got[-1] <= 3  # the cut may take it and leave one shortly before
    assert 10 * share - 2 <= len(got) <= 10 * share + 1
    warned = "damaged: only" in caplog.text and str(path) in caplog.text
    assert warned == (len(got) < 5)
    with pytest.raises(DecodeError, match=r"cut off: the header promises"):
        probe_video(path, full=True)
    assert probe_video(path).duration == pytest.approx(10 * share, abs=1.5)


def test_cut_stream_without_header_is_a_shorter_video(tmp_path, caplog):
    path = cut_file(write_clip(tmp_path / "a.ts", 120, container="mpegts", paint=grainy, options={"g": "12"}))
    got = numbers(read_frames(path, 10, size=32))
    assert len(got) >= 9
    assert 50 < got[-1] < 70
    assert not caplog.records


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_damage_in_the_middle_spares_the_rest(tmp_path, caplog, capfd, name):
    path = write_clip(
        tmp_path / name, 96, container="mpegts" if name == "a.ts" else None, options={"g": "12"}, paint=grainy
    )
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 12] = np.random.default_rng(0).bytes(len(data) // 12)
    path.write_bytes(data)
    result = read_frames(path, 8, size=32)
    got = numbers(result)
    assert 5 <= len(got) <= 8
    assert {6, 18, 30, 78, 90} <= set(got)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    if name == "a.mp4":  # the other two skip what they cannot read without a word
        with pytest.raises(DecodeError, match=r"a\.mp4: \d+ of 96 frames decode \(.+\)"):
            probe_video(path, full=True)


def test_all_frames_damaged_is_an_error(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 24, options={"g": "1"}, mux={"movflags": "faststart"})
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + bytes(len(data) - start))
    with pytest.raises(DecodeError, match=r"a\.mp4: none of 4 frames can be decoded: Invalid data"):
        read_frames(path, 4)
    with pytest.raises(DecodeError, match=r"a\.mp4: 0 of 24 frames decode"):
        probe_video(path)
