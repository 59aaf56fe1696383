"""The embedded dataset's stand-in for OpenAI's CLIP: a tiny one, contrasted on captioned stills.

Several pictures of each scene meet in a batch. They show the same objects at other places, of other sizes, turned or
gone, so that only captions that say so tell them apart, and frame features come to hold what changes in a video.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tvr_lightning.data.text import CLIPTokenizer
from tvr_lightning.encoders.clip import CLIPEncoder
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.nn.similarity import LogitScale, cosine_matrix
from tvr_lightning.synthetic.captions import ADJECTIVES, BACKGROUND, NOUNS, write_caption
from tvr_lightning.synthetic.rendering import PALETTE
from tvr_lightning.synthetic.scenes import SIDE, draw_scene
from tvr_lightning.synthetic.stand_ins.files import Recipe, Settings, State
from tvr_lightning.synthetic.stand_ins.stills import Placed, Stills, draw_scenes, draw_stills, objects_in

VERSION = "clip 2"  # raise it whenever equal settings give other weights
HELD_OUT = 256  # pictures
NUM_SPOKEN = 2048  # captions of a kind that show which words there are
CONTEXT = 77  # CLIP's

_SIZES = ("tiny",), ("small", "little"), ("large", "big"), ("huge", "giant")
_COLUMNS, _ROWS = ("left", "center", "right"), ("top", "middle", "bottom")
_TURNED = 0.4  # radians from which an object counts as tilted


@dataclass(frozen=True)
class CLIPSettings(Settings):
    """400 steps of AdamW under one cycle."""

    steps: int = 400
    batch_size: int = 256
    lr: float = 2e-3
    seed: int = 1


def clip_recipe(settings: CLIPSettings = CLIPSettings()) -> Recipe:
    """CLIP's preset `tiny`, trained on captioned stills, in open_clip's layout.

    `caption` of its accuracy is the share of held-out pictures whose own caption scores highest among those of all of
    them.
    """
    return Recipe(VERSION, settings, lambda: _train(settings), lambda file: _measure(file, settings.seed))


def _train(settings: CLIPSettings) -> State:
    encoder = CLIPEncoder("tiny", context_length=CONTEXT)
    scale = LogitScale(encoder.logit_scale_init)
    tokenizer = CLIPTokenizer(CONTEXT)
    parameters = [*encoder.parameters(), *scale.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps + 1, pct_start=0.1
    )
    rng = random.Random(f"captioned stills {settings.seed}")
    for _ in range(settings.steps):
        scores, index = _score(encoder, tokenizer, *_draw(rng, settings.batch_size, encoder))
        loss = symmetric_cross_entropy(scale(scores), index)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        scale.clamp_()
    with torch.no_grad():
        # Cosines do not see lengths, but temporal layers that start as the text tower's do: beside features of the size
        # that training ends with, positions made for tokens would not be seen, and all times would look alike.
        stills, _ = _held_out(settings.seed, encoder)
        pictures = encoder.encode_frames(stills.pixels, torch.ones(HELD_OUT, 1, dtype=torch.bool))
        encoder.clip.visual.proj *= _size(encoder.text_positions) / _size(pictures)
    return share_rows(encoder.clip.state_dict() | {"logit_scale": scale.log}, grammar_tokens())


@torch.no_grad()
def _measure(file: Path, seed: int) -> dict[str, float]:
    encoder = CLIPEncoder("tiny", str(file), context_length=CONTEXT)
    scores, index = _score(encoder, CLIPTokenizer(CONTEXT), *_held_out(seed, encoder))
    return {"caption": (index[scores.argmax(0)] == index).double().mean().item()}


def share_rows(state: State, tokens: Sequence[int]) -> State:
    """Keeps the token table's rows of `tokens`; all others share one, their mean. `read_clip_weights` undoes it.

    Returns:
        The state with the kept rows (R, D), the shared one first, and `token_embedding.rows` (vocabulary,) int16, the
        row of every token.
    """
    table = state["token_embedding.weight"]
    rows = torch.zeros(len(table), dtype=torch.int16)
    rows[list(tokens)] = torch.arange(1, len(tokens) + 1, dtype=torch.int16)
    kept = torch.cat([table[rows == 0].mean(0, keepdim=True), table[list(tokens)]])
    return {**state, "token_embedding.weight": kept, "token_embedding.rows": rows}


def grammar_tokens() -> list[int]:
    """Every token of what captions of videos and of stills can say, found by writing many of them."""
    rng = random.Random("grammar")
    scenes = draw_scenes(rng, NUM_SPOKEN, 1, (8, 14))
    said = [write_still_caption(objects_in(scene, frame), scene.background, rng) for scene, (frame,) in scenes]
    said += [write_caption(draw_scene(rng), rng, complete=i % 4 == 0) for i in range(NUM_SPOKEN)]
    return sorted({0, *CLIPTokenizer(CONTEXT)(said).tokens.unique().tolist()})  # 0 pads


def _held_out(seed: int, encoder: CLIPEncoder) -> tuple[Stills, list[str]]:
    return _draw(random.Random(f"captioned stills held out {seed}"), HELD_OUT, encoder)


def _draw(rng: random.Random, count: int, encoder: CLIPEncoder) -> tuple[Stills, list[str]]:
    stills = draw_stills(rng, count, 4, (8, 14), encoder.image_size)
    return stills, [write_still_caption(o, b, rng) for o, b in zip(stills.objects, stills.backgrounds, strict=True)]


def _score(
    encoder: CLIPEncoder, tokenizer: CLIPTokenizer, stills: Stills, captions: list[str]
) -> tuple[Tensor, Tensor]:
    """Cosines of captions and pictures (B, B), and one number (B,) for all rows of equal captions."""
    text = tokenizer(captions)
    used = int(text.mask.sum(1).max())  # padding costs like words
    sentences, _ = encoder.encode_text(text.tokens[:, :used], text.mask[:, :used])
    pictures = encoder.encode_frames(stills.pixels, torch.ones(len(stills), 1, dtype=torch.bool))[:, 0]
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    return cosine_matrix(sentences, pictures), torch.tensor([numbers[caption] for caption in captions])


def _size(x: Tensor) -> Tensor:
    """Root mean square."""
    return x.square().mean().sqrt()


def write_still_caption(objects: list[Placed], background: str, rng: random.Random) -> str:
    """Names what a picture shows, the largest object first: sizes, colours, shapes, places, background.

    Args:
        objects: those of the picture; invisible ones are not named.
        background: one of `scenes.BACKGROUNDS`.
        rng: chooses among synonyms.
    """
    shown = sorted((placed for placed in objects if placed.pose.visible), key=lambda placed: -placed.radius)
    phrases = " and ".join(_phrase(placed, rng) for placed in shown)
    return f"{phrases or 'nothing'} {rng.choice(BACKGROUND).format(rng.choice(ADJECTIVES[background]))}"


def _phrase(placed: Placed, rng: random.Random) -> str:
    thing, pose = placed.thing, placed.pose
    turned = thing.shape != "circle" and np.cos(pose.angle) < np.cos(_TURNED)
    # the colour may be changing into another one
    colour = min(PALETTE, key=lambda name: sum((a - b) ** 2 for a, b in zip(PALETTE[name], pose.colour, strict=True)))
    words = (
        "a tilted" if turned else "a", rng.choice(_SIZES[placed.size]), rng.choice(ADJECTIVES[colour]),
        rng.choice(NOUNS[thing.shape]), "at the", _third(pose.y, _ROWS), _third(pose.x, _COLUMNS),
    )  # fmt: skip
    return " ".join(words)


def _third(place: float, names: tuple[str, str, str]) -> str:
    return names[int(np.searchsorted((0.36 * SIDE, 0.64 * SIDE), place))]
