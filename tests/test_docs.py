"""What README, docs and docstrings name exists: files, experiments, settings, modules and the names in them.

Read are link targets, words between backticks and, in blocks of commands, paths and experiments. The reader's own names
are those of `is_placeholder`. `docs/log.md` and the changelog tell of what was, and are not read.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pytorch_lightning import Trainer

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tvr_lightning"
PAGES = sorted(f for f in (ROOT / "docs").rglob("*.md") if "katex" not in f.parts)
DOCS = [ROOT / "README.md", *(f for f in PAGES if f.name != "log.md")]
FOLDERS = ("tvr_lightning", "experiments", "docs", "tests", "benchmarks", "docker", "specs")
OURS = (".py", ".md")  # endings of files that are ours even without a folder; others may be a run's or a user's
OTHERS = (".json", ".npz", ".npy", ".csv", ".png", ".ckpt", ".yaml", ".parquet", ".txt", ".exc", ".noun", ".pkl")
DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?:\(\))?")

SOURCES = sorted(PACKAGE.rglob("*.py"))


def members_of(node: ast.ClassDef) -> set[str]:
    """Methods, fields and attributes of a class."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef):
            found.add(inner.name)
        elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            found.add(inner.target.id)
        elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
            found.add(inner.attr)
    return found


def names_in(tree: ast.Module) -> set[str]:
    """What a module defines or imports."""
    found = {alias.asname or alias.name for node in ast.walk(tree)
             if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}  # fmt: skip
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.add(node.name)
        else:
            found |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return found


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


class Known:
    """What the suite's sources define, import and say."""

    def __init__(self) -> None:
        trees = {f: ast.parse(f.read_text()) for f in SOURCES}
        nodes = [node for tree in trees.values() for node in ast.walk(tree)]
        self.modules = {module_of(file): names_in(tree) for file, tree in trees.items()}
        self.classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        imported = {a.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for a in node.names}
        imported |= {str(node.module).split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
        self.libraries = imported - {PACKAGE.name}
        self.keys = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        self.words = {getattr(node, key, None) for node in nodes for key in ("id", "attr", "name", "asname")}
        self.words |= set(dir(builtins))
        self.settings = {arg.arg for node in functions for arg in (*node.args.args, *node.args.kwonlyargs)}
        self.settings |= {name for node in self.classes.values() for name in members_of(node)}
        self.settings |= {"init_args", "class_path"}


@cache
def own_files() -> list[Path]:
    """Files of the project itself: not those of environments, runs and data beside them."""
    return [*(p for p in ROOT.iterdir() if p.is_file()), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*"))]


@cache
def known() -> Known:
    """Read by the first test that asks: a worker that runs none of them need not."""
    return Known()


def is_placeholder(word: str) -> bool:
    """Whether a word stands for the reader's own: `x`, `NAME`, `foo...`, `my...`, `<name>`, `$NAME`, `...`."""
    parts = re.split(r"[./=]", word)
    return (
        any(p in ("x", "X", "NAME", "METHOD") or re.search("(^|_)(foo|my)", p) or set(p) & set("<>{}$") for p in parts)
        or "..." in word
    )


def in_module(name: str) -> bool:
    """Whether `tvr_lightning.a.b`, `tvr_lightning.a.b.Name` or `tvr_lightning.a.b.Name.member` exists."""
    module, _, last = name.rpartition(".")
    if name in known().modules or last in known().modules.get(module, ()):
        return True
    module, _, owner = module.rpartition(".")
    return owner in known().modules.get(module, ()) and owner in known().classes and has_member(owner, last)


def has_member(owner: str, name: str) -> bool:
    node = known().classes[owner]
    bases = {n.id for base in node.bases for n in ast.walk(base) if isinstance(n, ast.Name)} & known().classes.keys()
    return name in members_of(node) or any(has_member(base, name) for base in bases)


def in_library(name: str) -> bool:
    value: object = importlib.import_module(name.split(".")[0])
    for i, part in enumerate(parts := name.split(".")):
        if i and not hasattr(value, part):
            try:
                value = importlib.import_module(".".join(parts[: i + 1]))
            except ModuleNotFoundError:
                return False
        elif i:
            value = getattr(value, part)
    return True


def is_setting(name: str) -> bool:
    """Whether each part of `data.batch_size` after the first is a parameter of something that is configured."""
    first, *parts = name.split(".")
    names = set(inspect.signature(Trainer).parameters) if first == "trainer" else known().settings
    return first in ("data", "model", "trainer") and names.issuperset(parts)


def dotted_exists(name: str) -> bool:
    """Whether a dotted name exists, or is a key in some table, or starts with what we do not know: a local variable."""
    first, rest = name.split(".", 1)
    if first in known().classes:
        return has_member(first, rest)
    if first in known().libraries:
        return in_library(name)
    if rest in known().keys:
        return True
    full = [name] if first == PACKAGE.name else [f"{PACKAGE.name}.{name}"]
    full += [f"{module}.{rest}" for module in known().modules if module.endswith(f".{first}")]  # `scenes.BACKGROUNDS`
    ours = len(full) > 1 or first in (PACKAGE.name, "model", "trainer") or rest.rpartition(".")[2][0].isupper()
    return not ours or any(map(in_module, full)) or is_setting(name)


def missing(word: str, command: bool = False) -> Iterator[str]:
    """What a word names and is not there; in a command only paths and experiments are read."""
    word = word.strip("()[]\"',:;").removesuffix(".")
    if word.startswith("EXP="):
        word = f"experiments/{word.removeprefix('EXP=')}.yaml"
    if is_placeholder(word):
        return
    if "/" in word and word.split("/")[0] in FOLDERS:
        if not list(ROOT.glob(word.split("::")[0])):
            yield f"no file {word}"
    elif command:
        return
    elif word.startswith("--") and word[2:].split(".")[0] in ("data", "model", "trainer"):
        if not is_setting(word[2:].split("=")[0]):
            yield f"no setting {word}"
    elif word.endswith(OURS):
        if not any(path.match(word) for path in own_files()):
            yield f"no file {word}"
    elif DOTTED.fullmatch(word) and not word.endswith(OTHERS) and not dotted_exists(word.removesuffix("()")):
        yield f"no name {word}"


def missing_in(text: str) -> list[str]:
    """What the words between backticks name and is not there, and those that are capitalised alone."""
    spans = re.findall(r"`([^`\n]+)`", text)
    classes = [span for span in spans if re.fullmatch(r"[A-Z]\w*[a-z]\w*", span) and not is_placeholder(span)]
    return [m for span in spans for word in span.split() for m in missing(word)] + [
        f"no class {name}" for name in classes if name not in known().words
    ]


@pytest.mark.parametrize("file", DOCS, ids=lambda f: str(f.relative_to(ROOT)))
def test_what_docs_name_exists(file: Path) -> None:
    text = file.read_text()
    blocks = re.findall(r"^```.*?^```", text, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found = missing_in(prose)
    found += [m for block in blocks for word in block.split() for m in missing(word, command=True)]
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in target]
    found += [f"no link target {target}" for target in targets if not (file.parent / target).exists()]
    assert found == []


@pytest.mark.parametrize("file", SOURCES, ids=module_of)
def test_what_docstrings_and_comments_name_exists(file: Path) -> None:
    kinds, text = (ast.Module, ast.ClassDef, ast.FunctionDef), file.read_text()
    texts = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    texts += [token.string for token in tokens if token.type == tokenize.COMMENT]
    found = [m for part in texts for m in missing_in(part)]
    # maps name places without backticks: `-> nn.temporal.TemporalLSTM`
    bare = re.sub(r"`[^`\n]*`|>>>.*", "", "\n".join(texts))
    found += [m for word in re.findall(r"(?<![\w./])[a-z_]\w*(?:[./]\w+)+", bare) for m in missing(word)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`tvr_lightning/nowhere.py`", ["no file tvr_lightning/nowhere.py"]),
        ("`tvr_lightning/methods/foo.py` and `experiments/x.yaml`", []),  # the reader's own
        ("`python benchmarks/nowhere.py --data.batch_sise=8`",
         ["no file benchmarks/nowhere.py", "no setting --data.batch_sise=8"]),
        ("`make train EXP=lean_msrvtt`, `make train EXP=lean_nowhere`", ["no file experiments/lean_nowhere.yaml"]),
        ("`nn.lean.hypergraph.LEANConv`, `nn.hypergraph.LEANConv`", ["no name nn.hypergraph.LEANConv"]),
        ("`tvr_lightning.load_experiment`, `tvr_lightning.load_nothing`", ["no name tvr_lightning.load_nothing"]),
        ("`TCMGC.score`, `TCMGC._similarities`", ["no name TCMGC._similarities"]),
        ("`scenes.BACKGROUNDS`, `shapes_scenes.BACKGROUNDS`", ["no name shapes_scenes.BACKGROUNDS"]),
        ("`torch.nn.Linear`, `torch.nn.Curved`", ["no name torch.nn.Curved"]),
        ("`trainer.max_epochs`, `model.encoder.nowhere`", ["no name model.encoder.nowhere"]),
        ("`RetrievalModule`, `RetrievalModel`", ["no class RetrievalModel"]),
        ("`losses.py`", ["no file losses.py"]),
        ("`metrics.json`, `pose.visible`, `a.b`, `dsl/...`", []),
    ],
)  # fmt: skip
def test_what_is_gone_is_found(text: str, found: list[str]) -> None:
    assert missing_in(text) == found
