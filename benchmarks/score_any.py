"""Forms of any method for score.py: as the suite scores, and beside it the paper's form or all pairs at once.

A method is built as `experiments/method/NAME.yaml` has it, with small encoders as wide as the case says, over random
captions and videos of full length: the dearest case. One that declares `literal_score` is compared with that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from inspect import getmodule, signature
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from cases import Case, Form
from torch import Tensor

from tvr_lightning import device
from tvr_lightning.config.compose import PACKAGED, compose
from tvr_lightning.config.objects import class_of
from tvr_lightning.encoders import BERT_PRESETS, PRESETS, VGG_PRESETS, BERTSize, CLIPSize, VGGSize
from tvr_lightning.encoders.base import Encoder, TextEncoder
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.blocks import in_blocks
from tvr_lightning.types import TensorRows, TextInput, VideoInput

BATCH = 32  # captions or videos that are encoded together
UNBOUNDED = 1 << 62


def known_methods() -> list[str]:
    """Names of the files that describe methods: a new one appears by itself."""
    return sorted(file.stem for file in Path(PACKAGED, "method").glob("*.yaml"))


def features(case: Case, device: str) -> tuple[Any, Any]:
    """What the method makes of random captions and videos."""
    model = _built(case.method, case.words, case.frames, case.dim)
    generator = torch.Generator().manual_seed(0)
    vocabulary = min(encoder.vocabulary_size for encoder in model.encoders if isinstance(encoder, TextEncoder))
    tokens = torch.randint(1, vocabulary - 1, (case.texts, case.words), generator=generator)
    tokens[:, -1] = vocabulary - 1  # where CLIP has its end
    place = torch.arange(case.words).expand(case.texts, -1)
    word = torch.where((place > 0) & (place < case.words - 1), place - 1, -1)
    index = torch.arange(case.texts)
    text = TextInput(tokens, torch.ones_like(tokens, dtype=torch.bool), index, index, word)
    size = model.image_size
    shape = (case.videos, case.frames, 3, size, size)
    frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    video = VideoInput(frames, torch.ones(shape[:2], dtype=torch.bool), torch.arange(case.videos))
    model.to("cpu").eval()
    return _encoded(model.encode_text, text).to(device), _encoded(model.encode_video, video).to(device)


def forms(case: Case, device: str) -> tuple[torch.nn.Module, Mapping[str, Form]]:
    """The method, and its forms from features to final score."""
    model = _built(case.method, case.words, case.frames, case.dim).to(device).eval()
    literal = getattr(model, "literal_score", None)
    if literal is not None:
        return model, {"literal": literal, "suite": model.score}
    if not hasattr(getmodule(type(model)), in_blocks.__name__):
        return model, {"suite": model.score}

    def at_once(texts: Any, videos: Any) -> Tensor:
        with _one_block():
            return model.score(texts, videos)

    return model, {"at once": at_once, "suite": model.score}


@contextmanager
def _one_block() -> Iterator[None]:
    """No method cuts texts into blocks inside."""
    with (
        patch.object(device, "CPU", replace(device.CPU, similarities=UNBOUNDED)),
        patch.object(device, "GPU", replace(device.GPU, similarities=UNBOUNDED)),
    ):
        yield


@cache
def _built(name: str, words: int, frames: int, dim: int) -> RetrievalModule[Any, Any]:
    part = compose(f"method/{name}")["model"]
    arguments = part["init_args"]
    accepted = signature(class_of(part) or object).parameters
    arguments |= {n: max(frames, accepted[n].default) for n in ("num_frames", "max_frames") if n in accepted}
    for value in arguments.values():
        kind = class_of(value)
        if kind is not None and issubclass(kind, Encoder):
            value["init_args"] = {**value.get("init_args", {}), **kind.smallest}
            if issubclass(kind, TextEncoder):
                value["init_args"]["context_length"] = words
    torch.manual_seed(0)
    with (
        patch.dict(PRESETS, tiny=CLIPSize(32, 16, 64, 1, 1, 64, 1, 1, dim)),
        patch.dict(VGG_PRESETS, tiny=VGGSize(32, ((8,), (16,)), 2, 32, dim)),
        patch.dict(BERT_PRESETS, tiny=BERTSize(dim, 1, 1, dim, 500, max(16, words))),
    ):
        model: RetrievalModule[Any, Any] = _instance(part)
    for parameter in model.parameters():  # away from the special points of initialisation
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def _instance(part: Mapping[str, Any]) -> Any:
    kind: Any = class_of(part)
    arguments = part["init_args"].items()
    return kind(**{name: _instance(x) if class_of(x) else x for name, x in arguments if name != "optimizer"})


@torch.no_grad()
def _encoded(encode: Callable[[Any], TensorRows], rows: TensorRows) -> Any:
    parts = [encode(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
    return type(parts[0]).cat(parts)
