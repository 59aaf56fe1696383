"""The embedded dataset's stand-in for ImageNet: a tiny VGG that has learned to see generated still pictures.

The pictures are single frames of random scenes, drawn as the `shapes` videos are but from another seed: training reads
none of the dataset's videos, captions or categories (docs/hashing.md says how the labels were chosen). For each of the
six shapes the last layer says whether the picture shows it and, if so, how large; like ImageNet's classes, that layer
is not used afterwards.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.data.annotations.shapes_render import RADIUS, Pose, pose, render
from tvr_lightning.data.annotations.shapes_scenes import SHAPES, draw_scene
from tvr_lightning.encoders.vgg import VGGEncoder
from tvr_lightning.errors import ConfigError, RunError
from tvr_lightning.results import written_atomically

VERSION = 1  # raise it whenever equal settings give other weights: existing files are then made again
FILE = Path("data/shapes_vgg.safetensors")
HELD_OUT = 1024  # pictures
HEADS = {"size": 4}  # classes that each shape in a picture has
_RADII = (8.0, 13.0, 21.0)  # pixels, between the classes of `size`
_METADATA = "tvr_lightning.pretraining"


@dataclass(frozen=True)
class StillSettings:
    """What the weights depend on.

    Attributes:
        steps: training steps.
        batch_size: pictures of a step.
        lr: highest learning rate, of AdamW under one cycle.
        seed: of weights and pictures.
    """

    steps: int = 600
    batch_size: int = 64
    lr: float = 3e-3
    seed: int = 1


@dataclass(frozen=True)
class PretrainedVGG:
    """Weights on disk.

    Attributes:
        file: where they lie, in torchvision's layout.
        accuracy: share of right answers on held-out pictures: `shape` is whether each shape is there, the other heads
            are asked about those that are.
        created: False when the file was there already.
        seconds: time taken.
    """

    file: Path
    accuracy: Mapping[str, float]
    created: bool
    seconds: float


@dataclass(frozen=True)
class _Stills:
    """pixels (B, 1, 3, S, S) uint8; there (B, 6) bool; classes (B, 6, heads) int64, one per head, valid where there."""

    pixels: Tensor
    there: Tensor
    classes: Tensor


def pretrain_vgg(file: Path = FILE, settings: StillSettings = StillSettings()) -> PretrainedVGG:
    """Trains VGG's preset `tiny` on generated pictures, unless `file` holds the result of these settings already.

    Args:
        file: safetensors, which `VGGEncoder(model="tiny", from_pretrained=file)` reads.
        settings: equal ones give equal weights on one machine.

    Raises:
        ConfigError: settings that train nothing.
        RunError: the file cannot be written, or is something else.
    """
    began, file = time.perf_counter(), Path(file)
    if settings.steps < 1 or settings.batch_size < 1 or settings.lr <= 0:
        raise ConfigError(f"steps, batch size and learning rate must be positive, got {settings}")
    wanted = {"version": VERSION, **asdict(settings)}
    found = _description(file)
    if found is not None and found["settings"] == wanted:
        return PretrainedVGG(file, found["accuracy"], False, time.perf_counter() - began)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        encoder = VGGEncoder("tiny", freeze=False)
        head = nn.Linear(encoder.embed_dim, len(SHAPES) * (1 + sum(HEADS.values())))
        _train(encoder, head, settings)
    accuracy = _accuracy(encoder, head, _draw(random.Random(f"stills held out {settings.seed}"), HELD_OUT, encoder))
    _write(file, encoder, head, {"settings": wanted, "accuracy": accuracy})
    return PretrainedVGG(file, accuracy, True, time.perf_counter() - began)


def _train(encoder: VGGEncoder, head: nn.Linear, settings: StillSettings) -> None:
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.steps + 1)
    rng = random.Random(f"stills {settings.seed}")
    for _ in range(settings.steps):
        batch = _draw(rng, settings.batch_size, encoder)
        loss = _loss(*_answers(encoder, head, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _answers(encoder: VGGEncoder, head: nn.Linear, batch: _Stills) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits (B, 6) of whether a shape is there, and those (B, 6, C) of each head's C classes."""
    features = encoder.encode_frames(batch.pixels, torch.ones(len(batch.pixels), 1, dtype=torch.bool))[:, 0]
    logits = head(features).unflatten(1, (len(SHAPES), -1))  # (B, 6, 1 + sum of C)
    there, *classes = logits.split([1, *HEADS.values()], dim=2)
    return there.squeeze(2), tuple(classes)


def _loss(there: Tensor, classes: tuple[Tensor, ...], batch: _Stills) -> Tensor:
    loss = len(SHAPES) * F.binary_cross_entropy_with_logits(there, batch.there.to(there.dtype))
    if batch.there.any():
        targets = batch.classes[batch.there].unbind(1)  # (objects,) of each head
        loss = (
            loss
            + torch.stack(
                [F.cross_entropy(logits[batch.there], target) for logits, target in zip(classes, targets, strict=True)]
            ).sum()
        )
    return loss


@torch.no_grad()
def _accuracy(encoder: VGGEncoder, head: nn.Linear, batch: _Stills) -> dict[str, float]:
    there, classes = _answers(encoder, head, batch)
    right = {"shape": ((there > 0) == batch.there).double().mean().item()}
    for name, logits, target in zip(HEADS, classes, batch.classes[batch.there].unbind(1), strict=True):
        right[name] = (logits[batch.there].argmax(1) == target).double().mean().item()
    return right


def _draw(rng: random.Random, count: int, encoder: VGGEncoder) -> _Stills:
    """Draws pictures of one or two objects at rest or in the middle of an event, which turns, moves or resizes them."""
    pixels: list[np.ndarray] = []
    there = torch.zeros(count, len(SHAPES), dtype=torch.bool)
    classes = torch.zeros(count, len(SHAPES), len(HEADS), dtype=torch.int64)
    while len(pixels) < count:
        # a short event: rendering draws all of its frames
        scene = replace(draw_scene(rng, num_events=1), segment=rng.randint(3, 6), rest=0)
        frames = render(scene)
        for index in rng.sample(range(len(frames)), 2)[: count - len(pixels)]:
            for actor, thing in enumerate(scene.things):
                placed, shape = pose(scene, actor, index), SHAPES.index(thing.shape)
                there[len(pixels), shape] = placed.visible
                classes[len(pixels), shape] = torch.tensor(_classes(placed, RADIUS[thing.size]))
            pixels.append(frames[index])
    images = torch.from_numpy(np.stack(pixels)).movedim(3, 1).float()  # (B, 3, 96, 96)
    side = encoder.image_size
    images = F.interpolate(images, (side, side), mode="bilinear", antialias=True).round().clamp(0, 255)
    return _Stills(images.to(torch.uint8).unsqueeze(1), there, classes)


def _classes(placed: Pose, radius: float) -> tuple[int, ...]:
    """Returns the class of each head for an object."""
    return (int(np.searchsorted(_RADII, radius * placed.scale)),)


def _description(file: Path) -> dict[str, dict[str, float]] | None:
    """Returns settings and accuracy of a file, None where there is none.

    Raises:
        RunError: it holds something else.
    """
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(_METADATA)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read ({error}). Delete it, or choose another file.") from error
    if text is None:
        raise RunError(f"{file} holds other weights. Choose another file, or move it away.")
    return json.loads(text)  # type: ignore[no-any-return]


def _write(file: Path, encoder: VGGEncoder, head: nn.Linear, description: Mapping[str, object]) -> None:
    from safetensors.torch import save_file

    state = encoder.state_dict() | {f"classifier.6.{name}": value for name, value in head.state_dict().items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {file.parent}: {error.strerror}") from error
    with written_atomically(file) as temporary:
        save_file({name: value.detach().contiguous() for name, value in state.items()}, temporary,
                  {_METADATA: json.dumps(description)})  # fmt: skip
