"""Clips that are sent to search with: taken within bounds, decoded apart, and gone afterwards."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartParser

from tvr_lightning.search import decoder, upload
from tvr_lightning.search.index import load_index

from . import workers
from .conftest import Served, form

Serve = Callable[..., Served]


def a_video(served: Served) -> tuple[str, bytes]:
    file = next(f for f in served.index.table.files if f.endswith(".mp4"))
    return file, Path(served.index.manifest.root, file).read_bytes()


def test_a_clip_finds_itself(served: Served) -> None:
    file, clip = a_video(served)
    reply = served.send(clip, "../../holiday \r.mp4".replace("\r", "é"), 4)
    assert reply.status == 200, reply.error
    assert reply.content["video"] == "../../holiday é.mp4"
    hits = served.index.search_video(Path(served.index.manifest.root, file), 4)
    assert [h["window"] for h in reply.content["hits"]] == [h.window for h in hits]
    assert [h["score"] for h in reply.content["hits"]] == pytest.approx([h.score for h in hits], abs=1e-5)


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (b"", "the file is empty"),
        (b"no video at all", "cannot be decoded"),
        (b"\0" * 100_000, "cannot be decoded"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n", "a playlist"),
        (b"ffconcat version 1.0\nfile {}\n", "a script that joins other files"),
    ],
)
def test_clips_that_cannot_be_decoded_say_why(served: Served, clip: bytes, said: str) -> None:
    """Lists that name another file of the server are not clips."""
    other = Path(served.index.manifest.root, a_video(served)[0])
    reply = served.send(clip.replace(b"{}", str(other).encode()), "holiday.mp4")
    assert reply.status == 422
    assert reply.error.startswith("the clip holiday.mp4 cannot be searched with: ")
    assert said in reply.error
    assert "/dev/fd" not in reply.error


def test_half_a_clip_is_searched_with_or_refused(served: Served) -> None:
    _, clip = a_video(served)
    assert served.send(clip[: len(clip) // 2]).status in (200, 422)
    assert served.send(clip).status == 200  # the decoder is there for the next one


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"x", "text/plain", "send the clip as multipart/form-data, in the field 'video'"),
        (b"x", "multipart/form-data", "the form cannot be read"),
        (b"x", "multipart/form-data; boundary=xyz", "the form cannot be read"),
        (form(b"x", field="file"), "multipart/form-data; boundary=xyz", "no file in the field 'video'"),
        (form(b"x", k=0), "multipart/form-data; boundary=xyz", "k is '0'"),
        (form(b"x", k=1), "multipart/form-data; charset=undefined; boundary=xyz", "send it in UTF-8"),
        (form(b"x", k=1), "multipart/form-data; charset=hex; boundary=xyz", ""),
        (form(b"x", k=1), "multipart/form-data; charset=utf-16; boundary=xyz", ""),
        (form(b"x") * 2, "multipart/form-data; boundary=xyz", ""),
        (b"", "multipart/form-data; boundary=xyz", ""),
    ],
)
def test_forms_that_are_none(served: Served, body: bytes, kind: str, said: str) -> None:
    reply = served.ask("/api/search", "POST", body, Content_Type=kind)
    assert reply.status in ((400,) if said else (400, 422))
    assert said in reply.error


def test_what_older_parsers_say_of_a_form_is_said_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def parse(self: MultiPartParser) -> FormData:
        raise MultipartParseError("Expected boundary character 45, got 120")

    monkeypatch.setattr(MultiPartParser, "parse", parse)
    reply = served.ask("/api/search", "POST", b"x", Content_Type="multipart/form-data; boundary=xyz")
    assert (reply.status, reply.error) == (400, "the form cannot be read: Expected boundary character 45, got 120")


def raw(served: Served, *parts: bytes, hang_up: bool = False) -> bytes:
    """Sends bytes and reads until the server closes, or closes itself."""
    with socket.create_connection(served.address, timeout=30) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            if hang_up:
                return b""
        except (BrokenPipeError, ConnectionResetError):  # it need not read what it refuses
            assert not hang_up
        found = b""
        try:
            while part := connection.recv(1 << 16):
                found += part
        except ConnectionResetError:
            assert found
        return found


HEAD = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=xyz\r\n"


def test_clips_that_are_too_large_are_refused_before_they_are_read(served: Served) -> None:
    assert served.send(b"\0" * 999_000).status == 422
    reply = raw(served, HEAD + b"Content-Length: 99999999999\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b'{"error":"the clip is larger than 1 MB"}' in reply
    chunk = b"10000\r\n" + b"\0" * 0x10000 + b"\r\n"  # of no length that is told
    first = form(b"").partition(b"\r\n--xyz--")[0]
    begin = b"%x\r\n%b\r\n" % (len(first), first)
    reply = raw(served, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + begin, *[chunk] * 40)
    assert reply.startswith(b"HTTP/1.1 413 ")
    # what is longer than told is another request, and none that can be read
    body = form(b"x")
    reply = raw(served, HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) - 20) + body, b"\0" * 100_000)
    assert b" 400 " in reply.partition(b"\r\n")[0]
    assert served.search("a circle").status == 200


def test_a_clip_that_does_not_come_or_has_no_room_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PATIENCE", 0.2)
    assert b"nothing came for 0.2 seconds" in raw(served, HEAD + b"Content-Length: 1000\r\n\r\n--xyz")
    monkeypatch.setattr(upload, "LONGEST", 0.1)
    assert b"the clip did not arrive within" in raw(served, HEAD + b"Content-Length: 1000\r\n\r\n--xyz")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", full)
    reply = served.send(b"x")
    assert (reply.status, reply.error) == (507, "the server cannot keep the clip: No space left on device")


def open_files() -> list[str]:
    """Temporary files of this process; they have no name."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:  # the listing's own
            continue
    return [f for f in found if f.endswith("(deleted)") and "/tmp" in f and "pytest" not in f]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_client_that_hangs_up_leaves_nothing_behind(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = open_files()
    for _ in range(8):  # more than are taken at once
        raw(served, HEAD + b"Content-Length: 900000\r\n\r\n" + form(b"\0" * 500_000), hang_up=True)
        raw(served, b"GET /api/search?q=a HTTP/1.1\r\nHost: localhost\r\n\r\n", hang_up=True)
        raw(served, b"GET /video/0 HTTP/1.1\r\nHost: localhost\r\n\r\n", hang_up=True)
    _, clip = a_video(served)
    end = time.monotonic() + 20
    while (reply := served.send(clip)).status == 503 and time.monotonic() < end:
        time.sleep(0.1)
    assert reply.status == 200
    while open_files() != before and time.monotonic() < end:
        time.sleep(0.1)
    assert open_files() == before
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in capsys.readouterr().err


def test_a_decoder_that_hangs_is_ended(serve: Serve, index_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "_work", workers.hanging)
    server = serve(load_index(index_folder), seconds=0.5)
    replies: list[Any] = []
    thread = threading.Thread(target=lambda: replies.append(server.send(b"x" * 100, "slow.mp4")))
    thread.start()
    while thread.is_alive():  # the others do not wait for it
        began = time.monotonic()
        assert server.search("a circle", 2).status == 200
        assert time.monotonic() - began < 30
    thread.join()
    assert replies[0].status == 422
    assert replies[0].error == (
        "the clip slow.mp4 cannot be searched with: not decoded within 0.5 seconds: send a shorter or smaller clip"
    )


def test_a_decoder_that_dies_is_started_again(
    serve: Serve, index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(load_index(index_folder))
    for worker, said in ((workers.dying, "the decoder failed"), (workers.broken, "did not start")):
        with monkeypatch.context() as patched:
            patched.setattr(decoder, "_work", worker)
            reply = server.send(b"x", "a.mp4")
            assert reply.status == 422
            assert said in reply.error
    assert server.send(a_video(server)[1]).status == 200
