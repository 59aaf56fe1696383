"""Methods as the property tests try them: from `experiments/method/*.yaml`, in every variant, over random inputs.

A method is tried as its file builds it, with what it declares as `tested_with`, and in its variants: every other value
of each argument that is a choice (`Literal`, `bool`), no item of a list of choices, and frame encoders that train or
are frozen. What the method refuses is not a variant, nor is what reads the ground truth.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from tvr_lightning.config.objects import class_of
from tvr_lightning.encoders import BERT_PRESETS, PRESETS, VGG_PRESETS, BERTSize, CLIPSize, VGGSize
from tvr_lightning.encoders.base import Encoder, FrameEncoder, TextEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.types import TensorRows, TextInput, VideoInput

from ..kinds import composed

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
WORDS, FRAMES = 7, 5
TINY = (
    (PRESETS, CLIPSize(image_size=32, patch_size=16, image_width=32, image_layers=1, image_heads=2,
                       text_width=32, text_layers=1, text_heads=2, embed_dim=32)),
    (VGG_PRESETS, VGGSize(image_size=32, blocks=((8,), (16,)), pooled=2, hidden_dim=32, embed_dim=24)),
    (BERT_PRESETS, BERTSize(width=16, layers=1, heads=2, mlp_width=32, vocabulary_size=500, positions=16, dropout=0.0)),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A method in one variant.

    Attributes:
        file: of `experiments/method`.
        argument: the constructor argument that differs, `graph` or `encoder.freeze`; empty for the method as it is.
        value: its value.
        frozen: whether features of frozen frames can be kept.
    """

    file: Path
    argument: str = ""
    value: Any = None
    frozen: bool = False

    def __str__(self) -> str:
        return f"{self.file.stem}-{self.argument}={self.value}" if self.argument else self.file.stem

    def part(self) -> dict[str, Any]:
        """The method as the file describes it, with the smallest encoders and what differs."""
        part = copy.deepcopy(composed(self.file)["model"])
        arguments = part.setdefault("init_args", {})
        arguments |= getattr(class_of(part), "tested_with", {})
        for value in arguments.values():
            kind = class_of(value)
            if kind is not None and issubclass(kind, Encoder):
                value["init_args"] = {**value.get("init_args", {}), **kind.smallest}
                if issubclass(kind, TextEncoder):
                    value["init_args"]["context_length"] = WORDS
        encoder, _, name = self.argument.rpartition(".")
        if name:
            (arguments[encoder]["init_args"] if encoder else arguments)[name] = self.value
            arguments |= getattr(class_of(part), "tested_besides", {}).get(f"{self.argument}={self.value}", {})
        return part

    def build(self) -> RetrievalModule[Any, Any]:
        """Builds it; the suite's own encoders are even smaller than their smallest."""
        torch.manual_seed(0)
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of methods that read the ground truth: they are left out
            for presets, size in TINY:
                patch.setitem(presets, "tiny", size)
            model = instantiate(self.part())
        assert isinstance(model, RetrievalModule), self.file
        for parameter in model.parameters():  # away from the special points of initialisation
            if parameter.ndim > 1:
                parameter.data += 0.02 * torch.randn_like(parameter)
        return model.eval()


def instantiate(part: dict[str, Any]) -> Any:
    kind = class_of(part)
    assert kind is not None, f"{part['class_path']} cannot be imported"
    arguments = {k: instantiate(v) if class_of(v) else v for k, v in part["init_args"].items() if k != "optimizer"}
    return kind(**arguments)


def choices(part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Arguments that are choices, with each value that is not the present one."""
    kind: Any = class_of(part)
    parameters = inspect.signature(kind).parameters
    for name, hint in get_type_hints(kind.__init__).items():
        if name not in parameters:
            continue
        present = part["init_args"].get(name, parameters[name].default)
        values: Sequence[Any] = ()
        if hint is bool or get_origin(hint) is Literal:
            values = get_args(hint) or (False, True)
        elif get_origin(hint) is Sequence and get_origin(get_args(hint)[0]) is Literal:
            values = ([],)
        yield from ((name, value) for value in values if value != present)


@cache
def cases_of(file: Path) -> list[Case]:
    plain = Case(file)
    model, part = plain.build(), plain.part()
    frozen = [encoder.frames_frozen for encoder in model.encoders if isinstance(encoder, FrameEncoder)]
    changes = [("", None), *choices(part)]
    for name, value in part["init_args"].items():
        kind = class_of(value)
        if kind is not None and issubclass(kind, FrameEncoder):
            changes += [(f"{name}.{switch}", on) for switch, on in choices(value) if isinstance(on, bool)]
    cases: list[Case] = []
    for argument, value in changes:
        case = Case(file, argument, value)
        try:
            model = case.build()
        except ConfigError:  # no variant of this method
            continue
        now = [encoder.frames_frozen for encoder in model.encoders if isinstance(encoder, FrameEncoder)]
        encoder, dot, _ = argument.partition(".")
        done = [c for c in cases if c.argument.startswith(f"{encoder}.")]  # one switch of an encoder is enough
        if not model.reads_ground_truth and not (dot and (done or now == frozen)):
            cases.append(replace(case, frozen=model.frozen_video() is not None))
    return cases


def random_text(method: RetrievalModule[Any, Any], count: int, seed: int = 1, words: int = WORDS) -> TextInput:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 400, (count, words), generator=generator)
    lengths = torch.randint(3, WORDS + 1, (count,), generator=generator)
    mask = torch.arange(words) < lengths[:, None]
    vocabulary = min(encoder.vocabulary_size for encoder in method.encoders if isinstance(encoder, TextEncoder))
    tokens[torch.arange(count), lengths - 1] = vocabulary - 1  # where CLIP has its end
    index = torch.arange(count)
    # every token between start and end is a word of its own
    place = torch.arange(words)
    word = torch.where((place > 0) & (place < lengths[:, None] - 1), place - 1, -1)
    return TextInput(tokens.masked_fill(~mask, 0), mask, index, index, word)


def random_video(method: RetrievalModule[Any, Any], count: int, seed: int = 2) -> VideoInput:
    generator, size = torch.Generator().manual_seed(seed), method.image_size
    noise = torch.randint(0, 192, (count, FRAMES, 3, size, size), generator=generator, dtype=torch.uint8)
    # each video has its colour: the mean of mere noise is the same everywhere
    frames = noise + torch.randint(0, 64, (count, 1, 3, 1, 1), generator=generator, dtype=torch.uint8)
    mask = torch.arange(FRAMES) < torch.randint(1, FRAMES + 1, (count, 1), generator=generator)
    return VideoInput(frames * mask[..., None, None, None], mask, torch.arange(count))


def features(method: RetrievalModule[Any, Any], texts: int, videos: int) -> tuple[TensorRows, TensorRows]:
    with torch.no_grad():
        return method.encode_text(random_text(method, texts)), method.encode_video(random_video(method, videos))
