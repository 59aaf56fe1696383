"""Small video files for tests: every frame shows its own number in black and white blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]


def numbered(number: int, width: int, height: int) -> Picture:
    """A (height, width, 3) picture of an 8-bit number: 2 x 4 blocks in the centre square, grey around it."""
    side = min(width, height)
    picture = np.full((height, width, 3), 128, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    rows, columns = np.arange(side) * 2 // side, np.arange(side) * 4 // side
    bits = (number >> (rows[:, None] * 4 + columns)) & 1
    picture[top : top + side, left : left + side] = bits[..., None] * 255
    return picture


def grainy(number: int, width: int, height: int) -> Picture:
    """Like `numbered`, with noise, so that every frame takes about as many bytes."""
    picture = numbered(number, width, height)
    grain = np.random.default_rng(number).integers(0, 60, picture.shape, np.uint8)
    grained: Picture = np.where(picture > 127, picture - grain, picture + grain)
    return grained


def number_of(frame: Tensor) -> int:
    """Reads the number back from a (3, H, W) frame that shows the centre square."""
    height, width = frame.shape[1:]
    bits = [
        frame[:, height * row // 4, width * column // 8].float().mean() > 127
        for row in (1, 3)
        for column in (1, 3, 5, 7)
    ]
    return sum(int(bit) << place for place, bit in enumerate(bits))


def write_clip(
    path: Path,
    num_frames: int = 24,
    *,
    width: int = 96,
    height: int = 64,
    fps: int = 12,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container: str | None = None,
    stamps: Sequence[int] | None = None,
    paint: Callable[[int, int, int], Picture] = numbered,
    options: dict[str, str] | None = None,
    mux: dict[str, str] | None = None,
    rotation: float = 0,
    mirrored: bool = False,
    pixel_aspect: Fraction | None = None,
    colorspace: int | None = None,
    color_range: int | None = None,
    audio: bool = False,
    clips: int = 1,
) -> Path:
    """Writes a clip and returns its path.

    Args:
        path: where to; the extension names the container unless `container` does.
        num_frames: frames of each video stream.
        width: pixels as stored, likewise `height`.
        height: see `width`.
        fps: frames per second.
        codec: an encoder of the wheel.
        pix_fmt: an FFmpeg pixel format.
        container: an FFmpeg muxer.
        stamps: presentation time of each frame in milliseconds, for a variable frame rate.
        paint: gives the picture of frame `number` in `width` and `height`.
        options: of the encoder.
        mux: options of the muxer.
        rotation: degrees counter-clockwise that a player is to turn the picture.
        mirrored: a player is to mirror the picture left to right.
        pixel_aspect: width of a pixel through its height.
        colorspace: FFmpeg's number for it, e.g. 1 for BT.709.
        color_range: 1 limited, 2 full.
        audio: adds a second of silence.
        clips: number of video streams; stream s shows `number + 100 * s`.
    """
    with av.open(str(path), "w", format=container, options=mux or {}) as file:
        sound: Any = file.add_stream("aac", rate=8000) if audio else None
        streams: list[Any] = []
        for _ in range(clips):
            stream: Any = file.add_stream(codec, rate=fps, options=options or {})
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            if rotation or mirrored:
                stream.set_display_rotation(rotation, hflip=mirrored)
            if pixel_aspect is not None:
                stream.codec_context.sample_aspect_ratio = pixel_aspect
            if colorspace is not None:
                stream.codec_context.colorspace = colorspace
            if color_range is not None:
                stream.codec_context.color_range = color_range
            if stamps is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            streams.append(stream)
        for number in range(num_frames):
            for place, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(paint(number + 100 * place, width, height), "rgb24")
                if colorspace is not None or color_range is not None:
                    frame = frame.reformat(
                        format=pix_fmt, dst_colorspace=colorspace, src_color_range=2, dst_color_range=color_range
                    )
                frame.pts = number if stamps is None else stamps[number]
                frame.time_base = Fraction(1, fps if stamps is None else 1000)
                file.mux(stream.encode(frame))
        for stream in streams:
            file.mux(stream.encode(None))
        if audio:
            mux_silence(file, sound)
    return path


def write_silence(path: Path, cover: bool = False) -> Path:
    """Writes a second of silence, with no picture at all or with a cover picture."""
    with av.open(str(path), "w") as file:
        sound = file.add_stream("aac", rate=8000)
        if cover:
            picture: Any = file.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuvj420p"
            picture.disposition = Disposition.attached_pic
            file.mux(picture.encode(av.VideoFrame.from_ndarray(numbered(1, 32, 32), "rgb24")))
            file.mux(picture.encode(None))
        mux_silence(file, sound)
    return path


def mux_silence(file: Any, stream: Any, first: int = 0) -> None:
    """Writes a second of silence from sample `first` to an audio stream, after all streams were added."""
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", layout="mono")
    sound.sample_rate, sound.pts = 8000, first
    file.mux(stream.encode(sound))
    file.mux(stream.encode(None))


def cut_file(path: Path, share: float = 0.5) -> Path:
    """Keeps the first part of a file, as a broken download does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def cut_clip(
    source: Path, path: Path, start: Fraction, seconds: Fraction | None = None, mux: dict[str, str] | None = None
) -> Path:
    """Cuts a clip as `ffmpeg -ss START -t SECONDS -c copy` does: packets from the key frame before the start on.

    In MP4 and MOV an edit list then hides what comes before the start.
    """
    with av.open(str(source)) as old, av.open(str(path), "w", options=mux or {}) as new:
        video = old.streams.video[0]
        copies: Any = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        packets: list[Any] = [packet for packet in old.demux() if packet.size]
        time_base = {stream.index: cast(Fraction, stream.time_base) for stream in old.streams}
        keys = [p for p in packets if p.stream.index == video.index and p.is_keyframe]
        first = [p for p in keys if p.pts * p.time_base <= start][-1]
        for packet in packets:
            index = packet.stream.index
            tick = time_base[index]
            if packet.dts * tick < (first.dts * first.time_base if index == video.index else start):
                continue
            if seconds is not None and packet.dts * tick >= start + seconds:
                continue
            packet.pts -= int(start / tick)
            packet.dts -= int(start / tick)
            packet.stream = copies[index]
            new.mux(packet)
    return path
