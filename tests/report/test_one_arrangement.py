"""Every format shows one arrangement: what must not be ranked together is so in none of them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tvr_lightning.report import page, wandb_report
from tvr_lightning.report.bits import bits_lines
from tvr_lightning.report.comparison import Comparison, compare
from tvr_lightning.report.formats import to_csv, to_latex, to_markdown, to_table
from tvr_lightning.report.text import lines_of_blocks
from tvr_lightning.run.results import find_runs

from .finished_runs import GOOD, make_run

# the third run's figures are the best; each case says why they may not be ranked with the others'
CASES: dict[str, dict[str, Any]] = {
    "another test set": {"data": {"left_out": 0, "subset": None, "videos": 8, "captions": 8}},
    "another split": {"split": "7k"},
    "selected on test": {"selected_on_test": True},
    "selected by labels": {"selected_by": "hash/mAP"},
    "leaky": {"metrics": {f"test/leaky/{d}/R@1": 100.0 for d in ("t2v", "v2t")}, "intervals": {}},
    "v2t over captions": {"v2t": "captions"},
    "subset 8": {"data": {"left_out": 0, "subset": 8, "videos": 8, "captions": 8}},
    "32 videos left out": {"data": {"left_out": 32, "subset": None, "videos": 8, "captions": 8}},
    "not all batches": {"partial": True},
}
MARKED = [name for name in CASES if not name.startswith("another")]
case = pytest.mark.parametrize("name", CASES)


def arranged(root: Path, name: str) -> Comparison:
    """Two plain runs, one of two seeds, and one as the case says."""
    make_run(root, "exp/low", hits=[1] * 10 + [0] * 30)
    for seed in (0, 1):
        make_run(root, f"high/s{seed}", seed, GOOD)
    make_run(root, "exp/odd", hits=[1] * 40, settings={"lr": 9.0}, **CASES[name])
    return compare(find_runs([root]), metrics=["t2v/R@1", "v2t/R@1"])


def tables(comparison: Comparison) -> list[list[tuple[str, list[str], list[str]]]]:
    """Of each block's lines: name, figures and which of them are the best."""
    return [
        [(n.name, [c.value for c in n.cells], [c.value for c in n.cells if c.best]) for n in (*ranked, *apart)]
        for _, ranked, apart in lines_of_blocks(comparison)
    ]


def in_terminal(comparison: Comparison) -> tuple[str, list[str]]:
    console = Console(width=200, force_terminal=True, color_system="standard", file=io.StringIO(), record=True)
    console.print(to_table(comparison))
    text = console.export_text(styles=True)
    return re.sub(r"\x1b\[[\d;]*m", "", text), re.findall(r"\x1b\[1m([\d.]+)", text)


def in_markdown(comparison: Comparison) -> tuple[str, list[str]]:
    text = to_markdown(comparison)
    return text, re.findall(r"\*\*([\d.]+)\*\*", text)


def in_latex(comparison: Comparison) -> tuple[str, list[str]]:
    text = to_latex(comparison)
    return text, re.findall(r"\\textbf\{([\d.]+)\}", text)


def in_page(comparison: Comparison) -> tuple[str, list[str]]:
    text = page.render(comparison)
    return text, re.findall(r'<td class="best[^>]*>([\d.]+)', text)


FORMATS = {"terminal": in_terminal, "markdown": in_markdown, "latex": in_latex, "page": in_page}


@case
@pytest.mark.parametrize("kind", FORMATS)
def test_what_may_not_be_ranked_is_never_the_best(tmp_path: Path, name: str, kind: str) -> None:
    comparison = arranged(tmp_path, name)
    text, best = FORMATS[kind](comparison)
    assert best == ["75.0", "75.0"]
    assert best == [value for table in tables(comparison) for _, _, found in table for value in found]
    for block in comparison.blocks:
        assert block.title in text
    assert len(comparison.blocks) == (1 if name in MARKED else 2)
    plain, _, apart = text.partition("not ranked")
    assert "exp/low" in re.sub("<wbr>", "", plain)
    assert ("exp/odd" in re.sub("<wbr>", "", apart)) == (name in MARKED)
    if name in MARKED:
        assert name in apart


@case
def test_the_page_has_the_tables_of_the_terminal(tmp_path: Path, name: str) -> None:
    comparison = arranged(tmp_path, name)
    found = []
    for table in re.findall(r"<table>(.*?)</table>", page.render(comparison), re.DOTALL):
        rows = re.findall(r'<tr class="(?:run|reported)">(.*?)</tr>', table, re.DOTALL)
        found.append([])
        for row in rows:
            label = re.sub(r"<small.*?</small>|<[^>]*>", "", row.partition("</th>")[0])
            cells = re.findall(r'<td class="(best )?(?:from)?">([^<]*)', row)
            width = len(comparison.columns)
            found[-1].append((label, [v for _, v in cells[-width:]], [v for mark, v in cells[-width:] if mark]))
    assert found == tables(comparison)


@case
def test_csv_rows_say_what_may_be_ranked(tmp_path: Path, name: str) -> None:
    rows = {r["run"]: r for r in csv.DictReader(io.StringIO(to_csv(arranged(tmp_path, name))))}
    places = {run: (row["test_set"], row["ranked"]) for run, row in rows.items()}
    assert places["low"] == places["s0"] == places["s1"] == ("shapes 9k, test: 40 captions x 40 videos", "True")
    assert places["odd"] != places["low"]
    assert rows["odd"]["ranked"] == str(name not in MARKED)


@case
def test_panels_in_wandb_hold_what_may_be_ranked(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces", reason="the optional extra `reports` is not installed")
    from wandb_workspaces.reports.v2 import interface

    monkeypatch.setattr(interface, "_get_api", lambda: None)
    monkeypatch.setattr(interface, "execute_graphql", lambda *_: {"project": {"internalId": "1"}})
    comparison = arranged(tmp_path, name)
    report = wandb_report.build_report(comparison, "team", "project")
    blocks = json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))["blocks"]
    panels = []
    for filters in (b["metadata"]["runSets"][0]["filters"]["filters"] for b in blocks if b["type"] == "panel-grid"):
        panels.append({f["key"]["name"]: f["value"] for f in filters})
    shown = [
        {r.path.name for r in comparison.runs if r.test_set in p["test_set"] and "; ".join(r.marks) in p["marks"]}
        for p in panels
    ]
    assert sorted(map(sorted, shown)) == [["low", "s0", "s1"], ["odd"]]


def test_a_line_of_bits_joins_what_may_be_ranked(tmp_path: Path) -> None:
    facts = {"bits": 64, "database": "train", "texts": 40, "videos": 40, "normalise": "relevant"}
    for i, changes in enumerate([{}, {}, *CASES.values()]):
        prefix = "test/leaky/" if "metrics" in changes else "test/"
        metrics = {f"{prefix}hash/{d}/mAP": 50.0 + i for d in ("t2v", "v2t")}
        make_run(tmp_path, f"codes/r{i:02}", i, **changes | {"metrics": metrics, "hashing": facts})
    lines = bits_lines(find_runs([tmp_path]), "t2v")
    assert [values for line in lines for values in line.points.values()] == [
        [50.0, 51.0], *([52.0 + i] for i in range(len(CASES)))
    ]  # fmt: skip
