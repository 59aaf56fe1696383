"""Command-line arguments become one configuration; its names and plain values are checked at once.

Importing torch and Lightning takes seconds; a misspelt key should not wait for them. Only what the full parser would
refuse for certain is refused here, in a sentence that names what is near; the parser checks everything again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from tvr_lightning.config.apart import name_apart, value_of
from tvr_lightning.config.class_paths import module_of_working_directory, reach
from tvr_lightning.config.compose import check_shape, compose, find_file, is_text, lies_in_a_run
from tvr_lightning.config.layers import lay, lay_value
from tvr_lightning.config.options import ROOT
from tvr_lightning.config.sources import Signature, Slot, signature, why_missing
from tvr_lightning.config.text import DEEPEST, RefusedError, parse_yaml
from tvr_lightning.data.stores.files import is_file
from tvr_lightning.errors import ConfigError, nearest, short
from tvr_lightning.names import CONFIG
from tvr_lightning.visible import say_once

OBJECT_KEYS = ("class_path", "init_args", "dict_kwargs")
TRUST = "--trust"


class Words(NamedTuple):
    """What follows a command.

    Attributes:
        files: of `--config`, in their order.
        settings: names and values of the others, in their order; a name of which the beginning was given is whole.
        flags: `--help` or `--print_config`.
        trusted: whether `--trust` is among them.
    """

    files: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    flags: tuple[str, ...]
    trusted: bool


def read_arguments(arguments: Sequence[str], run_file: Path | None = None) -> tuple[dict[str, Any], list[str]]:
    """Composes `--config` files and lays `--a.b=value` settings over them, whatever the order of both.

    Settings go into the configuration here and not through the parser's own command line, which turns a `null` inside
    a nested class into the text `None` (pinned in tests/config/test_arguments.py). Modules that the configuration names
    are found in the working directory too; those of a run's own `config.yaml` only with `--trust`. A setting by which
    runs lie apart changes the experiment's name too.

    Args:
        arguments: what follows the command, e.g. `--config experiments/x.yaml --data.batch_size=8`.
        run_file: the one among the files that a run wrote, and that may be someone else's, whatever lies beside it.

    Returns:
        The configuration, and the words that are not settings (`--help`, also of a class, and `--print_config`).

    Raises:
        ConfigError: a file cannot be composed, a key is unknown, a value does not fit, or a run's configuration names a
            module of the working directory.
    """
    words = split_words(arguments)
    config: dict[str, Any] = {}
    for file in words.files:
        of_run = run_file is not None and Path(file) == run_file
        content = ({} if is_text(file) else {"experiment": Path(file).stem}) | compose(file, of_run)
        if not is_text(file):
            content = _of_any_run(content, find_file(file))
        if not words.trusted:
            _check_origin(content, find_file(file), of_run)
        reach(content)
        check_config(content, file)
        config = lay(config, content, ROOT)
    before = value_of(config)
    for option, value in words.settings:
        reach(_yaml(value))
        _set(config, option, value)
    if "experiment" in config and before is not None and "experiment" not in dict(words.settings):
        config["experiment"] = name_apart(str(config["experiment"]), before, value_of(config))
    check_config(config, "command line")
    return config, list(words.flags)


def split_words(arguments: Sequence[str]) -> Words:
    """Tells files, settings and other words of a command line apart; nothing is read.

    Raises:
        ConfigError: a word is not a setting, or a setting has no value.

    >>> split_words(["-c", "x.yaml", "--data.subset=8", "--help"])
    Words(files=('x.yaml',), settings=(('data.subset', '8'),), flags=('--help',), trusted=False)
    """
    words = [word for word in arguments if word != TRUST]
    trusted = len(words) < len(arguments)
    files, settings, flags = [], [], []
    while words:
        word = words.pop(0)
        if word.startswith("-c") and len(word) > 2:
            word, words = "-c", [word[2:].removeprefix("="), *words]
        option, equals, value = word.removeprefix("--").partition("=")
        if word == "-h" or option.rpartition(".")[2] == "help" or option == "print_config":
            flags.append(word)
            continue
        if not word.startswith("--") and word != "-c":
            raise ConfigError(f"'{word}' is not a setting; settings look like --data.batch_size=8")
        if not equals:
            if not words and option.partition(".")[0] not in ROOT.slots and option not in ("config", "-c"):
                raise ConfigError(f"command line: unknown key '{option}'; {nearest(option, ROOT.slots)}")
            if not words:
                raise ConfigError(f"{word} has no value; write {word}=VALUE")
            value = words.pop(0)
        if option in ("config", "-c"):
            files.append(value)
        elif option.count(".") > DEEPEST:
            raise ConfigError(f"command line: unknown key '{short(option)}'")
        else:
            settings.append((_whole(option), value))
    return Words(tuple(files), tuple(settings), tuple(flags), trusted)


def check_config(config: Mapping[str, Any], source: str) -> None:
    """Checks the keys of a composed experiment, and values of plain types.

    Raises:
        ConfigError: names the key, and the nearest that exist; or what is no group of settings where one belongs.
    """
    check_shape(config, source)
    _check_arguments(config, ROOT, "", source)


def _of_any_run(content: dict[str, Any], file: Path) -> dict[str, Any]:
    """A configuration without the name of the run that wrote it: another run of it has a folder of its own."""
    own = file.name == CONFIG and (content.get("run_id") == file.resolve().parent.name or lies_in_a_run(file))
    return {**content, "run_id": None, "resume": None} if own else content


def _check_origin(content: Mapping[str, Any], file: Path, of_run: bool) -> None:
    """Refuses modules of the working directory in a run's configuration, which may be someone else's."""
    if (of_run or lies_in_a_run(file)) and (module := module_of_working_directory(content)):
        raise ConfigError(
            f"{file} names the module '{module}', which would be imported from the working directory; a run's "
            f"configuration may not do that, since runs are passed on. If you know what {module} does, add {TRUST}"
        )


def _whole(option: str) -> str:
    """An option of which the beginning was given, as the full parser takes it: `--data.batch` for `data.batch_size`."""
    options: list[str] = []
    for name, slot in ROOT.slots.items():
        fields = slot.fields()
        options += [f"{name}.{field}" for field in fields.slots] if fields else [name]
    found = [known for known in options if known.startswith(option)]
    if len(found) != 1 or found[0] == option:
        return option
    say_once(f"--{option} is taken as --{found[0]}")
    return found[0]


def _set(config: dict[str, Any], option: str, text: str) -> None:
    """Sets `a.b.c`; arguments of an object may leave out `init_args`, `name+` appends to a list."""
    here: dict[str, Any] = config
    known: Signature | None = ROOT
    *parents, name = option.split(".")
    for part in parents:
        here, known = _arguments_of(here, known, part)
        slot = known.slots.get(part) if known else None
        value = here.get(part)
        if isinstance(value, list) and value:  # the item that was appended last
            value[-1] = inside = _mapping(value[-1], part, option)
        else:
            here[part] = inside = _mapping(value, part, option)
        if part != "init_args":
            known = slot.fields() if slot else None
        here = inside
    append, name = name.endswith("+"), name.removesuffix("+")
    here, known = _arguments_of(here, known, name)
    slot = known.slots.get(name) if known else None
    value, old = _read(text, slot), here.get(name)
    if append:
        here[name] = [*_as_list(old), *_as_list(value)]
    elif name == "class_path":
        changed = lay_value(dict(here), {"class_path": value}, None)
        here.clear()
        here.update(changed)
    else:
        here[name] = lay_value(old, value, slot)


def _arguments_of(here: dict[str, Any], known: Signature | None, name: str) -> tuple[dict[str, Any], Signature | None]:
    """Where an argument lies, and what is known there: of an object under its `init_args`."""
    if "class_path" not in here:
        return here, known
    known = signature(str(here["class_path"]))
    if name in OBJECT_KEYS:
        return here, known if name == "init_args" else None
    here["init_args"] = here.get("init_args") or {}
    return here["init_args"], known


def _mapping(value: Any, part: str, option: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {"class_path": value}
    if not isinstance(value, dict | None):
        raise ConfigError(f"--{option}: {part} is {value!r}, which has no parts")
    return value or {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _read(text: str, slot: Slot | None) -> Any:
    """A setting's value as the full parser reads it: by its type, else as YAML; arguments may also lie in a file."""
    kind, value = slot.plain_type() if slot else None, _yaml(text)
    kinds = (kind, *get_args(kind))
    # as YAML: what is of one of the types (2 of `str | int` is a number), lists and mappings that may not be text
    as_yaml = type(value) is not str and (type(value) in kinds or (isinstance(value, list | dict) and str not in kinds))
    if kind is not None and not as_yaml:
        parsed = _parse(kind, lambda parser: parser.parse_args([f"--value={text}"]))
        return parsed[0] if parsed else value
    if slot and slot.class_path() and isinstance(value, str) and is_file(Path(value)):
        return _yaml(Path(value).read_text(encoding="utf-8"))
    return value


def _yaml(text: str) -> Any:
    import yaml
    from jsonargparse import get_loader

    try:
        # other than YAML 1.1, it takes 1e-4 for a number
        return parse_yaml(text, get_loader("yaml")) if text.strip() else text
    except RefusedError as error:
        raise ConfigError(f"{short(text, 40)}: {error}") from None
    except yaml.YAMLError:
        return text


def _parse(kind: Any, parse: Callable[[Any], Any]) -> tuple[Any] | None:
    """What the full parser makes of a value of a type; None where it refuses."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        return (parse(parser).value,)
    except ArgumentError:
        return None


def _check_arguments(values: Mapping[str, Any], known: Signature, where: str, source: str) -> None:
    for key, value in values.items():
        place, slot = f"{where}.{key}".lstrip("."), known.slots.get(key)
        if slot is None:
            if known.complete and key not in OBJECT_KEYS:
                names = [*known.slots, *_nested(key, known)]
                raise ConfigError(f"{source}: unknown key '{place}'; {nearest(key, names)}")
        elif isinstance(value, Mapping) and not slot.takes_mappings():
            fields = slot.fields()
            if "class_path" in value or place == "model":
                _check_object(value, slot, place, source)
            elif fields:
                _check_arguments(value, fields, place, source)
            else:
                _check_value(value, slot, f"{source}: {place}")
        else:
            _check_value(value, slot, f"{source}: {place}")


def _nested(key: str, known: Signature) -> list[str]:
    """Options one level further down that a key may mean: `codes.database` for `hashing_database`."""
    fields = {name: slot.fields() for name, slot in known.slots.items()}
    return [f"{name}.{own}" for name, part in fields.items() if part for own in part.slots if key.endswith(own)]


def _check_object(value: Mapping[str, Any], slot: Slot, where: str, source: str) -> None:
    if "class_path" not in value:
        raise ConfigError(f"{source}: {where} has no class_path; name a part method/... in `defaults`")
    class_path = str(value["class_path"])
    if reason := why_missing(class_path, slot):
        raise ConfigError(f"{source}: {where}.class_path: {reason}")
    for key in value:
        if key not in OBJECT_KEYS:
            raise ConfigError(f"{source}: {where}.{key}: arguments of a class belong under {where}.init_args")
    known = signature(class_path)
    if known:
        _check_arguments(value.get("init_args") or {}, known, f"{where}.init_args", source)


def _check_value(value: Any, slot: Slot, where: str) -> None:
    """Checks a value of a plain type; a null that the type does not name is refused: the class would get it."""
    kind = slot.plain_type()
    if kind is None or type(value) in (kind, *(parts := get_args(kind))) or value in parts:
        return
    if value is not None and _parse(kind, lambda parser: parser.parse_object({"value": value})):
        return
    literals = list(_literals(kind))
    hint = nearest(str(value), literals) if literals else f"expected {slot.annotation}"
    quotes = ", in quotes" if str in (kind, *parts) and isinstance(value, int | float) else ""
    raise ConfigError(f"{where}: {value!r} does not fit; {hint}{quotes}")


def _literals(kind: Any) -> Iterator[str]:
    for part in get_args(kind):
        if get_origin(kind) is Literal:
            yield str(part)
        else:
            yield from _literals(part)
