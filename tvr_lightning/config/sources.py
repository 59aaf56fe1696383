"""What classes take, read from their source: importing torch takes seconds, and a misspelt key should not wait for it.

Only what is certain counts. Where a source does not tell (decorated or reassigned names, compiled modules), the answer
is None and the full parser decides alone.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Optional, TypeVar, Union, cast

from tvr_lightning.data.stores.files import is_file
from tvr_lightning.errors import nearest

PACKAGE = Path(__file__).parents[1]
PLAIN: dict[str, Any] = {kind.__name__: kind for kind in (int, float, bool, str, list, tuple, dict)}
TYPING: dict[str, Any] = {"Literal": Literal, "Optional": Optional, "Union": Union}
NODES = (ast.Name, ast.Subscript, ast.BinOp, ast.BitOr, ast.UnaryOp, ast.USub, ast.Constant, ast.Tuple, ast.Load)
DYNAMIC = {"globals", "exec", "vars", "setattr", "__getattr__"}  # a module with one of these may have any name
SAME_SIGNATURE = {"_defaults_from_env_vars"}  # Lightning's decorator of the trainer's constructor
NO_PARENT = {"ABC", "Generic", "Protocol"}
AskT = TypeVar("AskT", bound=Callable[..., Any])


def _kept(ask: AskT) -> AskT:
    """Keeps what is certain of the suite's own classes: their sources stay as they are while it runs."""
    kept: dict[Any, Any] = {}

    @wraps(ask)
    def answer(about: str | Slot, *more: Any) -> Any:
        if (about, *more) in kept:
            return kept[about, *more]
        found, module = ask(about, *more), about if isinstance(about, str) else about.module
        if found is not None and module.partition(".")[0] == PACKAGE.name:
            kept[about, *more] = found
        return found

    return cast(AskT, answer)


@dataclass(frozen=True)
class Slot:
    """A parameter of a class.

    Attributes:
        module: where it is defined.
        annotation: the text of its type, empty where there is none.
        group: whether the arguments of the class lie directly in it, without a `class_path`.
        default: the text of its default; None where it has to be given.
        doc: what the docstring says of it.
    """

    module: str
    annotation: str
    group: bool = False
    default: str | None = None
    doc: str = ""

    @_kept
    def plain_type(self) -> Any:
        """The type, where it consists of plain ones and literals alone; else None."""
        try:
            node = ast.parse(self.annotation, mode="eval").body
            if isinstance(node, ast.Constant) and isinstance(node.value, str):  # a type in quotes
                node = ast.parse(node.value, mode="eval").body
            node = _Plain(self.module).visit(node)
        except (_NotPlainError, SyntaxError, RecursionError):  # the last: a name that stands for itself
            return None
        code = compile(ast.fix_missing_locations(ast.Expression(node)), self.annotation, "eval")
        return eval(code, {"__builtins__": {}, **PLAIN, **TYPING})

    def default_value(self) -> Any:
        """The default, where it is a literal or the name of one; else its text, and None where there is none."""
        if self.default is None:
            return None
        try:
            return ast.literal_eval(_constant(self.module, self.default) or self.default)
        except (ValueError, SyntaxError):
            return self.default

    def class_path(self) -> str | None:
        """The class, where the type is one class, or one class or None."""
        names = [part.strip() for part in re.sub(r"^Optional\[(.*)\]$", r"\1", self.annotation).split("|")]
        names = [name for name in names if name != "None"]
        if len(names) != 1 or not re.fullmatch(r"[\w.]+", names[0]):
            return None
        found = _find_class(names[0] if "." in names[0] else f"{self.module}.{names[0]}")
        if found is None or found[0].partition(".")[0] in sys.stdlib_module_names:
            return None
        return f"{found[0]}.{found[1].name}"

    def takes_mappings(self) -> bool:
        """Whether a mapping may be a value of its own here and not the description of an object."""
        return not self.annotation or re.search(r"\b(dict|\w*Mapping|Any|object)\b", self.annotation) is not None

    @_kept
    def fields(self) -> Signature | None:
        """What a mapping here holds, where it is the arguments themselves."""
        path = self.class_path()
        found = _find_class(path) if path else None
        return signature(str(path)) if found and (self.group or _is_dataclass(found[1])) else None


@dataclass(frozen=True)
class Signature:
    """The parameters of a class.

    Attributes:
        slots: by name.
        complete: whether there are no others.
    """

    slots: Mapping[str, Slot]
    complete: bool = True


@_kept
def signature(class_path: str, below: frozenset[str] = frozenset(), /) -> Signature | None:
    """Reads a constructor's parameters, also inherited ones, or a dataclass's fields; None where that is uncertain.

    Args:
        class_path: module and name.
        below: classes that inherit from it, of which none can be its parent.
    """
    found = None if class_path in below else _find_class(class_path)
    if found is None:
        return None
    module, definition = found
    functions = {n.name: n for n in definition.body if isinstance(n, ast.FunctionDef)}
    init, is_data = functions.get("__init__"), _is_dataclass(definition)
    decorated = len(definition.decorator_list) > is_data or bool(init and _decorators(init) - SAME_SIGNATURE)
    if decorated or definition.keywords or "__new__" in functions:
        return None
    parents = [ast.unparse(b).partition("[")[0] for b in definition.bases]
    parents = [p for p in parents if p.rpartition(".")[2] not in NO_PARENT]
    below |= {class_path}
    parent = signature(f"{module}.{parents[0]}", below) if len(parents) == 1 else None
    if init:
        arguments = [*init.args.posonlyargs, *init.args.args][1:] + init.args.kwonlyargs
        types = {a.arg: a.annotation for a in arguments}
        given = _defaults(init.args)
        passed_on = [a.arg for a in (init.args.vararg, init.args.kwarg) if a]
        complete = not passed_on or bool(parent and parent.complete and _only_for_parent(init, passed_on))
        inherited = parent.slots if passed_on and parent else {}
    elif is_data:
        fields = [n for n in definition.body if isinstance(n, ast.AnnAssign)]
        types = {ast.unparse(n.target): n.annotation for n in fields}
        given = {ast.unparse(n.target): _field_default(n.value) for n in fields if n.value is not None}
        complete = not parents or bool(parent and parent.complete)
        inherited = parent.slots if parent else {}
    else:
        return parent
    docs = {**_documented(init), **_documented(definition)}
    own = {
        name: Slot(module, ast.unparse(kind) if kind else "", False, given.get(name), docs.get(name, ""))
        for name, kind in types.items()
    }
    return Signature(MappingProxyType({**inherited, **own}), complete)


def _constant(module: str, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> ast.expr | None:
    """What a name stands for that a module gives a value once, or takes from another that does."""
    if (module, name) in seen:
        return None
    match (_names(module) or {}).get(name):
        case [ast.ImportFrom() as node]:
            return _constant(*_imported(module, node, name), seen | {(module, name)})
        case [ast.expr() as value]:
            return value
    return None


def _defaults(arguments: ast.arguments) -> dict[str, str]:
    """The texts of the defaults, by argument."""
    plain = [*arguments.posonlyargs, *arguments.args]
    last = plain[len(plain) - len(arguments.defaults) :]
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    found = [*zip(last, arguments.defaults, strict=True), *((a, value) for a, value in named if value is not None)]
    return {argument.arg: ast.unparse(value) for argument, value in found}


def _field_default(value: ast.expr) -> str:
    """The text of a dataclass field's default; of one that a function makes, the call."""
    if isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "field":
        given = {k.arg: ast.unparse(k.value) for k in value.keywords}
        return given.get("default") or f"{given.get('default_factory', '')}()"
    return ast.unparse(value)


def _documented(node: ast.ClassDef | ast.FunctionDef | None) -> dict[str, str]:
    """What a docstring says of arguments or attributes, by name, each on one line."""
    found: dict[str, list[str]] = {}
    inside, indent = "", 0
    for line in ((ast.get_docstring(node) if node else None) or "").splitlines():
        depth = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        if not depth:
            inside, indent = line.strip(), 0
        elif inside in ("Args:", "Attributes:"):
            indent = indent or depth
            entry = re.match(r"(\w+)(?: \([^)]*\))?: *(.*)", line.strip()) if depth == indent else None
            if entry:
                found[entry[1]] = [entry[2]]
            elif found and depth > indent:
                found[next(reversed(found))].append(line.strip())
    return {name: " ".join(lines).strip() for name, lines in found.items()}


def declared(class_path: str, name: str) -> Any:
    """The value of a class attribute, its own or inherited, where its source gives a literal; else None."""
    found = _declaration(class_path, name)
    try:
        return None if found is None else ast.literal_eval(found)
    except ValueError:
        return None


def _declaration(class_path: str, name: str, below: frozenset[str] = frozenset()) -> ast.expr | None:
    found = None if class_path in below else _find_class(class_path)
    if found is None:
        return None
    module, definition = found
    for bound, by in _bindings(ast.Module(definition.body, [])):
        if bound == name and isinstance(by, ast.expr):
            return by
    parents = [ast.unparse(b).partition("[")[0] for b in definition.bases]
    below |= {class_path}
    inherited = (_declaration(f"{module}.{p}", name, below) for p in parents if p.rpartition(".")[2] not in NO_PARENT)
    return next((value for value in inherited if value is not None), None)


def why_missing(class_path: str, slot: Slot) -> str | None:
    """Says that a class path cannot be imported, and what is near; None where it may be right."""
    module, _, name = class_path.rpartition(".")
    if not module:
        return None  # a bare name: the parser knows the classes that are imported
    names = _names(module)
    if names is None:
        outer, _, inner = module.rpartition(".")  # a class inside a class
        top = module.partition(".")[0]
        if inner in (_names(outer) or ()) or (top != PACKAGE.name and _exists(top)):
            return None
        parts = (slot.class_path() or "").split(".")
        home = PACKAGE.joinpath(*parts[1:-2]) if parts[0] == PACKAGE.name else PACKAGE
        prefix = ".".join((PACKAGE.name, *home.relative_to(PACKAGE).parts))
        known = [f"{prefix}.{p.stem}" for p in home.glob("[!_]*.py")] + [p.stem for p in Path().glob("[!_]*.py")]
        return f"no module '{module}'; {nearest(module, known)}"
    if name in names or "*" in names:
        return None
    classes = [other for other, bound in names.items() if isinstance(bound[0], ast.ClassDef)]
    return f"no '{name}' in {module}; {nearest(name, classes)}"


def takes_over_names(module: str) -> bool:
    """Whether a module takes all names of another with `from x import *`, and so offers them as its own."""
    return any(isinstance(node, ast.ImportFrom) for node in (_names(module) or {}).get("*", ()))


class _NotPlainError(Exception):
    """A type of which a name is not a plain type."""


class _Plain(ast.NodeTransformer):
    """Replaces aliases by what they stand for."""

    def __init__(self, module: str) -> None:
        self.names = _names(module) or {}
        self.module = module

    def visit(self, node: ast.AST) -> Any:
        if not isinstance(node, NODES):
            raise _NotPlainError
        return super().visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        bound = self.names.get(node.id, [])
        if not bound and node.id in PLAIN:
            return node
        if len(bound) != 1:
            raise _NotPlainError
        if isinstance(bound[0], ast.ImportFrom):
            module, name = _imported(self.module, bound[0], node.id)
            if module in ("typing", "typing_extensions") and name == node.id and name in TYPING:
                return node
            if (module, name) == ("pathlib", "Path"):  # written as text
                return ast.Name("str", ast.Load())
            return _Plain(module).visit(ast.Name(name, ast.Load()))
        if not isinstance(bound[0], ast.expr):
            raise _NotPlainError
        return self.visit(ast.parse(ast.unparse(bound[0]), mode="eval").body)


def _exists(top: str) -> bool:
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _file(module: str) -> Path | None:
    """A module's source, found without importing it or its packages."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        return None
    bases = [Path(folder, *rest) for folder in (spec.submodule_search_locations if spec else None) or ()]
    files = [file for base in bases for file in (base / "__init__.py", base.with_suffix(".py"))]
    if spec and spec.origin and not rest:
        files.append(Path(spec.origin))
    return next((file for file in files if file.suffix == ".py" and is_file(file)), None)


def _names(module: str) -> Mapping[str, list[ast.AST]] | None:
    """What a module binds its names to, each possibly several times; `*` where it may have others; None of no source.

    A source that is damaged counts as none: the full parser imports it, and Python says where the fault is.
    """
    file = _file(module)
    try:
        return None if file is None else _names_in(file)
    except (OSError, SyntaxError, ValueError, RecursionError):  # bytes that are no text raise a ValueError
        return None


@cache
def _names_in(file: Path) -> Mapping[str, list[ast.AST]]:
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    names: dict[str, list[ast.AST]] = {}
    for name, by in _bindings(tree):
        names.setdefault(name, []).append(by)
    # looked for in the text first: a walk through a long module takes as long as all else here
    if any(word in text for word in DYNAMIC):
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        if DYNAMIC & {*names, *used}:
            names["*"] = [tree]
    return names


def _bindings(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child.name, child
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], child) for alias in child.names)
        elif isinstance(child, ast.Assign | ast.AnnAssign) and child.value:
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            yield from ((n.id, child.value) for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id, child
        else:
            yield from _bindings(child)


def _find_class(class_path: str, seen: frozenset[str] = frozenset()) -> tuple[str, ast.ClassDef] | None:
    """Finds a class's definition, following `from x import y`; None where a name has several meanings."""
    module, _, name = class_path.rpartition(".")
    if not module or class_path in seen:
        return None
    seen |= {class_path}
    names = _names(module)
    if names is None:  # a class inside a class
        outer = _find_class(module, seen)
        inner = [n for n in outer[1].body if isinstance(n, ast.ClassDef) and n.name == name] if outer else []
        return (outer[0], inner[0]) if outer and len(inner) == 1 else None
    match names.get(name, [n for n in names.get("*", ()) if isinstance(n, ast.ImportFrom)]):
        case [ast.ClassDef() as definition]:
            return module, definition
        case [ast.ImportFrom() as node]:
            return _find_class(".".join(_imported(module, node, name)), seen)
        case [ast.Name() as node]:
            return _find_class(f"{module}.{node.id}", seen)
    return None


def _imported(module: str, node: ast.ImportFrom, name: str) -> tuple[str, str]:
    """The module and the name there of what `from ... import ...` binds."""
    original = next((a.name for a in node.names if (a.asname or a.name) == name), name)  # else of `import *`
    parts = module.split(".")
    up = node.level - ((_file(module) or Path()).name == "__init__.py")
    base = parts[: len(parts) - up] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])]), original


def _only_for_parent(init: ast.FunctionDef, names: Sequence[str]) -> bool:
    """Whether `*args` and `**kwargs` only go on to the parent's constructor."""
    calls = [n for n in ast.walk(init) if isinstance(n, ast.Call) and ast.unparse(n.func) == "super().__init__"]
    passed = [n for call in calls for n in ast.walk(call)]
    return all(n in passed for n in ast.walk(init) if isinstance(n, ast.Name) and n.id in names)


def _decorators(node: ast.ClassDef | ast.FunctionDef) -> set[str]:
    return {ast.unparse(d).partition("(")[0].rpartition(".")[2] for d in node.decorator_list}


def _is_dataclass(definition: ast.ClassDef) -> bool:
    return "dataclass" in _decorators(definition)
