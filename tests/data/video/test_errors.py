"""Whatever PyAV raises, wherever: an error that names the file, or the right frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from tvr_lightning.data.tools.check import inspect_file
from tvr_lightning.data.video import container, pixels
from tvr_lightning.data.video.container import OpenVideo, first_that_decodes
from tvr_lightning.data.video.decoding import numbered_frames
from tvr_lightning.data.video.frames import probe_video, read_frames
from tvr_lightning.data.video.key_frames import read_key_frames
from tvr_lightning.data.video.packets import scan
from tvr_lightning.errors import DecodeError

from ..clips import number_of, write_clip

SOUND = ("ok", "")


class Failing:
    """A container of PyAV, or one of its packets, some calls of which fail."""

    def __init__(self, inner: Any, error: Exception, *failing: str) -> None:
        self.inner, self.error, self.failing = inner, error, failing

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self.inner.close()

    def __getattr__(self, name: str) -> Any:
        if name in self.failing:
            raise self.error
        return getattr(self.inner, name)

    def demux(self, stream: Any) -> Iterator[Any]:
        if "demux" in self.failing:
            raise self.error
        for packet in self.inner.demux(stream):
            yield Failing(packet, self.error, *self.failing)
        if "end" in self.failing:
            raise self.error


ERRORS: list[Exception] = [
    av.error.InvalidDataError(1094995529, "told so"),
    av.error.FFmpegError(5, "told so"),
    av.error.EOFError(541478725, "told so"),
    OSError(5, "told so"),
    ValueError("told so"),
    IndexError("told so"),
    RuntimeError("told so"),
    EOFError("told so"),
    MemoryError("told so"),
    AssertionError("told so"),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "told so"),
]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "a.mp4", 48, options={"g": "12"})


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    original = av.open

    def plant(error: Exception, *failing: str) -> None:
        def opening(*args: Any, **kwargs: Any) -> Failing:
            if "open" in failing:
                raise error
            return Failing(original(*args, **kwargs), error, *failing)

        monkeypatch.setattr(container.av, "open", opening)

    return plant


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["open", "streams", "demux", "decode"])
def test_every_error_of_pyav_names_the_file(
    clip: Path, fail: Callable[..., None], error: Exception, place: str
) -> None:
    fail(error, place)
    for read in (
        lambda: read_frames(clip, 4),
        lambda: read_key_frames(clip, 4, 32),
        lambda: probe_video(clip),
        lambda: probe_video(clip, full=True),
    ):
        with pytest.raises(DecodeError, match=r"a\.mp4: .*told so"):
            read()
    for full in (False, True):
        verdict = inspect_file(clip, full)
        assert verdict.kind == "undecodable"
        assert "told so" in verdict.reason


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_picture_that_cannot_be_converted_names_the_file(
    clip: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Reformatter:
        def reformat(self, *_: object, **__: object) -> None:
            raise error

    monkeypatch.setattr(pixels, "VideoReformatter", Reformatter)
    with pytest.raises(DecodeError, match=r"a\.mp4: cannot be decoded: .*told so"):
        read_frames(clip, 4)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["seek", "end"])
def test_what_can_be_read_all_the_same_is_read(
    clip: Path, fail: Callable[..., None], error: Exception, place: str
) -> None:
    """`end`: PyAV stumbles over a stream that FFmpeg found late, after the video's last packet."""
    fail(error, place)
    assert [number_of(f) for f in read_frames(clip, 4, size=32).frames] == [6, 18, 30, 42]
    assert number_of(read_key_frames(clip, 2, 32, start=3.0, end=4.0).frames[0]) == 36
    assert inspect_file(clip) == inspect_file(clip, full=True) == SOUND


def test_an_error_of_a_consumer_is_not_taken_for_one_of_the_decoder(clip: Path) -> None:
    def read(video: OpenVideo) -> None:
        for _ in numbered_frames(video, scan(video), []):
            pass
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        first_that_decodes(clip, read)
