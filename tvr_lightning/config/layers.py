"""Layers of a configuration: shared parts, an experiment's file, settings; each is laid over those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvr_lightning.config.sources import Signature, Slot, signature


def lay(old: Mapping[str, Any], new: Mapping[str, Any], known: Signature | None) -> dict[str, Any]:
    """Lays arguments over others of the same class.

    Args:
        old: arguments.
        new: those that change.
        known: what the class takes, where that is known.
    """
    slots = known.slots if known else {}
    return {**old, **{key: lay_value(old.get(key), value, slots.get(key)) for key, value in new.items()}}


def lay_value(old: Any, new: Any, slot: Slot | None) -> Any:
    """Lays one value over another: descriptions of objects and groups merge, everything else is replaced.

    When the class changes, arguments that the new one does not take are left out, as the full parser does it.
    """
    if isinstance(new, str) and isinstance(old, Mapping) and "class_path" in old:
        new = {"class_path": new}
    if not isinstance(old, Mapping) or not isinstance(new, Mapping) or (slot and slot.plain_type() is not None):
        return new
    if "class_path" not in old:
        return new if "class_path" in new else lay(old, new, slot.fields() if slot else None)
    class_path = str(new.get("class_path", old["class_path"]))
    known = signature(class_path)
    arguments = old.get("init_args") or {}
    if class_path != old["class_path"] and known and known.complete:
        arguments = {key: value for key, value in arguments.items() if key in known.slots}
    merged = {**old, **new}
    if arguments or merged.get("init_args"):
        merged["init_args"] = lay(arguments, new.get("init_args") or {}, known)
    return merged


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Settings at any depth, by their names with dots.

    >>> flat({"model": {"init_args": {"lr": 0.1, "heads": [1, 2]}}})
    {'model.init_args.lr': 0.1, 'model.init_args.heads': [1, 2]}
    """
    if not isinstance(content, Mapping) or not content:
        return {prefix: content}
    rows: dict[str, Any] = {}
    for key, value in content.items():
        rows |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return rows
