"""A headless Chromium, driven over a pair of pipes by the DevTools protocol: no driver, no package."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-extensions", "--mute-audio",
         "--autoplay-policy=no-user-gesture-required"]  # fmt: skip


class Tab:
    """A page of a browser.

    Attributes:
        requests: addresses that the page asked for.
        problems: what it wrote to the console as warnings or errors, and exceptions.
    """

    def __init__(self, sending: int, receiving: int) -> None:
        self._out, self._in = sending, receiving
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.requests: list[str] = []
        self.problems: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls the protocol, and waits for its answer."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while True:
            found = self._next(end)
            if found.get("id") == number:
                assert "error" not in found, (method, found)
                result: dict[str, Any] = found["result"]
                return result

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 30.0) -> Any:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.05)
        raise AssertionError(f"not true within {seconds:g} s: {script}; {self.problems}")

    def size(self, width: int, height: int, phone: bool = False, dark: bool = False) -> None:
        """Sets the window's size in CSS pixels, and the colours that the system prefers."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        """Goes to a page, and waits until it is loaded."""
        assert "errorText" not in self.ask("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def press(self, key: str) -> None:
        """Presses a key such as `Enter` or `ArrowRight`."""
        codes = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        facts = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **facts, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **facts)

    def type(self, text: str) -> None:
        """Writes into what has the focus."""
        self.ask("Input.insertText", text=text)

    def picture(self, file: Path) -> None:
        """Writes what is seen, as PNG."""
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            read = os.read(self._in, 1 << 20) if ready else b""
            assert read, "the browser gave no answer"
            self._rest += read
        first, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(first)
        self._note(found.get("method", ""), found.get("params", {}))
        return found

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(facts["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.problems.append(json.dumps(facts["args"]))
        elif event == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.problems.append(json.dumps(facts["entry"]))


@contextmanager
def browser(profile: Path) -> Iterator[Callable[[], Tab]]:
    """Starts Chromium; what is given opens its one tab.

    Args:
        profile: a folder for its files.
    """
    their_in, our_out = os.pipe()
    our_in, their_out = os.pipe()
    # the protocol's pipes are numbers 3 and 4
    script = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
    command = ["bash", "-c", script, str(CHROMIUM), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    with subprocess.Popen(
        command, pass_fds=(their_in, their_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        os.close(their_in)
        os.close(their_out)
        try:
            yield lambda: Tab(our_out, our_in)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            os.close(our_out)
            os.close(our_in)
