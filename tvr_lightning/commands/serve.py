"""`tvr serve`: a page to search an index with."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from importlib.util import find_spec

from tvr_lightning.commands.opening import add_index_arguments, check_index_arguments, open_index
from tvr_lightning.commands.parser import Parser
from tvr_lightning.errors import ConfigError, SearchError
from tvr_lightning.visible import say

OVERVIEW = """\
  serve     a page to search an index with        tvr serve videos.index
"""
LOCAL = ("localhost", "127.0.0.1", "::1")


def main(words: Sequence[str]) -> int:
    """Serves until it is ended; returns the exit code."""
    parser = Parser("tvr serve", description="Serve a page, and JSON under /api/search, for searching an index.")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 for any free port")
    parser.add_argument(
        "--host", default="localhost",
        help="where it listens: localhost (default) for this machine only, or an address of this machine, "
        "0.0.0.0 for all of them: everybody who can reach it can search and watch",
    )  # fmt: skip
    parser.add_argument(
        "--names",
        help="host names to answer to, separated by commas (default: localhost if it listens there, else any)",
    )
    parser.add_argument(
        "--max_upload", type=float, default=200.0, help="largest clip to search with, in MB (default: 200)"
    )
    add_index_arguments(parser)
    options = parser.parse_args(words[1:])
    if not 0 <= options.port <= 65535:
        raise ConfigError(f"--port is {options.port}; it must be 1 to 65535, or 0 for any free port")
    if not 0 < options.max_upload <= 100_000:
        raise ConfigError(f"--max_upload is {options.max_upload:g}; it must be above 0 and at most 100000 (MB)")
    check_index_arguments(options)
    names = [name.strip().lower() for name in (options.names or "").split(",") if name.strip()]
    if options.names is not None and not names:
        raise ConfigError("--names is empty; separate names by commas, as in localhost,search.lab.org")
    missing = [n for n in ("starlette", "uvicorn", "python_multipart") if find_spec(n) is None]
    if missing:
        raise ConfigError(f"tvr serve needs {', '.join(missing)}: pip install 'tvr-lightning[search]'")
    if not names and options.host in LOCAL:
        names = [*LOCAL]
    from tvr_lightning.search.manifest import read_manifest

    read_manifest(options.index)  # before weights are loaded
    with listen(options.host, options.port) as door:
        from tvr_lightning.search.server import Limits, make_server

        index = open_index(options)
        index.answers(["a video"], 1)  # loads what encodes, so that the first to ask does not wait
        limits = Limits(names or None, round(options.max_upload * 1e6))
        host, port = door.getsockname()[:2]
        shown = "localhost" if options.host in LOCAL else f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{port} searches {len(index):,} windows; Ctrl-C ends it", flush=True)
        make_server(index, limits).run(sockets=[door])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Opens a port.

    Raises:
        SearchError: it is in use, or not to be had.
    """
    try:
        where = "127.0.0.1" if host == "localhost" else host
        family, kind, _, _, address = socket.getaddrinfo(where, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind)
        try:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
            door.listen(1024)
        except OSError:
            door.close()
            raise
        return door
    except (OSError, UnicodeError) as error:
        raise SearchError(
            f"cannot listen at {host}, port {port}: {getattr(error, 'strerror', None) or error}. Is another server "
            "there? --port gives another port, 0 any that is free"
        ) from None
