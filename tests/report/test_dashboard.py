"""The static page over run folders, and the report in W&B."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.data.stores.files import write_json
from tvr_lightning.report import page, wandb_report
from tvr_lightning.report.charts import HEIGHT, WIDTH, Line, bar_chart, line_chart, ticks
from tvr_lightning.report.comparison import compare
from tvr_lightning.run.curves import write_curves
from tvr_lightning.run.gallery import Gallery, Query, write_gallery
from tvr_lightning.run.results import find_runs

from ..kinds import first_fast

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>alert(1)</script> & </style> \"quoted\" 'too' {{ 7 * 7 }}"
MakeRun = Callable[..., Path]


def jpeg(shade: int, frames: int = 6) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (frames * 64, 64), (shade, 90, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes the folder of a finished run; keyword arguments change `metrics.json`."""

    def make(name: str, r1: float = 40.0, caption: str = "a red star", files: bool = True, **changes: Any) -> Path:
        folder = tmp_path / "runs" / "exp" / name
        folder.mkdir(parents=True)
        figures = {f"test/{d}/{m}": 1.0 for d in ("t2v", "v2t") for m in ("R@5", "R@10", "MdR", "MnR", "mAP")}
        content = {
            "experiment": "exp",
            "method": "CLIP4Clip",
            "dataset": "shapes",
            "split": "9k",
            "seed": 0,
            "metrics": figures
            | {"test/t2v/R@1": r1, "test/v2t/R@1": 1.0, "test/SumR": 300 + r1, "test/probe/order": 25.0},
            "intervals": {"test/t2v/R@1": [r1 - 5, r1 + 5]},
            "data": {"left_out": 0, "subset": None, "videos": 8, "captions": 8},
            "selected_on_test": False,
            "partial": False,
            "v2t": "sets",
        }
        write_json(folder / "metrics.json", content | changes)
        if files:
            write_curves(folder / "curves.csv", [{"epoch": e, "step": e, "train/loss": 2.0 - e} for e in range(2)])
            ranks = {"direction": ["t2v"] * 4 + ["v2t"] * 2, "rank": [1.0, 1.0, 3.0, 8.0, 1.0, 2.0]}
            pq.write_table(pa.table(ranks), folder / "ranks.parquet")
            query = Query("v1#0", caption, "v1", 2.0, ("v0", "v1", "v2"), (False, True, False))
            # a still, as earlier versions kept it, and a strip
            pictures = {"v0": jpeg(0, frames=1), "v1": jpeg(100), "v2": None}
            write_gallery(folder / "gallery.json", Gallery((query,), (query,), pictures))
        return folder

    return make


class Page(HTMLParser):
    """Collects elements with their attributes, and the text of table rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "br", "wbr", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "tr" in self.open and data.strip():
            self.rows[-1][-1] += " " + data.strip()


def written(path: Path) -> str:
    return (path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("caption", ["一只红色的狗", "كرة حمراء تتحرك", "Красный круг"])
def test_captions_of_any_script_stand_apart_from_the_page_s_language(
    caption: str, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    make_run("a", caption=caption)
    assert main(["dashboard", "--runs_dir", str(tmp_path / "runs")]) == 0
    text = written(tmp_path / "runs")
    assert '<meta charset="utf-8">' in text[:200]
    assert f'“<bdi lang="">{caption}</bdi>”' in text  # its own direction, and no English font or hyphens


def test_page_loads_nothing_and_escapes_everything(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    make_run("a", caption=EVIL, experiment=EVIL, dataset=EVIL)
    assert main(["dashboard", "--runs_dir", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert "report.html: 1 runs, " in out
    assert "W&B: offline or without a key, only the page was written" in out
    text = written(tmp_path / "runs")
    assert not re.search(r"https?:|//[a-z]", text)
    assert re.findall(r"url\((\w+:\w+/\w+)", text) == ["data:image/jpeg"] * 2
    assert "@import" not in text
    assert "<script" not in text.lower()
    assert text.count("</style>") == 1
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;/style&gt;") >= 3
    assert "{{ 7 * 7 }}" in text
    parsed = Page(text)
    assert parsed.open == []
    for tag, attributes in parsed.elements:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed")
        assert not {a for a in attributes if a.startswith("on")}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    policy = [a["content"] for t, a in parsed.elements if t == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_marked_runs_stand_apart_and_are_never_the_best(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("good", 50.0)
    make_run("fair", 40.0)
    make_run("cheat", 90.0, selected_on_test=True)
    make_run("other", 10.0, dataset="MSR-VTT", split="full")
    page.write_page(compare(find_runs([], tmp_path / "runs")), tmp_path / "report.html")
    text = written(tmp_path)
    rows = Page(text).rows
    names = [next((n for n in ("good", "fair", "cheat", "other", "not ranked") if n in r[0]), "") for r in rows]
    fair, good, apart, cheat, other = (names.index(n) for n in ("fair", "good", "not ranked", "cheat", "other"))
    assert fair < good < apart < cheat < other
    assert rows[good][2].split() == ["50.0", "[45.0,", "55.0]"]
    assert rows[cheat][0].endswith("cheat selected on test")
    assert re.findall(r'<td class="best from">([\d.]+)', text)[:1] == ["1.0"]  # R@1 of video -> text is equal in both
    assert re.findall(r"best[^>]*>((?:50|350)\.0)", text) == ["50.0", "350.0"]
    assert not re.search(r"best[^>]*>(90|390|10|310)\.0", text)
    titles = ["shapes 9k, test: 8 captions x 8 videos", "MSR-VTT full, test: 8 captions x 8 videos"]
    assert re.findall(r"<h2>(.*?)</h2>", text) == titles
    assert "exp/cheat (not ranked: selected on test)" in text  # in the legend of its curves too


def test_the_page_takes_what_compare_takes(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a")
    words = ["dashboard", "--runs_dir", str(tmp_path / "runs")]
    assert main([*words, "--metrics", "t2v/mAP", "--baseline", "exp/a"]) == 0
    rows = Page(written(tmp_path / "runs")).rows
    assert [cell.strip() for cell in rows[1]] == ["mAP"]
    assert rows[2][0].endswith("baseline")
    assert main([*words, "--full"]) == 0
    assert {"MnR", "mAP"} <= {cell.strip() for cell in Page(written(tmp_path / "runs")).rows[1]}


def test_pictures_are_held_once_and_say_what_cannot_be_shown(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a")
    make_run("b")
    make_run("bare", files=False)
    text = page.render(compare(find_runs([], tmp_path / "runs")))
    for frames, shade in ((1, 0), (6, 100)):
        held = base64.b64encode(jpeg(shade, frames)).decode()
        assert text.count(held) == 1
        assert f"--n:{frames};background-image:url(data:image/jpeg;base64,{held})" in text
    assert text.count('<span class="picture">not decodable</span>') == 4  # two runs, query and failure each
    assert "✓&nbsp;correct" in text
    assert "exp/bare: This run kept no gallery." in text
    assert "This run kept no ranks." in text
    assert "Without curves: exp/bare." in text


def test_the_page_stays_bounded(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(4):
        os.utime(make_run(f"run{index}") / "metrics.json", (index, index))
    monkeypatch.setattr(page, "MAX_RUNS", 3)
    monkeypatch.setattr(page, "MAX_PICTURES", 10)
    said = page.write_page(compare(find_runs([], tmp_path / "runs")), tmp_path / "report.html")
    assert "4 runs, 1 older ones in the tables only" in said
    text = written(tmp_path)
    assert "1 older ones stand in the tables only" in text
    assert text.count("run0") == 1  # its row
    assert text.count("Left out: the pictures of the page would take more than") == 3
    assert "url(data:" not in text


@pytest.mark.parametrize("file", ["gallery.json", "curves.csv", "ranks.parquet"])
def test_damaged_files_are_named_and_leave_the_old_page(
    make_run: MakeRun, tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    folder = make_run("a")
    (runs / "report.html").write_text("old")
    (folder / file).write_text("epoch\nx")
    assert main(["dashboard", "--runs_dir", str(runs)]) == 1
    assert f"{file} is damaged" in capsys.readouterr().err
    assert written(runs) == "old"


def test_no_runs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--runs_dir", str(tmp_path / "none")]) == 1
    assert "there are no runs yet" in capsys.readouterr().err


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 3.3), (12, 12), (0, 0), (300, 480), (-2, 1e-3), (1e-9, 2e-9)])
def test_ticks_are_round_and_cover(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 8
    assert found[0] <= low
    assert found[-1] >= high
    steps = [b - a for a, b in pairwise(found)]
    assert max(steps) == pytest.approx(min(steps))


def test_charts_stay_inside_their_frame() -> None:
    lines = [Line("a", 0, [(0, 3.0), (1, 1.0)]), Line("b <x>", 9, [(5, 2.0)])]
    text = str(line_chart(lines, 'say "x"'))
    assert "b &lt;x&gt;" in text
    assert "c1 d1" in text  # the tenth style: second colour, dashed
    assert text.count("<circle") == 1
    numbers = [tuple(map(float, p.split(","))) for p in " ".join(re.findall(r'points="([^"]*)"', text)).split()]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in numbers)
    (x0, y0), (x1, y1) = numbers[:2]
    assert x0 < x1
    assert y0 < y1  # a smaller value lies lower
    bars = str(bar_chart(["1", "2-5"], [("s", [100.0, 0.0])], "l"))
    heights = [float(h) for h in re.findall(r'height="([\d.]+)"', bars)]
    assert heights[1] == 0
    assert heights[0] > HEIGHT / 2


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", first_fast([1280, 800, 390]))
def test_opens_in_a_browser_without_scrolling_sideways(make_run: MakeRun, tmp_path: Path, width: int) -> None:
    from PIL import Image

    make_run("a" * 60, caption="long " * 80)
    make_run("b", 20.0, partial=True)
    page.write_page(compare(find_runs([], tmp_path / "runs")), tmp_path / "report.html")
    # a frame of that width: a headless window itself is 500 px wide at least
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<body style="margin:0"><iframe src="report.html" style="border:0;width:{width}px;height:900px"></iframe>'
        "<script>document.querySelector('iframe').onload = e => { const d = e.target.contentDocument; document.title = "
        "[d.documentElement.clientWidth, d.documentElement.scrollWidth, d.querySelectorAll('.picture').length] }"
        "</script>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
    flags += ["--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,900"]
    shot = tmp_path / "shot.png"
    command = [str(CHROMIUM), *flags]
    done = subprocess.run(
        [*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    title = re.search(r"<title>(\d+),(\d+),(\d+)</title>", done.stdout)
    assert title, done.stderr
    inner, scrolled, pictures = map(int, title.groups())
    assert (inner, pictures) == (width, 16)
    assert scrolled <= inner
    subprocess.run([*command, f"--screenshot={shot}", probe.as_uri()], capture_output=True, timeout=120, check=True)
    colours = Image.open(shot).convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 50  # letters and lines, no blank page


def test_report_needs_a_key_and_its_package(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = compare(find_runs([make_run("a")], tmp_path / "runs"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert "without a key" in wandb_report.write_report(runs)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(wandb_report, "PACKAGE", "no_such_package")
    assert "install tvr-lightning[reports]" in wandb_report.write_report(runs)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "offline" in wandb_report.write_report(runs)


def test_report_puts_methods_side_by_side_per_dataset(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb_workspaces", reason="the optional extra `reports` is not installed")
    from wandb_workspaces.reports.v2 import interface

    runs = [make_run("a"), make_run("b", dataset="MSR-VTT", split="full"), make_run("c", selected_on_test=True)]
    comparison = compare(find_runs(runs))
    asked = []

    def answer(api: Any, query: Any, variables: Any) -> dict[str, Any]:
        asked.append(variables)
        return {"project": {"internalId": "1"}}

    monkeypatch.setattr(interface, "_get_api", lambda: None)
    monkeypatch.setattr(interface, "execute_graphql", answer)
    report = wandb_report.build_report(comparison, "team", "project")
    blocks = json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))["blocks"]
    grids = [b["metadata"] for b in blocks if b["type"] == "panel-grid"]
    shapes, vtt = "shapes 9k, test: 8 captions x 8 videos", "MSR-VTT full, test: 8 captions x 8 videos"
    assert [g["runSets"][0]["name"] for g in grids] == [shapes, "not ranked", vtt]
    filters = [json.dumps(g["runSets"][0]["filters"]) for g in grids]
    for found, title, marks in zip(filters, (shapes, shapes, vtt), ("", "selected on test", ""), strict=True):
        assert f'"value": ["{title}"]' in found
        assert f'"value": ["{marks}"]' in found
    assert [key["name"].partition(".")[0] for key in grids[0]["runSets"][0]["grouping"]] == ["experiment", "settings"]
    panels = json.dumps(grids[0]["panelBankSectionConfig"]["panels"])
    for name in ("test/t2v/R@1", "test/v2t/MdR", "val/SumR", "gallery/queries", "gallery/worst"):
        assert name in panels
    assert asked[0] == {"entityName": "team", "projectName": "project"}


def test_a_refused_report_leaves_the_page_and_says_why(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def refuse() -> None:
        raise wandb.errors.CommError("no such host")

    make_run("a")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb_report, "find_spec", lambda name: name)
    monkeypatch.setattr(wandb, "Api", refuse)
    assert main(["dashboard", "--runs_dir", str(tmp_path / "runs")]) == 1
    assert "the page was written, the report in W&B was not: no such host" in capsys.readouterr().err
    assert "<h1>" in written(tmp_path / "runs")
