"""The embedded dataset's stand-in for ImageNet's VGG.

For each of the six shapes the last layer says whether a still shows it and, if so, how large (docs/hashing.md says how
these labels were chosen); like ImageNet's classes, that layer is not used afterwards.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.encoders.vgg import VGGEncoder
from tvr_lightning.encoders.weights import read_state_dict
from tvr_lightning.synthetic.scenes import SHAPES
from tvr_lightning.synthetic.stand_ins.files import Recipe, Settings, State
from tvr_lightning.synthetic.stand_ins.stills import NUM_SIZES, Stills, draw_stills

VERSION = "vgg 2"  # raise it whenever equal settings give other weights
HELD_OUT = 1024  # pictures
LAST = "classifier.6."  # torchvision's name of the classifying layer


@dataclass(frozen=True)
class VGGSettings(Settings):
    """600 steps of AdamW under one cycle."""

    steps: int = 600
    batch_size: int = 64
    lr: float = 3e-3
    seed: int = 1


@dataclass(frozen=True)
class _Batch:
    """pixels (B, 1, 3, S, S) uint8; there (B, 6) bool; size (B, 6) int64, valid where there."""

    pixels: Tensor
    there: Tensor
    size: Tensor


def vgg_recipe(settings: VGGSettings = VGGSettings()) -> Recipe:
    """VGG's preset `tiny`, trained on stills, in torchvision's layout.

    Of its accuracy, `shape` is whether each shape is there, and `size` that of those that are.
    """
    return Recipe(VERSION, settings, lambda: _train(settings), lambda file: _measure(file, settings.seed))


def _train(settings: VGGSettings) -> State:
    encoder = VGGEncoder("tiny", freeze=False)
    head = nn.Linear(encoder.embed_dim, len(SHAPES) * (1 + NUM_SIZES))
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
    return encoder.state_dict() | {f"{LAST}{name}": value for name, value in head.state_dict().items()}


def _answers(encoder: VGGEncoder, head: nn.Linear, batch: _Batch) -> tuple[Tensor, Tensor]:
    """Logits (B, 6) of whether a shape is there, and those (B, 6, 4) of its size."""
    features = encoder.encode_frames(batch.pixels, torch.ones(len(batch.pixels), 1, dtype=torch.bool))[:, 0]
    there, size = head(features).unflatten(1, (len(SHAPES), -1)).split([1, NUM_SIZES], dim=2)
    return there.squeeze(2), size


def _loss(there: Tensor, size: Tensor, batch: _Batch) -> Tensor:
    loss = len(SHAPES) * F.binary_cross_entropy_with_logits(there, batch.there.to(there.dtype))
    if batch.there.any():
        loss = loss + F.cross_entropy(size[batch.there], batch.size[batch.there])
    return loss


@torch.no_grad()
def _measure(file: Path, seed: int) -> dict[str, float]:
    encoder = VGGEncoder("tiny", str(file))
    head = nn.Linear(encoder.embed_dim, len(SHAPES) * (1 + NUM_SIZES))
    state = read_state_dict(file)
    head.load_state_dict({name.removeprefix(LAST): x for name, x in state.items() if name.startswith(LAST)})
    batch = _draw(random.Random(f"stills held out {seed}"), HELD_OUT, encoder)
    there, size = _answers(encoder, head, batch)
    return {
        "shape": ((there > 0) == batch.there).double().mean().item(),
        "size": (size[batch.there].argmax(1) == batch.size[batch.there]).double().mean().item(),
    }


def _draw(rng: random.Random, count: int, encoder: VGGEncoder) -> _Batch:
    stills = draw_stills(rng, count, 2, (3, 6), encoder.image_size)
    return _Batch(stills.pixels, *_targets(stills))


def _targets(stills: Stills) -> tuple[Tensor, Tensor]:
    """Whether each shape is there (B, 6), and the class of its size (B, 6)."""
    there = torch.zeros(len(stills), len(SHAPES), dtype=torch.bool)
    size = torch.zeros(len(stills), len(SHAPES), dtype=torch.int64)
    for row, objects in enumerate(stills.objects):
        for placed in objects:
            shape = SHAPES.index(placed.thing.shape)
            there[row, shape], size[row, shape] = placed.pose.visible, placed.size
    return there, size
