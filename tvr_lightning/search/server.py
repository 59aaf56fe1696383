"""The server behind `tvr serve`: one page, searches as JSON, pictures and videos of the index by number."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
import sys
import traceback
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import uvicorn
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tvr_lightning.errors import DataError, DecodeError, SearchError, TVRError, nearest
from tvr_lightning.search.batching import Batcher, BusyError
from tvr_lightning.search.decoder import SECONDS, Decoder
from tvr_lightning.search.guard import Guard
from tvr_lightning.search.hits import EMPTY, Answer, Hit, clock, says_something
from tvr_lightning.search.index import Index
from tvr_lightning.search.upload import uploaded
from tvr_lightning.visible import say

HITS, MOST_HITS = 24, 100
LONGEST = 5000  # letters of a query; what a method reads of it is far less
UPLOADS = 4  # that are taken at once
CONNECTIONS = 1000
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
TYPES = {".mkv": "video/x-matroska", ".ts": "video/mp2t", ".m2ts": "video/mp2t", ".mts": "video/mp2t",
         ".avi": "video/x-msvideo", ".mov": "video/quicktime", ".m4v": "video/mp4", ".webm": "video/webm",
         ".ogv": "video/ogg", ".flv": "video/x-flv", ".wmv": "video/x-ms-wmv", ".gif": "image/gif"}  # fmt: skip
"""Media types that the system's table lacks, or has for something else: `.ts` is often a translator's file there."""


@dataclass(frozen=True)
class Limits:
    """What a client may do.

    Attributes:
        names: that the server answers to; None for any.
        upload: bytes of a clip to search with.
        seconds: that decoding one may take.
        refresh: seconds between two looks whether the index has changed.
    """

    names: Collection[str] | None = None
    upload: int = 200 * 10**6
    seconds: float = SECONDS
    refresh: float = 5.0


def media_type(name: str) -> str:
    """The media type of a video by its name; never one that a browser would run.

    >>> media_type("a.MKV"), media_type("b.mp4"), media_type("c.html")
    ('video/x-matroska', 'video/mp4', 'application/octet-stream')
    """
    suffix = Path(name).suffix.lower()
    found = TYPES.get(suffix) or mimetypes.guess_type(f"x{suffix}", strict=False)[0] or ""
    return found if found.startswith("video/") or found == "image/gif" else "application/octet-stream"


def shown_name(file: str) -> str:
    """A file's name as text; bytes of it that are none are marked."""
    return os.fsencode(file).decode("utf-8", "replace")


class Service:
    """What the routes share: the index as it is now, the thread that answers texts, the process that decodes clips."""

    def __init__(self, index: Index, limits: Limits) -> None:
        self.index, self.limits = index, limits
        self.batcher = Batcher(lambda queries, k: self.index.answers(queries, k))
        self.decoder = Decoder(limits.seconds)
        self.uploads = asyncio.Semaphore(UPLOADS)
        self.stale = ""  # why the index on disk is not the one that answers

    async def refresh(self) -> None:
        """Takes the index as it is on disk now.

        Raises:
            SearchError: it cannot be read.
        """
        self.index = await run_sync(self.index.reopened)

    async def keep_fresh(self) -> None:
        """Looks again and again; what cannot be read is said once, and the previous state keeps answering."""
        while True:
            await asyncio.sleep(self.limits.refresh)
            stale = said = ""
            try:
                await self.refresh()
            except TVRError as error:
                stale = said = str(error)
            except Exception as error:  # whatever it is, the next state may be whole
                stale, said = repr(error), "".join(traceback.format_exception(error))
            if stale != self.stale and said:
                say(f"tvr: queries are answered from the previous state: {said}", file=sys.stderr, flush=True)
            self.stale = stale

    async def about(self, request: Request) -> Response:
        """What the page says of the index, and whether it is the one on disk."""
        index = self.index
        return JSONResponse(
            {
                "windows": len(index),
                "videos": len(set(index.table.files)),
                "max_upload": self.limits.upload,
                "current": not self.stale,
            }
        )

    async def search(self, request: Request) -> Response:
        """Windows that a text describes."""
        asked = request.query_params
        _check_names(asked, ("q", "k"))
        query = asked.get("q")
        if query is None:
            raise HTTPException(400, "say what to look for: /api/search?q=a dog runs")
        if len(query) > LONGEST:
            raise HTTPException(400, f"the query has {len(query):,} letters; at most {LONGEST:,}")
        if not says_something(query):
            raise HTTPException(400, EMPTY)
        answer = await self.batcher.ask(query, _number_of_hits(asked.get("k")))
        return self._answer({"query": query}, answer)

    async def search_by_clip(self, request: Request) -> Response:
        """Windows that are like a clip."""
        if self.uploads.locked():
            raise BusyError(f"{UPLOADS} clips are being processed already: send it again in a moment")
        async with self.uploads, uploaded(request, self.limits.upload) as upload:
            _check_names(upload.fields, ("k", "video"))
            k = _number_of_hits(upload.fields.get("k"))
            index = self.index

            def find() -> list[Hit]:
                file: Any = upload.file.file
                if hasattr(file, "rollover"):
                    file.rollover()  # small ones are in memory
                file.seek(0)
                return index.search_frames(self.decoder.read(file, index.run.data.frames), k)

            try:
                hits = await run_sync(find)
            except DecodeError as error:
                raise HTTPException(422, f"the clip {upload.name} cannot be searched with: {error}") from None
            return self._answer({"video": upload.name}, Answer(hits))

    def _answer(self, what: dict[str, str], answer: Answer) -> Response:
        hits = [
            {
                "rank": hit.rank, "score": hit.score, "file": shown_name(hit.file), "start": hit.start, "end": hit.end,
                "time": f"{clock(hit.start)}–{clock(hit.end)}", "window": hit.window,
                "thumbnail": f"/thumbnail/{hit.window}", "video": f"/video/{hit.window}", "type": media_type(hit.file),
            }
            for hit in answer.hits
        ]  # fmt: skip
        return JSONResponse({**what, "hits": hits, "notes": list(answer.notes)}, headers={"Cache-Control": "no-store"})

    async def thumbnail(self, request: Request) -> Response:
        """A window's picture."""
        window = self._window(request)
        try:
            picture = await run_sync(self.index.picture, window)
        except SearchError:  # a writer has merged its shard meanwhile
            await self.refresh()
            self._window(request)
            picture = await run_sync(self.index.picture, window)
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"})

    async def video(self, request: Request) -> Response:
        """The file that a window is of, whole or in ranges; with `?download` to be kept."""
        index = self.index
        row = index.row(self._window(request))
        hit, content = index.hit(int(index.table.ids[row])), index.table.contents[row]

        def look() -> os.stat_result | None:
            if index.run.data.frame_cache.contents.digest(hit.path) != content:
                return None
            with suppress(OSError):
                return hit.path.stat()
            return None

        state = await run_sync(look)
        if state is None:
            raise HTTPException(
                410, f"the file {shown_name(hit.file)} is gone or has changed since it was indexed: run tvr index again"
            )
        kept = "attachment" if "download" in request.query_params else "inline"
        return _File(
            hit.path, media_type=media_type(hit.file), filename=Path(shown_name(hit.file)).name, stat_result=state,
            content_disposition_type=kept, headers={"Cache-Control": "private, no-cache"},
        )  # fmt: skip

    def _window(self, request: Request) -> int:
        """The number in the address.

        Raises:
            HTTPException: 404, the index has no such window.
        """
        text = request.path_params["window"]
        if re.fullmatch("[0-9]{1,18}", text):
            with suppress(SearchError):
                self.index.row(int(text))
                return int(text)
        raise HTTPException(404, "the index has no such window")


class _File(FileResponse):
    """A file, whose refusals of ranges are JSON as all others."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: Response | None = None

        async def told(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                wanted = Headers(scope=scope).get("range", "")[:100]
                size = Headers(raw=message["headers"]).get("content-range")
                refusal = JSONResponse(
                    {"error": f"the video has no range {wanted}; give bytes=FIRST-LAST within its size"},
                    message["status"], {"content-range": size} if size else None,
                )  # fmt: skip
            elif refusal is None:
                await send(message)
            elif not message.get("more_body"):
                await refusal(scope, receive, send)

        await super().__call__(scope, receive, told)


def _check_names(given: Mapping[str, str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise HTTPException(400, f"no parameter '{name[:40]}'; {nearest(name[:40], known)}")


def _number_of_hits(text: str | None) -> int:
    if text is None:
        return HITS
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_HITS:
        raise HTTPException(400, f"k is '{text[:40]}'; a number from 1 to {MOST_HITS}")
    return int(text)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = error.detail if error.status_code not in (404, 405) or "window" in error.detail else "there is nothing here"
    return JSONResponse({"error": said}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error, DataError):  # the query's fault
        return JSONResponse({"error": str(error)}, 400)
    if isinstance(error, BusyError):
        return JSONResponse({"error": str(error)}, 503, {"Retry-After": "2", "Connection": "close"})
    say(f"tvr: {error}", file=sys.stderr, flush=True)
    return JSONResponse({"error": str(error)}, 500)


async def _broken(request: Request, error: Exception) -> Response:
    """The error itself goes on to the server's log."""
    return JSONResponse({"error": "the server failed; its terminal says why"}, 500)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


def create_app(index: Index, limits: Limits = Limits()) -> ASGIApp:
    """The application, for any ASGI server.

    Args:
        index: what is searched; used by several threads.
        limits: what a client may do.
    """
    service = Service(index, limits)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(service.keep_fresh())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await run_sync(service.decoder.close)
            await run_sync(service.batcher.close)

    def static(name: str, kind: str) -> Any:
        content = (files("tvr_lightning.search") / "page" / name).read_bytes()

        async def page(request: Request) -> Response:
            return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

        return page

    app = Starlette(
        routes=[
            *(Route(path, static(*what)) for path, what in PAGE.items()),
            Route("/api/index", service.about),
            Route("/api/search", service.search),
            Route("/api/search", service.search_by_clip, methods=["POST"]),
            Route("/thumbnail/{window}", service.thumbnail),
            Route("/video/{window}", service.video),
        ],
        exception_handlers={
            HTTPException: _refused, TVRError: _failed, ClientDisconnect: _gone, Exception: _broken
        },
        lifespan=lifespan,
    )  # fmt: skip
    app.router.redirect_slashes = False
    return Guard(app, limits.names)


def make_server(index: Index, limits: Limits) -> uvicorn.Server:
    """The application with the server under it; `run(sockets=[...])` begins.

    Args:
        index: what is searched.
        limits: what a client may do.
    """
    settings = uvicorn.Config(
        create_app(index, limits), log_level="warning", access_log=False, loop="asyncio", http="h11", ws="none",
        lifespan="on", proxy_headers=False, server_header=False, timeout_graceful_shutdown=3,
        limit_concurrency=CONNECTIONS,
    )  # fmt: skip
    return uvicorn.Server(settings)
