"""Do the frames of `shapes` hold what each kind of minimal pair asks for? A supervised reader of scenes says so.

    python benchmarks/figures/probe_bounds.py [--scenes 12000] [--epochs 12] [--pairs 300] [--seed 0] [--json]

A small convolutional network learns from labelled frames, six of a video as methods get them, what captions can name:
which shapes are there, in which colour and size, and what each event is, by which shape. A pair is told apart when both
of its videos are likelier under their own description than under the other's; chance is 25 %. A kind that it tells
apart in more than 90 % is answered by the frames: a method that fails there fails by what it does with them.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tvr_lightning.synthetic.rendering import render
from tvr_lightning.synthetic.scenes import (
    COLOURS,
    EVENTS,
    PROBE_KINDS,
    SHAPES,
    SIZES,
    Scene,
    draw_family,
    draw_pair,
)
from tvr_lightning.visible import say

FRAMES, SIDE = 6, 48
NONE = len(EVENTS)
# per shape: absent or a colour, a size; per event slot: a kind or none, the acting shape, the colour that it becomes
HEADS = {
    **{f"colour of {s}": len(COLOURS) + 1 for s in SHAPES},
    **{f"size of {s}": len(SIZES) for s in SHAPES},
    **{f"event {i}": NONE + 1 for i in range(2)},
    **{f"actor {i}": len(SHAPES) for i in range(2)},
    **{f"target {i}": len(COLOURS) for i in range(2)},
}
UNASKED = -1


def look(scene: Scene) -> NDArray[np.uint8]:
    """(6, 48, 48, 3): the middle frames of six equal parts, at half the side."""
    frames = render(scene)
    chosen = frames[[int((i + 0.5) * len(frames) / FRAMES) for i in range(FRAMES)]]
    halves = chosen.reshape(FRAMES, SIDE, 2, SIDE, 2, 3).mean((2, 4))
    return np.rint(halves).astype(np.uint8)


def answers(scene: Scene) -> list[int]:
    """What each head should say, `UNASKED` where there is nothing to say."""
    things = {thing.shape: thing for thing in scene.things}
    found = [COLOURS.index(things[s].colour) if s in things else len(COLOURS) for s in SHAPES]
    found += [SIZES.index(things[s].size) if s in things else UNASKED for s in SHAPES]
    events = [*scene.events, *[None] * (2 - len(scene.events))]
    found += [NONE if e is None else EVENTS.index(e.kind) for e in events]
    found += [UNASKED if e is None else SHAPES.index(scene.things[e.actor].shape) for e in events]
    found += [UNASKED if e is None or e.colour is None else COLOURS.index(e.colour) for e in events]
    return found


class Reader(nn.Module):
    """Frames to the heads' logits: a network for each frame, one over all six in their order.

    Which colour a shape has is read where the shape is: of each pair of both the likeliest place of a frame counts, and
    the mean over frames. A layer that sees whole frames at once takes many more scenes to learn that.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o, stride in ((3, 24, 2), (24, 48, 2), (48, 64, 1), (64, 64, 1)):
            layers += [nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
        self.places = nn.Sequential(*layers)
        self.coloured = nn.Conv2d(64, len(SHAPES) * len(COLOURS), 1)
        whole = [nn.Conv2d(64, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.Flatten()]
        self.frame = nn.Sequential(*whole, nn.Linear(64 * (SIDE // 8) ** 2, 128), nn.ReLU(inplace=True))
        self.video = nn.Sequential(nn.Linear(128 * FRAMES, 384), nn.ReLU(inplace=True), nn.Dropout(0.2))
        self.heads = nn.Linear(384, sum(HEADS.values()))

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """(B, 6, 48, 48, 3) uint8 to logits (B, C) of each head."""
        places = self.places(frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1)
        coloured = self.coloured(places).amax((2, 3)).view(len(frames), FRAMES, len(SHAPES), len(COLOURS)).mean(1)
        x = self.heads(self.video(self.frame(places).view(len(frames), -1)))
        asked = len(SHAPES) * (len(COLOURS) + 1)
        colours, rest = x[:, :asked], x[:, asked:]
        absent = colours.new_zeros(len(frames), len(SHAPES), 1)
        colours = colours + torch.cat((coloured, absent), 2).flatten(1)
        return tuple(torch.cat((colours, rest), 1).split(list(HEADS.values()), 1))


def log_likelihood(logits: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """(B,) of answers (B, H), those that are asked for."""
    total = torch.zeros(len(wanted))
    for own, answer in zip(logits, wanted.T, strict=True):
        asked = answer != UNASKED
        total += own.log_softmax(1).gather(1, answer.clamp(min=0)[:, None])[:, 0] * asked
    return total


def draw(seed: int, count: int) -> list[Scene]:
    """Scenes with their counterparts, as the training split has them."""
    rng = random.Random(f"probe bounds {seed}")
    scenes: list[Scene] = []
    while len(scenes) < count:
        scenes += draw_family(rng)
    return scenes[:count]


def frames_of(scenes: Sequence[Scene], workers: ProcessPoolExecutor) -> tuple[Tensor, Tensor]:
    """(N, 6, 48, 48, 3) uint8 and (N, H) int64."""
    frames = np.stack([*workers.map(look, scenes, chunksize=64)])
    return torch.from_numpy(frames), torch.tensor([answers(scene) for scene in scenes])


def train(frames: Tensor, wanted: Tensor, epochs: int, seed: int) -> Reader:
    """Trains the reader; AdamW, batches of 64, one cycle."""
    torch.manual_seed(seed)
    reader = Reader()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=0.01)
    steps = epochs * (len(frames) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(frames)).split(64)[: len(frames) // 64]:
            loss = -log_likelihood(reader(frames[rows]), wanted[rows]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        say(f"epoch {epoch + 1} of {epochs}: loss {total / (len(frames) // 64):.3f}")
    return reader.eval()


@torch.no_grad()
def told_apart(reader: Reader, kind: str, count: int, seed: int, workers: ProcessPoolExecutor) -> float:
    """Share of `count` pairs, in percent, of which both videos are likelier under their own description."""
    rng = random.Random(f"probe bounds {seed} {kind}")
    pairs = [draw_pair(rng, kind) for _ in range(count)]
    sides = [frames_of(scenes, workers) for scenes in zip(*pairs, strict=True)]
    wins = torch.ones(count, dtype=torch.bool)
    for (frames, own), (_, other) in (sides, sides[::-1]):
        logits = reader(frames)
        wins &= log_likelihood(logits, own) > log_likelihood(logits, other)
    return 100.0 * float(wins.float().mean())


def main() -> None:
    """Trains the reader and prints each kind's share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    began = time.perf_counter()
    with ProcessPoolExecutor() as workers:
        frames, wanted = frames_of(draw(options.seed, options.scenes), workers)
        say(f"{len(frames):,} scenes drawn ({time.perf_counter() - began:.0f} s)")
        reader = train(frames, wanted, options.epochs, options.seed)
        measure = partial(told_apart, reader, count=options.pairs, seed=options.seed + 1, workers=workers)
        found = {kind: round(measure(kind), 1) for kind in PROBE_KINDS}
    say(json.dumps(found) if options.json else "\n".join(f"{kind:10} {share:5.1f} %" for kind, share in found.items()))


if __name__ == "__main__":
    main()
