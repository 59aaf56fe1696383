"""What a run's checkpoint holds of its encoders, and taking one of them for another method.

`from_pretrained` of an encoder may name a run's folder or one of its checkpoints; `RUN#PLACE` chooses among several
encoders of one kind by their place in the run's method: `runs/sptch_shapes/a#text_hash_encoder`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from tvr_lightning.data.sanity import marks_in
from tvr_lightning.encoders.base import Origin
from tvr_lightning.encoders.weights import PLAIN_DTYPES, load_checkpoint, why_unreadable
from tvr_lightning.errors import CheckpointError, few, nearest
from tvr_lightning.names import BEST, CHECKPOINTS, CONFIG, LAST

if TYPE_CHECKING:
    from tvr_lightning.encoders.base import Encoder

LONGEST, DEEPEST = 1000, 8  # of texts and lists in a description, and of nesting
UNSAID = (
    "the checkpoint does not say what its encoders compute (activation, pixel statistics), or not as this one does: "
    "an earlier version saved it. Evaluate it with that version, or train again"
)
SAID_OF_WEIGHTS = ("dataset", "protocol", "selection", "seed", "subset", "steps", "tokenizer", "vocabulary")
SCALE = "logit_scale.log"  # of `nn.similarity.LogitScale`, as methods call it


@dataclass(frozen=True)
class Wanted:
    """An encoder that an experiment builds.

    Attributes:
        kind: its class.
        computation: what the experiment says of its computation, as JSON has it.
    """

    kind: str
    computation: Mapping[str, Any]

    @classmethod
    def of(cls, encoder: Encoder, asked: Mapping[str, Any]) -> Wanted:
        """Of an encoder under construction; None in `asked` says nothing."""
        said = {name: value for name, value in asked.items() if value is not None}
        return cls(f"{type(encoder).__module__}.{type(encoder).__qualname__}", json.loads(json.dumps(said)))

    def fits(self, entry: Mapping[str, Any]) -> bool:
        """Whether a checkpoint's encoder is of this kind and computes as the experiment says."""
        there = entry["computation"]
        return entry["class"] == self.kind and all(there.get(k) == value for k, value in self.computation.items())

    def said_of(self, entry: Mapping[str, Any]) -> str:
        """A checkpoint's encoder, in as many words as `str` of this one."""
        there = {k: entry["computation"].get(k) for k in self.computation}
        return f"{_described(entry['class'], there)}, by name {entry['name']}"

    def __str__(self) -> str:
        return _described(self.kind, self.computation)


def _described(kind: str, values: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)
    return f"{kind.rpartition('.')[2]}({said})"


@dataclass(frozen=True)
class Taken:
    """An encoder out of a run.

    Attributes:
        name: for results; with the run.
        computation: what features depend on besides the weights.
        state: its weights.
        origin: where they are from.
    """

    name: str
    computation: dict[str, Any]
    state: dict[str, Tensor]
    origin: Origin


def take(source: str | None, wanted: Wanted) -> Taken | None:
    """Takes an encoder out of the run that `from_pretrained` names; None where it names no run.

    Args:
        source: `from_pretrained`.
        wanted: what is being built.

    Raises:
        CheckpointError: the run has no weights, no such encoder or several, or its checkpoint is damaged.
    """
    found = None if source is None else _find(source)
    if found is None:
        return None
    file, place = found
    content = read_checkpoint(file)
    entries, trained = content.get("encoders"), content.get("trained")
    if not says_encoders(entries) or not isinstance(trained, dict):
        raise CheckpointError(f"{file}: {UNSAID}")
    place = _choose(entries, place, wanted, f"from_pretrained={source}")
    state = content["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise CheckpointError(f"{file} holds no weights where they belong; is it a run's checkpoint?")
    own = {name.removeprefix(f"{place}."): x for name, x in state.items() if name.startswith(f"{place}.")}
    if broken := [n for n, x in own.items() if x.dtype in PLAIN_DTYPES and not bool(torch.isfinite(x).all())]:
        raise CheckpointError(f"{file}: the weights of {place} hold values that are not finite: {few(broken)}")
    run = file.absolute().parents[1] if file.parent.name == CHECKPOINTS else file.absolute()
    name = f"{entries[place]['name'].partition(' of ')[0]} of {run.parent.name}/{run.name}"
    scale = state.get(SCALE)
    said = {"checkpoint": str(file), "encoder": place, **said_of_weights(trained, file)}
    factor = float(scale.exp()) if scale is not None and scale.ndim == 0 else None
    origin = Origin(file, place, said, content.get("vocabulary"), factor, marks_in(content))
    return Taken(name, dict(entries[place]["computation"]), own, origin)


def said_of_weights(trained: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What results keep of how another run's weights were trained: `SAID_OF_WEIGHTS`, as far as it is plain.

    The last weights of a run are nobody's choice, whatever might have chosen others.

    >>> said_of_weights({"dataset": "shapes", "selection": "validation", "other": 1}, Path("a/checkpoints/last.ckpt"))
    {'dataset': 'shapes', 'selection': 'last'}
    """
    said = {name: trained[name] for name in SAID_OF_WEIGHTS if isinstance(trained.get(name), str | int)}
    return said | ({"selection": Path(LAST).stem} if file.name == LAST and "selection" in said else {})


def result_weights(folder: Path) -> Path:
    """The checkpoint that a run's result came from: the selected one, or the last where nothing selected."""
    named = [folder / CHECKPOINTS / name for name in (BEST, LAST)]
    return next((path for path in named if path.is_file()), named[0])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, whose tensors stay on disk until they are used; nothing in it is run.

    Raises:
        CheckpointError: it is damaged, or no checkpoint.
    """
    try:
        content = load_checkpoint(path)
    except Exception as error:  # a damaged file fails in many ways; all mean the same to the user
        why = why_unreadable(path, error)
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({why}); is it complete?") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(
            f"{path} is not a run's checkpoint; pretrained weights belong in the encoder's from_pretrained"
        )
    return content


def _find(source: str) -> tuple[Path, str | None] | None:
    """The checkpoint and the place that a text names, if any."""
    path, place = Path(source).expanduser(), None
    if not path.exists() and "#" in source:
        path, place = Path(source.rpartition("#")[0]).expanduser(), source.rpartition("#")[2]
    if path.is_dir() and (path / CONFIG).is_file():
        file = result_weights(path)
        if not file.is_file():
            raise CheckpointError(
                f"from_pretrained={source}: the run has no checkpoint {file}; it did not get that far, or trains "
                "nothing: then take the from_pretrained of its own encoder"
            )
        return file, place
    # a bare name is a tag, such as openai, whatever lies in the working directory: runs, indexes
    is_tag = len(path.parts) == 1 and place is None
    if (
        not is_tag
        and not path.exists()
        and (runs := sorted(str(file.parent) for file in path.parent.glob(f"*/{CONFIG}")))
    ):
        raise CheckpointError(f"from_pretrained={source}: there is no run {path}; {nearest(str(path), runs)}")
    if not path.is_file() or path.suffix != ".ckpt":
        return None
    if path.parent.name != CHECKPOINTS:  # Lightning's own ending: of this suite, or weights of others
        try:
            content = read_checkpoint(path)
        except CheckpointError:
            return None  # whoever reads weights of others says what is wrong with it
        if "encoders" not in content:
            return None
    return path, place


def _choose(entries: Mapping[str, Mapping[str, Any]], place: str | None, wanted: Wanted, what: str) -> str:
    """The place of the encoder that is meant."""
    there = few((f"{name}, {wanted.said_of(entry)}" for name, entry in entries.items()), separator="; ") or "none"
    if place is not None and place not in entries:
        raise CheckpointError(f"{what}: the run has no encoder '{place}'; {nearest(place, entries)}")
    kind = wanted.kind.rpartition(".")[2]
    same = [name for name, entry in entries.items() if entry["class"] == wanted.kind and place in (None, name)]
    if not same:
        raise CheckpointError(f"{what}: the experiment builds a {kind}, the run has no such encoder (found: {there})")
    fitting = [name for name in same if wanted.fits(entries[name])]
    if not fitting:
        raise CheckpointError(
            f"{what}: the experiment builds {wanted}, the run has {there}. Set `model`, `size` and what else differs "
            "as the run has them"
        )
    if len(fitting) > 1:
        raise CheckpointError(
            f"{what}: the run has several encoders of this kind ({', '.join(fitting)}); say which: "
            f"{what.partition('#')[0]}#{fitting[0]}"
        )
    return fitting[0]


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
