"""The server's routes: what they give, what they refuse, and what nobody can get from them."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.errors import SearchError
from tvr_lightning.search.index import Index, load_index

from .conftest import EVIL, NO_PLAYER, Served, form

Serve = Callable[..., Served]


def test_a_text_finds_what_the_index_finds(served: Served) -> None:
    reply = served.search("a red circle moves", 5)
    assert reply.status == 200
    assert reply.content["query"] == "a red circle moves"
    hits = served.index.search("a red circle moves", 5)
    assert [h["window"] for h in reply.content["hits"]] == [h.window for h in hits]
    assert [h["rank"] for h in reply.content["hits"]] == [1, 2, 3, 4, 5]
    first = reply.content["hits"][0]
    assert first["score"] == pytest.approx(hits[0].score, abs=1e-5)
    assert (first["file"], first["start"], first["end"]) == (hits[0].file, hits[0].start, hits[0].end)
    assert str(served.index.manifest.root) not in reply.body.decode()  # nobody needs to know where it lies
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "query", ["一只红色的狗", "كرة حمراء", "\N{DOG FACE}" * 9, "a" * 5000, "<b>", "'; --", "%ff", "a\tb"]
)
def test_any_text_is_a_query(served: Served, query: str) -> None:
    reply = served.search(query, 3)
    assert reply.status == 200, reply.error
    assert reply.content["query"] == query
    assert len(reply.content["hits"]) == 3


def test_a_query_longer_than_the_context_is_cut_and_says_so(served: Served) -> None:
    assert "its end is cut off" in served.search("a red circle moves left " * 20).content["notes"][0]
    assert served.search("a red circle").content["notes"] == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/search", "say what to look for"),
        ("/api/search?q=", "the query is empty"),
        ("/api/search?q=%20%0a", "the query is empty"),
        ("/api/search?q=%00", "the query is empty"),
        ("/api/search?q=" + "a" * 5001, "the query has 5,001 letters; at most 5,000"),
        ("/api/search?q=a&k=0", "k is '0'; a number from 1 to 100"),
        ("/api/search?q=a&k=101", "a number from 1 to 100"),
        ("/api/search?q=a&k=-1", "k is '-1'"),
        ("/api/search?q=a&k=1e1", "k is '1e1'"),
        ("/api/search?q=a&k=" + quote("٣"), "k is '٣'"),
        ("/api/search?q=a&k=" + "9" * 5000, "a number from 1 to 100"),
        ("/api/search?q=a&top=3", "no parameter 'top'; known: k, q"),
    ],
)
def test_wrong_queries_are_refused_in_a_sentence(served: Served, path: str, said: str) -> None:
    reply = served.ask(path)
    assert reply.status == 400
    assert said in reply.error


def test_queries_at_once_give_what_they_give_one_by_one(served: Served) -> None:
    queries = [f"a {c} {s} number {i}" for i in range(4) for c in ("red", "blue", "green", "pink") for s in
               ("circle", "star", "heart", "square")]  # fmt: skip
    alone = [served.search(q, 3 + i % 2) for i, q in enumerate(queries)]
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(served.search, queries, [3 + i % 2 for i in range(64)]))
    for one, other in zip(alone, together, strict=True):
        assert other.status == 200
        assert other.content["query"] == one.content["query"]
        mine, its = one.content["hits"], other.content["hits"]
        assert [h["score"] for h in its] == pytest.approx([h["score"] for h in mine], abs=1e-5)
        assert [h["window"] for h in its] == [h["window"] for h in mine]


def test_pictures_and_videos_of_hits(served: Served) -> None:
    for hit in served.search("a circle", 10).content["hits"]:
        picture = served.ask(hit["thumbnail"])
        assert (picture.status, picture.headers["content-type"]) == (200, "image/jpeg")
        assert picture.body == served.index.picture(hit["window"])
        video = served.ask(hit["video"])
        assert video.body == Path(served.index.manifest.root, hit["file"]).read_bytes()
        assert video.headers["content-type"] == hit["type"]
        assert hit["type"] == ("video/x-msvideo" if hit["file"] == NO_PLAYER else "video/mp4")
        assert video.headers["content-disposition"].startswith("inline")
        assert served.ask(f"{hit['video']}?download").headers["content-disposition"].startswith("attachment")


def test_videos_in_ranges(served: Served) -> None:
    window = served.search("a circle", 1).content["hits"][0]["window"]
    content = served.index.hit(window).path.read_bytes()
    path, size = f"/video/{window}", len(content)
    middle = served.ask(path, Range="bytes=10-19")
    assert (middle.status, middle.body) == (206, content[10:20])
    assert middle.headers["content-range"] == f"bytes 10-19/{size}"
    assert served.ask(path, Range="bytes=-5").body == content[-5:]
    assert served.ask(path, Range=f"bytes={size - 3}-").body == content[-3:]
    beyond = served.ask(path, Range=f"bytes={size}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    for wanted in (f"bytes={size}-", "bytes=x-y", "bytes=9-2", "pages=1-2"):
        refused = served.ask(path, Range=wanted)
        assert refused.status in (400, 416)
        assert f"no range {wanted}" in refused.error
    assert served.ask(path, Range="bytes=x-y").status == 400
    head = served.ask(path, "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(size))
    assert head.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    "place",
    ["../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5c..%5cetc", "-1", "+1", "1.0", "1e0", "0x1", "1%00",
     " 1", "%00", "999999", "9" * 400, quote("１"), quote("٣"), "", "1/", "1;2", "%ff", "/etc/passwd", "file:///etc/passwd",
     quote(EVIL), "1%0d%0aX-Evil:1"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["video", "thumbnail"])
def test_only_windows_of_the_index_have_addresses(served: Served, kind: str, place: str) -> None:
    path = f"/{kind}/{place}".replace(" ", "%20")
    reply = served.ask(path)
    assert reply.status == 404
    assert reply.error in ("the index has no such window", "there is nothing here")
    assert "x-evil" not in reply.headers


@pytest.mark.parametrize(
    "path", ["/../page.css", "/page/page.css", "/index.html", "/etc/passwd", "//evil.org/", "/api/", "/docs"]
)
def test_nothing_else_is_served(served: Served, path: str) -> None:
    assert served.ask(path).status == 404
    assert served.ask("/api/index", "DELETE").status == 405


def test_files_that_went_or_changed_are_gone(serve: Serve, make_index: Callable[[], Path]) -> None:
    folder = make_index()
    server = serve(load_index(folder))
    hits = {h["file"]: h for h in server.search("a circle", 100).content["hits"]}
    (gone, first), (changed, second), (linked, third), *_ = hits.items()
    videos = folder.parent / "videos"
    (videos / gone).unlink()
    (videos / changed).write_bytes((videos / changed).read_bytes() + b"\0")
    (videos / linked).unlink()
    (videos / linked).symlink_to("/etc/passwd")
    for name, hit in ((gone, first), (changed, second), (linked, third)):
        reply = server.ask(hit["video"])
        assert reply.status == 410
        assert f"{name} is gone or has changed since it was indexed" in reply.error
        assert server.ask(hit["thumbnail"]).status == 200


def test_headers_forbid_what_the_page_does_not_need(served: Served) -> None:
    for path in ("/", "/page.js", "/api/search?q=a", "/thumbnail/0", "/video/0", "/nothing"):
        headers = served.ask(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.startswith("access-control")]
        assert "server" not in headers


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("LOCALHOST", 200), ("[::1]:8000", 200), ("127.0.0.1", 200), ("evil.org", 400),
     ("localhost.evil.org", 400), ("localhost@evil.org", 400), ("localhost/x", 400), ("[", 400), ("", 400)],
)  # fmt: skip
def test_the_server_answers_to_its_own_names(served: Served, host: str, status: int) -> None:
    reply = served.ask("/api/index", Host=host)
    assert reply.status == status
    assert status == 200 or "answers to 127.0.0.1, ::1, localhost only" in reply.error


def test_pages_of_other_sites_cannot_send_clips(served: Served) -> None:
    body = form(b"x")
    kind = "multipart/form-data; boundary=xyz"
    for origin in ("http://evil.org", "null", "http://127.0.0.1:1"):
        assert served.ask("/api/search", "POST", body, Content_Type=kind, Origin=origin).status == 403
    assert served.ask("/api/search", "POST", body, Content_Type=kind, Origin=served.url).status == 422


def test_an_index_that_is_rewritten_goes_on_answering(
    serve: Serve, make_index: Callable[[], Path], run: Path, shapes_root: Path
) -> None:
    folder = make_index()
    server = serve(load_index(folder), refresh=0.05)
    going, wrong = True, []

    def watch() -> None:
        while going:
            reply = server.search("a circle", 5)
            pictures = [server.ask(h["thumbnail"]).status for h in reply.content.get("hits", ())]
            if reply.status != 200 or set(pictures) - {200, 404}:  # 404: its video has left meanwhile
                wrong.append((reply, pictures))

    thread = threading.Thread(target=watch)
    thread.start()
    before = server.ask("/api/index").content
    clips = sorted((shapes_root / "videos").iterdir())
    try:
        for clip in clips[10:12]:
            shutil.copy(clip, folder.parent / "videos" / f"new {clip.name}")
        next((folder.parent / "videos").glob("video*.mp4")).unlink()
        words = ["index", str(run), str(folder.parent / "videos"), str(folder), "--window=2", "--workers=0"]
        assert main([*words, "--batch_size=1"]) == 0
        end = time.monotonic() + 20
        while server.ask("/api/index").content["videos"] != before["videos"] + 1 and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        going = False
        thread.join()
    assert server.ask("/api/index").content["videos"] == before["videos"] + 1
    assert {h["file"] for h in server.search("a circle", 100).content["hits"]} >= {
        f"new {c.name}" for c in clips[10:12]
    }
    assert not wrong


def test_an_index_that_breaks_is_answered_from_as_it_was(
    serve: Serve, make_index: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_index()
    server = serve(load_index(folder), refresh=0.05)
    (folder / "index.json").write_text("{")
    time.sleep(0.5)
    assert server.search("a circle").status == 200
    said = capsys.readouterr().err
    assert said.count("queries are answered from the previous state: ") == 1
    assert "index.json is damaged" in said


def test_what_nobody_foresaw_does_not_stop_the_looking(
    serve: Serve, make_index: Callable[[], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_index()
    server = serve(load_index(folder), refresh=0.05)
    assert server.ask("/api/index").content["current"]
    reopened = Index.reopened

    def fail(self: Index) -> Index:
        if self.folder != folder:  # the module's own server looks too, and says what it meets to the same stream
            return reopened(self)
        raise RecursionError("odd")

    with monkeypatch.context() as patch:
        patch.setattr(Index, "reopened", fail)
        end = time.monotonic() + 20
        while server.ask("/api/index").content["current"] and time.monotonic() < end:
            time.sleep(0.05)
        assert not server.ask("/api/index").content["current"]
        time.sleep(0.5)  # it fails again, and again says nothing
        assert server.search("a circle").status == 200
    said = capsys.readouterr().err
    assert said.count("queries are answered from the previous state: Traceback") == 1
    assert "RecursionError: odd" in said
    end = time.monotonic() + 20
    while not server.ask("/api/index").content["current"] and time.monotonic() < end:
        time.sleep(0.05)
    assert server.ask("/api/index").content["current"]  # it has gone on looking


def test_a_thumbnail_is_a_picture_or_none(serve: Serve, make_index: Callable[[], Path]) -> None:
    folder = make_index()
    server = serve(load_index(folder), refresh=3600)
    window = int(server.index.table.ids[0])
    for file in (folder / "shards").glob("*.parquet"):
        table = pq.ParquetFile(file).read()
        at = table.schema.get_field_index("picture")
        pages = pa.array([b"<script>alert(1)</script>"] * len(table), pa.binary())
        pq.write_table(table.set_column(at, "picture", pages), file)
    reply = server.ask(f"/thumbnail/{window}")
    assert reply.status == 500
    assert "a picture is not a JPEG" in reply.error
    assert "script" not in reply.error


def test_reopened_is_another_index_beside_the_first(make_index: Callable[[], Path], run: Path) -> None:
    folder = make_index()
    index = load_index(folder)
    hits = index.search("a circle", 100)
    assert index.reopened() is index
    assert not index.refresh()
    gone = hits[0].file
    (folder.parent / "videos" / gone).unlink()
    assert main(["index", str(run), str(folder.parent / "videos"), str(folder), "--window=2", "--workers=0"]) == 0
    new = index.reopened()
    assert new is not index
    assert new.run is index.run
    assert index.search("a circle", 100) == hits
    assert gone not in {h.file for h in new.search("a circle", 100)}
    with pytest.raises(SearchError, match="no window"):
        new.row(hits[0].window)
    assert index.refresh()
    assert index.search("a circle", 100) == new.search("a circle", 100)
