"""`tvr serve` as a command: words that are wrong, ports that are taken, Ctrl-C; and the thread that answers texts."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

from tvr_lightning.commands import serve
from tvr_lightning.commands.main import main
from tvr_lightning.errors import DataError
from tvr_lightning.search.batching import TOGETHER, Batcher, BusyError
from tvr_lightning.search.hits import Answer


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "--port is 70000; it must be 1 to 65535"),
        (["--port", "-1"], "--port is -1"),
        (["--max_upload", "0"], "--max_upload is 0; it must be above 0"),
        (["--max_upload", "nan"], "--max_upload is nan"),
        (["--candidates", "few"], "--candidates is few; it must be a number"),
        (["--candidates", "0"], "--candidates is 0; it must be a number of at least 1"),
        (["--names", " ,"], "--names is empty"),
    ],
)
def test_wrong_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "none.index", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert main(["serve", "none.index"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs starlette, uvicorn, python_multipart: pip install 'tvr-lightning[search]'" in line


def test_no_index_is_said_before_anything_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path)]) == 1
    assert "no index in" in capsys.readouterr().err


def test_a_port_in_use_is_one_sentence(index_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        assert main(["serve", str(index_folder), "--port", str(port)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot listen at localhost, port {port}: Address already in use" in line
    for host in ("no.such.host.invalid", "203.0.113.7", "x" * 300):
        assert main(["serve", str(index_folder), "--host", host]) == 1
        assert f"cannot listen at {host}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_it_serves_until_it_is_ended(index_folder: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tvr_lightning", "serve", str(index_folder), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"(http://localhost:\d+) searches \d+ windows; Ctrl-C ends it\n", line)
        if found is None:
            process.kill()
            pytest.fail(f"{line}{process.communicate()[1]}")
        with urllib.request.urlopen(f"{found[1]}/api/search?q=a+circle", timeout=60) as reply:
            assert reply.status == 200
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert "Traceback" not in said
    assert out == ""


def test_what_arrives_together_is_answered_together() -> None:
    batches: list[list[str]] = []
    held = threading.Event()

    def answers(queries: Sequence[str], k: int) -> list[Answer]:
        held.wait(10)
        batches.append(list(queries))
        if "bad" in queries:
            raise DataError("a bad query")
        if "worse" in queries:
            raise ZeroDivisionError("worse")
        return [Answer([], (f"{q} {k}",)) for q in queries]

    async def ask() -> list[Answer | BaseException]:
        batcher = Batcher(answers)
        first = asyncio.create_task(batcher.ask("first", 1))
        await asyncio.sleep(0.2)  # it is being answered
        gone = asyncio.create_task(batcher.ask("gone", 1))
        await asyncio.sleep(0)
        gone.cancel()
        more = [asyncio.create_task(batcher.ask(q, k)) for q, k in [*((f"q{i}", 5) for i in range(70)), ("bad", 6),
                                                                    ("good", 6), ("worse", 7)]]  # fmt: skip
        await asyncio.sleep(0)
        held.set()
        found = await asyncio.gather(first, *more, return_exceptions=True)
        await asyncio.to_thread(batcher.close)
        return found

    found = asyncio.run(ask())
    assert [a.notes[0] for a in found[:71] if isinstance(a, Answer)] == ["first 1", *(f"q{i} 5" for i in range(70))]
    assert isinstance(found[71], DataError)
    assert isinstance(found[72], Answer)  # another's fault is not its own
    assert isinstance(found[73], ZeroDivisionError)
    assert batches[0] == ["first"]
    assert len(batches[1]) == TOGETHER
    assert "gone" not in [q for batch in batches for q in batch]


def test_a_line_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvr_lightning.search.batching.WAITING", 2)

    async def ask() -> list[Answer | BaseException]:
        batcher = Batcher(lambda queries, k: [time.sleep(0.3) or Answer([]) for _ in queries])  # type: ignore[func-returns-value]
        found = await asyncio.gather(*(batcher.ask("a", 1) for _ in range(8)), return_exceptions=True)
        await asyncio.to_thread(batcher.close)
        return found

    found = asyncio.run(ask())
    assert isinstance(found[0], Answer)
    assert isinstance(found[-1], BusyError)
