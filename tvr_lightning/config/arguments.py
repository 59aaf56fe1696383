"""Command-line arguments become one configuration; its names and plain values are checked at once.

Importing torch and Lightning takes seconds; a misspelt key should not wait for them. Signatures are read from
source text. What this cannot decide (a value of a richer type) is left to the full parser, which checks everything.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tvr_lightning.config.compose import compose
from tvr_lightning.errors import ConfigError, nearest

OBJECT_KEYS = ("class_path", "init_args", "dict_kwargs")
RUN_OPTIONS = {
    "seed_everything": "int",  # no bool: a seed that nobody knows repeats nothing
    "experiment": "str",
    "runs_dir": "str",
    "run_id": "str | None",
    "tracker": "Literal['wandb', 'tensorboard', 'csv', 'none']",
    "ckpt_path": "str | None",
    "resume": "str | None",
    "checkpoint_every": "int",
}
ROOTS = {
    "trainer": "pytorch_lightning.trainer.trainer.Trainer",
    "data": "tvr_lightning.data.datamodule.VideoTextDataModule",
}
SCALARS: Mapping[str, type | tuple[type, ...]] = {"int": int, "float": (int, float), "bool": bool, "str": str}


@dataclass(frozen=True)
class Signature:
    """A constructor as its source says it.

    Attributes:
        module: where the class is defined.
        annotations: parameter names and the text of their types; empty text where there is none.
    """

    module: str
    annotations: Mapping[str, str]


def check_config(config: Mapping[str, Any], source: str) -> None:
    """Checks the keys of a composed experiment, and values of plain types.

    Raises:
        ConfigError: names the key, and the nearest that exist.
    """
    known = (*RUN_OPTIONS, *ROOTS, "model")
    for key, value in config.items():
        if key not in known:
            raise ConfigError(f"{source}: unknown key '{key}'; {nearest(key, known)}")
        if key in RUN_OPTIONS:
            _check_value(value, RUN_OPTIONS[key], f"{source}: {key}")
        elif key in ROOTS and isinstance(value, Mapping):
            _check_fields(value, _signature(ROOTS[key]), key, source)
        elif key == "model" and isinstance(value, Mapping):
            _check_object(value, key, source)


def read_arguments(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Composes `--config` files and lays `--a.b=value` settings over them.

    Settings go into the configuration here and not through the parser's own command line, which turns a `null` inside
    a nested class into the text `None` (pinned in tests/config/test_arguments.py).

    Args:
        arguments: what follows the command, e.g. `--config experiments/x.yaml --data.batch_size=8`.

    Returns:
        The configuration, and the words that are no settings (`--help`, `--print_config`).

    Raises:
        ConfigError: a file cannot be composed, a key is unknown, a value does not fit.
    """
    from omegaconf import OmegaConf

    config: dict[str, Any] = {}
    settings: list[tuple[str, str]] = []
    rest: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        option, equals, value = word.removeprefix("--").partition("=")
        if word in ("-h", "--help") or option == "print_config":
            rest.append(word)
            continue
        if not word.startswith("--") and word != "-c":
            raise ConfigError(f"'{word}' is no setting; settings look like --data.batch_size=8")
        if not equals:
            if not words:
                raise ConfigError(f"{word} has no value; write {word}=VALUE")
            value = words.pop(0)
        if option in ("config", "-c"):
            path = Path(value)
            content = {"experiment": path.stem} | compose(path)
            check_config(content, value)
            merged = OmegaConf.to_container(OmegaConf.merge(config, content))
            config = {str(k): v for k, v in merged.items()} if isinstance(merged, dict) else {}
        else:
            settings.append((option, value))
    for option, value in settings:
        _set(config, option, _parse_value(value))
    check_config(config, "command line")
    return config, rest


def _set(config: dict[str, Any], option: str, value: Any) -> None:
    """Sets `a.b.c`; arguments of an object may leave out `init_args`, `name+` appends to a list."""
    *folders, name = option.split(".")
    here = config
    for folder in folders:
        here = _inside(here, folder)
        if not isinstance(here.get(folder), dict):
            if here.get(folder) is not None:
                raise ConfigError(f"--{option}: {folder} is {here[folder]!r}, it has no parts")
            here[folder] = {}
        here = here[folder]
    here = _inside(here, name)
    if name.endswith("+"):
        here[name[:-1]] = [*(here.get(name[:-1]) or []), value]
    elif isinstance(value, str) and isinstance(here.get(name), dict) and "class_path" in here[name]:
        here[name] = {"class_path": value}
    else:
        here[name] = value


def _inside(here: dict[str, Any], name: str) -> dict[str, Any]:
    if "class_path" in here and name not in OBJECT_KEYS:
        here["init_args"] = here.get("init_args") or {}
        return here["init_args"]
    return here


def _parse_value(text: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    # YAML 1.1 reads 1e-4 as text
    return float(text) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text) else value


def _check_object(value: Mapping[str, Any], where: str, source: str) -> None:
    class_path = value.get("class_path")
    if class_path is None:
        if where == "model":
            raise ConfigError(f"{source}: model has no class_path; name a part method/... in `defaults`")
        return
    signature = _signature(str(class_path))
    if signature is None:
        _explain_class(str(class_path), where, source)
    for key in value:
        if key not in OBJECT_KEYS:
            raise ConfigError(f"{source}: {where}.{key}: arguments of a class lie under {where}.init_args")
    arguments = value.get("init_args") or {}
    _check_fields(arguments, signature, f"{where}.init_args", source)


def _check_fields(values: Mapping[str, Any], signature: Signature | None, where: str, source: str) -> None:
    if signature is None:
        return
    for key, value in values.items():
        place = f"{where}.{key}"
        if key not in signature.annotations:
            names = [*signature.annotations, *_moved(key, signature)]
            raise ConfigError(f"{source}: unknown key '{place}'; {nearest(key, names)}")
        annotation = signature.annotations[key]
        if isinstance(value, Mapping):
            if "class_path" in value:
                _check_object(value, place, source)
            elif (options := _local_class(signature.module, annotation)) and _is_dataclass(options):
                _check_fields(value, _signature(options), place, source)
        else:
            _check_value(value, annotation, f"{source}: {place}")


def _moved(key: str, signature: Signature) -> list[str]:
    """Options one level further down that a key may mean: `codes.database` for `hashing_database`."""
    nested = {name: _local_class(signature.module, text) for name, text in signature.annotations.items()}
    found = {name: _signature(path) for name, path in nested.items() if path and _is_dataclass(path)}
    return [f"{name}.{own}" for name, options in found.items() if options for own in options.annotations
            if key.endswith(own)]  # fmt: skip


def _check_value(value: Any, annotation: str, where: str) -> None:
    """Checks unions of plain types and literals; anything richer is left to the full parser."""
    allowed: list[Any] = []
    kinds: list[type] = []
    for part in _union(annotation):
        if part in SCALARS:
            kind = SCALARS[part]
            kinds += kind if isinstance(kind, tuple) else [kind]
        elif part == "None":
            allowed.append(None)
        elif part.startswith("Literal["):
            literal = ast.literal_eval(part[len("Literal") :])
            allowed += literal
        else:
            return
    if value in allowed and not isinstance(value, bool):
        return
    # a number is a fine name for a run
    if type(value) in kinds or (str in kinds and not isinstance(value, list | dict)):
        return
    literals = [str(a) for a in allowed if a is not None]
    hint = nearest(str(value), literals) if literals else f"expected {annotation}"
    raise ConfigError(f"{where}: {value!r} does not fit; {hint}")


def _union(annotation: str) -> list[str]:
    if not annotation:
        return ["Any"]
    node = ast.parse(annotation, mode="eval").body
    parts: list[str] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        parts.append(ast.unparse(node.right))
        node = node.left
    return [*parts, ast.unparse(node)]


def _explain_class(class_path: str, where: str, source: str) -> None:
    module, _, name = class_path.rpartition(".")
    tree = _tree(module)
    if tree is None:
        package = Path(__file__).parents[1] / "methods"
        known = [f"tvr_lightning.methods.{p.stem}" for p in package.glob("*.py") if not p.stem.startswith("_")]
        raise ConfigError(f"{source}: {where}.class_path: no module '{module}'; {nearest(module, known)}")
    if name not in _names(tree):
        classes = [n.name for n in tree.body if isinstance(n, ast.ClassDef)]
        raise ConfigError(f"{source}: {where}.class_path: no '{name}' in {module}; {nearest(name, classes)}")


@cache
def _tree(module: str) -> ast.Module | None:
    """Parses a module's source without importing it or its packages."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        return None
    for folder in spec.submodule_search_locations:
        base = Path(folder, *rest)
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                return ast.parse(file.read_text(encoding="utf-8"))
    return None


def _names(tree: ast.Module) -> set[str]:
    defined = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
    imported = {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    return defined | imported


def _find_class(class_path: str) -> tuple[str, ast.ClassDef] | None:
    """Finds a class's definition, following `from x import y`."""
    module, _, name = class_path.rpartition(".")
    tree = _tree(module)
    for node in tree.body if tree else []:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find_class(f"{node.module}.{alias.name}")
    return None


@cache
def _signature(class_path: str) -> Signature | None:
    """Reads a constructor's parameters, or a dataclass's fields; None where it is inherited or open."""
    found = _find_class(class_path)
    if found is None:
        return None
    module, definition = found
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            if node.args.kwarg:
                return None
            arguments = (node.args.args + node.args.kwonlyargs)[1:]
            types = {a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in arguments}
            return Signature(module, {name: _expand(module, text) for name, text in types.items()})
    if not _has_dataclass_decorator(definition):
        return None
    fields = [n for n in definition.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return Signature(module, {n.target.id: _expand(module, ast.unparse(n.annotation)) for n in fields})  # type: ignore[union-attr]


def _expand(module: str, annotation: str) -> str:
    """Replaces the name of a `Literal` alias by what it stands for."""
    if not annotation.isidentifier():
        return annotation
    for node in (_tree(module) or ast.Module([], [])).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == [annotation]:
            return ast.unparse(node.value)
        if isinstance(node, ast.ImportFrom) and node.module and annotation in [a.name for a in node.names]:
            return _expand(node.module, annotation)
    return annotation


def _has_dataclass_decorator(definition: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(d) for d in definition.decorator_list)


def _local_class(module: str, annotation: str) -> str | None:
    """The class path of an annotation that names one class (or that class or None)."""
    names = [part for part in _union(annotation) if part != "None"]
    return f"{module}.{names[0]}" if len(names) == 1 and names[0].isidentifier() else None


def _is_dataclass(class_path: str) -> bool:
    found = _find_class(class_path)
    return found is not None and _has_dataclass_decorator(found[1])
