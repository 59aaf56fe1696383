"""Sound videos of many kinds, each frame of which shows its number; see `..data.clips`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from ..data.clips import cut_clip, grainy, mux_silence, numbered, write_clip, write_silence

FPS = 12
FRAMES = 48
GROUP = {"g": "12"}
FAST_VPX = {"deadline": "realtime", "cpu-used": "8", **GROUP}
HEVC = {"codec": "libx265", "options": {"x265-params": "keyint=12:bframes=2:log-level=none"}}
AV1 = {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "keyint=12"}}


@dataclass(frozen=True)
class Clip:
    """A video that is sound.

    Attributes:
        kind: the row of the table that it counts in.
        path: the file.
        number: what the frame shows that is on screen at a time; None where its picture is turned or has no such frame.
    """

    kind: str
    path: Path
    number: Callable[[float], int] | None = None


def _plain(time: float) -> int:
    return round(FPS * time)


# container and codec: the extension names the muxer, unless `container` does
CODECS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": {**GROUP, "bf": "2"}},
    "h264.mov": {"options": {**GROUP, "bf": "0"}},
    "h264.mkv": {"options": {**GROUP, "bf": "3"}},
    "h264.flv": {"options": {**GROUP, "bf": "2"}},
    "h264.ts": {"options": {**GROUP, "bf": "2"}},
    "h264.m2ts": {"options": GROUP, "container": "mpegts", "mux": {"mpegts_m2ts_mode": "1"}},
    "h264.avi": {"options": {**GROUP, "bf": "0"}},
    "h264.h264": {"options": {**GROUP, "bf": "0"}, "container": "h264"},
    "hevc.mp4": HEVC,
    "hevc.mkv": HEVC,
    "av1.mp4": AV1,
    "av1.mkv": AV1,
    "vp8.webm": {"codec": "libvpx", "options": FAST_VPX},
    "vp9.webm": {"codec": "libvpx-vp9", "options": FAST_VPX},
    "vp9.mp4": {"codec": "libvpx-vp9", "options": FAST_VPX},
    "vp9.ivf": {"codec": "libvpx-vp9", "options": FAST_VPX},
    "mpeg4.avi": {"codec": "mpeg4", "options": {**GROUP, "bf": "2"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": GROUP},
    "mpeg4.3gp": {"codec": "mpeg4", "options": GROUP},
    "mpeg2.mpg": {"codec": "mpeg2video", "fps": 25, "options": {**GROUP, "bf": "2"}},
    "mpeg2.ts": {"codec": "mpeg2video", "fps": 25, "options": {**GROUP, "bf": "2"}},
    "mpeg2.vob": {"codec": "mpeg2video", "fps": 25, "options": GROUP},
    "mpeg2.mxf": {"codec": "mpeg2video", "fps": 25, "options": GROUP},
    "mpeg1.mpg": {"codec": "mpeg1video", "fps": 25, "options": GROUP},
    "flv1.flv": {"codec": "flv1", "options": GROUP},
    "wmv2.wmv": {"codec": "wmv2", "options": GROUP},
    "wmv1.asf": {"codec": "wmv1", "options": GROUP},
    "msmpeg4.avi": {"codec": "msmpeg4", "options": GROUP},
    "h263.3gp": {"codec": "h263", "width": 176, "height": 144, "options": GROUP},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "ffv1.mkv": {"codec": "ffv1"},
    "huffyuv.avi": {"codec": "huffyuv", "pix_fmt": "yuv422p"},
    "utvideo.avi": {"codec": "utvideo"},
    "qtrle.mov": {"codec": "qtrle", "pix_fmt": "rgb24"},
    "cinepak.avi": {"codec": "cinepak", "pix_fmt": "rgb24", "num_frames": 12},
    "svq1.mov": {"codec": "svq1", "pix_fmt": "yuv410p"},
    "raw.avi": {"codec": "rawvideo"},
    "raw.nut": {"codec": "rawvideo"},
    "gif.gif": {"codec": "gif", "pix_fmt": "rgb8", "fps": 10},
    "apng.apng": {"codec": "apng", "pix_fmt": "rgb24"},
}  # fmt: skip

PROPERTIES: dict[str, dict[str, Any]] = {
    "quarter turn.mp4": {"rotation": 90},
    "half turn.mp4": {"rotation": 180},
    "three quarters.mp4": {"rotation": 270},
    "mirrored.mp4": {"mirrored": True},
    "wide pixels.mp4": {"pixel_aspect": Fraction(4, 3)},
    "odd sides.mp4": {"width": 97, "height": 65, "pix_fmt": "yuv444p"},
    "tiny.mkv": {"codec": "ffv1", "width": 8, "height": 8},
    "high.mp4": {"width": 64, "height": 640},
    "one frame.mp4": {"num_frames": 1},
    "one frame.webm": {"num_frames": 1, "codec": "libvpx"},
    "two frames.mkv": {"num_frames": 2},
    "variable rate.mkv": {"stamps": [83 * n + 40 * (n % 3 == 0) for n in range(FRAMES)]},
    "variable rate.mp4": {"stamps": [83 * n + 40 * (n % 3 == 0) for n in range(FRAMES)], "options": {"bf": "0"}},
    "a gap.mp4": {"stamps": [83 * n + 4000 * (n > 20) for n in range(FRAMES)], "options": {"bf": "0"}},
    "negative start.mp4": {"stamps": [83 * (n - 7) for n in range(FRAMES)], "options": {"bf": "2"}},
    "late start.mkv": {"stamps": [5000 + 83 * n for n in range(FRAMES)]},
    "late start.ts": {"stamps": [5000 + 83 * n for n in range(FRAMES)], "container": "mpegts"},
    "fragments.mp4": {"mux": {"movflags": "frag_keyframe+empty_moov"}, "options": {**GROUP, "bf": "2"}},
    "header first.mp4": {"mux": {"movflags": "faststart"}},
    "live.mkv": {"mux": {"live": "1"}},
    "open groups.mp4": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3"}},
    "one group.mp4": {"options": {"g": "500", "bf": "3", "b-pyramid": "strict"}},
    "interlaced.mp4": {"options": {"x264-params": "tff=1:keyint=12"}},
    "interlaced.mpg": {"codec": "mpeg2video", "fps": 25, "options": {"flags": "+ildct+ilme", "g": "12"}},
    "ten bits.mp4": {"pix_fmt": "yuv420p10le"},
    "ten bits.mkv": {"codec": "ffv1", "pix_fmt": "yuv420p10le"},
    "twelve bits.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p12le"},
    "alpha.mov": {"codec": "qtrle", "pix_fmt": "argb"},
    "alpha.webm": {"codec": "libvpx", "pix_fmt": "yuva420p", "options": {**FAST_VPX, "auto-alt-ref": "0"}},
    "grey.mkv": {"codec": "ffv1", "pix_fmt": "gray"},
    "full range.mp4": {"colorspace": 1, "color_range": 2},
    "sound first.mp4": {"audio": True, "options": {**GROUP, "bf": "2"}},
    "sound first.mkv": {"audio": True},
    "two films.mp4": {"clips": 2},
}  # fmt: skip

NAMES = [
    "-i.mp4", "--help.mp4", "concat:a|b.mp4", "http:x.mp4", "pipe:0.mp4", "a%03d.mp4", "a b\tc.mp4", "line\nend.mp4",
    "'quoted\".mp4", "$(id).mp4", "*.mp4", "😀 視頻 हिन्दी.mp4", "\x1b[2J.mp4", "\u202egpj.mp4",
    "no extension", "mp4", ".hidden.mp4",
    "text.txt", "picture.jpg", "x.m3u8", "x" * 240 + ".mp4", os.fsdecode(b"caf\xe9.mp4"), "e\u0301.MP4",
]  # fmt: skip


def codec_clips(folder: Path) -> Iterator[Clip]:
    """Containers and codecs; those that this FFmpeg cannot write are left out."""
    for name, settings in CODECS.items():
        if settings.get("codec", "libx264") in av.codecs_available:
            fps = settings.get("fps", FPS)
            path = write_clip(folder / name, **{"num_frames": FRAMES, "paint": grainy, **settings})
            # colours that blur the number; and a VOB has stamps once a pack, between which FFmpeg's jump
            unread = name.startswith(("cinepak", "gif", "svq1")) or name == "mpeg2.vob"
            yield Clip(f"{name.partition('.')[2]} {name.partition('.')[0]}", path,
                       None if unread else lambda t, fps=fps: round(fps * t))  # type: ignore[misc]  # fmt: skip


def property_clips(folder: Path) -> Iterator[Clip]:
    """What a file can be besides its codec."""
    for name, settings in PROPERTIES.items():
        if settings.get("codec", "libx264") in av.codecs_available:
            turned = "rotation" in settings or "mirrored" in settings or "stamps" in settings
            number = None if turned or name == "tiny.mkv" else _plain
            if settings.get("fps", FPS) != FPS:
                number = None
            yield Clip(name.partition(".")[0], write_clip(folder / name, **{"num_frames": FRAMES, **settings}), number)


def edited_clips(folder: Path) -> Iterator[Clip]:
    """What `ffmpeg -c copy` cuts: an edit list hides what stands before the start."""
    cuts: dict[str, dict[str, Any]] = {
        "cut.mp4": {"options": {"g": "24", "bf": "2"}},
        "cut open groups.mp4": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3"}},
        "cut.mov": {"options": {"g": "24", "bf": "0"}},
        "cut with sound.mp4": {"options": {"g": "24", "bf": "2"}, "audio": True},
        "cut hevc.mp4": HEVC,
    }
    for name, settings in cuts.items():
        if settings.get("codec", "libx264") in av.codecs_available:
            whole = write_clip(folder / f"whole.{name}", 96, **settings)
            for start in (Fraction("2.6"), Fraction("3.3")):
                first = int(start * FPS) + (start * FPS % 1 > 0)
                path = cut_clip(whole, folder / f"{float(start)} {name}", start)
                yield Clip("edit list", path, lambda t, first=first: first + round(FPS * t))  # type: ignore[misc]
            whole.unlink()


def joined_clips(folder: Path) -> Iterator[Clip]:
    """A cover picture beside the film, and sound that ends late."""
    path = folder / "cover.mp4"
    with av.open(str(path), "w") as file:
        cover: Any = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        film: Any = file.add_stream("libx264", rate=FPS)
        film.width, film.height, film.pix_fmt = 96, 64, "yuv420p"
        sound: Any = file.add_stream("aac", rate=8000)
        file.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(99, 32, 32), "rgb24")))
        file.mux(cover.encode(None))
        for number in range(FRAMES):
            file.mux(film.encode(av.VideoFrame.from_ndarray(numbered(number, 96, 64), "rgb24")))
        file.mux(film.encode(None))
        mux_silence(file, sound, first=5 * 8000)
    yield Clip("cover picture", path, _plain)


def named_clips(folder: Path) -> Iterator[Clip]:
    """One video under names that mean something to somebody."""
    content = write_clip(folder / "plain.mp4", 24, options=GROUP).read_bytes()
    for name in NAMES:
        path = folder / name
        path.write_bytes(content)
        yield Clip("odd name", path, _plain)
    link = folder / "a link.mp4"
    link.symlink_to(folder / "plain.mp4")
    yield Clip("odd name", link, _plain)


def sound_clips(folder: Path) -> Iterator[Clip]:
    """All kinds, each in a folder of its own."""
    for make in (codec_clips, property_clips, edited_clips, joined_clips, named_clips):
        inside = folder / make.__name__
        inside.mkdir()
        yield from make(inside)


def no_videos(folder: Path) -> Iterator[Clip]:
    """What has a video's name and is none; each must be refused."""
    from ..data.video.test_referring import FILES

    target = write_clip(folder / "target.ts", 12, container="mpegts").name
    for kind, text in FILES.items():
        for extension in ("mp4", "m3u8"):
            path = folder / f"{kind}.{extension}"
            path.write_text(text.format(name=target), encoding="utf-8")
            yield Clip("names other files", path)
    contents = {
        "empty": b"",
        "one byte": b"\0",
        "zeros": bytes(100_000),
        "ones": b"\xff" * 100_000,
        "text": b"a dog runs\n" * 999,
        "JSON": b'{"videos": []}',
        "zip": b"PK\x03\x04" + bytes(2000),
        "gzip": b"\x1f\x8b\x08" + bytes(2000),
        "PDF": b"%PDF-1.7\n" + bytes(2000),
        "ELF": b"\x7fELF" + bytes(2000),
        "script": b"#!/bin/sh\nid\n",
        "subtitles": b"1\n00:00:01,000 --> 00:00:02,000\na dog\n",
        "pointer": b"version https://git-lfs\n",
        "tar": b"a".ljust(257, b"\0") + b"ustar" + bytes(2000),
        "half a head": b"\0\0\0\x20ftypisom",
        "endless box": b"\0\0\0\x01moov" + b"\xff" * 8,
    }
    for name, content in contents.items():
        path = folder / f"{name}.mp4"
        path.write_bytes(content)
        yield Clip("no video", path)
    yield Clip("no video", write_silence(folder / "silence.mp4"))
    yield Clip("no video", write_silence(folder / "silence and cover.mp4", cover=True))
    (folder / "folder.mp4").mkdir()
    yield Clip("no video", folder / "folder.mp4")
    os.mkfifo(folder / "pipe.mp4")
    yield Clip("no video", folder / "pipe.mp4")
    for name, place in (("device", Path("/dev/zero")), ("nowhere", folder / "none"), ("circle", folder / "circle.mp4")):
        (folder / f"{name}.mp4").symlink_to(place)
        yield Clip("no video", folder / f"{name}.mp4")
    yield Clip("no video", folder / "not there.mp4")
