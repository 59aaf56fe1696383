"""Groups of seeds, blocks, marks, differences from a baseline, and the four formats."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
import torch

from tvr_lightning.commands.main import main
from tvr_lightning.data.stores.files import write_json
from tvr_lightning.errors import ConfigError, RunError
from tvr_lightning.report.comparison import Comparison, compare, runs_with_baseline
from tvr_lightning.report.formats import to_csv, to_latex, to_markdown, to_table
from tvr_lightning.report.groups import Group, group_runs
from tvr_lightning.report.reported import Reported
from tvr_lightning.report.text import lines_of
from tvr_lightning.run.results import find_runs, read_run, result_table

from .finished_runs import BAD, GOOD, VIDEOS, make_run


def rows_of(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Every line's cells by name and column."""
    return {
        line.name: dict(zip((c.key for c in comparison.columns), line.cells, strict=True)) | {"notes": line.notes}
        for block in comparison.blocks
        for row in block.rows
        for line in lines_of(row, block, comparison)
    }


def names(groups: Sequence[Group]) -> list[list[str]]:
    return [[run.path.name for run in group.runs] for group in groups]


def test_runs_that_differ_in_their_seed_alone_are_one_row(tmp_path: Path) -> None:
    for seed, hits in enumerate(([1] * 40, [1] * 20 + [0] * 20, [1] * 30 + [0] * 10)):
        make_run(tmp_path, f"a/s{seed}", seed, hits)
    make_run(tmp_path, "a/t0", 0)  # a seed again
    make_run(tmp_path, "a/u1", 1, settings={"lr": 0.2})
    make_run(tmp_path, "b/s1", 1)
    runs = find_runs([tmp_path])
    groups = group_runs(runs)
    assert names(groups) == [["s0", "s1", "s2"], ["t0"], ["u1"], ["s1"]]
    row = rows_of(compare(runs))["a x3"]
    assert row["t2v/R@1"].value == "75.0"
    assert row["t2v/R@1"].below[0] == f"±{stdev([100, 50, 75]):.1f}"
    assert row["notes"] == ("runs s0, s1, s2",)
    # the interval is of the mean over seeds: of the hits' mean per video, drawn in an obvious loop
    mean_hit = torch.tensor([1.0] * 20 + [2 / 3] * 10 + [1 / 3] * 10, dtype=torch.float64)
    drawn = torch.randint(VIDEOS, (1000, VIDEOS), generator=torch.Generator().manual_seed(0))
    means = torch.tensor([float(mean_hit[sample].mean()) for sample in drawn], dtype=torch.float64) * 100
    expected = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert groups[0].interval("t2v/R@1") == pytest.approx(expected)


def test_the_order_in_which_runs_are_named_changes_nothing(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"a/s{seed}", seed) for seed in (2, 0, 1)]
    one, other = (group_runs(find_runs(order)) for order in (runs, runs[::-1]))
    assert [run.content["seed"] for run in one[0].runs] == [run.content["seed"] for run in other[0].runs] == [0, 1, 2]


def test_a_group_without_ranks_has_no_interval(tmp_path: Path) -> None:
    for seed in (0, 1):
        (make_run(tmp_path, f"a/s{seed}", seed) / "ranks.parquet").unlink()
    (group,) = group_runs(find_runs([tmp_path]))
    assert group.interval("t2v/R@1") is None


def test_runs_without_configuration_stay_alone(tmp_path: Path) -> None:
    for seed in (0, 1):
        (make_run(tmp_path, f"a/s{seed}", seed) / "config.yaml").unlink()
    assert len(group_runs(find_runs([tmp_path]))) == 2


def test_other_test_sets_are_other_tables(tmp_path: Path) -> None:
    make_run(tmp_path, "a/one")
    make_run(tmp_path, "a/two", hits=BAD)
    make_run(tmp_path, "b/other", split="7k")
    make_run(tmp_path, "c/fewer", data={"left_out": 0, "subset": None, "videos": 39, "captions": 40})
    make_run(tmp_path, "d/part", hits=[1] * 20, data={"left_out": 0, "subset": 20, "videos": 20, "captions": 20})
    comparison = compare(find_runs([tmp_path]))
    assert [b.title for b in comparison.blocks] == [
        "shapes 9k, test: 40 captions x 40 videos",
        "shapes 7k, test: 40 captions x 40 videos",
        "shapes 9k, test: 40 captions x 39 videos",
    ]
    assert [len(b.ranked) for b in comparison.blocks] == [2, 1, 1]
    assert [e.group.name for e in comparison.blocks[0].apart] == ["d/part"]
    assert [bool(b.best) for b in comparison.blocks] == [True, False, False]


def test_runs_that_are_not_plain_are_never_best_nor_compared(tmp_path: Path) -> None:
    make_run(tmp_path, "a/base", hits=BAD)
    make_run(tmp_path, "b/plain", hits=GOOD)
    make_run(tmp_path, "c/tested", hits=[1] * 40, selected_on_test=True)
    leaky = {f"test/leaky/{d}/R@1": 99.0 for d in ("t2v", "v2t")}
    make_run(tmp_path, "d/leak", hits=[1] * 40, metrics=leaky, intervals={})
    comparison = compare(find_runs([tmp_path]), baseline="a")
    (block,) = comparison.blocks
    assert [e.group.name for e in block.ranked] == ["a/base", "b/plain"]
    assert [e.notes for e in block.apart] == [("selected on test",), ("leaky",)]
    rows = rows_of(comparison)
    assert {name: row["t2v/R@1"].value for name, row in rows.items()} == {
        "a/base": "25.0", "b/plain": "75.0▲", "c/tested": "100.0", "d/leak": "99.0",
    }  # fmt: skip
    assert [name for name, row in rows.items() if row["t2v/R@1"].best] == ["b/plain"]
    assert [name for name, row in rows.items() if row["t2v/MdR"].best] == ["a/base", "b/plain"]
    with pytest.raises(RunError, match="'c' cannot be the baseline, because its figures are marked: selected on test"):
        compare(find_runs([tmp_path]), baseline="c")


def test_what_chance_reaches_is_not_the_best_of_a_probe(tmp_path: Path) -> None:
    for name, order, size in (("a", 25.0, math.nan), ("b", 24.0, 40.0), ("c", 12.0, 30.0)):
        folder = make_run(tmp_path, f"{name}/one")
        content = json.loads((folder / "metrics.json").read_text())
        content["metrics"] |= {"test/probe/order": order, "test/probe/size": size}
        (folder / "metrics.json").write_text(json.dumps(content))
    comparison = compare(find_runs([tmp_path]))
    assert comparison.blocks[0].best.items() >= {"probe/size": 40.0}.items()
    assert "probe/order" not in comparison.blocks[0].best
    assert "probes: minimal pairs told apart; chance is 25 %" in to_markdown(comparison)


def test_the_legend_says_where_one_seed_was_compared(tmp_path: Path) -> None:
    make_run(tmp_path, "a/one", seed=0)
    make_run(tmp_path, "a/two", seed=1)
    make_run(tmp_path, "b/one", seed=0, hits=BAD)
    make_run(tmp_path, "b/two", seed=1, hits=BAD)
    of_one = "for rows with one seed, the test does not cover the choice of seed"
    assert of_one not in to_markdown(compare(find_runs([tmp_path]), baseline="a"))
    make_run(tmp_path, "c/one", seed=0, hits=BAD)
    assert of_one in to_markdown(compare(find_runs([tmp_path]), baseline="a"))


def test_difference_from_the_baseline_against_an_obvious_loop(tmp_path: Path) -> None:
    """Two seeds against three: videos are resampled for both alike, the seeds of each by themselves."""
    base = [GOOD, [1] * 26 + [0] * 14, [1] * 34 + [0] * 6]
    other = [[0] * 5 + [1] * 33 + [0] * 2, [1] * 40]
    for seed, hits in enumerate(base):
        make_run(tmp_path, f"base/s{seed}", seed, hits)
    for seed, hits in enumerate(other):
        make_run(tmp_path, f"other/s{seed}", seed, hits)
    comparison = compare(find_runs([tmp_path]), baseline="base")
    entry = comparison.blocks[0].ranked[1]
    a, b = (torch.tensor(runs, dtype=torch.float64) for runs in (other, base))
    gain = a.mean(0) - b.mean(0)
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(4000):
        videos, *runs = (torch.randint(n, (n,), generator=generator) for n in (VIDEOS, len(a), len(b)))
        samples.append(100 * float(a[runs[0]][:, videos].mean() - b[runs[1]][:, videos].mean()))
    low, high = torch.tensor(samples, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    found = entry.differences["t2v/R@1"]
    assert found.difference == pytest.approx(100 * float(gain.mean()))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1.0)
    assert found.significant == (low > 0 or high < 0)
    assert entry.differences["SumR"].difference == pytest.approx(2 * found.difference)


def test_marks_point_up_down_or_are_missing(tmp_path: Path) -> None:
    make_run(tmp_path, "a/base", hits=[1, 0] * 20)
    make_run(tmp_path, "b/better", hits=[1] * 40)
    make_run(tmp_path, "c/worse", hits=[0] * 40)
    make_run(tmp_path, "d/same", hits=[0, 1] * 20)
    rows = rows_of(compare(find_runs([tmp_path]), baseline="base", full=True))
    assert [rows[n]["t2v/R@1"].value for n in rows] == ["50.0", "100.0▲", "0.0▼", "50.0"]
    assert rows["a/base"]["notes"] == ("baseline",)
    assert rows["d/same"]["notes"][0].startswith("Δ t2v/R@1 +0.0 [-")


def test_a_baseline_over_other_queries_is_not_compared(tmp_path: Path) -> None:
    make_run(tmp_path, "a/base")
    make_run(tmp_path, "b/other", prefix="clip")
    make_run(tmp_path, "c/split", split="7k")
    (make_run(tmp_path, "d/bare") / "ranks.parquet").unlink()
    rows = rows_of(compare(find_runs([tmp_path]), baseline="a/base"))
    assert rows["b/other"]["notes"] == ("not compared: different queries from the baseline's",)
    assert rows["c/split"]["notes"] == ("not compared: a different test set from the baseline's",)
    assert rows["d/bare"]["notes"][0].startswith("not compared:")
    assert "has no ranks.parquet" in rows["d/bare"]["notes"][0]


def test_naming_the_baseline(tmp_path: Path) -> None:
    make_run(tmp_path, "a/one")
    make_run(tmp_path, "a/two", settings={"lr": 0.3})
    make_run(tmp_path, "b/run")
    runs = find_runs([tmp_path / "b"])
    assert [r.path.name for r in runs_with_baseline([tmp_path / "b"], tmp_path, "a/one")] == ["run", "one"]
    assert [r.path.name for r in runs_with_baseline([tmp_path / "b"], tmp_path, "b")] == ["run"]
    assert compare(runs, baseline=str(tmp_path / "b" / "run")).baseline == "b/run"
    with pytest.raises(RunError, match="no run or experiment 'a' among those compared"):
        compare(runs, baseline="a")
    with pytest.raises(RunError, match="'a' means 2 rows: a/one, a/two; name one run"):
        compare(find_runs([tmp_path]), baseline="a")


def test_chosen_columns(tmp_path: Path) -> None:
    run = make_run(tmp_path, "a/one")
    content = json.loads((run / "metrics.json").read_text())
    content["metrics"] |= {"test/hash/t2v/mAP": 0.21234, "test/n_queries_without_relevant": 3.0}
    write_json(run / "metrics.json", content)
    make_run(tmp_path, "b/two")
    runs = find_runs([tmp_path])
    rows = rows_of(compare(runs, metrics=["hash/t2v/mAP", "t2v/MnR"]))
    assert list(rows["a/one"])[:2] == ["hash/t2v/mAP", "t2v/MnR"]
    assert [rows[n]["hash/t2v/mAP"].value for n in rows] == ["0.212", "-"]
    assert next(c.key for c in compare(runs, full=True).columns if c.sign == 0) == "n_queries_without_relevant"
    with pytest.raises(ConfigError, match="no run has 't2v/R@2'; did you mean"):
        compare(runs, metrics=["t2v/R@2"])


def test_a_papers_figure_stands_below_with_the_difference(tmp_path: Path) -> None:
    make_run(tmp_path, "a/one")
    paper = Reported(
        "CLIP4Clip", "CLIP4Clip", {"lr": 0.1}, "shapes", None, "tiny", "P (2020), Table 1", "as told", "odd",
        {"t2v/R@1": 80.0},
    )  # fmt: skip
    comparison = compare(find_runs([tmp_path]), reported=[paper])
    row = rows_of(comparison)["reported: CLIP4Clip"]
    assert (row["t2v/R@1"].value, row["t2v/R@1"].below) == ("80.0", ("-5.0",))
    assert row["v2t/R@1"].value == ""
    assert row["notes"] == ("P (2020), Table 1", "caution: odd")
    assert not compare(find_runs([tmp_path]), reported=[]).blocks[0].ranked[0].reported
    assert "80.0 $-$5.0" in to_latex(comparison).replace(r"{\scriptsize ", "").replace("}", "")


def test_training_videos_left_out_are_noted(tmp_path: Path) -> None:
    splits = [{"split": "train", "missing": 2, "undecodable": 1}, {"split": "test", "missing": 0, "undecodable": 0}]
    make_run(tmp_path, "a/one", data={"left_out": 0, "subset": None, "videos": 40, "captions": 40, "splits": splits})
    assert rows_of(compare(find_runs([tmp_path])))["a/one"]["notes"] == ("3 train videos left out",)


def test_csv_gives_back_every_figure(tmp_path: Path) -> None:
    make_run(tmp_path, "a/s0", 0, [1] * 13 + [0] * 27)
    make_run(tmp_path, "a/s1", 1, [1] * 7 + [0] * 33)
    make_run(tmp_path, "b/x, y", selected_on_test=True)
    make_run(tmp_path, "c/z", hits=GOOD)
    runs = find_runs([tmp_path])
    rows = list(csv.DictReader(io.StringIO(to_csv(compare(runs, baseline="a")))))
    assert sorted(r["path"] for r in rows) == sorted(str(r.path) for r in runs)
    by_run = {row["run"]: row for row in rows}
    for run in runs:
        row = by_run[run.path.name]
        for name, value in run.content["metrics"].items():
            assert float(row[name.removeprefix("test/")]) == value
        low, high = run.content["intervals"]["test/t2v/R@1"]
        assert (float(row["t2v/R@1 low"]), float(row["t2v/R@1 high"])) == (low, high)
    assert by_run["s1"]["group"] == "a x2"
    assert (by_run["x, y"]["ranked"], by_run["x, y"]["marks"]) == ("False", "selected on test")
    assert float(by_run["z"]["difference t2v/R@1"]) == pytest.approx(50.0)
    assert by_run["z"]["significant t2v/R@1"] == "True"
    assert by_run["x, y"]["difference t2v/R@1"] == ""


def test_latex_and_markdown_escape(tmp_path: Path) -> None:
    make_run(tmp_path, "a_b/50%&co|1")
    make_run(tmp_path, "c/other", hits=BAD)
    comparison = compare(find_runs([tmp_path]))
    latex = to_latex(comparison)
    assert r"a\_b/50\%\&co$|$1 & 0 & \textbf{75.0} {\scriptsize {[}64.5, 85.2]}" in latex
    body = [line for line in latex.splitlines() if line.endswith(r" \\") and "&" in line]
    assert {line.replace(r"\&", "").count("&") for line in body} == {len(comparison.columns) + 1}
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
    markdown = to_markdown(comparison)
    assert r"| a\_b/50%&co\|1 | 0 | **75.0** [64.5, 85.2] |" in markdown
    table = [line.replace(r"\|", "") for line in markdown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {len(comparison.columns) + 4}


@pytest.mark.parametrize("kind", ["markdown", "latex", "csv"])
def test_formats_are_plain_text(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "a/one")
    assert main(["compare", str(tmp_path), "--format", kind, "--metrics", "t2v/R@1, SumR"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "one" in out
    assert not any(line != line.rstrip() and not line.endswith("  ") for line in out.splitlines())


def test_the_short_table_fits_160_columns(tmp_path: Path) -> None:
    from rich.console import Console

    probes = {f"test/probe/{name}": 100.0 for name in ("order", "binding", "motion", "count")}
    for seed in range(3):
        folder = make_run(tmp_path, f"clip4clip_msrvtt/20261121-043827-s{seed}", seed, GOOD if seed else BAD)
        content = json.loads((folder / "metrics.json").read_text())
        content["metrics"] |= probes
        write_json(folder / "metrics.json", content)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(to_table(compare(find_runs([tmp_path]))))
    out = console.export_text()
    for shown in ("clip4clip_msrvtt x3", "±28.9", "params", "1.5", "binding", "n=3"):
        assert shown in out


def test_table_names_what_stands_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "exp/plain")
    make_run(tmp_path, "exp/tested", selected_on_test=True)
    small = {"left_out": 3, "subset": 20, "videos": 8, "captions": 8}
    make_run(tmp_path, "exp/small", data=small)
    assert main(["compare", str(tmp_path / "exp" / "plain"), str(tmp_path / "exp" / "tested")]) == 0
    out = capsys.readouterr().out
    plain, apart = out.split("not ranked, see the notes:")
    assert "exp/plain" in plain
    assert "exp/tested" in apart
    assert "selected on test" in apart
    assert "small" not in out
    assert main(["compare", str(tmp_path), "--baseline", "exp/plain", "--full"]) == 0
    assert "3 videos left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "message"), [("exp/plan", "did you mean"), ("empty", "holds no finished run"), ("broken", "is damaged")]
)
def test_compare_names_what_is_wrong(
    tmp_path: Path, path: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, "exp/plain")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.json").write_text("{")
    assert main(["compare", str(tmp_path / path), "--runs_dir", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_without_a_file_of_reported_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, "runs/a/one")
    monkeypatch.chdir(tmp_path)
    assert main(["compare"]) == 0
    assert "a/one" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("broken", "called", "code"), [("1", ["0", "1"], 3), ("none", ["0", "1", "2"], 0)])
def test_make_train_runs_seeds_one_after_the_other(tmp_path: Path, broken: str, called: list[str], code: int) -> None:
    """With a stand-in for `tvr` that writes its arguments down and fails for one seed."""
    log, script = tmp_path / "log", tmp_path / "tvr"
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\ncase "$*" in *everything={broken}*) exit 3;; esac\n')
    script.chmod(0o755)
    words = ["EXP=clip4clip_msrvtt", "SEEDS=0,1,2", "ARGS=--runs_dir=elsewhere", f"BIN={tmp_path}"]
    done = subprocess.run(
        ["make", "-o", ".venv/.ready", "train", *words],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    lines = log.read_text().splitlines()
    fits = [line for line in lines if line.startswith("fit ")]
    assert [line.split("--seed_everything=")[1].split()[0] for line in fits] == called
    if code:
        assert f"Error {code}" in done.stderr
        assert lines == fits
    else:
        assert done.returncode == 0
        run_ids = [line.split("--run_id=")[1] for line in fits]
        assert lines[-1] == "compare " + " ".join(f"elsewhere/clip4clip_msrvtt/{name}" for name in run_ids)
        assert [name.rpartition("-")[2] for name in run_ids] == ["s0", "s1", "s2"]


def test_captions_augmented_without_synonyms_are_noted(tmp_path: Path) -> None:
    make_run(tmp_path, "with/a", trained={"without_synonyms": False})
    folder = make_run(tmp_path, "without/a", trained={"without_synonyms": True})
    rows = rows_of(compare(find_runs([tmp_path])))
    assert rows["without/a"]["notes"] == ("captions were augmented without synonyms: no WordNet",)
    assert rows["with/a"]["notes"] == ()
    assert "without synonyms" in str(result_table(json.loads((folder / "metrics.json").read_text())).caption)


def test_seeds_of_which_one_has_no_number(tmp_path: Path) -> None:
    """NaN stands where there was nothing to count."""
    for seed in range(2):
        folder = make_run(tmp_path, f"foo/{seed}", seed)
        content = json.loads((folder / "metrics.json").read_text())
        content["metrics"]["test/SumR"] = float("nan") if seed else 450.0
        (folder / "metrics.json").write_text(json.dumps(content))
    mean, spread = Group(tuple(read_run(tmp_path / f"foo/{seed}") for seed in range(2))).summary("SumR") or (0, 0)
    assert (str(mean), str(spread)) == ("nan", "nan")


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("kept/ghan_shap", "kept/ghan_shapes"),
        ("kept/ghan_shap/*", "kept/ghan_shapes"),
        ("kept/ghan_shapes/s1", "kept/ghan_shapes/s0"),
    ],
)
def test_a_folder_that_is_not_there_is_answered_with_what_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str, near: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("kept"), "ghan_shapes/s0")
    assert main(["compare", path]) == 1
    assert f"no run folder {path}; did you mean {near}?" in capsys.readouterr().err
