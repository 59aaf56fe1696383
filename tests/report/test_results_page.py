"""The page of results: written by a command from run folders."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.report.comparison import compare
from tvr_lightning.report.results_page import to_results_page
from tvr_lightning.run.results import find_runs

from .finished_runs import BAD, make_run


def test_it_says_how_it_and_its_runs_were_made(tmp_path: Path) -> None:
    made = {
        "trained": {"steps": 1080},
        "wall_time_s": 120.0,
        "trainable": 500,
        "device": "x CPU",
        "precision": "32-true",
    }
    make_run(tmp_path, "good_shapes/a", git_commit="0123456789ab+", **made)
    make_run(tmp_path, "bad_shapes/b", 1, BAD)
    page = to_results_page(compare(find_runs([tmp_path])), "tvr compare x", date(2026, 11, 27))
    assert page.startswith("# Results\n\n`tvr compare x` wrote this page on 2026-11-27 from 2 run folders; ")
    assert page.index("\n### shapes") < page.index("## What the runs took")
    took = [
        line for line in page.splitlines() if line.startswith(("| good\\_shapes/a | 0 |", "| bad\\_shapes/b | 1 |"))
    ]
    assert "| 1,080 | 1.5 | 2.0 | 2,048 | 500 of 1,500,000 | x CPU | 32-true | 01234567+ |" in took[-2] + took[-1]
    assert "| - | 1.5 | - | 2,048 | - of 1,500,000 | - | - | - |" in took[-2] + took[-1]
    widths = {line.count(" | ") for line in page.split("took\n")[1].splitlines() if line.startswith("| ")}
    assert widths == {9}


def test_what_trained_nothing_trained_no_parameter(tmp_path: Path) -> None:
    make_run(tmp_path, "zero_shot/a", trainable=1_500_000, trained={"selection": "none"})
    make_run(tmp_path, "trained/a", trainable=1_500_000, trained={"selection": "last"})
    page = to_results_page(compare(find_runs([tmp_path])), "tvr compare x", date(2026, 11, 27))
    assert page.count("| 0 of 1,500,000 |") == page.count("| 1,500,000 of 1,500,000 |") == 1


@pytest.mark.parametrize("form", ["markdown", "csv", "latex"])
def test_out_writes_the_file_whole(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "runs/a/a")
    out = tmp_path / "results"
    assert main(["compare", str(tmp_path / "runs"), "--format", form, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert main(["compare", str(tmp_path / "runs"), "--format", form]) == 0
    printed, written = capsys.readouterr().out, out.read_text()
    assert printed == written if form != "markdown" else printed in written and f"--out {out}" in written


@pytest.mark.parametrize(
    "options", [["--out", "x"], ["--plot", "bits", "--out", "x"], ["--format", "csv", "--out", "no/x"]]
)
def test_out_that_cannot_be_is_refused(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path, "runs/a/a")
    assert main(["compare", *options]) != 0
    assert "--out takes the text of" in (error := capsys.readouterr().err) or "cannot write no/x" in error
    assert not Path("x").exists()
