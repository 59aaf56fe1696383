"""The page of figures on shapes and README.md's table, of what the repository keeps of runs.

The page has a section a table, and one for the parts of each method. A section is written anew where all runs are kept
that it shows; otherwise it stays as it is, so that no figure is lost with the machine that made it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from plan import CRITERION, PROTOCOL, Row, Run, best_validation

from tvr_lightning.commands.tables import compare_paths
from tvr_lightning.data.stores.files import write_text
from tvr_lightning.errors import TVRError, few
from tvr_lightning.names import METRICS
from tvr_lightning.report.formats import to_markdown
from tvr_lightning.report.results_page import TITLE_OF_COSTS, to_section
from tvr_lightning.visible import say

README = Path("README.md")
BEGIN, END = "<!-- benchmarks/figures/protocol.py writes this table -->\n", "<!-- end of the table -->\n"
SHORT, DROPPED = "t2v/R@1,v2t/R@1,SumR,probe/order,probe/size", ("mem GiB", "params M", "notes")
TITLES = {"retrieval": "Retrieval", "hashing": "Hashing"}
MISSING = "What is not trained"
OWN_SETTINGS = "At the experiment's own settings: the rest of the grid is not trained, or its runs are not kept"
HEAD = """\
# Results

`{command}` wrote this page from the results of runs; nothing in it is typed by hand. `{results}` keeps what it reads of
them. Sections "of runs that the repository did not keep yet" show earlier runs of another machine, and stay until those
runs are repeated. The same seed gives other figures on another machine: compare rows within a section, not across.
Their bold figures may lie at chance, which is 25 % in probes. Minutes were measured with two runs at a time on two
cores, many beside other work: they say little about what a method costs.

"""


def write_results(protocol: Mapping[str, Any], rows: Sequence[Row], results: Path, file: Path) -> None:
    """Writes the page and, where its section of retrieval is new, README.md's table.

    Args:
        protocol: what `protocol.yaml` says.
        rows: of all tables.
        results: where runs are kept.
        file: of the page.

    Raises:
        TVRError: no run is kept, or a file cannot be written; nothing is written then.
    """
    check_pages(file)  # both are written or neither
    written = _sections(protocol, rows)
    if not written:
        raise TVRError(f"no run of the protocol is kept in {results}; {file} stays as it is")
    kept = {f"{path.parents[1].name}/{path.parent.name}" for path in results.glob(f"*/*/{METRICS}")}
    standing = _split(_read(file)) if file.is_file() else {}
    for title, text in standing.items():
        if title in written and (lost := _runs(text) - kept):
            say(f"the section {title!r} stays as it is: it shows runs that are not kept, {few(sorted(lost))}")
            del written[title]
    _write_page(rows, results, file, standing | written)
    if TITLES["retrieval"] not in written:
        say(f"the table of {README} stays as it is")
    elif lost := _rows_of_table(_around_table(README)[1]) - _rows_of_kept(kept):
        say(f"the table of {README} stays as it is: it shows runs that are not kept, {few(sorted(lost))}")
    else:
        write_short_table(rows, README)


def check_pages(file: Path) -> None:
    """Looks whether a page and README.md's table can be written.

    Raises:
        TVRError: README.md has no place for the table, the page has no folder or is one, or a file is not UTF-8.
    """
    _around_table(README)
    if file.is_dir() or not file.parent.is_dir():
        raise TVRError(f"{file} {'is a folder' if file.is_dir() else 'would lie in a folder that is not there'}")
    if file.is_file():
        _read(file)


def _sections(protocol: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, str]:
    """By title: a section a table, and the parts of each method against the whole."""
    sections, today = {}, date.today()
    for table, title in TITLES.items():
        own = [row for row in rows if row.table == table]
        folders = [run.kept for row in own for run in chosen_runs(row)]
        if folders:
            baseline = protocol["baselines"][table]
            known = any(folder.parent.name == baseline for folder in folders)
            comparison = compare_paths(folders, Path(), baseline if known else None)
            sections[title] = to_section(title, comparison, today, _notes(own))
    for row in rows:
        point = row.chosen() or 0
        whole, parts = row.grid[point], [run for run in row.parts[point] if run.finished]
        if parts and whole.finished:
            comparison = compare_paths([whole.kept, *(run.kept for run in parts)], Path(), str(whole.kept))
            untrained = [run.point for run in row.parts[point] if run not in parts]
            notes = [f"Not trained: {', '.join(untrained)}."] if untrained else []
            notes += [f"{OWN_SETTINGS}."] if row.chosen() is None else []
            sections[_of_parts(row)] = to_section(_of_parts(row), comparison, today, notes)
    return sections


def _of_parts(row: Row) -> str:
    return f"Without parts of {row.name}"


def _notes(rows: Sequence[Row]) -> list[str]:
    """What the validation split chose in a table, what of it nobody has trained yet, and what sets rows apart."""
    begun = [row for row in rows if chosen_runs(row)]
    seeds = {row.name: (len(chosen_runs(row)), 1 + len(row.seeds[row.chosen() or 0])) for row in begun}
    missing = {
        "Not trained": [row.name for row in rows if row not in begun],
        OWN_SETTINGS: [row.name for row in begun if row.chosen() is None],
        "Fewer seeds than the protocol has": [
            f"{name} ({some} of {all_})" for name, (some, all_) in seeds.items() if some < all_
        ],
    }
    return [
        *(line for row in rows if (line := chosen_line(row))),
        *(f"{what}: {', '.join(names)}." for what, names in missing.items() if names),
        *(f"{row.name}: {row.note}." for row in begun if row.note),
    ]


def _write_page(rows: Sequence[Row], results: Path, file: Path, sections: Mapping[str, str]) -> None:
    order = [*TITLES.values(), *map(_of_parts, rows)]
    titles = [*(title for title in order if title in sections), *(title for title in sections if title not in order)]
    text = HEAD.format(command=f"python benchmarks/figures/protocol.py --page {file}", results=results)
    text += "\n".join(sections[title] for title in titles)
    if without := [row.name for row in rows if row.parts[0] and _of_parts(row) not in sections]:
        text += f"\n## {MISSING}\n\nWithout parts: {', '.join(without)}. `{PROTOCOL.name}` has them.\n"
    write_text(file, text)
    say(f"wrote {file}")


def _split(page: str) -> dict[str, str]:
    """The sections of a page by their titles, but for what says what is missing."""
    sections = {}
    for text in re.split(r"^(?=## )", page, flags=re.MULTILINE)[1:]:
        title = text.partition("\n")[0].removeprefix("## ")
        if title != MISSING:
            sections[title] = text.rstrip("\n") + "\n"
    return sections


def _runs(section: str) -> set[str]:
    """The runs that a section was written from, those whose costs it lists: `row/point`."""
    return {name for name in _first_cells(section.partition(f"### {TITLE_OF_COSTS}\n")[2]) if "/" in name}


def _rows_of_table(table: str) -> set[str]:
    """What README.md's table was written from: runs, `row/point`, and rows of several seeds, `row x3`."""
    return {name for name in _first_cells(table) if "/" in name or re.search(r" x\d+$", name)}


def _rows_of_kept(kept: set[str]) -> set[str]:
    """Whatever can be written of runs: each, and of each row any number of seeds up to how many of a point are kept."""
    points = Counter(re.sub(r"s\d+$", "", name) for name in kept if re.search(r"[/-]s\d+$", name))
    several = {f"{point.partition('/')[0]} x{seeds}" for point, n in points.items() for seeds in range(2, n + 1)}
    return kept | several


def _first_cells(table: str) -> list[str]:
    return [cell.replace("\\", "").strip() for cell in re.findall(r"^\|([^|]+)\|", table, flags=re.MULTILINE)]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TVRError(f"{file} is not UTF-8 (byte {error.start}): it was not written here") from None


def _around_table(file: Path) -> tuple[str, str, str]:
    """What stands before the table in a file, the table, and what stands after it."""
    before, begun, rest = (_read(file) if file.is_file() else "").partition(BEGIN)
    table, ended, after = rest.partition(END)
    if not begun or not ended:
        raise TVRError(f"{file} has no place for the table: {BEGIN.strip()} ... {END.strip()}")
    return before, table, after


def write_short_table(rows: Sequence[Row], file: Path) -> None:
    """Writes the table of retrieval between its marks in a file.

    Raises:
        TVRError: the file has no marks.
    """
    before, _, after = _around_table(file)
    folders = [run.kept for row in rows if row.table == "retrieval" for run in chosen_runs(row)]
    lines = to_markdown(compare_paths(folders, Path(), metrics=SHORT)).splitlines()
    cells = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    shown = [i for i, title in enumerate(cells[0]) if title.strip() not in DROPPED]
    table = ["|".join(("", *(row[i] for i in shown), "")) for row in cells]
    write_text(file, "".join((before, BEGIN, "\n", "\n".join(table), "\n\n", END, after)))
    say(f"wrote the table of {file}")


def chosen_runs(row: Row) -> list[Run]:
    """The finished runs of a row's chosen point; of the first where the grid is not finished."""
    point = row.chosen() or 0
    return [run for run in (row.grid[point], *row.seeds[point]) if run.finished]


def chosen_line(row: Row) -> str:
    """What the validation split chose for a row; empty where there was no choice."""
    point = row.chosen()
    if point is None or len(row.grid) == 1:
        return ""
    seen = ", ".join(f"{run.point} {best_validation(run.kept):.1f}" for run in row.grid)
    return f"{row.name}: {row.grid[point].point} by {CRITERION} ({seen})."
