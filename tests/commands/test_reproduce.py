"""`tvr reproduce`: what it refuses, what it says without running anything, and the whole way on generated clips."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.run import ablation, readiness
from tvr_lightning.run.ablation import Point
from tvr_lightning.run.readiness import Readiness

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Words of the runs that would have been started; each fails."""
    words: list[Sequence[str]] = []

    def run(own: Sequence[str]) -> int:
        words.append(own)
        return 3

    monkeypatch.setattr(ablation, "_run", run)
    return words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tc_mcg"], "no figures of a paper 'tc_mcg'; did you mean tc_mgc"),
        (["tc_mgc", "--seeds", "0,x"], "--seeds has 'x', which is not a seed"),
        (["tc_mgc", "--seeds", "1,01"], "has a seed twice"),
        (["tc_mgc", "--seeds", "4294967296"], "from 0 to 4294967295"),
        (["tc_mgc", "--seeds", "9" * 5000], "has '9999"),
        (["ghan", "--only", "ghan_msrvt"], "no row of ghan is made by 'ghan_msrvt'; did you mean ghan_msrvtt"),
        (["ghan", "--out", "docs"], "--out docs is a folder"),
        (["ghan", "--out", "nowhere/page.md"], "lies in none that exists"),
        (["ghan", "--check", "--dry_run"], "leave one out"),
        (["ghan", "--scale", "smoke", "--dry_run"], "give --runs_dir"),
        (["ghan", "--seed_everything=1"], "a reproduction sets this itself"),
        (["ghan", "--model.nope=1"], "nope"),
    ],
)
def test_wrong_calls(
    words: list[str], message: str, started: list[Sequence[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *words]) == 2
    assert message in capsys.readouterr().err
    assert started == []


def test_a_paper_has_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce"])
    assert ended.value.code == 2
    assert "paper" in capsys.readouterr().err


def test_a_dry_run_prints_the_commands(
    tmp_path: Path, started: list[Sequence[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    done, killed = tmp_path / "ghan_msvd" / "seed-0", tmp_path / "ghan_msvd" / "seed-1"
    done.mkdir(parents=True)
    (done / "metrics.json").touch()
    (killed / "checkpoints").mkdir(parents=True)
    (killed / "checkpoints" / "last.ckpt").touch()
    words = ["ghan", "--only", "ghan_msvd, ghan_msrvtt", "--runs_dir", str(tmp_path), "--dry_run"]
    assert main(["reproduce", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("# GHAN")] == [
        "# GHAN, MSR-VTT 9k, ViT-B-32: GHAN (Yu et al. 2022), Table 1",
        "# GHAN, MSVD official, ViT-B-32: GHAN (Yu et al. 2022), Table 3",
    ]
    assert lines[5:] == [
        f"# finished already: {done}",
        f"tvr fit --config experiments/ghan_msvd.yaml --runs_dir={tmp_path} --seed_everything=1 --resume={killed}",
        f"tvr fit --config experiments/ghan_msvd.yaml --runs_dir={tmp_path} --seed_everything=2 --run_id=seed-2",
    ]
    assert started == []


def test_nothing_runs_while_something_is_missing(
    tmp_path: Path, started: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Sequence[Point]] = []

    def check(points: Sequence[Point]) -> Readiness:
        seen.append(points)
        return Readiness(["data: none", "weights: none"], ["disk: enough"])

    monkeypatch.setattr(readiness, "check_ready", check)
    page = tmp_path / "page.md"
    words = ["reproduce", "ghan", "--seeds", "0,4", "--runs_dir", str(tmp_path / "runs"), "--out", str(page)]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert shown.out == "note: disk: enough\n"
    assert shown.err.splitlines() == [
        "missing: data: none", "missing: weights: none",
        "tvr: 2 things are missing for 6 runs of 3 rows, 0 of them finished; nothing was run",
    ]  # fmt: skip
    assert main([*words, "--check"]) == 1
    assert [len(points) for points in seen] == [6, 6]
    assert started == []
    assert list(tmp_path.iterdir()) == []


def test_a_check_stops_before_the_runs(
    tmp_path: Path, started: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(readiness, "check_ready", lambda _: Readiness())
    assert main(["reproduce", "lean", "--runs_dir", str(tmp_path), "--check"]) == 0
    assert capsys.readouterr().out == "reproduce: nothing is missing for 9 runs of 3 rows, 0 of them finished\n"
    assert started == []


def test_runs_that_fail_are_rows_without_a_result(
    tmp_path: Path, started: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(readiness, "check_ready", lambda _: Readiness())
    page = tmp_path / "page.md"
    words = ["ghan", "--only", "ghan_msvd", "--seeds", "0,1", "--runs_dir", str(tmp_path / "runs"), "--out", str(page)]
    assert main(["reproduce", *words]) == 1
    assert [own[-1] for own in started] == ["--run_id=seed-0", "--run_id=seed-1"]
    shown = capsys.readouterr()
    assert "reproduce row 1/1 ghan_msvd: seed-1 failed: exit code 3" in shown.err
    assert "GHAN, MSVD official, ViT-B-32: beyond or outside: no result" in shown.out
    assert "- not one run has a result" in page.read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_way_on_generated_clips(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Checks, two runs, table and page; then a run that was killed before its result goes on, and no other runs."""
    page, runs = tmp_path / "page.md", tmp_path / "runs"
    words = ["reproduce", "ghan", "--only", "ghan_msvd", "--scale", "smoke", "--runs_dir", str(runs)]
    assert main([*words, "--out", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Smoke run of the reproduction of GHAN (Yu et al. 2022)\n\n**GENERATED DATA: ")
    number, verdict = r"-?\d+\.\d", "(within|BEYOND) seed noise"
    ours = rf"{number} \| {number} to {number} \| {number} to {number} \| [+]?{number} \| {verdict}"
    for key, printed in (("t2v/R@1", "64.0"), ("v2t/R@10", "99.8"), ("SumR", "528.5")):
        assert re.search(rf"\| {key} \| {printed} \| {ours} \|", text), text
    assert "- two seeds: they say so little of a third" in text
    out = capfd.readouterr().out
    assert out.count("tvr fit --config") == 2
    assert "GENERATED DATA: " in out

    finished = runs / "ghan_msvd" / "seed-1"
    (finished / "metrics.json").unlink()
    assert (finished / "checkpoints" / "last.ckpt").is_file()
    assert main(words) == 0
    out = capfd.readouterr().out
    assert out.count("finished already") == 1
    assert f"{finished} was started and continues from its last checkpoint" in out
    assert (finished / "metrics.json").is_file()
    assert sorted(p.name for p in runs.iterdir()) == ["generated_data", "ghan_msvd"]
