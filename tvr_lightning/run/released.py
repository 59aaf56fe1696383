"""Checkpoints of methods' released code: telling them from a run's, and loading their weights.

They are what `torch.save` writes of a state dict, `module.` in front or not, also below `state_dict`, with CLIP under
`clip.` in OpenAI's or Hugging Face's names. What a method's own tensors are called there it declares:
`RetrievalModule.released_names`.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from tvr_lightning.config.sources import signature
from tvr_lightning.encoders.clip_weights import is_hugging_face, openai_names
from tvr_lightning.encoders.weights import describe, differences, load_checkpoint, read_state_dict
from tvr_lightning.errors import CheckpointError, RunError, few, short
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.released import ReleasedNames
from tvr_lightning.names import CHECKPOINTS, CONFIG, LAST, METRICS, PREDICTIONS, RELEASED
from tvr_lightning.nn.similarity import LogitScale
from tvr_lightning.nn.temporal import FramePositions
from tvr_lightning.run.callbacks.guard import not_finite
from tvr_lightning.run.reading import read_json
from tvr_lightning.visible import say

CLIP = "clip."  # what the names of its CLIP begin with
_WRAPPED = re.compile(r"(module\.){2,}clip\.")
SLACK = 0.01  # of a logarithm that was kept in 16 bits
DEEPEST = 8  # of nesting that is looked into
TAKES = (
    "--weights takes a run (its folder, or a checkpoint in it) and checkpoints of methods' released code: named "
    "tensors, CLIP's below `clip.`, `module.` in front of all or none, by themselves or below `state_dict`. Weights of "
    "an encoder go to its from_pretrained; see docs/finetuning.md"
)
OWN_MARKS = ("encoders", "pytorch-lightning_version")  # of a run's checkpoint


def is_released(path: Path) -> bool:
    """Whether a file is a checkpoint of released code: named tensors, some of them of a part `clip`."""
    try:
        return _is_released(_content(path))
    except CheckpointError:  # whoever reads it says why
        return False


def check_weights(path: Path) -> None:
    """Refuses a file that is neither a run's checkpoint nor one of released code, in words of what it holds.

    Raises:
        CheckpointError: says what was found, and what `--weights` takes.
    """
    try:
        content = _content(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error} {TAKES}") from error
    if not _is_released(content) and not _is_of_a_run(content):
        raise CheckpointError(f"--weights={path}: {_found(content)}. {TAKES}")


def _content(path: Path) -> Any:
    """What a file holds; its tensors stay on the disk where its format lets them."""
    try:
        return load_checkpoint(path)
    except Exception:  # another format, or damaged
        return read_state_dict(path)


def _is_of_a_run(content: Any) -> bool:
    return isinstance(content, Mapping) and "state_dict" in content and any(mark in content for mark in OWN_MARKS)


def _is_released(content: Any) -> bool:
    if not isinstance(content, Mapping) or any(mark in content for mark in OWN_MARKS):
        return False
    state = content.get("state_dict", content)
    return isinstance(state, Mapping) and any(_plain(str(name)).startswith(CLIP) for name in state)


def _found(content: Any) -> str:
    """What a file holds that is not a checkpoint of either kind, in words."""
    place, here = "", content
    for _ in range(DEEPEST):
        tensors = isinstance(here, Mapping) and any(isinstance(x, Tensor) for x in here.values())
        inside = [k for k, x in here.items() if isinstance(x, Mapping) and x] if isinstance(here, Mapping) else []
        if tensors or not inside:
            break
        key = next((k for k in ("state_dict", "model") if k in inside), inside[0])
        place, here = f"{place}[{short(repr(key), 40)}]", here[key]
    if not isinstance(here, Mapping) or not any(isinstance(x, Tensor) for x in here.values()):
        return f"it holds no named tensors (found: {describe(content)})"
    names = [str(name) for name, x in here.items() if isinstance(x, Tensor)]
    before = next((m[0].removesuffix(CLIP) for name in names if (m := _WRAPPED.match(name))), "")
    if place not in ("", "['state_dict']"):
        return f"its tensors lie below {place}; save them alone: torch.save(content{place}, path)"
    if before:
        return f"its tensors have '{short(before)}' in front of '{CLIP}'; save them without"
    return f"none of its {len(names)} tensors is of a part '{CLIP.rstrip('.')}': {few(map(short, names), 3)}"


def load_released(model: RetrievalModule[Any, Any], path: Path) -> dict[str, str]:
    """Loads a checkpoint of released code into a method that declares its names.

    Every tensor of the method must be there, of its shape, and nothing may be left over but what the method says is
    not used; positions behind those that the method has are cut off, since it takes no more frames.

    Args:
        model: built for the checkpoint, see `encoders.kept.weights_of_released_code`.
        path: the file.

    Returns:
        What was left out, and why.

    Raises:
        CheckpointError: names in one line what is missing, left over, of another shape or not finite.
    """
    declared, what = model.released_names(), type(model).__name__
    if declared is None:
        raise CheckpointError(
            f"--weights={path} holds weights of released code, and {what} does not say what its own are called there. "
            "Give the experiment of the method that they are of, or declare them: docs/add_a_method.md, released_names"
        )
    there = read_state_dict(path)
    if forged := [short(name) for name, x in there.items() if not _is_whole(x)]:
        raise CheckpointError(f"--weights={path}: {few(forged)} hold no plain numbers, or fewer than they say")
    there = _of_openai(there, path)
    fitted, wrong = _fitted(model, declared, there)
    if wrong:
        raise CheckpointError(
            f"--weights={path} does not fit {what} as the experiment builds it: {few(wrong, 4, '; ')}. Set the "
            "model to that of the weights: its encoder, data.num_frames, data.max_words, and what chooses or counts "
            f"its parts ({few(_settings(model), 30)})"
        )
    if broken := not_finite(fitted.items()):
        raise CheckpointError(f"{path} holds values that are not finite: {few(broken)}")
    _check_scales(model, fitted, path)
    model.load_state_dict(fitted)
    return {name: why for name in there if (why := declared.why_unused(name))}


def said_of_released(path: Path) -> dict[str, str]:
    """What results keep of a checkpoint of released code: where it lay, its name, and the hash of its content."""
    return {"checkpoint": str(path), "released": path.name, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def released_of(folder: Path) -> Path | None:
    """The checkpoint of released code that a run only tested; None for a run of other weights.

    Raises:
        CheckpointError: another file lies there today than the one that the run tested.

    >>> released_of(Path("runs/none")) is None
    True
    """
    try:
        trained = read_json(folder / METRICS)["trained"]
        if trained["selection"] != RELEASED:
            return None
        path, kept = Path(trained["weights"]["checkpoint"]), str(trained["weights"].get("sha256"))
    except (RunError, LookupError, TypeError, AttributeError):  # no result, or one of another kind
        return None
    if path.is_file() and (found := _sha256(path)) != kept:
        raise CheckpointError(
            f"{path} is not the file that {folder} tested: its sha256 is {found}, that of the run {kept}. Put the file "
            f"of then back, or test this one by itself: tvr test --config {folder / CONFIG} --weights={path}"
        )
    return path


def only_evaluates(folder: Path) -> bool:
    """Whether a run evaluated the weights that its configuration names, and has none of its own.

    Raises:
        CheckpointError: see `released_of`.

    >>> only_evaluates(Path("runs/none"))
    False
    """
    predicts = (folder / PREDICTIONS).is_file() and not (folder / METRICS).exists()
    return released_of(folder) is not None or (predicts and not (folder / CHECKPOINTS / LAST).is_file())


def say_released(model: RetrievalModule[Any, Any], path: Path, unused: Mapping[str, str]) -> None:
    """Says on stderr what of a checkpoint was left out, and whether padding is treated otherwise than there.

    Args:
        model: with its weights.
        path: the checkpoint.
        unused: of `load_released`.
    """
    for why in dict.fromkeys(unused.values()):
        say(f"tvr: {path.name}: {few(n for n, w in unused.items() if w == why)} left out: {why}", file=sys.stderr)
    if model.padding == "masked" and "padding" in inspect.signature(type(model)).parameters:
        say(
            f"tvr: {path.name}: the released code lets padding take part, and its weights were trained so; here it is "
            "left out (model.padding=masked). For the released code's similarities: --model.padding=attended",
            file=sys.stderr,
        )


def _plain(name: str) -> str:
    return name.removeprefix("module.")


def _is_whole(x: Tensor) -> bool:
    """Whether a tensor's numbers are all in its storage: a stride of 0 would make a terabyte of one number."""
    return x.layout == torch.strided and not x.is_meta and x.nbytes <= x.untyped_storage().nbytes()


def _of_openai(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The same with CLIP's tensors under OpenAI's names."""
    clip = {name.removeprefix(CLIP): x for name, x in state.items() if name.startswith(CLIP)}
    if not is_hugging_face(clip):
        return dict(state)
    rest = {name: x for name, x in state.items() if not name.startswith(CLIP)}
    return {**{f"{CLIP}{name}": x for name, x in openai_names(clip, path).items()}, **rest}


def _fitted(
    model: RetrievalModule[Any, Any], declared: ReleasedNames, there: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The method's tensors by their own names, and by the released ones what does not fit."""
    own, tables = model.state_dict(), _tables_of_positions(model)
    rest = {name: x for name, x in there.items() if declared.why_unused(name) is None}
    expected: dict[str, Tensor] = {}
    fitted: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, tensor in own.items():
        if name in declared.absent:
            fitted[name] = torch.zeros_like(tensor)
            continue
        place = declared.of(name)
        if place is None:
            wrong.append(f"{name}: nothing in the released code is called so")
            continue
        expected[place.name] = tensor.T if place.transposed else tensor
        x = rest.get(place.name)
        if x is None:
            continue
        if name in tables and x.ndim == 2:
            x = rest[place.name] = x[: len(tensor)]
            if len(x) < len(tensor):
                most = (len(x) - tables[name].before) // tables[name].tokens
                then = f" has positions for {most} frames: set --model.max_frames={most}"
                wrong.append(place.name + (then if most > 0 else f" has {len(x)} rows: positions for no frame"))
        fitted[name] = x.T if place.transposed and x.ndim == 2 else x
    return fitted, [*wrong, *differences(expected, rest)]


def _settings(model: RetrievalModule[Any, Any]) -> list[str]:
    """Settings of a method that choose its parts or count them, with their values: those of whole numbers and of names.

    What every method has, and shares and scales, change no tensor's shape.
    """
    known = signature(f"{type(model).__module__}.{type(model).__qualname__}")
    chosen = []
    for name, slot in (known.slots if known else {}).items():
        kind = slot.plain_type()
        kinds = [kind, *(inner for part in (kind, *get_args(kind)) for inner in get_args(part))]
        if bool in kinds or int in kinds or any(isinstance(value, str) for value in kinds):
            value = getattr(model, name, None)  # not every method keeps what it was built with
            chosen.append(f"model.{name}={value}" if isinstance(value, int | str) else f"model.{name}")
    return chosen


def _check_scales(model: RetrievalModule[Any, Any], fitted: Mapping[str, Tensor], path: Path) -> None:
    """Refuses a logit scale that the method would never have: scores would be infinite, or all alike.

    Raises:
        CheckpointError: names it.
    """
    for name, part in model.named_modules():
        if isinstance(part, LogitScale) and (x := fitted.get(f"{name}.log")) is not None:
            log, most = float(x), math.log(part.at_most)
            if not -most - SLACK <= log <= most + SLACK:  # 16 bits round
                raise CheckpointError(
                    f"{path}: the logit scale is exp({log:g}); cosines are multiplied by {1 / part.at_most:g} to "
                    f"{part.at_most:g}, its logarithm lies within {most:.2f} of 0"
                )


def _tables_of_positions(model: RetrievalModule[Any, Any]) -> dict[str, FramePositions]:
    """The method's frame positions by the names of their tensors."""
    return {f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, FramePositions)}
