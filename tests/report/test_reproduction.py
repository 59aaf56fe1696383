"""A paper's rows: which experiment makes each, and what is said of their figures."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.report.finished_runs import BAD, GOOD, make_run
from tvr_lightning.errors import ConfigError
from tvr_lightning.report.groups import Group
from tvr_lightning.report.reported import Reported, load_reported
from tvr_lightning.report.reproduction import Target, judge, points_of, reproduced, rounding, targets_of
from tvr_lightning.report.reproduction_page import Reproduction, summary, to_page, to_tables
from tvr_lightning.run.results import Run, read_run

OWN = {
    "tc_mgc": {
        "tc_mgc_msrvtt_7k": 45.5, "tc_mgc_msrvtt_7k_b16": 48.7, "tc_mgc_msrvtt": 47.4, "tc_mgc_msrvtt_b16": 49.0,
        "tc_mgc_didemo": 45.7, "tc_mgc_didemo_b16": 48.6, "tc_mgc_vatex": 60.0, "tc_mgc_vatex_b16": 63.4,
    },
    "lean": {"lean_msrvtt": 50.6, "lean_msrvtt_1ka": 50.6, "lean_msvd": 52.1},
    "ghan": {"ghan_msrvtt": 73.0, "ghan_msrvtt_7k3k": 65.6, "ghan_msvd": 64.0},
}  # fmt: skip


@pytest.mark.parametrize("paper", OWN)
def test_each_row_of_a_paper_s_own_has_its_experiment(paper: str) -> None:
    targets, without = targets_of(paper, load_reported())
    assert without == []
    assert {t.experiment: t.entry.metrics["t2v/R@1"] for t in targets} == OWN[paper]
    assert {t.overrides for t in targets} == {()}


def test_a_row_may_be_another_s_experiment_with_a_setting_changed(tmp_path: Path) -> None:
    targets, _ = targets_of("sptch", load_reported())
    assert [(t.entry.name, t.experiment, t.overrides) for t in targets] == [
        ("SPTCH-32", "sptch_msrvtt", ("--model.code_length=32",)),
        ("SPTCH-64", "sptch_msrvtt", ()),
    ]
    short, whole = (points_of(t, (0, 7), tmp_path) for t in targets)
    assert {p.home for p in short} == {tmp_path / "sptch_msrvtt_32"}
    assert [p.name for p in whole] == ["seed-0", "seed-7"]
    assert whole[1].words[-1] == "--seed_everything=7"
    named = points_of(targets[1], (0,), tmp_path, ("--trainer.devices=4",))
    assert named[0].name.startswith("seed-0_")  # other settings, another run
    assert points_of(targets[1], (0,), tmp_path, ("--tracker=none",))[0].name == "seed-0"


def test_a_baseline_gets_the_rows_that_papers_print_of_it() -> None:
    targets, without = targets_of("clip4clip", load_reported())
    made = {(t.experiment, t.overrides) for t in targets}
    assert len(made) == len(targets)
    assert ("clip4clip_msrvtt", ()) in made
    assert ("clip4clip_msrvtt", ("--model.similarity=meanP",)) in made
    assert without
    assert all(entry.encoder == "ViT-B-16" for entry in without)
    assert all("zero_shot" not in t.experiment for t in targets)


def test_a_paper_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="no figures of a paper 'tcmgc'; did you mean tc_mgc"):
        targets_of("tcmgc", load_reported())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--seed_everything=3", "--seed_everything: a reproduction sets this itself"),
        ("--run_id=x", "--run_id: a reproduction sets this itself"),
        ("--print_config", "is for one run"),
        ("--model.nope=1", "nope"),
    ],
)
def test_settings_that_a_reproduction_sets_itself(word: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        points_of(Target(ENTRY, "tc_mgc_msrvtt"), (0,), tmp_path, (word,))


@pytest.mark.parametrize(
    ("printed", "interval", "further", "verdict"),
    [
        (47.0, (40.0, 50.0), (46.0, 48.0), "within"),
        (48.04, (40.0, 50.0), (46.0, 48.0), "within"),  # rounded
        (48.1, (40.0, 50.0), (46.0, 48.0), "beyond"),  # though inside the interval over videos
        (45.9, None, (46.0, 48.0), "beyond"),
        (49.0, (40.0, 50.0), None, "inside"),
        (51.0, (40.0, 50.0), None, "outside"),
        (51.0, None, None, "not judged"),
        (48.0, (40.0, 50.0), (47.0, 47.0), "not judged"),  # all runs agree
        (float("nan"), (40.0, 50.0), (46.0, 48.0), "not judged"),
        (47.0, (40.0, 50.0), (float("nan"), float("nan")), "not judged"),
    ],
)
def test_verdicts(printed: float, interval: Any, further: Any, verdict: str) -> None:
    assert judge(printed, interval, further, 0.05) == verdict


def test_what_is_printed_is_rounded() -> None:
    assert rounding("t2v/R@1", 45.0) == 0.05
    assert rounding("hash/t2v/mAP", 22.17) == pytest.approx(0.005)
    assert rounding("SumR", 410.1) == pytest.approx(0.3)
    assert rounding("hash/t2v/mAP", 22.1, 22.17) == pytest.approx(0.005)  # printed as 22.10


ENTRY = Reported(
    "Foo", "CLIP4Clip", {"lr": 0.1}, "shapes", "9k", "tiny", "Foo (2020), Table 1", "as told", "who knows",
    {"t2v/R@1": 75.0, "t2v/MdR": 1.0, "v2t/R@1": 20.0, "SumR": 550.0}, "foo", False, ("t2v/R@1", "t2v/MdR", "v2t/R@1"),
)  # fmt: skip
TARGET = Target(ENTRY, "foo_shapes")


def runs_of(root: Path, seeds: int, **changes: Any) -> list[Run]:
    """R@1 of 75 % and next to it."""
    hits = [GOOD, [1] * 31 + [0] * 9, [1] * 29 + [0] * 11]
    return [read_run(make_run(root, f"foo_shapes/{s}", s, hits[s], **changes)) for s in range(seeds)]


def test_figures_of_three_seeds(tmp_path: Path) -> None:
    row = reproduced(TARGET, runs_of(tmp_path, 3), 3)
    assert [(f.key, f.verdict) for f in row.figures] == [
        ("t2v/R@1", "within"), ("t2v/MdR", "not judged"), ("v2t/R@1", "beyond"), ("SumR", "within"),
    ]  # fmt: skip
    first = row.figures[0]
    assert (first.mean, first.difference) == (75.0, 0.0)
    assert first.further is not None
    assert first.further == pytest.approx((75 - 4.3027 * 2.5 * (4 / 3) ** 0.5, 75 + 4.3027 * 2.5 * (4 / 3) ** 0.5))
    assert first.interval is not None
    assert 55 < first.interval[0] < 70 < 80 < first.interval[1] < 95
    assert row.notes == ("caution: who knows",)
    assert summary(row) == "1 of 3: v2t/R@1 +55.0"


def test_one_seed_knows_nothing_of_seeds(tmp_path: Path) -> None:
    row = reproduced(TARGET, runs_of(tmp_path, 1), 3)
    assert [f.verdict for f in row.figures] == ["inside", "not judged", "outside", "inside"]
    assert all(f.further is None for f in row.figures)
    assert row.notes[:2] == (
        "1 of 3 runs have a result",
        "one seed: seed noise is not known, the interval holds the choice of videos alone",
    )
    assert "next to nothing" in reproduced(TARGET, runs_of(tmp_path / "two", 2), 2).notes[0]


def test_figures_that_are_not_plain_are_shown_and_not_judged(tmp_path: Path) -> None:
    marked = reproduced(TARGET, runs_of(tmp_path / "a", 3, selected_on_test=True), 3)
    assert marked.notes[0] == "not judged: selected on test"
    assert {f.verdict for f in marked.figures} == {"not judged"}
    assert summary(marked) == "not judged"
    other = reproduced(TARGET, runs_of(tmp_path / "b", 3, encoder="ViT-B-32"), 3)
    assert "encoder of the runs are not those of the paper's row" in other.notes[0]
    smoke = reproduced(TARGET, runs_of(tmp_path / "c", 3, encoder="ViT-B-32"), 3, smoke=True)
    assert smoke.of("within", "beyond")
    mixed = [*runs_of(tmp_path / "d", 2), read_run(make_run(tmp_path, "foo_shapes/x", 2, BAD, precision="bf16"))]
    assert any("differ in more than their seed" in note for note in reproduced(TARGET, mixed, 3).notes)


def test_ranks_that_were_not_kept_leave_the_range_of_seeds(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, 3)
    (runs[1].path / "ranks.parquet").unlink()
    figure = reproduced(TARGET, runs, 3).figures[0]
    assert (figure.interval, figure.verdict) == (None, "within")


def test_hashing_figures_are_drawn_query_by_query(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, 2)
    for seed, run in enumerate(runs):
        rows = [
            {"metric": "hash/t2v/mAP", "query": f"video{i:02}#0", "video": f"video{i:02}", "value": i + 10.0 * seed}
            for i in range(40)
        ]
        pq.write_table(pa.Table.from_pylist(rows), run.path / "values.parquet")
    low, high = Group(tuple(runs)).interval_over_seeds("hash/t2v/mAP") or (0.0, 0.0)
    assert 10 < low < 20 < 24.5 < 29 < high < 40  # seeds of 19.5 and 29.5 on average
    assert Group(tuple(runs)).interval_over_seeds("hash/v2t/mAP") is None


def test_the_page_says_what_it_is_of(tmp_path: Path) -> None:
    rows = [reproduced(TARGET, runs_of(tmp_path, 3), 3), reproduced(Target(ENTRY, "foo_other"), [], 3)]
    found = Reproduction("Foo (2020)", "tvr reproduce foo", rows, [ENTRY], smoke=False)
    page = to_page(found, date(2026, 1, 2))
    assert page.startswith("# Reproduction of Foo (2020)\n")
    assert "`tvr reproduce foo` wrote this page on 2026-01-02" in page
    assert "| v2t/R@1 | 20.0 | 75.0 |" in page
    assert "| +55.0 | BEYOND seed noise |" in page
    assert "- not one run has a result" in page
    assert "## Rows that no experiment here makes\n\n- Foo, shapes 9k, tiny: Foo (2020), Table 1" in page
    assert page.count("| foo\\_shapes/") == 3  # what the runs took
    assert "GENERATED DATA" not in page
    smoke = to_page(Reproduction("Foo (2020)", "tvr reproduce foo", rows, [], smoke=True), date(2026, 1, 2))
    assert smoke.startswith("# Smoke run of the reproduction of Foo (2020)\n\n**GENERATED DATA: ")
    assert [table.row_count for table in to_tables(found)] == [4, 0]
