"""The documentation as a site: its links, its code, its navigation, and that it builds without a warning.

All but the last need no mkdocs: `docs/hooks.py` finds code blocks and tables for the site and for these tests alike.
"""

from __future__ import annotations

import doctest
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tvr_lightning.commands.main import COMMANDS
from tvr_lightning.config.catalogue import list_experiments
from tvr_lightning.config.compose import known_experiments

ROOT = Path(__file__).parents[1]
SITE_PAGES = sorted(f for f in (ROOT / "docs").rglob("*.md") if "katex" not in f.parts)
PAGES = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")), *SITE_PAGES]
KATEX = ROOT / "docs/assets/katex"
pages = pytest.mark.parametrize("file", PAGES, ids=lambda f: str(f.relative_to(ROOT)))


def module_of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = module_of("hooks")


def slug(heading: str) -> str:
    """The anchor that a code host and the site give a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@functools.cache
def prose(file: Path) -> str:
    """A page without its code blocks."""
    text = file.read_text(encoding="utf-8")
    lines = text.split("\n")
    for first, end, _, _ in reversed(list(hooks.blocks(text))):
        del lines[first:end]
    return "\n".join(lines)


@functools.cache
def anchors(file: Path) -> set[str]:
    """Of headings that are there once: what a second one of the name is called differs between hosts."""
    found = [slug(heading) for heading in re.findall(r"^#+ (.*)$", prose(file), flags=re.MULTILINE)]
    return {name for name in found if found.count(name) == 1}


def modules_of(file: Path) -> set[str]:
    """Whose docstrings a page of the reference shows."""
    return set(re.findall(r"^::: ([\w.]+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE))


@pages
def test_links_and_their_anchors_exist(file: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(file)):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        place = file.parent / path if path else file
        if not place.exists() or (anchor and anchor not in anchors(place)):
            wrong.append(target)
    assert wrong == []


def test_links_are_ways_to_pages() -> None:
    # what a code host shows and the site cannot: hooks.rewritten makes text of it
    out = [t for f in SITE_PAGES for t in re.findall(r"\]\((\.\./[^)\s]+)\)", prose(f)) if "#" not in t]
    assert [t for t in out if not t.endswith(".md")] == []


@pages
def test_python_blocks_compile(file: Path) -> None:
    for first, _, language, code in hooks.blocks(file.read_text(encoding="utf-8")):
        if language == "python":
            compile(code, f"{file}:{first + 1}", "exec")


@pages
def test_examples_with_prompts_run(file: Path) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for first, _, language, code in hooks.blocks(file.read_text(encoding="utf-8")):
        if language == "pycon":
            runner.run(doctest.DocTestParser().get_doctest(code, {}, file.name, str(file), first))
    assert runner.summarize().failed == 0


def commands_in(code: str) -> list[tuple[str, str]]:
    """(`tvr` or `make`, the word behind it) of each call in a block of a shell's lines."""
    joined = re.sub(r"\\\n", " ", code)
    calls = [re.sub(r"(^|\s)#.*", "", line) for line in joined.split("\n")]
    found = [re.finditer(r"(?:^|[\s/;&|(])(tvr|make)\s+(?:-\w\s+)*([\w-]+)(?![\w=./-])", call) for call in calls]
    return [(match[1], match[2]) for matches in found for match in matches]


def test_commands_are_found() -> None:
    code = "make train EXP=x  # make nothing\nA=b .venv/bin/tvr fit \\\n  --config x\nmake -s data && tvr search a 'b'"
    assert commands_in(code) == [("make", "train"), ("tvr", "fit"), ("make", "data"), ("tvr", "search")]


@pages
def test_commands_exist(file: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    known = {"make": targets, "tvr": {*COMMANDS, "help", "--help", "--version"}}
    text = file.read_text(encoding="utf-8")
    calls = [call for _, _, language, code in hooks.blocks(text) if language == "sh" for call in commands_in(code)]
    if file.name not in ("log.md", "CHANGELOG.md"):  # they tell of what was
        calls += [call for span in re.findall(r"`([^`\n]+)`", prose(file)) for call in commands_in(span)]
    assert [call for call in calls if call[1] not in known[call[0]]] == []


def pages_in(part: Any) -> list[str]:
    """The pages of a piece of the navigation."""
    if isinstance(part, str):
        return [part]
    return [page for item in (part.values() if isinstance(part, dict) else part) for page in pages_in(item)]


def test_every_page_is_in_the_navigation_once() -> None:
    text = re.sub(r"!!python/object\S*", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = pages_in(yaml.safe_load(text)["nav"])
    assert sorted(listed) == sorted(
        [*(f.relative_to(ROOT / "docs").as_posix() for f in SITE_PAGES), *hooks.ELSEWHERE.values()]
    )


def test_every_method_with_experiments_has_a_page() -> None:
    markers = [m for f in SITE_PAGES for m in hooks.MARKER.findall(f.read_text(encoding="utf-8"))]
    shown = [name for kind, methods in markers if kind == "experiments" for name in methods.split(", ")]
    assert sorted(shown) == sorted({entry.method for entry in list_experiments(known_experiments())})


@pytest.mark.parametrize("file", sorted((ROOT / "docs/methods").glob("*.md")), ids=lambda f: f.name)
def test_tables_of_methods_have_rows(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for kind, methods in hooks.MARKER.findall(text):
        for method in methods.split(", "):
            rows = [row for row in hooks.TABLES[kind]([method]) if row.startswith("|")]
            assert len(rows) > 2, f"{kind} of {method}"
            assert len({row.count("|") for row in rows}) == 1
    assert not hooks.MARKER.search(hooks.rewritten(text, f"methods/{file.name}"))


def test_pages_as_the_site_has_them() -> None:
    text = (
        "See [a](../SECURITY.md), [b](../Makefile), [c](../README.md#use) and [d](search.md#json).\n\n    tvr --help\n"
    )
    assert hooks.rewritten(text, "faq.md") == (
        "See [a](security.md), b, [c](index.md) and [d](search.md#json).\n\n```sh\ntvr --help\n```\n"
    )
    assert hooks.rewritten("[a](docs/search.md#json), [b](LICENSE)", "../CHANGELOG.md") == "[a](search.md#json), b"
    assert hooks.rewritten("[a](../search.md)", "methods/lean.md") == "[a](../search.md)"


def test_notebooks_become_pages() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Look\n", "See [a](../search.md)."]},
        {"cell_type": "code", "source": "x = 1\n", "outputs": ["1"]},
        {"cell_type": "code", "source": []},
    ]
    page = hooks.notebook_page(json.dumps({"cells": cells}))
    assert page == "# Look\nSee [a](../search.md).\n\n```python\nx = 1\n```\n"
    assert hooks.rewritten(page, "notebooks/look.md") == page
    assert hooks.rewritten("[a](notebooks/look.ipynb)", "search.md") == "[a](notebooks/look.md)"


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("make train EXP=x", "sh"),
        ("#!/bin/bash\nls", "sh"),
        ("# of a run\ntvr search x", "sh"),
        ("from a import b\nb()", "python"),
        ("from a import (", "python"),  # damaged, and to be found so
        ("x = f(1)", "python"),
        (">>> 1\n1", "pycon"),
        ("defaults: [a, b]\nmodel:\n  x: {y: 1}", "yaml"),
        ('{"a": 1}', "json"),
        ("data/msrvtt/\n  videos/", "text"),
    ],
)
def test_language_of_unmarked_code(code: str, language: str) -> None:
    assert hooks.language_of(code) == language


def test_lists_are_no_code() -> None:
    assert list(hooks.blocks("- a\n\n    b\n")) == []
    assert list(hooks.blocks("a\n    b\n")) == []
    assert [code for *_, code in hooks.blocks("a\n\n    b\n\n    c\n\nd")] == ["b\n\nc"]


def test_docstrings_as_the_site_has_them() -> None:
    pytest.importorskip("griffe", reason="mkdocstrings reads docstrings with griffe, which is not installed")
    module = module_of("docstrings")
    assert doctest.testmod(module).failed == 0
    text = (
        "LEAN: a method.\n\nnodes  words   -> LEAN\nloss   both    -> LEAN\nDepartures:\n- one\n  of two\n\n"
        "readout  as printed,\n         or not\nall      pairs\n\nArgs:\n    a: b.  c"
    )
    assert module.as_markdown(text) == (
        "LEAN: a method.\n\n```text\nnodes  words   -> LEAN\nloss   both    -> LEAN\n```\n\n"
        "Departures:\n\n- one\n  of two\n\n"
        "readout\n:   as printed,\n    or not\n\nall\n:   pairs\n\nArgs:\n    a: b.  c"
    )


def test_equations_need_no_network() -> None:
    style = (KATEX / "katex.min.css").read_text(encoding="utf-8")
    fonts = set(re.findall(r"fonts/([\w-]+\.woff2)", style))
    assert fonts == {file.name for file in (KATEX / "fonts").iterdir()}
    version = re.search(r"KaTeX (\d+\.\d+\.\d+)", (KATEX / "README.md").read_text())
    assert version
    assert f'version:"{version[1]}"' in (KATEX / "katex.min.js").read_text(encoding="utf-8").replace(" ", "")
    for file in (ROOT / "mkdocs.yml", *(ROOT / "docs/assets").glob("*.*")):
        assert "http" not in file.read_text(encoding="utf-8"), file


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: uv pip install 'tvr-lightning[dev]'")
    pytest.importorskip("mkdocstrings_handlers.python", reason="mkdocstrings[python] is not installed")
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    site = tmp_path / "site"
    made = {file.relative_to(site).with_suffix(".md").as_posix() for file in site.rglob("*.html")} - {"404.md"}
    ours = {f.relative_to(ROOT / "docs").as_posix() for f in SITE_PAGES}
    assert made == {*ours, *hooks.ELSEWHERE.values(), *hooks.notebooks()}
    asked = [
        (file.name, address)
        for file in site.rglob("*.html")
        for address in re.findall(r'<(?:script|link|img)[^>]* (?:src|href)="(https?:[^"]+)"', file.read_text("utf-8"))
    ]
    assert asked == []  # pages ask no other host for anything
    found = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))["docs"]
    assert {"concepts.html", "api/nn.html#tvr_lightning.nn.lean.hypergraph.LEANConv"} <= {d["location"] for d in found}
    assert 'class="arithmatex"' in (site / "methods/lean.html").read_text(encoding="utf-8")
