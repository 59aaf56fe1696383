"""The papers' figures: the file itself, what the loader refuses, and which runs a figure belongs to."""

from __future__ import annotations

import copy
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from tvr_lightning.errors import ConfigError
from tvr_lightning.report.reported import Reported, load_reported, reported_for
from tvr_lightning.run.results import Run

FOLDER = Path(__file__).parents[2] / "experiments" / "reported"

TABLE: dict[str, Any] = {
    "paper": "A (2020)",
    "table": "1",
    "dataset": "MSR-VTT",
    "split": "9k",
    "encoder": "ViT-B-32",
    "conditions": "as told",
    "columns": ["t2v/R@1", "t2v/R@5", "t2v/R@10"],
    "rows": {"Foo-Bar†": [1.0, 2.0, None], "Baz": [40.0, 70, 80.5]},
}


METHODS = {"Baz": {"method": "Foo", "settings": {"x": 2, "y": [1], "z": True}}}


def load(tmp_path: Path, **changes: Any) -> list[Reported]:
    table = {k: v for k, v in (copy.deepcopy(TABLE) | changes).items() if v is not ...}
    shared = {"paper": table.pop("paper")} if "paper" in table else {}
    (tmp_path / "methods.yaml").write_text(yaml.safe_dump(METHODS))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(shared | {"tables": [table]}, sort_keys=False))
    return load_reported(tmp_path)


def test_rows_become_entries(tmp_path: Path) -> None:
    foo, baz = load(tmp_path)
    assert (foo.name, foo.method, foo.source) == ("Foo-Bar", "Foo-Bar", "A (2020), Table 1")
    assert foo.conditions == "as told; re-trained by this paper"
    assert foo.metrics == {"t2v/R@1": 1.0, "t2v/R@5": 2.0}
    assert (baz.method, baz.settings, baz.conditions) == ("Foo", METHODS["Baz"]["settings"], "as told")
    assert baz.metrics["t2v/RSum"] == 190.5
    assert "SumR" not in baz.metrics


def test_a_row_that_stands_for_several_splits_is_several_entries(tmp_path: Path) -> None:
    assert [(e.name, e.split) for e in load(tmp_path, split=["9k", "full"], rows={"Baz": [1, 2, 3]})] == [
        ("Baz", "9k"),
        ("Baz", "full"),
    ]


def test_an_ablation_changes_settings_of_what_it_ablates(tmp_path: Path) -> None:
    rows = {"w/o z": {"settings": {"z": False}, "figures": [1, 2, 3]}, "all": [4, 5, 6]}
    without, full = load(tmp_path, table="Fig. 2", ablates="Baz", settings={"x": 3}, any=["y"], rows=rows)
    assert (without.name, without.method, without.source) == ("Baz, w/o z", "Foo", "A (2020), Fig. 2")
    assert (without.settings, full.settings) == ({"x": 3, "z": False}, {"x": 3, "z": True})
    assert full.metrics["t2v/R@1"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datset": "x"}, "unknown key 'datset'; did you mean dataset"),
        ({"encoder": ...}, "table 1: missing encoder"),
        ({"table": 1}, "table is 1; give text, in quotes"),
        ({"split": 9}, "split is 9"),
        ({"rows": {"A": [1.0]}}, "row 'A' does not give one figure for each of 3 columns"),
        ({"rows": {"A": [1.0, "2", 3.0]}}, "'2' is not a number"),
        ({"columns": ["t2v/R@1"] * 3}, "list of different metrics"),
        ({"split": ["9k", 7]}, "split is \\['9k', 7\\]"),
        ({"settings": {"x": 1}}, "settings without `ablates`"),
        ({"ablates": "Bas"}, "ablates 'Bas'; did you mean Baz"),
        ({"ablates": "Baz", "any": ["w"]}, "any is \\['w'\\]; give a list of settings of 'Baz'"),
        ({"ablates": "Baz", "settings": ["x"]}, "settings is \\['x'\\]; give a mapping"),
        ({"rows": {"A": {"settings": {}, "figures": [1, 2, 3]}}}, "row 'A' does not give one figure for each"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, **changes)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"methods.yaml: cannot be read"):
        load_reported(tmp_path)
    load(tmp_path)
    for text, message in (
        ("a: [", "not valid YAML"),
        ("[1]", "are a mapping, found list"),
        ("a: 1", "give `tables`, a list"),
        ("tables: [1]", "table 1: a table is a mapping, found int"),
    ):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ConfigError, match=f"x.yaml: .*{message}"):
            load_reported(tmp_path)


def run_of(folder: Path, similarity: str = "seqTransf", **changes: Any) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"similarity": similarity}}}))
    content: dict[str, Any] = {
        "method": "CLIP4Clip", "encoder": "ViT-B-32", "dataset": "MSR-VTT", "split": "9k", "v2t": "sets",
        "partial": False, "selected_on_test": False, "data": {"left_out": 0, "subset": None},
    }  # fmt: skip
    return Run(folder, content | changes)


def test_a_run_gets_the_figures_of_its_method_data_and_encoder(tmp_path: Path) -> None:
    entries = load_reported(FOLDER)
    found = reported_for([run_of(tmp_path / "a")], entries)
    assert [(e.name, e.source) for e in found] == [("CLIP4Clip-seqTransf", "TC-MGC (Jing et al. 2025), Table 1b")]
    assert found[0].metrics["t2v/R@1"] == 44.5
    (quick,) = reported_for([run_of(tmp_path / "b", "meanP", encoder="ViT-B-32-quickgelu", split="7k")], entries)
    assert (quick.metrics["t2v/R@1"], quick.conditions.endswith("re-trained by this paper")) == (42.9, True)
    own = next(e for e in entries if e.name == "GHAN")
    run = run_of(tmp_path / "d", method="GHAN")
    (run.path / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": dict(own.settings)}}))
    (ghan,) = reported_for([run], entries)
    assert "leak" in ghan.caution
    nothing: list[dict[str, Any]] = [
        {"dataset": "shapes"}, {"split": "full"}, {"encoder": "tiny"}, {"v2t": "captions"}, {"partial": True},
        {"data": {"left_out": 1, "subset": None}}, {"data": {"left_out": 0, "subset": 9}}, {"similarity": "none"},
    ]  # fmt: skip
    for i, changes in enumerate(nothing):
        assert reported_for([run_of(tmp_path / str(i), **changes)], entries) == [], changes


def test_only_the_papers_own_settings_get_its_figures() -> None:
    """An entry names settings that the class has; an ablation of it differs in one of them."""
    from tvr_lightning.methods.clip4clip import CLIP4Clip
    from tvr_lightning.methods.drl import DRL
    from tvr_lightning.methods.ghan import GHAN
    from tvr_lightning.methods.lean import LEAN
    from tvr_lightning.methods.sptch import SPTCH
    from tvr_lightning.methods.tc_mgc import TCMGC
    from tvr_lightning.methods.xclip import XCLIP
    from tvr_lightning.methods.xpool import XPool

    classes: dict[str, type] = {
        "TC-MGC": TCMGC,
        "CLIP4Clip-meanP": CLIP4Clip,
        "GHAN": GHAN,
        "LEAN": LEAN,
        "SPTCH-64": SPTCH,
        "X-CLIP": XCLIP,
        "X-Pool": XPool,
        "DRL": DRL,
    }
    for name, cls in classes.items():
        entry = next(e for e in load_reported(FOLDER) if e.name == name)
        parameters = signature(cls).parameters
        assert entry.settings.keys() <= parameters.keys()
        if cls is not CLIP4Clip:
            for key, value in entry.settings.items():
                default = parameters[key].default
                assert (list(default) if isinstance(default, tuple) else default) == value, key


def test_an_ablation_gets_its_own_figure_and_not_the_full_models(tmp_path: Path) -> None:
    entries = load_reported(FOLDER)
    own = next(e for e in entries if e.name == "TC-MGC")
    for changes, expected in (
        ({}, [("TC-MGC", 47.4)]),
        ({"heads": 2}, [("TC-MGC, 2 heads", 47.4)]),
        ({"residual": False}, [("TC-MGC, w/o residual connection", 44.5)]),
        ({"heads": 2, "residual": False}, []),
    ):
        run = run_of(tmp_path / str(len(changes)), method="TC-MGC")
        (run.path / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {**own.settings, **changes}}}))
        found = reported_for([Run(run.path, run.content)], entries)
        assert [(e.name, e.metrics["t2v/R@1"]) for e in found] == expected


def test_figures_that_several_tables_print_are_shown_once(tmp_path: Path) -> None:
    """Of equal rows the one without a caution stands; a row with further figures is another."""
    run = run_of(tmp_path / "run", method="Foo")
    (run.path / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": METHODS["Baz"]["settings"]}}))
    (doubtful,) = load(tmp_path, caution="who knows", rows={"Baz": [1, 2, 3]})
    (plain,) = load(tmp_path, rows={"Baz": [1, 2, None]})
    (more,) = load(tmp_path, rows={"Baz": [1, 2, 3]})
    assert reported_for([run], [doubtful, more]) == [more]
    assert reported_for([run], [more, plain]) == [more]
    assert reported_for([run], [plain, more]) == [plain, more]


def test_a_run_without_configuration_has_no_settings_to_match(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a")
    (run.path / "config.yaml").unlink()
    assert reported_for([Run(run.path, run.content)], load_reported(FOLDER)) == []


def test_figures_are_plausible() -> None:
    entries = load_reported(FOLDER)
    assert len(entries) > 250
    places = [(e.name, e.dataset, e.split, e.encoder, e.source) for e in entries]
    assert len(set(places)) == len(places)
    for entry in entries:
        assert entry.conditions, entry.name
        for direction in ("t2v", "v2t"):
            recalls = [entry.metrics.get(f"{direction}/R@{k}") for k in (1, 5, 10)]
            known = [r for r in recalls if r is not None]
            assert known == sorted(known), (entry.name, entry.source)
            assert all(0 < r <= 100 for r in known)
            mean, median = (entry.metrics.get(f"{direction}/{n}") for n in ("MnR", "MdR"))
            assert mean is None or median is None or mean >= median


# text -> video, video -> text: R@1 R@5 R@10 MdR MnR, then SumR; from the papers once more
CHECKED = """
TC-MGC | MSR-VTT | 7k | ViT-B-32 | 45.5 71.6 81.4 2.0 14.2 | 44.2 72.2 81.4 2.0 9.1 | 396.3
TC-MGC | MSR-VTT | 7k | ViT-B-16 | 48.7 74.6 83.2 2.0 13.0 | 45.7 75.1 84.3 2.0 8.9 | 411.6
TC-MGC | MSR-VTT | 9k | ViT-B-32 | 47.4 74.8 84.2 2.0 12.8 | 45.9 74.5 83.3 2.0 8.6 | 410.1
TC-MGC | MSR-VTT | 9k | ViT-B-16 | 49.0 75.7 85.4 2.0 13.2 | 46.4 77.1 85.3 2.0 8.8 | 418.9
TC-MGC | DiDeMo | official | ViT-B-32 | 45.7 72.7 81.9 2.0 15.0 | 45.4 73.3 82.9 2.0 10.5 | 401.9
TC-MGC | DiDeMo | official | ViT-B-16 | 48.6 76.2 83.9 2.0 13.4 | 47.7 74.8 83.8 2.0 9.4 | 415.0
TC-MGC | VATEX | HGR, en | ViT-B-32 | 60.0 89.5 94.9 1.0 3.8 | 75.3 97.0 98.6 1.0 1.9 | 515.3
TC-MGC | VATEX | HGR, en | ViT-B-16 | 63.4 91.9 96.3 1.0 3.0 | 77.7 97.9 99.4 1.0 1.5 | 526.6
CLIP4Clip-seqTransf | MSR-VTT | 9k | ViT-B-32 | 44.5 71.4 81.6 2.0 15.3 | 42.7 70.9 80.6 2.0 11.6 | 391.7
LEAN | MSR-VTT | full | vgg16 + bert-base-uncased | 50.6 77.1 85.2 2.0 11.4 | 49.1 78.2 86.7 2.0 7.3 | 426.9
LEAN | MSVD | official | vgg16 + bert-base-uncased | 52.1 81.9 87.0 2.0 7.4 | 71.3 91.7 93.8 1.0 4.1 | 477.8
GHAN | MSR-VTT | 9k | ViT-B-32 | 73.0 99.7 99.9 1 | 74.1 99.2 99.9 1 | 545.8
GHAN | MSR-VTT | 7k3k | ViT-B-32 | 65.6 95.8 98.8 1 | 65.7 96.4 99.0 1 | 521.3
GHAN | MSVD | official | ViT-B-32 | 64.0 99.0 99.0 1 | 67.0 99.7 99.8 1 | 528.5
"""


@pytest.mark.parametrize("line", CHECKED.strip().splitlines())
def test_figures_are_those_of_the_papers(line: str) -> None:
    name, dataset, split, encoder, *figures, total = (cell.strip() for cell in line.split("|"))
    entries = load_reported(FOLDER)
    places = [(e.name, e.dataset, e.split, e.encoder) for e in entries]
    entry = entries[places.index((name, dataset, split, encoder))]
    for direction, cells in zip(("t2v", "v2t"), figures, strict=True):
        names = [f"{direction}/{n}" for n in ("R@1", "R@5", "R@10", "MdR", "MnR")][: len(cells.split())]
        assert [entry.metrics[n] for n in names] == [float(x) for x in cells.split()]
    assert entry.metrics["SumR"] == pytest.approx(float(total))


def test_no_experiment_is_meant() -> None:
    from tvr_lightning.config.compose import experiments_in

    assert "reported" not in experiments_in(FOLDER.parent)


@pytest.mark.parametrize(
    ("name", "dataset", "split", "figure"),
    [("TS2-Net", "DiDeMo", "official", 42.5), ("UCoFiA", "MSR-VTT", "9k", 46.8), ("CenterCLIP", "MSR-VTT", "9k", 44.2)],
)
def test_runs_of_the_methods_over_patches_get_tc_mgcs_figures(
    tmp_path: Path, name: str, dataset: str, split: str, figure: float
) -> None:
    from tvr_lightning.config.compose import compose
    from tvr_lightning.config.objects import class_of

    module = name.replace("-", "").lower()
    method = class_of(compose(FOLDER.parent / "method" / f"{module}.yaml")["model"])
    entries = load_reported(FOLDER)
    entry = next(e for e in entries if e.name == name)
    assert method is not None
    assert (entry.method, entry.settings.keys() <= signature(method).parameters.keys()) == (method.__name__, True)
    run = run_of(tmp_path / "run", method=method.__name__, dataset=dataset, split=split)
    (run.path / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": dict(entry.settings)}}))
    assert [e.metrics["t2v/R@1"] for e in reported_for([run], entries)] == [figure]
