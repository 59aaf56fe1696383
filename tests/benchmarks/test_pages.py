"""The page of figures and README.md's table: what is written anew and what stays."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tvr_lightning.run.curves import write_curves

from ..report.finished_runs import BAD, make_run
from .protocol_cases import call, make_kept


def test_the_page_holds_chosen_runs_and_parts(
    script: Any, pages: Any, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = page.parent / "kept"
    protocol = yaml.safe_load(script.PROTOCOL.read_text())
    rows = {row.name: row for row in script.rows_of(protocol, Path("runs"), results)}
    mean, drl = rows["clip4clip_meanp_shapes"], rows["drl_shapes"]
    for run, validation in zip((*mean.grid, *drl.grid), (1.0, 2.0, 4.0, 3.0), strict=True):
        folder = make_run(results, f"{run.name}/{run.point}", settings={"point": run.point})
        write_curves(folder / "curves.csv", [{"epoch": 1, "step": 1, "val/SumR": validation}])
    part = drl.parts[0][0]
    make_run(results, f"{part.name}/{part.point}", hits=BAD, settings={"interaction": "dp"})
    make_run(results, "ghan_shapes/lr-0.001-s0")
    assert call(script, monkeypatch, "--page", str(page), "--results", str(results)) == 0
    retrieval, parts = page.read_text().split("## Without parts of drl_shapes")
    table = retrieval.split("## Retrieval")[1].split("### What the runs took")[0]
    assert table.count("| drl") == table.count("| clip4clip") == table.count("| ghan") == 1  # the chosen points alone
    assert f"drl_shapes: {drl.grid[0].point} by val/SumR" in table
    assert f"clip4clip_meanp_shapes: {mean.grid[1].point} by val/SumR" in table
    assert "Not trained: clip4clip_seqlstm_shapes, " in table
    assert "seeds than the protocol has: clip4clip_meanp_shapes (1 of 3), drl_shapes (1 of 3), ghan" in table
    assert "the rest of the grid is not trained, or its runs are not kept: ghan_shapes." in table
    assert f"| drl\\_shapes/{part.point} | 0 | 25.0▼" in parts
    assert "- Not trained: lr-0.001-s0-ti, lr-0.001-s0-no_cdcr." in parts
    assert "Without parts: xpool_shapes, ts2net_shapes, ucofia_shapes, " in parts.split("## What is not trained")[1]
    assert "drl_shapes" not in parts.split("## What is not trained")[1]
    assert capsys.readouterr().out == f"wrote {page}\nwrote the table of {pages.README}\n"
    again = page.read_text()
    assert call(script, monkeypatch, "--page", str(page), "--results", str(results)) == 0
    assert page.read_text() == again


def test_a_section_of_more_runs_than_are_kept_stays(
    script: Any, pages: Any, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, gone = page.parent / "kept", page.parent / "gone"
    for name in ("drl_shapes/lr-0.001-s0", "sptch_shapes_16/s0", "sptch_shapes_16/s0-bin", "ghan_shapes/lr-0.001-s0"):
        make_kept(results, name, settings={"name": name})
    words = ["--page", str(page), "--results", str(results)]
    assert call(script, monkeypatch, *words) == 0
    (results / "drl_shapes").rename(gone)
    make_kept(results, "ghan_shapes/lr-0.001-s1", seed=1, settings={"name": "ghan_shapes/lr-0.001-s0"})
    make_kept(results, "ghan_shapes/lr-0.001-s0-no_inter")
    before, table = page.read_text(), pages.README.read_text()
    capsys.readouterr()
    assert call(script, monkeypatch, *words) == 0
    said = capsys.readouterr().out
    assert "the section 'Retrieval' stays as it is: it shows runs that are not kept, drl_shapes/lr-0.001-s0\n" in said
    assert pages.README.read_text() == table
    after = page.read_text()
    of_retrieval = before[before.index("## Retrieval") : before.index("## Hashing")]
    assert of_retrieval in after
    assert (
        "the rest of the grid is not trained, or its runs are not kept.\n"
        in after.split("## Without parts of ghan_shapes")[1]
    )
    assert call(script, monkeypatch, "--page", str(page.with_name("new.md")), *words[2:]) == 0
    assert (
        f"the table of {pages.README} stays as it is: it shows runs that are not kept, drl" in capsys.readouterr().out
    )
    assert pages.README.read_text() == table  # a page of its own has no section to compare with
    gone.rename(results / "drl_shapes")
    assert call(script, monkeypatch, *words) == 0
    assert "ghan\\_shapes x2" in pages.README.read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--dry_run"], 0, "tvr fit --config=experiments/xclip_shapes.yaml"),
        (["--help"], 0, "train and write nothing"),
        (["--dry_run", "--page", "page.md"], 2, "leave one out"),
        (["--page", "PAGE"], 1, "no run of the protocol is kept in"),
        (["ablations", "--only", "xclip"], 2, "nothing of --only xclip is in ablations"),
        (["--then_page", "nowhere/page.md"], 1, "nowhere/page.md would lie in a folder that is not there"),
        (["nonsense"], 2, "no table nonsense; there are retrieval, hashing, ablations"),
        (["--only", "xklip"], 2, "no row's name begins with xklip (xklip: did you mean xclip?)"),
        (["--jobs", "0"], 2, "argument --jobs: '0' is not a whole number of at least 1"),
        (["--points", "0"], 2, "argument --points: '0' is not a whole number of at least 1"),
        (["--seeds", "0", "5"], 2, "protocol.yaml has no seed 5; there are 0, 1, 2"),
    ],
)  # fmt: skip
def test_what_trains_nothing_leaves_the_pages_as_they_are(
    script: Any, pages: Any, page: Path, words: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(script, "train", lambda run: pytest.fail(f"{run.name} would be trained"))
    own = [str(page) if word == "PAGE" else word for word in words]
    then = [] if "--page" in words else ["--then_page", str(page)]  # as the Makefile calls it
    assert call(script, monkeypatch, *then, "--results", str(page.parent / "kept"), *own) == code
    shown = capsys.readouterr()
    assert said in " ".join((shown.out + shown.err).split())
    assert page.read_text() == "old page"
    assert "old table" in pages.README.read_text()


def test_the_page_follows_the_runs_and_holds_those_of_earlier_calls(
    script: Any, pages: Any, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = page.parent / "kept"
    make_run(results, "sptch_shapes_16/s0")  # of another call
    works = True

    def train(run: Any) -> bool:
        if works and not run.finished:
            make_kept(results, f"{run.name}/{run.point}", settings={"point": run.point})
        return bool(run.finished)

    monkeypatch.setattr(script, "train", train)
    words = ["--then_page", str(page), "retrieval", "--results", str(results), "--seeds", "-1", "--only"]
    assert call(script, monkeypatch, *words, "xclip") == 0
    written = page.read_text()
    assert "| xclip" in written
    assert "| sptch" in written.split("## Hashing")[1]
    assert "old table" not in pages.README.read_text()
    works = False
    assert call(script, monkeypatch, *words, "drl") == 1
    assert page.read_text() == written


def test_without_retrieval_the_table_of_the_readme_stays(
    script: Any, pages: Any, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(page.parent / "kept", "sptch_shapes_16/s0")
    assert call(script, monkeypatch, "--page", str(page), "--results", str(page.parent / "kept")) == 0
    assert "sptch" in page.read_text()
    assert "old table" in pages.README.read_text()


def test_a_figure_that_was_chosen_is_not_replaced_by_another_of_its_row(
    script: Any, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = page.parent / "kept"
    for point, validation in (("lr-0.001-s0", 1.0), ("lr-0.002-s0", 2.0)):
        folder = make_kept(results, f"ucofia_shapes/{point}", settings={"point": point})
        write_curves(folder / "curves.csv", [{"epoch": 1, "step": 1, "val/SumR": validation}])
    words = ["--page", str(page), "--results", str(results)]
    assert call(script, monkeypatch, *words) == 0
    before = page.read_text()
    assert "| ucofia\\_shapes/lr-0.002-s0 |" in before
    shutil.rmtree(results / "ucofia_shapes" / "lr-0.002-s0")
    assert call(script, monkeypatch, *words) == 0
    assert "it shows runs that are not kept, ucofia_shapes/lr-0.002-s0" in capsys.readouterr().out
    assert page.read_text() == before


def test_a_row_that_the_protocol_has_no_longer_freezes_nothing(
    script: Any, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = page.parent / "kept"
    for name in ("xpool_shapes/lr-0.001-s0", "drl_shapes/lr-0.001-s0"):
        make_kept(results, name, settings={"name": name})
    words = ["--page", str(page), "--results", str(results)]
    assert call(script, monkeypatch, *words) == 0
    protocol = yaml.safe_load(script.PROTOCOL.read_text())
    del protocol["retrieval"]["xpool"]
    shorter = page.with_name("protocol.yaml")
    shorter.write_text(yaml.safe_dump(protocol))
    monkeypatch.setattr(script, "PROTOCOL", shorter)
    assert call(script, monkeypatch, *words) == 0
    assert "xpool" not in page.read_text()


@pytest.mark.parametrize("name", ["page.md", "README.md"])
@pytest.mark.parametrize("option", ["--page", "--then_page"])
def test_files_that_are_not_utf_8_are_named_before_anything_is_trained(
    script: Any, page: Path, name: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "train", lambda run: pytest.fail(f"{run.name} would be trained"))
    make_kept(page.parent / "kept", "zero_shot_shapes/s0")
    page.with_name(name).write_bytes(b"# R\xe9sum\xe9\n")
    assert call(script, monkeypatch, option, str(page), "--results", str(page.parent / "kept")) == 1
    assert f"{page.with_name(name)} is not UTF-8 (byte 3)" in capsys.readouterr().err


def test_no_page_is_written_where_the_table_has_no_place(
    script: Any, pages: Any, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(page.parent / "kept", "zero_shot_shapes/s0")
    pages.README.write_text("no marks")
    assert script.main(["--page", str(page), "--results", str(page.parent / "kept")]) == 1
    assert "has no place for the table" in capsys.readouterr().err
    assert page.read_text() == "old page"
