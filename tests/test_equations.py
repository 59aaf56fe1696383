"""Each equation number of a paper stands at the line that computes it, and in the map of its method's file."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tvr_lightning"
MARK = re.compile(r"(?:(?P<paper>LEAN|GHAN|TC-MGC|SPTCH) )?Eq\. (?P<number>\d+)")
ROW = re.compile(r"-> (?P<where>\S+(?:, \S+)*) +(?P<numbers>\d+(?: \d+)*)$", re.MULTILINE)
NOT_COMPUTED = re.compile(r"^not computed: (?P<number>\d+) \([^)]+\)$", re.MULTILINE)
RANGE = re.compile(r"\b(?:Eqs?\.?|[Ee]quations?)\s*\(?\d+\)?\s*(?:-|\N{EN DASH}|to|until)\s*\(?\d+")


class Paper(NamedTuple):
    """A paper with numbered equations: its name in comments of shared files, its method's file, its last number."""

    name: str
    method: str
    last: int


PAPERS = (
    Paper("LEAN", "lean", 20),  # Li et al. 2024: the last is the weighted sum of the losses, Sec. 3.2
    Paper("GHAN", "ghan", 12),  # Yu, Hu, Li 2022: the mean of both directions' losses, Sec. 3.4
    Paper("TC-MGC", "tc_mgc", 37),  # Jing, Yang, Chu 2025: the total loss, Sec. 3.7
    Paper("SPTCH", "sptch", 16),  # ACM MM 2024: the loss of the hashing encoders, Sec. 3.3.3
)
papers = pytest.mark.parametrize("paper", PAPERS, ids=lambda p: p.name)


class Mark(NamedTuple):
    """A number in a comment; `paper` is empty where the comment names none."""

    line: int
    paper: str
    number: int


@functools.cache
def marks(source: str) -> list[Mark]:
    return [
        Mark(token.start[0], match["paper"] or "", int(match["number"]))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
        for match in MARK.finditer(token.string)
    ]


def is_own(file: Path, paper: Paper) -> bool:
    return file == PACKAGE / f"methods/{paper.method}.py" or file.parent == PACKAGE / "nn" / paper.method


def computed_in(file: Path, name: str, paper: Paper) -> set[int]:
    """Numbers at the lines of a file, or of the class of this name; bare ones count in the paper's own files."""
    source = file.read_text()
    first, last = 1, source.count("\n") + 1
    if name:
        nodes = [n for n in ast.parse(source).body if getattr(n, "name", None) == name]
        assert nodes, f"{file.relative_to(ROOT)} has no {name}"
        first, last = nodes[0].lineno, nodes[0].end_lineno
    names = {paper.name, ""} if is_own(file, paper) else {paper.name}
    return {m.number for m in marks(source) if m.paper in names and first <= m.line <= last}


def header(paper: Paper) -> str:
    return ast.get_docstring(ast.parse((PACKAGE / f"methods/{paper.method}.py").read_text())) or ""


def place(where: str, paper: Paper) -> tuple[Path, str]:
    """`nn.lean.hypergraph.LEANConv` or, in the method's own file, `LEAN`: a file and a name in it, or no name."""
    parts = where.split(".")
    if len(parts) == 1:
        return PACKAGE / f"methods/{paper.method}.py", where
    file = PACKAGE.joinpath(*parts).with_suffix(".py")
    if file.is_file():
        return file, ""
    file = PACKAGE.joinpath(*parts[:-1]).with_suffix(".py")
    assert file.is_file(), f"the map of {paper.name} names {where}, which does not exist"
    return file, parts[-1]


@papers
def test_every_equation_is_at_its_line(paper: Paper) -> None:
    found = set().union(*(computed_in(file, "", paper) for file in PACKAGE.rglob("*.py")))
    found |= {int(number) for number in NOT_COMPUTED.findall(header(paper))}
    assert found == set(range(1, paper.last + 1))


@papers
def test_what_the_map_calls_not_computed_is_not(paper: Paper) -> None:
    found = set().union(*(computed_in(file, "", paper) for file in PACKAGE.rglob("*.py")))
    assert not found & {int(number) for number in NOT_COMPUTED.findall(header(paper))}


@papers
def test_the_map_is_true(paper: Paper) -> None:
    rows = [(row["where"].split(", "), {int(n) for n in row["numbers"].split()}) for row in ROW.finditer(header(paper))]
    for where, numbers in rows:
        found = [computed_in(*place(w, paper), paper) & numbers for w in where]
        assert all(found), f"{where}: one has none of {numbers}"
        assert set().union(*found) == numbers, f"{where} lack {numbers - set().union(*found)}"
    listed = set().union(*(numbers for _, numbers in rows))
    assert listed | {int(n) for n in NOT_COMPUTED.findall(header(paper))} == set(range(1, paper.last + 1))


def test_equations_have_a_paper() -> None:
    """A bare number in a file that several methods share would belong to any of them."""
    shared = [f for f in PACKAGE.rglob("*.py") if not any(is_own(f, paper) for paper in PAPERS)]
    assert [(f.name, m.line) for f in shared for m in marks(f.read_text()) if not m.paper] == []


def written() -> list[Path]:
    """All that we write, but the record of what was."""
    folders = (PACKAGE, ROOT / "tests", ROOT / "benchmarks", ROOT / "experiments", ROOT / "docs")
    files = [f for folder in folders for ending in ("py", "yaml", "md") for f in folder.rglob(f"*.{ending}")]
    return [ROOT / "README.md", *(f for f in files if f not in (ROOT / "docs/log.md", Path(__file__)))]


def test_no_range_of_equations() -> None:
    assert [(f.name, m[0]) for f in written() for m in RANGE.finditer(f.read_text())] == []


@pytest.mark.parametrize(
    "text", ["Eqs. 2-11", "Eq. 3-5", "equations (3) to (5)", "Eqs. 2\N{EN DASH}3", "Eqs. 4-16, 19"]
)
def test_ranges_are_seen(text: str) -> None:
    assert RANGE.search(text)


def test_numbers_are_read_from_comments_only() -> None:
    source = '"""Eq. 1"""\nx = 1  # Eq. 2 and, of words, Eq. 3\ny = 2  # LEAN Eq. 17, TC-MGC Eq. 34\n'
    assert marks(source) == [Mark(2, "", 2), Mark(2, "", 3), Mark(3, "LEAN", 17), Mark(3, "TC-MGC", 34)]
