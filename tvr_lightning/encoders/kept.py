"""What a checkpoint keeps of encoders besides their weights: enough to build them again without any other file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torch import nn

from tvr_lightning.encoders.base import Encoder, encoders_in
from tvr_lightning.encoders.of_runs import UNSAID, Wanted, says_encoders, take
from tvr_lightning.encoders.weights import differences, weight_mismatch
from tvr_lightning.errors import CheckpointError, ConfigError, TVRError, few

OWN_EXPERIMENT = "It goes with the settings of the run that trained it: its run folder's config.yaml."
_PENDING = "_kept"  # on an encoder under construction: its name, and weights to load
_follow: ContextVar[bool] = ContextVar("_follow", default=False)
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


def check_finished(encoder: Encoder) -> None:
    """Refuses an encoder whose class asks `kept_computation` and does not call `finish`, with weights to be loaded.

    Raises:
        ConfigError: names the class.
    """
    if encoder.__dict__.get(_PENDING, ("", None))[1] is not None:
        raise ConfigError(
            f"{type(encoder).__name__} cannot take its weights from a run (from_pretrained={encoder.from_pretrained}): "
            "its constructor has to call encoders.kept.finish(self) when its modules are built"
        )


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
def weights_of_released_code() -> Iterator[None]:
    """Lets encoders that are built inside the block read no weights: a checkpoint of released code brings them."""
    token = _follow.set(True)
    try:
        yield
    finally:
        _follow.reset(token)


def are_of_released_code() -> bool:
    """Whether an encoder under construction gets the weights of a checkpoint of released code: of OpenAI's CLIP.

    >>> are_of_released_code()
    False
    >>> with weights_of_released_code():
    ...     are_of_released_code()
    True
    """
    return _follow.get()


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
    """What a checkpoint says of the encoder that is being built; None where it is not one of a checkpoint.

    An encoder that reads files asks here first, and calls `finish` when its modules are built. There are two cases.
    Inside of `rebuilding` the whole method is a checkpoint's: weights come later, so that what `from_pretrained` names
    here does not matter, and may be gone. Elsewhere `from_pretrained` may name a run, of which the encoder alone is
    taken: `finish` loads its weights.

    Args:
        encoder: under construction, its `from_pretrained` set.
        asked: what the experiment says, by the names of its `computation`; None where it says nothing.

    Raises:
        CheckpointError: the checkpoint has no such encoder, or several.
    """
    rebuilt = _rebuilt.get()
    wanted = Wanted.of(encoder, asked)
    if rebuilt is None:
        if are_of_released_code():
            return None
        taken = take(encoder.from_pretrained, wanted)
        if taken is None:
            return None
        encoder.origin, encoder.__dict__[_PENDING] = taken.origin, (taken.name, taken.state)
        return taken.computation
    fitting = [entry for entry in rebuilt if wanted.fits(entry)]
    same = [entry for entry in fitting if entry["from_pretrained"] == encoder.from_pretrained] or fitting
    if not same or any(entry["computation"] != same[0]["computation"] for entry in same):
        there = "; ".join(map(wanted.said_of, rebuilt))
        raise CheckpointError(
            f"the experiment builds {wanted}, the checkpoint holds {there or 'no encoder'}. {OWN_EXPERIMENT}"
        )
    encoder.from_pretrained = same[0]["from_pretrained"]
    encoder.__dict__[_PENDING] = (same[0]["name"], None)
    return dict(same[0]["computation"])


def building(encoder: Encoder) -> AbstractContextManager[None]:
    """Says of whatever fails inside the block that an encoder taken from a run cannot be built as described there."""
    return nullcontext() if encoder.origin is None else checkpoint_errors(encoder.origin.file)


def finish(encoder: Encoder) -> None:
    """Gives an encoder the name that the checkpoint has for it, and, where it was taken from a run, its weights.

    Args:
        encoder: with its modules built, after `kept_computation`.

    Raises:
        CheckpointError: the weights do not fit it.
    """
    name, state = encoder.__dict__.pop(_PENDING, (encoder.name, None))
    if state is not None and encoder.origin is not None:
        if wrong := differences(encoder.state_dict(), state):
            raise weight_mismatch(encoder.origin.file, encoder.name, wrong)
        encoder.load_state_dict(state)
    encoder.name = name


def _differences(there: Any, here: Any, where: str = "") -> list[str]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        names = sorted(there.keys() | here.keys())
        return [
            line
            for name in names
            for line in _differences(there.get(name), here.get(name), f"{where}.{name}" if where else name)
        ]
    return [] if there == here else [f"{where} is {there} in the checkpoint, {here} here"]
