"""Videos that were cut without encoding, start late, were joined, or are damaged: right values, or a word."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from tvr_lightning.data.tools.check import inspect_file
from tvr_lightning.data.tools.compress import compress
from tvr_lightning.data.tools.stats import seconds_of
from tvr_lightning.data.video import pixels
from tvr_lightning.data.video.container import OpenVideo, demux, first_that_decodes
from tvr_lightning.data.video.decoding import decode_frames, numbered_frames
from tvr_lightning.data.video.frames import probe_video, read_frames
from tvr_lightning.data.video.key_frames import read_key_frames
from tvr_lightning.data.video.packets import scan
from tvr_lightning.errors import DecodeError

from ..clips import cut_clip, cut_file, grainy, mux_silence, number_of, numbered, write_clip, write_silence

SOUND = ("ok", "")
HEVC = {"codec": "libx265", "options": {"x265-params": "keyint=24:bframes=3:log-level=none"}}
CUTS: dict[str, dict[str, Any]] = {
    "short_groups.mp4": {"options": {"g": "24", "bf": "2"}},
    "one_group.mp4": {"options": {"g": "250", "bf": "3"}},
    "open_groups.mp4": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3"}},
    "no_reordering.mov": {"options": {"g": "24", "bf": "0"}},
    "quicktime.mov": {"options": {"g": "24", "bf": "2"}},
    "sound.mp4": {"options": {"g": "24", "bf": "2"}, "audio": True},
    "fragments.mp4": {"options": {"g": "24", "bf": "2"}, "cut": {"movflags": "frag_keyframe+delay_moov"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "24", "bf": "2"}},
    "hevc.mp4": HEVC,
    "hevc_fragments.mp4": {**HEVC, "cut": {"movflags": "frag_keyframe+delay_moov"}},
    "vp9.mp4": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "24"}},
}


def encodes(codec: str) -> bool:
    return codec in av.codecs_available


def pictures(path: Path, seek: bool) -> tuple[list[float], list[int]]:
    """Times of all frames, and the numbers that their pictures show."""

    def read(video: OpenVideo) -> tuple[list[float], list[int]]:
        packets = scan(video)
        everything = np.arange(len(packets.ticks))
        found, faults = decode_frames(video, packets, everything, pixels.Resizer(32, video), seek=seek)
        assert not faults
        times = [float(packets.timeline.times[number]) for number in found]
        return times, [number_of(torch.from_numpy(picture)) for picture in found.values()]

    return first_that_decodes(path, read)


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("seconds", [None, Fraction(4)])
def test_a_cut_shows_what_its_edit_list_shows(tmp_path: Path, name: str, seconds: Fraction | None) -> None:
    settings = dict(CUTS[name])
    mux = settings.pop("cut", None)
    if not encodes(settings.get("codec", "libx264")):
        pytest.skip(f"this PyAV cannot encode with {settings['codec']}")
    whole = write_clip(tmp_path / f"whole.{name}", 120, **settings)
    path = cut_clip(whole, tmp_path / name, Fraction("2.6"), seconds, mux)  # frame 31 comes at 2.58 s
    for seek in (True, False):
        times, shown = pictures(path, seek)
        assert shown == [32 + round(12 * time) for time in times]
        # FFmpeg ends a cut by decoding times, so its last frames may lack some in between
        assert len(shown) == 88 if seconds is None else 45 <= len(shown) <= 51
    for n in (1, 5, 7):
        frames = read_frames(path, n, size=32)
        wanted = (np.arange(n) + 0.5) / n * (88 / 12 if seconds is None else 4)
        assert frames.times.numpy() == pytest.approx(wanted, abs=0.3)
        assert [number_of(f) - 32 for f in frames.frames] == [round(t * 12) for t in frames.times.tolist()]
    key = read_key_frames(path, 4, 32, start=2.0, end=3.0)
    assert [number_of(f) - 32 for f in key.frames] == [round(t * 12) for t in key.times.tolist()]
    assert inspect_file(path) == inspect_file(path, full=True) == SOUND
    assert seconds_of(path) == pytest.approx(probe_video(path).duration, abs=0.35)  # the header counts hidden frames


def test_a_cut_is_read_by_seeking(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_clip(tmp_path / "whole.mp4", 120, options={"g": "24", "bf": "2"})
    path = cut_clip(whole, tmp_path / "a.mp4", Fraction("2.6"))
    with caplog.at_level("DEBUG"):
        frames = read_frames(path, 3, size=32)
    assert [number_of(f) for f in frames.frames] == [46, 76, 105]
    assert not caplog.records


def test_a_negative_start_is_hidden_by_the_edit_list(tmp_path: Path) -> None:
    stamps = [-700 + 100 * k for k in range(30)]
    path = write_clip(tmp_path / "a.mp4", 30, stamps=stamps, options={"bf": "2"})
    times, shown = pictures(path, seek=True)
    assert shown == [7 + round(10 * time) for time in times]
    assert len(shown) == 23


def test_an_edit_list_that_shows_nothing_is_refused(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", 24, options={"bf": "0"})
    path = cut_clip(whole, tmp_path / "a.mp4", Fraction(60), mux={"movflags": "frag_keyframe+delay_moov"})
    with pytest.raises(DecodeError, match=r"a\.mp4: the edit list shows none of \d+ frames"):
        read_frames(path, 4)
    assert inspect_file(path).kind == inspect_file(path, full=True).kind == "undecodable"


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mp4", "a.ts", "a.flv"])
@pytest.mark.parametrize("audio", [False, True])
def test_a_late_start_is_no_missing_end(tmp_path: Path, name: str, audio: bool) -> None:
    if audio and name == "a.webm":
        pytest.skip("WebM takes no AAC")
    codec = {"codec": "libvpx", "options": {"b": "500k"}} if name == "a.webm" else {}
    path = write_clip(
        tmp_path / name, 60, stamps=[3700 + 80 * k for k in range(60)], audio=audio,
        container="mpegts" if name == "a.ts" else None, **codec,
    )  # fmt: skip
    frames = read_frames(path, 4, size=32)
    assert [number_of(f) for f in frames.frames] == [7, 22, 37, 52]
    assert frames.times.tolist() == pytest.approx([0.56, 1.76, 2.96, 4.16])
    assert inspect_file(path) == inspect_file(path, full=True) == SOUND
    if path.suffix in {".mkv", ".webm", ".mp4"}:  # the others' headers know but the length of the whole file
        assert seconds_of(path) == pytest.approx(4.8, abs=0.1)


def test_a_late_start_does_not_hide_a_missing_end(tmp_path: Path) -> None:
    stamps = [3700 + 80 * k for k in range(120)]
    path = cut_file(write_clip(tmp_path / "a.mkv", 120, stamps=stamps, paint=grainy, options={"g": "12"}))
    assert inspect_file(path).reason.startswith("cut off: the header promises 9.6 s")


@pytest.mark.parametrize("options", [{"g": "12", "bf": "2"}, {"x264-params": "open-gop=1:keyint=12:bframes=3"}])
def test_joined_recordings_follow_one_another(tmp_path: Path, options: dict[str, str]) -> None:
    joined = tmp_path / "joined.ts"
    data = b""
    for part, count in enumerate((48, 30, 18)):
        path = write_clip(
            tmp_path / f"{part}.ts", count, container="mpegts", options=options,
            paint=lambda number, width, height, part=part: numbered(number + 80 * part, width, height),
        )  # fmt: skip
        data += path.read_bytes()
    joined.write_bytes(data)
    times, shown = pictures(joined, seek=True)
    assert times == pytest.approx(np.arange(96) / 12, abs=0.01)
    assert shown == [*range(48), *range(80, 110), *range(160, 178)]
    frames = read_frames(joined, 96, size=32)
    assert frames.times.numpy() == pytest.approx(np.arange(96) / 12, abs=0.01)
    key = read_key_frames(joined, 3, 32, start=4.0)
    assert number_of(key.frames[0]) == 80
    assert inspect_file(joined) == inspect_file(joined, full=True) == SOUND


@pytest.mark.parametrize("late", [0, 37])
def test_a_recording_joined_within_a_group_begins_with_its_key_frame(tmp_path: Path, late: int) -> None:
    settings: dict[str, Any] = {"container": "mpegts", "options": {"g": "24", "bf": "2"}}
    stamps = [round(k * 1000 / 12) + late for k in range(60)]
    first = write_clip(tmp_path / "first.ts", 60, paint=grainy, **settings)
    second = write_clip(
        tmp_path / "second.ts", 60, stamps=stamps, paint=lambda number, *sides: grainy(number + 100, *sides), **settings
    )
    data = second.read_bytes()
    packet = 188  # bytes; the tables that say what the stream is come first
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + data[: 3 * packet] + data[int(len(data) * 0.3) // packet * packet :])
    frames = read_frames(joined, 120, size=32)
    assert [number_of(f) for f in frames.frames[frames.mask]] == [*range(60), *range(124, 160)]
    assert frames.times[frames.mask].numpy() == pytest.approx(np.arange(96) / 12, abs=0.01)
    assert inspect_file(joined, full=True) == SOUND  # as a recording alone that begins so


def test_copies_of_cut_and_joined_videos_are_whole(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", 120, options={"g": "24", "bf": "2"})
    source = tmp_path / "source"
    source.mkdir()
    cut_clip(whole, source / "cut.mp4", Fraction("2.6"))
    part = write_clip(tmp_path / "part.ts", 48, container="mpegts", options={"g": "24"})
    (source / "joined.ts").write_bytes(2 * part.read_bytes())
    done = compress(source, tmp_path / "copies", fps=12, workers=1)
    assert not done.failed
    assert not done.patched
    for name, shown in {"cut": [*range(32, 120)], "joined": [*range(48), *range(48)]}.items():
        frames = read_frames(tmp_path / "copies" / f"{name}.mp4", 100, size=32)
        assert [number_of(f) for f in frames.frames[frames.mask]] == shown


def flipped(path: Path, packet: bytes, place: int, to: Path) -> Path:
    """Flips one bit of a packet."""
    data = bytearray(path.read_bytes())
    data[data.index(packet) + place] ^= 16
    to.write_bytes(data)
    return to


def intact(path: Path, *, listen: bool = False) -> tuple[dict[int, bytes], list[str], list[int]]:
    """Content of the frames taken for intact, the faults, and the numbers of those that the decoder flags."""

    def read(video: OpenVideo) -> tuple[dict[int, bytes], list[str], list[int]]:
        packets, faults = scan(video), list[str]()
        with video.reopened() as fresh:
            frames = numbered_frames(fresh, packets, faults, listen=listen)
            found = {number: frame.to_ndarray().tobytes() for number, frame in frames}
        with video.reopened() as fresh:
            flagged = list[int]()
            for packet in demux(fresh):
                assert not isinstance(packet, str)
                try:
                    frames_out = packet.decode()
                except av.FFmpegError:
                    continue
                flagged += [int(np.searchsorted(packets.ticks, f.pts)) for f in frames_out if f.is_corrupt]
        return found, faults, flagged

    return first_that_decodes(path, read)


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(video=0) if packet.size]


def test_nothing_that_refers_to_a_flagged_frame_is_intact(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 72, paint=grainy, options={"g": "24", "bf": "3", "b-pyramid": "strict"})
    sound = intact(path)[0]
    assert len(sound) == 72
    tried = 0
    for packet in packets_of(path)[25:46:4]:
        for place in range(len(packet) // 3, len(packet), max(len(packet) // 3, 1)):
            bad = flipped(path, packet, place, tmp_path / "bad.mp4")
            found, faults, flagged = intact(bad)
            if not flagged:
                continue
            tried += 1
            assert faults
            assert all(found[number] == sound[number] for number in found), "a frame that differs passed as intact"
            assert {*range(24), *range(48, 72)} <= found.keys()
            frames = read_frames(bad, 72, size=32)
            assert [round(t * 12) for t in frames.times[frames.mask].tolist()] == sorted(found)
            assert inspect_file(bad, full=True).kind == "damaged"
    assert tried


def test_a_counted_stream_is_intact_again_from_the_next_key_frame(tmp_path: Path) -> None:
    options = {"g": "24", "bf": "2", "sc_threshold": "1000000000"}
    path = write_clip(tmp_path / "a.avi", 72, codec="mpeg4", paint=grainy, options=options)
    sound = intact(path)[0]
    packet = packets_of(path)[30]
    bad = tmp_path / "bad.avi"
    bad.write_bytes(path.read_bytes().replace(packet, packet[: len(packet) // 3].ljust(len(packet), b"\0")))
    found, faults, flagged = intact(bad)
    assert faults == ["a frame is incomplete"]
    assert len(flagged) == 1
    assert {*range(24), *range(50, 70)} <= found.keys()
    assert not {*range(35, 46)} & found.keys()
    assert all(found[number] == sound[number] for number in found if number < 24 or number >= 48)


def test_a_full_check_believes_what_the_decoder_reports(tmp_path: Path) -> None:
    if not encodes("libx265"):
        pytest.skip("this PyAV cannot encode with libx265")
    path = write_clip(tmp_path / "a.mp4", 48, paint=grainy, **HEVC)
    assert inspect_file(path, full=True) == SOUND
    level = av.logging.get_level()
    heard = 0
    for packet in packets_of(path)[5:40:5]:
        for place in range(len(packet) // 8, len(packet), max(len(packet) // 8, 1)):
            bad = flipped(path, packet, place, tmp_path / "bad.mp4")
            assert not intact(bad)[2], "this decoder flags frames by now"
            faults = intact(bad, listen=True)[1]
            assert (inspect_file(bad, full=True).kind == "damaged") == bool(faults)
            heard += bool(faults)
        if heard:
            break
    assert heard
    assert av.logging.get_level() == level


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libx264", "libx265"])
def test_after_a_refused_packet_nothing_is_intact_until_the_next_key_frame(tmp_path: Path, codec: str) -> None:
    if not encodes(codec):
        pytest.skip(f"this PyAV cannot encode with {codec}")
    settings: dict[str, Any] = HEVC if codec == "libx265" else {"codec": codec, "options": {"g": "24"}}
    if codec == "libvpx-vp9":
        settings["options"] |= {"deadline": "realtime", "cpu-used": "8"}
    path = write_clip(tmp_path / "a.mkv", 72, paint=grainy, **settings)
    sound = intact(path)[0]
    packet = packets_of(path)[30]
    bad = tmp_path / "bad.mkv"
    bad.write_bytes(path.read_bytes().replace(packet, bytes(len(packet))))
    found, faults, _ = intact(bad)
    assert faults
    assert all(found[number] == sound[number] for number in found), "a frame that differs passed as intact"
    assert {*range(24), *range(52, 72)} <= found.keys()
    assert inspect_file(bad, full=True).kind == "damaged"


def test_check_and_reading_agree(tmp_path: Path) -> None:
    webm = {"codec": "libvpx", "options": {"b": "500k"}}
    files = [
        write_clip(tmp_path / "wide.mp4", 6, width=1280, height=16),
        write_clip(tmp_path / "high.mp4", 6, width=16, height=1280),
        write_clip(tmp_path / "one.webm", 1, **webm),
        write_clip(tmp_path / "one_live.webm", 1, container="webm", mux={"live": "1"}, **webm),
        write_clip(tmp_path / "one_late.webm", 1, stamps=[4000], **webm),
        write_clip(tmp_path / "one.mp4", 1),
        write_clip(tmp_path / "one.ts", 1, container="mpegts"),
        write_silence(tmp_path / "silence.mp4", cover=True),
        cut_file(write_clip(tmp_path / "cut.mp4", 24)),
    ]
    for path in files:
        try:
            read_frames(path, 1)
        except DecodeError as error:
            refused = str(error).removeprefix(f"{path}: ")
        else:
            refused = ""
        for full in (False, True):
            verdict = inspect_file(path, full)
            assert (verdict.kind, verdict.reason) == ("undecodable" if refused else "ok", refused), path.name
            if refused:
                with pytest.raises(DecodeError):
                    probe_video(path, full)
            else:
                probe_video(path, full)


def test_a_stream_that_begins_late_stops_nobody(tmp_path: Path) -> None:
    """FFmpeg looks at 5 MB for streams; at the end PyAV stumbles over one that comes later."""
    path = tmp_path / "a.flv"
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("flv1", rate=12, options={"qmin": "1", "qmax": "2", "b": "100M"})
        video.width, video.height, video.pix_fmt = 640, 480, "yuv420p"
        audio: Any = file.add_stream("aac", rate=8000)
        for number in range(36):
            frame = av.VideoFrame.from_ndarray(grainy(number, 640, 480), "rgb24")
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        mux_silence(file, audio, first=3 * 8000)
    assert path.stat().st_size > 6e6
    for _ in range(3):  # what PyAV does depends on what lay in its memory before
        assert [number_of(f) for f in read_frames(path, 3, size=32).frames] == [6, 18, 30]
        assert inspect_file(path) == inspect_file(path, full=True) == SOUND
