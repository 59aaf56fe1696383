"""The papers' figures against the papers' own texts, digit by digit, and against the grids that ablate the same.

A table's text is read here once more, by nothing but its printed layout: every row that it has stands in
`experiments/reported`, and no row stands there that it has not.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.objects import class_of
from tvr_lightning.methods.ghan import GHAN
from tvr_lightning.methods.lean import LEAN
from tvr_lightning.methods.sptch import SPTCH
from tvr_lightning.methods.tc_mgc import TCMGC
from tvr_lightning.report.reported import load_reported, reported_for
from tvr_lightning.run.ablation import read_grid
from tvr_lightning.run.results import Run

from ..kinds import first_fast

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "experiments" / "reported"
PAPERS = ROOT.parent / "shared" / "papers"
FIGURE = re.compile(r"\d+(\.\d+)?|[-–]")
NO_FIGURE = re.compile(r"<[^>]*>|‡|\$|\([-+][\d.]+%?\)?")  # markup, differences to a baseline
Figures = dict[str, float]


def columns(*names: str, directions: Sequence[str] = ("t2v", "v2t"), last: str = "") -> list[str]:
    """Printed columns in their order; those without a name are read and dropped."""
    each = [f"{direction}/{name}" if name else "" for direction in directions for name in names]
    return [*each, *[""] * bool(last)]


RECALLS = ("R@1", "R@5", "R@10")
FULL = columns(*RECALLS, "MdR", "MnR", "", last="SumR")
SUMMED = columns(*RECALLS, "", last="SumR")
MEDIANS = columns(*RECALLS, "MdR")


@dataclass(frozen=True)
class Printed:
    """Where a table stands in a paper's text, and what its columns are.

    Attributes:
        sign: occurs in this paper's text alone.
        file: of ours, without `.yaml`; several that share a beginning.
        table: its number.
        begin, end: the first line after which, and before which, its rows stand.
        columns: of a row, or of each part of a row.
        parts: names of a row's parts; each is a row of its own.
        labels: whether the names of its rows are legible.
        encoders: whether a line above the rows, or in them, names their encoder.
        unit: what a printed figure is multiplied by.
    """

    sign: str
    file: str
    table: str
    begin: str
    end: str
    columns: Sequence[str]
    parts: Sequence[str] = ("",)
    labels: bool = True
    encoders: bool = False
    unit: float = 1.0


TC, GH, LE, SP = "TC-MGC (ours)", "GHAN(ours)", "LEAN (Ours)", "SPTCH-Cont"
KEPT = columns(*RECALLS, "", "", directions=("t2v",))
TABLES = [
    Printed(TC, "tc_mgc", "1a", r"Retrieval results on MSR-VTT", r"\(a\) Trai", FULL, encoders=True),
    Printed(TC, "tc_mgc", "1b", r"\(a\) Trai", r"\(b\) Training on Training-9K", FULL, encoders=True),
    Printed(TC, "tc_mgc", "2", r"Retrieval results on DiDeMo", "^Table 3", FULL, encoders=True),
    Printed(TC, "tc_mgc", "3", "^Table 3", "^alignment is useful", FULL, encoders=True),
    Printed(TC, "tc_mgc", "4", "^Ablation study of text-cond", "^the baseline, with", SUMMED, labels=False),
    Printed(TC, "tc_mgc", "5", "two variants of .* the video-word", "^Table 6", KEPT, ("removal", "fusion")),
    Printed(TC, "tc_mgc", "6", "^Table 6", "^Table 7", KEPT, ("removal", "fusion")),
    Printed(TC, "tc_mgc", "7a", "^Table 7$", r"^\(a\) Similarity", KEPT, ("removal", "fusion")),
    Printed(TC, "tc_mgc", "7b", r"^\(a\) Similarity", r"^\(b\) Similarity", KEPT, ("removal", "fusion")),
    Printed(TC, "tc_mgc", "8", "between four variants", "^is consistent with", KEPT, labels=False),
    Printed(TC, "tc_mgc", "10", "^Table 10", "^contrasts. The overall", SUMMED, labels=False, encoders=True),
    Printed(TC, "tc_mgc", "11", "^Table 11", "^Table 12", SUMMED, labels=False, encoders=True),
    Printed(TC, "tc_mgc", "12", "^Table 12", "^Table 13", SUMMED),
    Printed(TC, "tc_mgc", "13", "^Table 13", "^encoder consistently", SUMMED),
    Printed(GH, "ghan", "1", "^In this layer, we define", "^Table 1:", MEDIANS),
    Printed(GH, "ghan", "2", "^In the Matching Layer", "^Table 2:", MEDIANS),
    Printed(GH, "ghan", "3", "^Table 2:", "^Table 3:", MEDIANS),
    Printed(GH, "ghan", "4", "^The baseline we use", "^Table 4:", columns(*RECALLS, "MdR", directions=("t2v",))),
    Printed(GH, "ghan", "5", "^Table 4:", "^Table 5:", columns(*RECALLS, "MdR", directions=("t2v",))),
    Printed(LE, "lean", "1", "Dataset Method", "^Table 1:", columns(*RECALLS, "", "MdR", "MnR")),
    Printed(LE, "lean", "2", "^ Variants R@1", "^Table 2:", columns(*RECALLS, "", "MdR", "MnR")),
    Printed(SP, "sptch", "1", "^Table 1:", "^This section then", ["v2t32", "v2t64", "t2v32", "t2v64"], unit=100),
]  # fmt: skip


def text_of(sign: str) -> str:
    if not PAPERS.is_dir():
        pytest.skip("the papers' texts are not here")
    (text,) = (t for file in PAPERS.glob("*.txt") if sign in (t := file.read_text(encoding="utf-8")))
    return text


def plain(name: str) -> str:
    """A row's name without references, remarks, case and signs, with the mark of what was trained once more."""
    bare = re.sub(r"[(\[][^)\]]*[)\]]", "", name)
    return "".join(c for c in bare.lower() if c.isalnum()) + "†" * ("†" in name)


def rows_in(text: str, table: Printed) -> Iterator[tuple[str, str | None, Figures]]:
    """Name, encoder and figures of a printed table's rows."""
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if re.search(table.begin, line))
    end = next(i for i, line in enumerate(lines) if i > begin and re.search(table.end, line))
    encoder = None
    for line in lines[begin + 1 : end]:
        if table.encoders and (named := re.search(r"ViT-B/(32|16)", line)):
            encoder = f"ViT-B-{named[1]}"
        bare = NO_FIGURE.sub("", line).strip()
        # two lines of a table that were read as one: the last figure of a cell is this line's
        cells = [(cell.split() or [""])[-1] for cell in bare.split("\t")] if "\t" in bare else bare.split()
        count = len(table.columns) * len(table.parts)
        figures = cells[-count:]
        if len(cells) < count or not all(FIGURE.fullmatch(cell) for cell in figures) or all(c in "-–" for c in figures):
            continue
        label = bare.split("\t")[0] if "\t" in bare else " ".join(cells[:-count])
        label = re.sub("^(MSR-VTT|MSVD) ", "", label)
        for i, part in enumerate(table.parts):
            values = figures[i * len(table.columns) : (i + 1) * len(table.columns)]
            name = label if label == "baseline" else f"{label} {part}"
            pairs = zip(table.columns, values, strict=True)
            yield name, encoder, {c: round(float(v) * table.unit, 2) for c, v in pairs if c and v not in "-–"}


def rows_of(table: Printed) -> Iterator[tuple[str, str | None, Figures]]:
    """The same of our files."""
    for path in sorted(FIGURES.glob(f"{table.file}*.yaml")):
        shared = yaml.safe_load(path.read_text(encoding="utf-8"))
        for own in shared.pop("tables"):
            ours = shared | own
            if ours["table"] != table.table:
                continue
            for name, row in ours["rows"].items():
                figures = row["figures"] if isinstance(row, dict) else row
                yield (
                    str(name),
                    ours["encoder"],
                    {c: f for c, f in zip(ours["columns"], figures, strict=True) if f is not None},
                )


@pytest.mark.parametrize("table", TABLES, ids=lambda t: f"{t.file} {t.table}")
def test_a_table_is_as_its_paper_prints_it(table: Printed) -> None:
    printed, ours = list(rows_in(text_of(table.sign), table)), list(rows_of(table))
    if table.file == "sptch":  # one printed row is one of ours for each code length
        printed = [
            (name, encoder, {f"hash/{d}/mAP": figures[f"{d}{bits}"] for d in ("t2v", "v2t")})
            for name, encoder, figures in printed
            for bits in (32, 64)
        ]

    def same(one: tuple[str, str | None, Figures], own: tuple[str, str | None, Figures]) -> bool:
        named = not table.labels or plain(one[0]) in plain(own[0])
        return one[2] == own[2] and named and (not table.encoders or one[1] == own[1])

    assert len(printed) >= 3
    for row in printed:
        assert any(same(row, own) for own in ours), f"printed, but not ours: {row}"
    for own in ours:
        assert any(same(row, own) for row in printed), f"ours, but not printed: {own}"


def test_what_is_read_from_pictures_is_in_the_text() -> None:
    text = text_of(TC)
    figures = [e for e in load_reported(FIGURES) if "Fig." in e.source]
    assert len(figures) > 10
    for entry in figures:
        assert re.search(rf"\b{entry.metrics['SumR']:.1f}\b", text), entry


def points(cls: type, folder: str) -> Iterator[Mapping[str, Any]]:
    """The settings that a class gets at every point of its grids, on top of its own."""
    own = {
        k: list(v.default) if isinstance(v.default, tuple) else v.default for k, v in signature(cls).parameters.items()
    }
    for file in sorted((ROOT / "experiments" / "ablations" / folder).glob("*.yaml")):
        parameters = yaml.safe_load(file.read_text(encoding="utf-8"))["parameters"]
        axes = {k.removeprefix("model."): v.get("values", [v.get("value")]) for k, v in parameters.items()}
        for values in itertools.product(*axes.values()):
            yield own | dict(zip(axes, values, strict=True))


PRINTED = {  # the rows that a grid's runs see, on the paper's own data; the others see none
    "ghan/graphs": {
        "graph-ho_1graph": "GHAN, Ho-1Graph", "graph-ho_2graph": "GHAN", "graph-he_1graph": "GHAN, He-1Graph",
        "graph-he_2graph": "GHAN, He-2Graph",
    },
    "ghan/layers": {
        "layers-baseline": "GHAN, baseline", "layers-no_inter": "GHAN, w/o inter", "layers-no_intra": "GHAN, w/o intra",
        "layers-full": "GHAN",
    },
    "ghan/readout": {"readout-softmax": "GHAN"},
    "ghan/refine_over": {"refine_over-tokens": "GHAN"},
    "ghan/share_graphs": {"share_graphs-false": "GHAN"},
    "ghan/steps": {"steps-1": "GHAN"},
    "sptch/variants": {
        f"variant-{variant}_code_length-{bits}": f"SPTCH-{bits}, SPTCH-{variant.capitalize()}"
        if variant != "full"
        else f"SPTCH-{bits}"
        for variant in ("full", "cont", "sim", "bin", "s1", "b1", "b2")
        for bits in (32, 64)
    },
    "sptch/code_length": {f"code_length-{bits}": f"SPTCH-{bits}" for bits in (32, 64)},
    "sptch/graph_weights": {"neighbour_weight-0.2_quantisation_weight-0.2": "SPTCH-64"},
    "sptch/hash_weights": {"code_weight-1.0_similarity_weight-1.0": "SPTCH-64"},
}  # fmt: skip


@pytest.mark.parametrize("grid", first_fast(PRINTED))
def test_a_run_of_a_grid_sees_its_printed_row(grid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GHAN's grids with the paper's experiment as their base, SPTCH's as they are."""
    monkeypatch.chdir(ROOT)
    base = "experiments/ghan_msrvtt.yaml" if grid.startswith("ghan/") else None
    entries, seen = load_reported(FIGURES), {}
    for point in read_grid(ROOT / "experiments" / "ablations" / f"{grid}.yaml", base):
        folder = tmp_path / point.name
        folder.mkdir()
        config = read_arguments(point.words)[0]
        (folder / "config.yaml").write_text(yaml.safe_dump({"model": whole(config["model"])}))
        content = {
            "method": grid.partition("/")[0].upper(), "dataset": "MSR-VTT", "v2t": "sets", "partial": False,
            "split": config["data"]["annotations"]["init_args"]["protocol"], "data": {"left_out": 0, "subset": None},
            "encoder": " + ".join(
                str(part["init_args"]["model"])
                for part in config["model"]["init_args"].values()
                if isinstance(part, dict) and "class_path" in part
            ),
        }  # fmt: skip
        rows = reported_for([Run(folder, content)], entries)
        assert len(rows) <= 1
        if rows:
            seen[point.name] = rows[0].name
    assert seen == PRINTED[grid]


def whole(model: dict[str, Any]) -> dict[str, Any]:
    """A part with its class's defaults, as a run's configuration has them."""
    known = signature(class_of(model)).parameters  # type: ignore[arg-type]
    defaults = {k: v.default for k, v in known.items() if isinstance(v.default, bool | int | float | str)}
    return {**model, "init_args": defaults | model["init_args"]}


@pytest.mark.parametrize("cls", [GHAN, LEAN, SPTCH, TCMGC])
def test_every_ablation_is_a_point_of_a_grid(cls: type) -> None:
    """What the text says of figures may take settings of a grid's command line besides: docs/ablations.md."""
    name = {TCMGC: "TC-MGC"}.get(cls, cls.__name__)
    entries = [e for e in load_reported(FIGURES) if e.method == name]
    known = list(points(cls, name.lower().replace("-", "_")))
    assert len(entries) > 5
    for entry in entries:
        assert entry.settings.keys() <= signature(cls).parameters.keys(), entry
        if "Fig." not in entry.source:
            assert any(entry.settings.items() <= point.items() for point in known), (entry.source, entry.name)
