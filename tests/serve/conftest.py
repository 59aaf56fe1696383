"""A small trained run, an index of its videos, and servers over it."""

from __future__ import annotations

import faulthandler
import http.client
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import av
import numpy as np
import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.search.index import Index, load_index

from ..small_runs import run_arguments

pytest.importorskip("starlette", reason="the optional extra `search` is not installed")
pytest.importorskip("uvicorn", reason="the optional extra `search` is not installed")
EVIL = "a <img src=x onerror=alert(1)> & ü.mp4"
NO_PLAYER = "no player.avi"  # browsers have no decoder for it


class Reply(NamedTuple):
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        """Of JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of a refusal."""
        [(key, text)] = self.content.items()
        assert key == "error"
        return str(text)


@dataclass(frozen=True)
class Served:
    """A server.

    Attributes:
        url: its page.
        index: what it began with.
    """

    url: str
    index: Index

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Reply:
        """A request; the path is sent as it is, underscores in names of headers as dashes."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            reply = connection.getresponse()
            return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def search(self, query: str, k: int | None = None) -> Reply:
        """A query."""
        return self.ask(f"/api/search?q={quote(query)}" + ("" if k is None else f"&k={k}"))

    def send(self, clip: bytes, name: str = "clip.mp4", k: int | None = None) -> Reply:
        """A clip to search with."""
        return self.ask("/api/search", "POST", form(clip, name, k), Content_Type="multipart/form-data; boundary=xyz")


def form(clip: bytes, name: str = "clip.mp4", k: int | None = None, field: str = "video") -> bytes:
    """A form with a clip, its parts apart by `xyz`."""
    number = b"" if k is None else b'--xyz\r\nContent-Disposition: form-data; name="k"\r\n\r\n%d\r\n' % k
    head = f'--xyz\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
    return number + head + clip + b"\r\n--xyz--\r\n"


@pytest.fixture(scope="session")
def run(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was trained for two epochs."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(["fit", *run_arguments(shapes_root, runs, "--run_id=a")]) == 0
    return runs / "clip4clip_shapes" / "a"


def write_avi(path: Path) -> None:
    """A clip of noise in MPEG-4 part 2."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        generator = np.random.default_rng(0)
        for _ in range(30):
            frame = av.VideoFrame.from_ndarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def make_index(run: Path, shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes an index of a folder `videos` beside it: ten clips in windows of 2 s."""
    first = tmp_path_factory.mktemp("first")
    videos = first / "videos"
    videos.mkdir()
    clips = sorted((shapes_root / "videos").iterdir())
    for clip in clips[:8]:
        shutil.copy(clip, videos)
    shutil.copy(clips[8], videos / EVIL)
    write_avi(videos / NO_PLAYER)

    def index(folder: Path) -> None:
        words = ["index", str(run), str(folder / "videos"), str(folder / "clips.index"), "--window=2", "--workers=0"]
        assert main(words) == 0

    index(first)

    def make() -> Path:
        folder = tmp_path_factory.mktemp("own")
        shutil.copytree(videos, folder / "videos")
        index(folder)  # anew: an index knows where its videos lie
        return folder / "clips.index"

    return make


@pytest.fixture(scope="session")
def index_folder(make_index: Callable[[], Path]) -> Path:
    """An index that tests leave as it is."""
    return make_index()


@contextmanager
def serving(index: Index, **limits: Any) -> Iterator[Served]:
    """A server in a thread."""
    from tvr_lightning.search.guard import LOCAL
    from tvr_lightning.search.server import Limits, make_server

    server = make_server(index, Limits(**{"names": LOCAL, **limits}))
    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{door.getsockname()[1]}", index)
        finally:
            server.should_exit = True
            thread.join(60)
            if thread.is_alive():
                with TemporaryFile("w+") as stacks:
                    faulthandler.dump_traceback(stacks)
                    stacks.seek(0)
                    pytest.fail(f"the server does not end\n{stacks.read()}")


@pytest.fixture(scope="package")
def served(index_folder: Path) -> Iterator[Served]:
    """A server over an index that stays as it is; uploads of at most 1 MB.

    It ends with the tests of this folder: a clock that others patch is not for its thread.
    """
    with serving(load_index(index_folder), upload=10**6) as found:
        yield found


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Starts servers of a test's own."""
    with ExitStack() as stack:
        yield lambda index, **limits: stack.enter_context(serving(index, **limits))
