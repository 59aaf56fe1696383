"""Class paths: the class that each means, and what none may name. Every slot of an experiment is resolved here.

A class path names a module and a class in it. Modules come from the suite, from installed packages and from the working
directory, never from the standard library: `subprocess.Popen` is a class too. Calling is the parser's, and it begins
only after everything that was named is known to be a class of its slot's type.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, signature
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from tvr_lightning.config.sources import PACKAGE, takes_over_names
from tvr_lightning.data.stores.files import is_file
from tvr_lightning.data.stores.reading import is_there
from tvr_lightning.errors import ConfigError

CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def resolve(class_path: str) -> type:
    """Imports the class that a class path names; nothing that it names is called.

    Args:
        class_path: a module and a class in it, also one inside a class, or a class that a package passes on.

    Raises:
        ConfigError: it names no class, the standard library, or what its module only imports.

    >>> resolve("tvr_lightning.encoders.CLIPEncoder").__name__
    'CLIPEncoder'
    >>> resolve("subprocess.Popen")
    Traceback (most recent call last):
    ...
    tvr_lightning.errors.ConfigError: subprocess.Popen is in the standard library, ...
    """
    if not CLASS_PATH.fullmatch(class_path):
        raise ConfigError(f"'{class_path}' is not a class path; write MODULE.CLASS, such as mymethod.Foo")
    parts = class_path.split(".")
    _refuse_standard_library(parts[0], class_path)
    module, names = _import(parts)
    found: Any = module
    for number, name in enumerate(names):
        if not hasattr(found, name):
            raise ConfigError(f"{class_path}: no '{name}' in {getattr(found, '__qualname__', found.__name__)}")
        found = getattr(found, name)
        if not isinstance(found, type):
            raise ConfigError(
                f"{class_path} is not a class: {name} is a {type(found).__name__}. A class path names a module and a "
                "class in it, nothing else"
            )
        _refuse_standard_library(found.__module__, class_path)
        if number == 0 and not _offers(module, name, found):
            raise ConfigError(
                f"{class_path}: {module.__name__} only imports {name}; write {found.__module__}.{found.__qualname__}"
            )
    return found


def check_named(config: Any, where: str = "") -> None:
    """Resolves every `class_path` of a configuration, whatever its depth, before the parser sees it.

    Args:
        config: a composed experiment, or a part of it.
        where: the keys that lead to the part.

    Raises:
        ConfigError: one cannot be resolved; names its key.
    """
    if isinstance(config, Mapping):
        path = config.get("class_path")
        if isinstance(path, str) and "." in path:  # else a class that the parser finds by its bare name
            try:
                resolve(path)
            except ConfigError as error:
                raise ConfigError(f"{where}.class_path: ".lstrip(".") + str(error)) from None
        for key, value in config.items():
            check_named(value, f"{where}.{key}".lstrip("."))
    elif isinstance(config, list | tuple):
        for number, value in enumerate(config):
            check_named(value, f"{where}.{number}")


def check_parsed(value: Any, where: str = "") -> None:
    """Holds what the parser made of a configuration against the same rules, before anything is built.

    Only now is it known which plain texts it took for class paths, and what lay in files that they named.

    Args:
        value: the parsed configuration, or a part of it.
        where: the keys that lead to the part.

    Raises:
        ConfigError: a part names no class, or a setting names a function or an object, which would be called.
    """
    from jsonargparse import Namespace

    if isinstance(value, Namespace | Mapping):
        items = vars(value) if isinstance(value, Namespace) else value
        path = items.get("class_path")
        if not (isinstance(value, Namespace) and isinstance(path, str)):
            for key, part in items.items():
                check_parsed(part, f"{where}.{key}".lstrip("."))
            return
        try:
            kind = resolve(path)
        except ConfigError as error:
            raise ConfigError(f"{where}.class_path: {error}") from None
        for group in ("init_args", "dict_kwargs"):
            arguments = items.get(group) or {}
            for name, part in (vars(arguments) if isinstance(arguments, Namespace) else arguments).items():
                if not any(part is default for default in _defaults(kind, name)):
                    check_parsed(part, f"{where}.{group}.{name}")
    elif isinstance(value, list | tuple | set):
        for number, part in enumerate(value):
            check_parsed(part, f"{where}.{number}")
    elif isinstance(value, type):
        _refuse_standard_library(value.__module__, f"{where}: {value.__module__}.{value.__qualname__}")
    elif callable(value) and not isinstance(value, PathLike):  # paths that the parser made: calling one opens it
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
        raise ConfigError(
            f"{where} names {name}, which is not a class; an experiment names only classes. Write a class whose "
            "objects "
            "are called, or a subclass that does it"
        )


def module_of_working_directory(content: Any) -> str | None:
    """The first module that texts of a configuration name and that would come from the working directory.

    Args:
        content: a configuration, or a part of it.

    Returns:
        Its name; None where there is none.
    """
    if isinstance(content, Mapping):
        content = list(content.values())
    if isinstance(content, list):
        return next((found for part in content if (found := module_of_working_directory(part))), None)
    if not isinstance(content, str) or not CLASS_PATH.fullmatch(content):
        return None
    top = content.partition(".")[0]
    return top if top != PACKAGE.name and _lies_here(top) else None


def reach(content: Any) -> None:
    """Makes the working directory importable where a configuration names a module that is nowhere else.

    Args:
        content: a configuration, or a part of it.
    """
    if isinstance(content, Mapping):
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            reach(part)
    elif module_of_working_directory(content) and _spec(content.partition(".")[0]) is None:
        sys.path.append(str(Path.cwd()))  # at the end: it hides nothing that is installed


def _refuse_standard_library(module: str, what: str) -> None:
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise ConfigError(
            f"{what} is in the standard library, which has no parts of experiments; name a class of the suite, of an "
            "installed package or of a file of your own"
        )


def _import(parts: list[str]) -> tuple[ModuleType, list[str]]:
    """Imports the longest module that begins a class path; returns it and the names inside it."""
    class_path = ".".join(parts)
    if "__main__" in parts[1:]:
        raise ConfigError(f"{class_path}: importing a __main__ starts its program; name the module of the class")
    try:
        module = import_module(parts[0])
        for number in range(1, len(parts) - 1):
            name = ".".join(parts[: number + 1])
            if not hasattr(module, "__path__") or find_spec(name) is None:
                return module, parts[number:]
            module = import_module(name)
    except ImportError as error:
        raise ConfigError(f"{class_path} cannot be imported: {error}") from None
    except Exception as error:  # whatever the file that it names does wrong
        raise ConfigError(f"{class_path} cannot be imported: {type(error).__name__}: {error}") from error
    return module, parts[-1:]


def _offers(module: ModuleType, name: str, found: type) -> bool:
    """Whether a name is a module's own, or one that it passes on: in `__all__`, in a package's `__init__`, by `*`."""
    return (
        found.__module__ == module.__name__
        or name in getattr(module, "__all__", ())
        or hasattr(module, "__path__")
        or takes_over_names(module.__name__)
    )


def _defaults(kind: type, name: str) -> list[Any]:
    """What the constructors of a class and its parents say for a parameter: code, and no text of a configuration."""
    found = []
    for parent in kind.__mro__:
        try:
            found.append(signature(parent.__init__).parameters.get(name) if "__init__" in vars(parent) else None)  # type: ignore[misc]
        except ValueError:  # of a compiled class, which says nothing
            continue
    return [p.default for p in found if p is not None and p.default is not Parameter.empty]


def _spec(top: str) -> Any:
    try:
        return sys.modules[top].__spec__ if top in sys.modules else find_spec(top)
    except (ImportError, ValueError):
        return None


def _lies_here(top: str) -> bool:
    """Whether a module comes from the working directory, or would if that were searched."""
    here, spec = Path.cwd(), _spec(top)
    if spec is None:
        return top not in sys.modules and (is_file(here / f"{top}.py") or is_there(here / top, folder=True))
    folders = [Path(folder).parent for folder in spec.submodule_search_locations or ()]
    files = [Path(spec.origin).parent] if spec.has_location and not folders else []
    return any(folder.resolve() == here.resolve() for folder in (*folders, *files))
