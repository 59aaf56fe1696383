"""What a checkpoint keeps of encoders besides their weights: enough to build them again without any other file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeGuard

from torch import nn

from tvr_lightning.encoders.base import Encoder, encoders_in
from tvr_lightning.errors import CheckpointError, TVRError, few

LONGEST, DEEPEST = 1000, 8  # of texts and lists in a description, and of nesting
UNSAID = (
    "the checkpoint does not say what its encoders compute (activation, pixel statistics), or not as this one does: "
    "an earlier version saved it. Evaluate it with that version, or train again"
)
OWN_EXPERIMENT = "Evaluate it with the experiment that trained it: its run folder's config.yaml."
_rebuilt: ContextVar[list[Mapping[str, Any]] | None] = ContextVar("_rebuilt", default=None)


def keep_encoders(module: nn.Module) -> dict[str, dict[str, Any]]:
    """What the encoders inside a module compute, by the place of each; plain values, as a checkpoint keeps them.

    >>> keep_encoders(nn.Linear(2, 2))
    {}
    """
    places = {id(part): name for name, part in module.named_modules()}
    return {
        places[id(encoder)]: {
            "class": f"{type(encoder).__module__}.{type(encoder).__qualname__}",
            "name": encoder.name,
            "from_pretrained": encoder.from_pretrained,
            "computation": json.loads(json.dumps(dict(encoder.computation))),  # lists for tuples, as it is read back
        }
        for _, _, encoder in encoders_in(module)
    }


def says_encoders(kept: Any) -> TypeGuard[dict[str, dict[str, Any]]]:
    """Whether this is what `keep_encoders` gives; a checkpoint may come from anywhere.

    >>> says_encoders({}), says_encoders({"encoder": {"class": "a.B"}})
    (True, False)
    """
    parts = {"class": str, "name": str, "from_pretrained": str | None, "computation": dict}
    return isinstance(kept, dict) and all(
        isinstance(place, str)
        and isinstance(entry, dict)
        and entry.keys() == parts.keys()
        and all(isinstance(entry[part], kind) for part, kind in parts.items())
        and _is_plain(entry)
        for place, entry in kept.items()
    )


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is what JSON knows, of a size that a description may have."""
    if isinstance(value, str):
        return len(value) <= LONGEST and value.isprintable()
    if isinstance(value, dict | list):
        inside = (*value.keys(), *value.values()) if isinstance(value, dict) else value
        names = all(isinstance(name, str) for name in value) if isinstance(value, dict) else True
        return names and depth < DEEPEST and len(value) <= LONGEST and all(_is_plain(x, depth + 1) for x in inside)
    return value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def check_encoders(module: nn.Module, kept: Any) -> None:
    """Refuses weights whose encoders compute something else than the module's do.

    Args:
        module: holds the encoders.
        kept: what the checkpoint has of `keep_encoders`.

    Raises:
        CheckpointError: names what differs, there and here; or the checkpoint has nothing of the kind.
    """
    if not says_encoders(kept):
        raise CheckpointError(UNSAID)
    here = keep_encoders(module)
    wrong = [f"{place}: only in the checkpoint" for place in kept.keys() - here.keys()]
    wrong += [f"{place}: not in the checkpoint" for place in here.keys() - kept.keys()]
    for place in here.keys() & kept.keys():
        own, there = here[place], kept[place]
        if own["class"] != there["class"]:
            wrong.append(f"{place} is {there['class']} there, {own['class']} here")
        wrong += [f"{place}: {line}" for line in _differences(there["computation"], own["computation"])]
    if wrong:
        raise CheckpointError(
            f"the checkpoint's encoders compute something else: {few(sorted(wrong), separator='; ')}. {OWN_EXPERIMENT}"
        )


@contextmanager
def rebuilding(kept: Mapping[str, Mapping[str, Any]] | None) -> Iterator[None]:
    """Lets encoders that are built inside the block be those of a checkpoint, without reading pretrained weights.

    Args:
        kept: of `keep_encoders`; None changes nothing.
    """
    token = _rebuilt.set(None if kept is None else list(kept.values()))
    try:
        yield
    finally:
        _rebuilt.reset(token)


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Says of whatever fails inside the block that encoders cannot be built as a checkpoint describes them.

    Raises:
        CheckpointError: in place of an error that is not the suite's own; a parser may have wrapped either.
    """
    try:
        yield
    except Exception as error:  # a forged description fails in any way
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, TVRError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from error
        last = error.__cause__ or error
        why = f"{type(last).__name__}: {' '.join(str(last).split())}"
        raise CheckpointError(f"{path}: its encoders cannot be built as it describes them ({why[:200]})") from error


def kept_computation(encoder: Encoder, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the checkpoint says of the encoder that is being built; None outside of `rebuilding`.

    An encoder that reads files asks here first. Weights come with the checkpoint, so that what `from_pretrained` names
    here does not matter, and may be gone; the encoder gets the name that the checkpoint has.

    Args:
        encoder: under construction, its `from_pretrained` set.
        asked: what the experiment says, by the names of its `computation`; None where it says nothing.

    Raises:
        CheckpointError: the checkpoint has no such encoder.
    """
    rebuilt = _rebuilt.get()
    if rebuilt is None:
        return None
    kind = f"{type(encoder).__module__}.{type(encoder).__qualname__}"
    own = json.loads(json.dumps({name: value for name, value in asked.items() if value is not None}))

    def fits(entry: Mapping[str, Any]) -> bool:
        return entry["class"] == kind and all(entry["computation"].get(k) == value for k, value in own.items())

    fitting = [entry for entry in rebuilt if fits(entry)]
    same = [entry for entry in fitting if entry["from_pretrained"] == encoder.from_pretrained] or fitting
    if not same or any(entry["computation"] != same[0]["computation"] for entry in same):
        there = "; ".join(
            _described(entry["class"], {k: entry["computation"].get(k) for k in own}) for entry in rebuilt
        )
        raise CheckpointError(
            f"the experiment builds {_described(kind, own)}, the checkpoint holds {there or 'no encoder'}. "
            f"{OWN_EXPERIMENT}"
        )
    encoder.from_pretrained = same[0]["from_pretrained"]
    return dict(same[0]["computation"])


def _described(kind: str, values: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)
    return f"{kind.rpartition('.')[2]}({said})"


def _differences(there: Any, here: Any, where: str = "") -> list[str]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        names = sorted(there.keys() | here.keys())
        return [
            line
            for name in names
            for line in _differences(there.get(name), here.get(name), f"{where}.{name}" if where else name)
        ]
    return [] if there == here else [f"{where} is {there} in the checkpoint, {here} here"]
