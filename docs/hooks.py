"""What `make docs` adds to the pages: marked code, tables from experiments and papers' figures, pages kept elsewhere.

The pages read on a code host without any of it. mkdocs calls the functions named `on_...`; tests read the rest.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

    from tvr_lightning.config.catalogue import Entry

DOCS = Path(__file__).parent
ROOT = DOCS.parent
ELSEWHERE = {"CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}  # pages that lie above docs/
OURS = ("tvr", "make")
SHELL = (*OURS, "docker", "pip", "uv", "wandb", "python", "python3", "source", "git", "apt", "cd", "export", "srun",
         "torchrun", "#!/bin/bash", "#!/bin/sh", "WANDB_MODE=offline", "podman", "singularity", "apptainer", "sbatch",
         "mkdir", "ls", "curl", "ssh", "TVR_")  # fmt: skip
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
MARKER = re.compile(r"^<!-- (experiments|reported): ([\w, -]+) -->$", re.MULTILINE)
COLUMNS = ("t2v/R@1", "t2v/R@5", "t2v/R@10", "t2v/MdR", "t2v/MnR", "v2t/R@1", "v2t/R@5", "v2t/R@10",
           "v2t/MdR", "v2t/MnR", "SumR", "hash/t2v/mAP", "hash/v2t/mAP")  # fmt: skip


def blocks(text: str) -> Iterator[tuple[int, int, str, str]]:
    """The code blocks of a page, fenced or indented.

    Yields:
        The numbers of the first line and of the line behind the last, the language, and the code.
    """
    lines = text.split("\n")
    at, above, in_paragraph = 0, "", False
    while at < len(lines):
        line = lines[at]
        if fence := re.match(r"( *)(```+)(\w*)", line):
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == fence[2])
            code = "\n".join(row.removeprefix(fence[1]) for row in lines[at + 1 : end])
            yield at, end + 1, fence[3] or language_of(code), code
            at, above, in_paragraph = end + 1, "", False
        elif line.startswith("    ") and not in_paragraph and not re.match(r"[-*] |\d+\. |\s", above):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            while not lines[end - 1].strip():
                end -= 1
            code = "\n".join(row[4:] for row in lines[at:end])
            yield at, end, language_of(code), code
            at, in_paragraph = end, False
        else:
            above, in_paragraph = (line if line.strip() else above), bool(line.strip())
            at += 1


def language_of(code: str) -> str:
    """What an unmarked block holds: `sh`, `python`, `pycon`, `json`, `yaml` or `text`."""
    rows = [row for row in code.split("\n") if row.strip()]
    first = next((row.split()[0] for row in rows if not row.startswith("# ")), "")
    if any(row.startswith(">>> ") for row in rows):
        return "pycon"
    if first.startswith(SHELL):
        return "sh"
    if first.startswith(("{", "[")):
        try:
            json.loads(code)
        except ValueError:
            return "text"
        return "json"
    if _is_python(code):
        return "python"
    return "yaml" if all(re.match(r"\s*(#|- |[\w.\"']+:( |$)|[\]}])", row) for row in rows) else "text"


def _is_python(code: str) -> bool:
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return bool(re.match(r"(from \w[\w.]* import|import \w+|class \w+|def \w+)", code))  # damaged, the tests say so
    kinds = (ast.Call, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) for node in ast.walk(tree))


def rewritten(text: str, page: str) -> str:
    """A page as mkdocs shall see it: indented code gets its language, links out of docs/ become pages or text.

    Args:
        text: Markdown.
        page: the page's path below docs/, or, of a page kept elsewhere, `../NAME`.
    """
    lines = text.split("\n")
    for first, end, language, code in reversed(list(blocks(text))):
        if not lines[first].lstrip().startswith("```"):
            lines[first:end] = [f"```{language}", *code.split("\n"), "```"]
    folder = (DOCS / page).resolve().parent
    shown = DOCS if folder == ROOT else folder  # where the site has the page

    def link(match: re.Match[str]) -> str:
        title, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        place = (folder / target).resolve()
        if place.parent == ROOT and place.name in ELSEWHERE:
            place = DOCS / ELSEWHERE[place.name]
        elif place == ROOT / "README.md":
            place, anchor = DOCS / "index.md", ""
        elif place.suffix == ".ipynb":
            place = place.with_suffix(".md")
        if not place.is_relative_to(DOCS):
            return title
        return f"[{title}]({_relative(place, shown)}{anchor})"

    return MARKER.sub(lambda m: "\n".join(TABLES[m[1]](m[2].split(", "))), LINK.sub(link, "\n".join(lines)))


def _relative(place: Path, folder: Path) -> str:
    up = 0
    while not place.is_relative_to(folder):
        folder, up = folder.parent, up + 1
    return "../" * up + place.relative_to(folder).as_posix()


@functools.cache
def _catalogue() -> list[Entry]:
    from tvr_lightning.config.catalogue import list_experiments
    from tvr_lightning.config.compose import known_experiments

    return list_experiments(known_experiments())


def _experiments(methods: list[str]) -> Iterator[str]:
    yield "| experiment | dataset | what it reproduces |"
    yield "|---|---|---|"
    for entry in _catalogue():
        if entry.method in methods:
            yield f"| `{entry.name}` | {entry.dataset} | {entry.reproduces} |"


def _reported(methods: list[str]) -> Iterator[str]:
    from tvr_lightning.report.reported import load_reported

    wanted = {_plain(name) for name in methods}
    entries = [e for e in load_reported() if _plain(e.method) in wanted and ", " not in e.name]  # no ablations
    names = [name for name in COLUMNS if any(name in e.metrics for e in entries)]
    yield '<div class="figures" markdown>\n'
    yield f"| row | data | encoder | {' | '.join(names)} | source |"
    yield "|---|---|---|" + "---:|" * len(names) + "---|"
    for e in entries:
        cells = [f"{e.metrics[name]:.1f}" if name in e.metrics else "" for name in names]
        data = f"{e.dataset} {e.split or ''}".strip()
        yield f"| {e.name} | {data} | {e.encoder or ''} | {' | '.join(cells)} | {e.source} |"
    yield "\n</div>"
    for caution in dict.fromkeys(e.caution for e in entries if e.caution):
        yield f"\nCaution: {caution}."


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


TABLES = {"experiments": _experiments, "reported": _reported}


def notebook_page(text: str) -> str:
    """A notebook's cells as Markdown, without what they gave."""
    cells = json.loads(text)["cells"]
    parts = [
        ("{}" if cell["cell_type"] == "markdown" else "```python\n{}\n```").format("".join(cell["source"]).strip())
        for cell in cells
        if "".join(cell["source"]).strip() and cell["cell_type"] in ("markdown", "code")
    ]
    return "\n\n".join(parts) + "\n"


def notebooks() -> dict[str, Path]:
    """The notebooks, by the pages that they become."""
    return {f"notebooks/{file.stem}.md": file for file in sorted((DOCS / "notebooks").glob("*.ipynb"))}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts notebooks, where there are any, behind the start."""
    if (found := list(notebooks())) and config.nav:
        config.nav.insert(1, {"Notebooks": found})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are kept elsewhere, and those of notebooks."""
    from mkdocs.structure.files import File

    for page, place in notebooks().items():
        text = rewritten(notebook_page(place.read_text(encoding="utf-8")), page)
        files.append(File.generated(config, page, content=text))
    for name, page in ELSEWHERE.items():
        text = rewritten((ROOT / name).read_text(encoding="utf-8"), f"../{name}")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites each page for the site."""
    if page.file.generated_by:
        return markdown
    return rewritten(markdown, page.file.src_uri)
