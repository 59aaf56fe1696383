"""What stands before every route: which names the server answers to, and what a browser may do with its answers."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    # nothing from elsewhere, no script or style inside the page, no frame around it
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src "
    "'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def host_name(text: str) -> str:
    """The name in a header of hosts, without port and brackets; empty where it is none.

    >>> host_name("LOCALHOST:8000"), host_name("[::1]:8000"), host_name("a/b@c")
    ('localhost', '::1', '')
    """
    try:
        parts = urlsplit(f"//{text}")
        return (parts.hostname or "") if parts.netloc == text and "@" not in text else ""
    except ValueError:
        return ""


class Guard:
    """Refuses requests under another name or from another site's page, and adds headers to every answer.

    A page of another site whose name was made to point here (DNS rebinding) comes under that site's name.

    Args:
        app: what answers.
        names: that the server answers to; None for any.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] | None) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, guarded)
        else:
            await JSONResponse({"error": refusal[1]}, refusal[0])(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.names is not None and host_name(host) not in self.names:
            names = ", ".join(sorted(self.names))
            return 400, f"this server answers to {names} only; tvr serve --names gives it other names"
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != host:
            return 403, "a page of another site may not search here"
        return None
