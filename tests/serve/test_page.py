"""The page in a headless Chromium: typing, keys, playing, clips, words for what goes wrong, nothing from outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from ..chromium import CHROMIUM, Tab, browser
from .conftest import EVIL, NO_PLAYER, Served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
HITS = "document.querySelectorAll('#hits:not(.old) .hit').length"
STATE = "document.getElementById('state').textContent"
FOCUS = "document.activeElement.id || document.activeElement.className"
AT = "[...document.querySelectorAll('.hit')].indexOf(document.activeElement)"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as open_tab:
        yield open_tab()


@pytest.fixture
def tab(started: Tab, served: Served) -> Iterator[Tab]:
    started.size(1280, 900)
    started.requests.clear()
    started.problems.clear()
    yield started
    # Chromium's own controls of a video are data:
    outside = [r for r in started.requests if not r.startswith((f"{served.url}/", "data:image/svg+xml", "about:"))]
    assert outside == []


def test_typing_searching_and_going_back(tab: Tab, served: Served) -> None:
    tab.open(f"{served.url}/")
    tab.wait("document.getElementById('about').textContent")
    assert tab.run(FOCUS) == "query"
    tab.type("a red circle & <b>more</b>")
    tab.press("Enter")
    tab.wait(HITS)
    assert tab.run("location.search") == "?q=a+red+circle+%26+%3Cb%3Emore%3C%2Fb%3E"
    assert "for “a red circle & <b>more</b>”, best first." in tab.run(STATE)
    assert tab.run("document.querySelectorAll('#hits b, #state b').length") == 0
    files = [hit.file for hit in served.index.search("a red circle & <b>more</b>", 24)]
    assert tab.run("[...document.querySelectorAll('.file')].map(e => e.textContent)") == files
    assert EVIL in files  # a name is a text
    assert tab.run("document.querySelectorAll('#hits img').length") == len(files)
    tab.run("history.back()")
    tab.wait(f"!{HITS} && !location.search")
    assert tab.run("document.getElementById('query').value") == ""
    assert tab.problems == []


@pytest.mark.parametrize(("width", "phone", "dark"), [(1280, False, False), (390, True, False), (320, True, True)])
def test_an_address_with_a_query_on_any_screen(
    tab: Tab, served: Served, tmp_path: Path, width: int, phone: bool, dark: bool
) -> None:
    from PIL import Image

    tab.size(width, 900, phone, dark)
    tab.open(f"{served.url}/?q={quote('a blue star ' * 20)}")
    tab.wait(HITS)
    tab.wait("[...document.images].slice(0, 6).every(i => i.complete && i.naturalWidth)")
    assert tab.run("document.documentElement.clientWidth") <= width
    assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    columns = tab.run("getComputedStyle(document.getElementById('hits')).gridTemplateColumns.split(' ').length")
    assert columns >= (4 if width > 1000 else 2)
    assert tab.run("document.getElementById('notes').textContent").endswith("its end is cut off.")
    tab.picture(tmp_path / "shot.png")
    shot = Image.open(tmp_path / "shot.png").convert("L")
    assert (shot.getpixel((2, 2)) < 60) == dark
    colours = shot.getcolors()
    assert colours is not None
    assert len(colours) > 50  # pictures and letters
    assert tab.problems == []


def test_keys_move_between_hits_play_one_and_close_it(tab: Tab, served: Served) -> None:
    tab.open(f"{served.url}/?q=a+circle")
    tab.wait(HITS)
    columns = tab.run("getComputedStyle(document.getElementById('hits')).gridTemplateColumns.split(' ').length")
    for key, place in (("ArrowDown", 0), ("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowLeft", columns)):
        tab.press(key)
        assert tab.run(AT) == place
    hits = served.index.search("a circle", 24)
    place, hit = next((i, h) for i, h in enumerate(hits) if h.start > 0 and h.file.endswith(".mp4"))
    tab.run(f"document.querySelectorAll('.hit')[{place}].focus()")
    tab.press("Enter")
    tab.wait("document.getElementById('video').readyState >= 2")
    assert tab.run("document.getElementById('player').open")
    assert tab.run("document.getElementById('playing').textContent") == hit.file
    assert hit.start <= tab.wait("document.getElementById('video').currentTime") <= hit.end + 1
    tab.press("Escape")
    tab.wait("!document.getElementById('player').open")
    assert tab.run(AT) == place  # the focus is where it was
    tab.wait("!document.getElementById('video').hasAttribute('src')")
    tab.run("document.querySelectorAll('.hit')[0].focus()")
    tab.press("ArrowUp")
    assert tab.run(FOCUS) == "query"
    assert tab.problems == []


def test_what_a_browser_cannot_play_is_said_with_a_way_out(tab: Tab, served: Served) -> None:
    tab.open(f"{served.url}/?q=noise")
    tab.wait(HITS)
    tab.run(f"[...document.querySelectorAll('.hit')].find(h => h.textContent.includes('{NO_PLAYER}')).click()")
    said = tab.wait("document.getElementById('trouble').textContent")
    assert said == "This browser cannot play this file (video/x-msvideo). Download it to watch it."
    assert tab.run("document.getElementById('download').href").endswith("?download")
    tab.press("Escape")


def drop(tab: Tab, *files: Path) -> None:
    """Gives files to the page's chooser."""
    root = tab.ask("DOM.getDocument")["root"]["nodeId"]
    node = tab.ask("DOM.querySelector", nodeId=root, selector="#clip")["nodeId"]
    tab.ask("DOM.setFileInputFiles", nodeId=node, files=[str(f) for f in files])


def test_a_clip_is_searched_with(tab: Tab, served: Served, tmp_path: Path) -> None:
    tab.open(f"{served.url}/?q=a+circle")
    tab.wait(HITS)
    hit = next(h for h in served.index.search("a circle", 24) if h.file.startswith("video"))
    drop(tab, hit.path)
    tab.wait(f"{STATE}.includes('moments like {hit.file}, the most similar first.')", 120)
    assert tab.run("document.querySelector('.file').textContent") == hit.file
    assert tab.run("location.search") == ""
    (tmp_path / "large.mp4").write_bytes(b"\0" * 1_100_000)
    drop(tab, tmp_path / "large.mp4")
    tab.wait(f"{STATE} === 'large.mp4 has 1.1 MB; clips to search with have at most 1 MB.'")
    assert tab.problems == []
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    drop(tab, tmp_path / "broken.mp4")
    tab.wait(f"{STATE}.startsWith('The clip broken.mp4 cannot be searched with: ')")
    assert tab.run("document.getElementById('state').className") == "error"
    assert tab.run(HITS) == 0


def test_a_server_that_has_gone_is_said(tab: Tab, served: Served) -> None:
    tab.open(f"{served.url}/")
    tab.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    try:
        tab.type("a circle")
        tab.press("Enter")
        tab.wait(f"{STATE} === 'The server does not answer. Is tvr serve still running?'")
    finally:
        tab.ask(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
