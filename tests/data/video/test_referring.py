"""Files that name others in the place of pictures: none of what they name is opened, by reading or by the check."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import pytest

from tvr_lightning.data.tools.check import inspect_file
from tvr_lightning.data.video.frames import probe_video, read_frames
from tvr_lightning.data.video.key_frames import read_key_frames
from tvr_lightning.errors import DecodeError

from ..clips import number_of, write_clip

HLS = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:10\n#EXTINF:5,\n{name}\n#EXT-X-ENDLIST\n"
MPD = (
    '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="1" bandwidth="1"><BaseURL>{name}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
FILES = {
    "ffconcat": "ffconcat version 1.0\nfile {name}\n",
    "late ffconcat": "\n \nffconcat version 1.0\nfile {name}\n",
    "HLS": HLS,
    "HLS with a mark": "\ufeff" + HLS,
    "DASH": MPD,
    "DASH with a comment": "<!-- a film --> " + MPD,
    "IMF": '<?xml version="1.0"?><CompositionPlaylist><Id>{name}</Id></CompositionPlaylist>',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "PLS": "[playlist]\nFile1={name}\n",
    "ASX": '<asx version="3.0"><entry><ref href="{name}"/></entry></asx>',
    "SVG": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{name}" width="64" height="64"/></svg>',
    "page": "<!DOCTYPE html>\n<html><body>404: {name} is not here</body></html>",
}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """What a hostile file names: a video that FFmpeg would read."""
    return write_clip(tmp_path / "target.ts", 12, container="mpegts")


def refused(path: Path, match: str) -> None:
    for read in (
        lambda: read_frames(path, 4),
        lambda: read_key_frames(path, 4, 32),
        lambda: probe_video(path),
    ):
        with pytest.raises(DecodeError, match=match) as caught:
            read()
        assert str(path) in str(caught.value)
    for full in (False, True):
        assert inspect_file(path, full).kind == "undecodable"


@pytest.mark.parametrize("extension", ["mp4", "m3u8", "mpd", "ffconcat", "sdp"])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_names_another_is_refused(tmp_path: Path, target: Path, kind: str, extension: str) -> None:
    path = tmp_path / f"video1.{extension}"
    path.write_text(FILES[kind].format(name=target.name), encoding="utf-8")
    refused(path, r"no video; nothing that it names is opened\. Put the video itself there")


def test_pages_in_another_encoding_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "video1.mp4"
    path.write_text(FILES["page"], encoding="utf-16")
    refused(path, "a page or playlist of XML")


def test_what_the_first_bytes_hide_is_refused_by_its_format(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second wall: FFmpeg's own choice of a format, when the first looks at nothing."""
    monkeypatch.setattr("tvr_lightning.data.video.container.refers_elsewhere", lambda head: None)
    for kind, extension in (("ffconcat", "mp4"), ("HLS", "m3u8")):
        path = tmp_path / f"video1.{extension}"
        path.write_text(FILES[kind].format(name=target.name))
        with av.open(str(path), options={"safe": "0"}) as file:
            assert file.streams.video, "this FFmpeg would not follow it"
        refused(path, "may stand for other files, which are not opened")


def test_a_name_is_no_pattern(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a1.png", "a2.png", "a%d.png"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    refused(tmp_path / "a%d.png", r"or its name \(does it contain a %\?\) may stand for other files")
    assert int(read_frames(tmp_path / "a1.png", 4).mask.sum()) == 1  # nor does its number make it the first of many
    clip = write_clip(tmp_path / "a%d.mp4", 12)
    assert number_of(read_frames(clip, 1, size=32).frames[0]) == 6


@pytest.mark.parametrize("kind", [b"url ", b"alis"])
def test_a_film_elsewhere_is_not_opened(tmp_path: Path, target: Path, kind: bytes) -> None:
    """QuickTime's data reference: the tables are here, the pictures in the file that it names."""
    path = write_clip(tmp_path / "a.mov", 12)
    content = path.read_bytes()
    place = content.index(b"dref") - 4
    size, _, _, count = struct.unpack(">I4sII", content[place : place + 16])
    assert count == 1
    name = b"file://" + bytes(target)
    entry = struct.pack(">I4sI", 12 + len(name), kind, 0) + name
    grown = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    more = len(grown) - size
    changed = bytearray(content[:place] + grown + content[place + size :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        start = changed.rindex(box, 0, place + 16) - 4
        changed[start : start + 4] = struct.pack(">I", struct.unpack(">I", changed[start : start + 4])[0] + more)
    path.write_bytes(bytes(changed))
    target.write_bytes(b"")  # whoever opened it would say so
    try:
        frames = read_frames(path, 4, size=32)
    except DecodeError:
        assert inspect_file(path).kind == "undecodable"
    else:  # FFmpeg reads its own pictures then
        assert [number_of(f) for f in frames.frames[frames.mask]] == [1, 4, 7, 10]
