"""Classes that a configuration names, and objects that it describes.

The parser builds objects: it checks a class against its slot before any call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tvr_lightning.config.class_paths import CLASS_PATH, check_named, check_parsed, resolve
from tvr_lightning.errors import ConfigError, TVRError

if TYPE_CHECKING:
    from tvr_lightning.data.annotations.base import Annotations


def class_of(value: Any) -> type | None:
    """The class that a setting names, as `{class_path: ...}` or as a path alone.

    None where it names none, or one that cannot be imported: the parser says why.
    """
    path = value.get("class_path") if isinstance(value, Mapping) else value
    if not isinstance(path, str) or not CLASS_PATH.fullmatch(path) or not path.rpartition(".")[2][0].isupper():
        return None
    try:
        return resolve(path)
    except ConfigError:
        return None


def smallest_parts(config: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Settings that put the smallest ones, with random weights, in place of an experiment's encoders and tokeniser.

    Args:
        config: a composed experiment, or a part of it.
        where: the keys that lead to the part, each followed by a dot.

    Yields:
        `--model.init_args.encoder.init_args.from_pretrained=null` and the like: what the classes declare as `smallest`.
    """
    for key, value in config.items():
        if key == "class_path":  # of the part itself
            continue
        smallest = getattr(class_of(value), "smallest", {})
        for name, setting in smallest.items():
            text = setting if isinstance(setting, str) else json.dumps(setting)  # a text in quotes would keep them
            yield f"--{where}{key}.init_args.{name}={text}"
        if isinstance(value, Mapping):
            yield from smallest_parts(value, f"{where}{key}.")


def without_weights(config: Mapping[str, Any]) -> Iterator[str]:
    """Settings that leave an experiment's encoders as large as they are and fetch nothing for them.

    Encoders begin from random weights; what makes tokens is the smallest one, since its words cost the same.

    Args:
        config: a composed experiment.
    """
    for key, value in config.items():
        if key == "data" and isinstance(value, Mapping):
            yield from smallest_parts(value, "data.")
        elif isinstance(value, Mapping):
            yield from _from_random(value, f"{key}.")


def _from_random(config: Mapping[str, Any], where: str) -> Iterator[str]:
    for key, value in config.items():
        if key == "from_pretrained" and value is not None:
            yield f"--{where}{key}=null"
        elif isinstance(value, Mapping):
            yield from _from_random(value, f"{where}{key}.")


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turns what the parser raises into our errors, and narrows what it may import.

    Raises:
        ConfigError: the parser's own message, without the configuration's text, which it repeats.
        TVRError: what a constructor raised, which the parser wraps.
    """
    from jsonargparse import ArgumentError, set_parsing_settings

    # a second line behind `class_paths`: jsonargparse's own list of what no value may name, and no objects for untyped
    # parameters, which no class could be held against
    set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)
    try:
        yield
    except ArgumentError as error:
        raise ConfigError(_short(str(error.message or error))) from None
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, TVRError):
            cause = cause.__cause__
        raise cause or error from None


def _short(message: str) -> str:
    """The parser's message in one line, without the value, which it repeats, and the types that nobody meant.

    >>> _short("Something does not fit.")
    'Something does not fit.'
    """
    key = re.match(r'Parser key "([^"]+)":\s*', message)
    lines = [line for line in message.splitlines() if not line.lstrip().startswith("Given value")]
    parts: dict[str, None] = {}
    for error in re.split(r"\n +- ", "\n".join(lines).partition("Errors:\n")[2].join(("\n", ""))):
        text = " ".join(error.split())
        if name := re.match(r"Expected a dot import path string:(.*)", text):
            parts[f"'{name[1].strip()}' names no class; give its class path: module.Class"] = None
        elif text.startswith(("Problem with given class_path", "Import path")):
            parts[text.removesuffix(" Not a valid subclass of")] = None
    said = "; ".join(parts) or " ".join(" ".join(lines).split())
    return f"{key[1]}: {said}" if key and parts else said


def build_reader(part: Any) -> Annotations:
    """Builds a reader alone, neither method nor data module.

    Args:
        part: `data.annotations` of an experiment.

    Raises:
        ConfigError: it names no class.
        TVRError: the class is not a reader, or refuses its arguments.
    """
    from jsonargparse import ArgumentParser

    from tvr_lightning.data.annotations.base import Annotations

    if not part:
        raise ConfigError("data.annotations names no reader (class_path)")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Annotations, "data.annotations")
    with readable_errors():
        check_named(part, "data.annotations")
        parsed = parser.parse_object({"data": {"annotations": part}})
        check_parsed(parsed)
        reader: Annotations = parser.instantiate(parsed).data.annotations
    return reader
