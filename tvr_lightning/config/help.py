"""The settings of an experiment with their values, as `tvr fit --help` lists them.

They are read from the classes' sources, as `sources` does: nothing is imported, and nothing that is kept can be out of
date. A class whose source does not tell its arguments is left to the full parser's own help, which says so.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from tvr_lightning.config.compose import PACKAGED
from tvr_lightning.config.options import OF_ENCODER, ROOT, followed
from tvr_lightning.config.sources import Signature, Slot, signature

NAMES = 44  # columns that names and values take where the terminal has twice as many
TITLES = {
    "run": "The run",
    "trainer": "The trainer: Lightning's, with a precision of its own",
    "data": "The data",
    "model": "The method",
}


@dataclass(frozen=True)
class Row:
    """A setting.

    Attributes:
        name: as on the command line, without dashes.
        value: in the experiment, else its default, as it is written there; empty where it has to be given.
        slot: what is known of it.
        changed: whether the experiment gives another value than the default.
        more: what stands behind its text.
    """

    name: str
    value: str
    slot: Slot
    changed: bool = False
    more: str = ""

    @property
    def text(self) -> str:
        """What it is, its type, and the default that the experiment changed."""
        default = f"default: {_written(self.slot.default_value())}" if self.changed else ""
        kind = "; ".join(part for part in (_kind(self.slot), default) if part)
        return " ".join(part for part in (plain(self.slot.doc), self.more, f"({kind})" if kind else "") if part)

    @property
    def choices(self) -> tuple[str, ...]:
        """Its values, where it has few."""
        return _choices(self.slot)


def settings_help(config: Mapping[str, Any], width: int) -> str:
    """All settings in groups: those of a run, the trainer, the data, the method.

    Args:
        config: a composed experiment; an empty one lists what all experiments share.
        width: columns.
    """
    lines = []
    for group, rows in settings_rows(config).items():
        lines += ["", f"{TITLES[group]}:"]
        for row in rows:
            lines += _lines(row, width)
    lines += ["", "These follow others and are not set themselves:"]
    follow = {_short(name): source for name, source in _followed(config).items()}
    follow |= {f"data.{name}": f"the encoder's {source}" for name, source in OF_ENCODER.items()}
    lines += textwrap.wrap(
        "; ".join(f"{name}: {source}" for name, source in follow.items()), width, initial_indent="  ",
        subsequent_indent="  ", break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return "\n".join(lines) + "\n"


def settings_rows(config: Mapping[str, Any], wanted: Container[str] = TITLES) -> dict[str, list[Row]]:
    """The settings by their groups.

    Args:
        config: a composed experiment, or an empty one.
        wanted: the groups that are.
    """
    skipped = {*_followed(config), *(f"data.{name}" for name in OF_ENCODER)}
    groups: dict[str, list[Row]] = {name: [] for name in TITLES if name in wanted}
    for name, slot in ROOT.slots.items():
        group = name if name in TITLES else "run"
        if group in wanted:
            groups[group] += _rows(name, slot, config, skipped)
    if "model" in groups and not config.get("model"):
        slot = Slot("", "", doc=f"a method, of the files in method: {_methods()}.")
        groups["model"] = [Row("model", "", slot, more="--config FILE --help lists its settings.")]
    return groups


def _followed(config: Mapping[str, Any]) -> dict[str, str]:
    return followed(config.get("model") or {}, _takes)


def _takes(value: Any, argument: str) -> bool:
    path = value.get("class_path") if isinstance(value, Mapping) else value
    known = signature(path) if isinstance(path, str) else None
    return known is not None and argument in known.slots


def _methods() -> str:
    return ", ".join(sorted(file.stem for file in (PACKAGED / "method").glob("*.yaml")))


def _rows(name: str, slot: Slot, values: Mapping[str, Any], skipped: set[str]) -> Iterator[Row]:
    """The rows of a setting, and of what lies in it.

    Args:
        name: with `init_args`, as `skipped` has it.
        slot: what is known of it.
        values: where its value lies under its own name, if it is given.
        skipped: names that have none.
    """
    if name in skipped:
        return
    own = name.rpartition(".")[2]
    value = values[own] if own in values else {} if slot.group else slot.default_value()
    fields = slot.fields()
    if isinstance(value, Mapping) and "class_path" in value:
        yield from _object_rows(name, slot, value, skipped)
    elif fields and value is not None:
        # of a group the arguments lie in it; of a dataclass a default may change some
        given = value if isinstance(value, Mapping) else _given(slot.default)
        for field, inner in fields.slots.items():
            yield from _rows(f"{name}.{field}", inner, given, skipped)
    else:
        yield _row(name, slot, value, own in values)


def _object_rows(name: str, slot: Slot, value: Mapping[str, Any], skipped: set[str]) -> Iterator[Row]:
    path = str(value["class_path"])
    known = signature(path)
    whole = known is not None and known.complete
    yield Row(_short(name), path, slot, more="" if whole else f"Its arguments: --{_short(name)}.help={path}.")
    for argument, inner in (known or Signature({})).slots.items():
        yield from _rows(f"{name}.init_args.{argument}", inner, value.get("init_args") or {}, skipped)


def _row(name: str, slot: Slot, value: Any, given: bool) -> Row:
    changed = given and slot.default is not None and value != slot.default_value()
    needed = not given and slot.default is None
    return Row(_short(name), "" if needed else _written(value), slot, changed)


def _short(name: str) -> str:
    return name.replace(".init_args.", ".")


def _given(default: str | None) -> Mapping[str, Any]:
    """Arguments of the call that a default is."""
    node = ast.parse(default or "", mode="exec").body
    call = node[0].value if node and isinstance(node[0], ast.Expr) else None
    keywords = call.keywords if isinstance(call, ast.Call) else []
    return {k.arg: Slot("", "", default=ast.unparse(k.value)).default_value() for k in keywords if k.arg}


def _written(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, Mapping) and "class_path" in value:
        return str(value["class_path"])
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_written, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _choices(slot: Slot) -> tuple[str, ...]:
    """What a type of literals, or of truth, allows."""
    kind = slot.plain_type()
    if kind is None:  # not plain, which is not the type of None
        return ()
    parts = [*_members(kind)]
    if not parts or any(isinstance(part, type) and part not in (bool, type(None)) for part in parts):
        return ()
    values = [v for part in parts for v in ((True, False) if part is bool else (None if part is type(None) else part,))]
    return tuple(dict.fromkeys(map(_written, values)))


def _members(kind: Any) -> Iterator[Any]:
    """The types and literals that a type consists of."""
    if get_origin(kind) not in (Literal, Union, UnionType):
        yield kind
        return
    for part in get_args(kind):
        yield from [part] if get_origin(kind) is Literal else _members(part)


def _kind(slot: Slot) -> str:
    """A type in the words of a configuration file: choices where it has some."""
    choices = _choices(slot)
    if choices and choices != ("true", "false"):
        return " | ".join(choices)
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", slot.annotation).strip("'\"")
    text = re.sub(r"^Optional\[(.*)\]$", r"\1 | None", text)
    if union := re.fullmatch(r"Union\[(.*)\]( \| None)?", text):
        text = " | ".join(_split(union[1])) + (union[2] or "")
    text = text.replace("None", "null")
    return text if not re.search(r"\b_[A-Za-z]", text) else _spelt_out(slot)  # of a private name nobody knows more


def _spelt_out(slot: Slot) -> str:
    """The plain types that a type stands for; empty where it is none of these."""
    kind = slot.plain_type()
    parts = [] if kind is None else [*_members(kind)]
    words = (
        "null" if part is type(None) else part.__name__ if isinstance(part, type) else _written(part) for part in parts
    )
    return " | ".join(dict.fromkeys(words))


def _split(text: str) -> list[str]:
    """Parts between commas that stand in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _lines(row: Row, width: int) -> list[str]:
    """A row: name and value, then what it is, beside them or below where they are long."""
    head = f"  --{row.name}" + (f"={row.value}" if row.value else "")
    column = min(NAMES, width // 2)
    wrapped = textwrap.wrap(row.text, width - column, break_long_words=False, break_on_hyphens=False)
    if len(head) < column and wrapped:
        head += " " * (column - len(head)) + wrapped.pop(0)
    return [head, *(" " * column + line for line in wrapped)]


def plain(doc: str) -> str:
    """The first sentence of a long text, all of a short one, without the marks of reStructuredText.

    >>> plain("How often. Pass a ``float`` or a :class:`~a.b.C`. Default: ``1.0``.")
    'How often. Pass a float or a C.'
    """
    text = re.sub(r"\s*Defaults?: (?:``[^`]*``|\w+)\.?", "", doc)
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?([^`]+)`", r"\1", text).replace("``", "").strip()
    if len(text) <= 200:
        return text
    first = re.match(r".+?[.)](?= [A-Z]|$)", text)
    return first[0] if first else text
