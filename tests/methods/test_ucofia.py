"""UCoFiA's three scores against their steps written out pair by pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tvr_lightning import device
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.ucofia import TokenFeatures, UCoFiA
from tvr_lightning.types import TextFeatures, TextInput, VideoInput

WORDS, PLACES, FRAMES = 7, 6, 4  # m, max_frames, frames of a batch


def build(small_encoder: Callable[..., Any], **settings: Any) -> UCoFiA:
    torch.manual_seed(0)
    model = UCoFiA(small_encoder(context_length=WORDS), num_layers=2, max_frames=PLACES, **settings)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.double().eval()


def features(model: UCoFiA) -> tuple[TextFeatures, TokenFeatures]:
    generator = torch.Generator().manual_seed(3)
    frames = PLACES if model.padding == "attended" else FRAMES

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.double)

    spoken = torch.arange(WORDS) < torch.tensor([[WORDS], [3], [5]])
    exists = torch.arange(frames) < torch.tensor([[FRAMES], [1], [3], [2]])
    tokens = 0.1 * draw(4, frames * model.tokens, 32)
    if model.padding == "masked":
        tokens = tokens * exists.repeat_interleave(model.tokens, dim=1)[..., None]
    else:
        spoken = torch.ones_like(spoken)
    videos = TokenFeatures(draw(4, frames, 32) * exists[..., None], exists, draw(4, frames, 32), tokens)
    return TextFeatures(draw(3, 32), draw(3, WORDS, 32), spoken), videos


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def weighed(values: Tensor, matrix: Tensor) -> Tensor:
    """A vector's sum, weighted by softmax(100 softmax(100 x) W); released matrices multiply from the right."""
    weights = (100 * ((100 * values).softmax(0) @ matrix[: len(values), : len(values)])).softmax(0)
    return (weights * values).sum()


def obvious(model: UCoFiA, texts: TextFeatures, videos: TokenFeatures, t: int, v: int) -> Tensor:
    exists = videos.frame_mask[v] if model.padding == "masked" else torch.ones_like(videos.frame_mask[v])
    words = unit(texts.words[t][texts.word_mask[t]])
    sentence, still = unit(texts.sentence[t]), unit(videos.still[v][exists])
    tokens = videos.tokens[v].unflatten(0, (-1, model.tokens))[exists].flatten(0, 1)
    video = unit(unit(videos.frames[v][videos.frame_mask[v]]).mean(0))
    scale = model.logit_scale.log.exp()
    released = {name: p.T for name, p in model.named_parameters() if p.ndim == 2}
    coarse = (sentence @ released["sentence_map.weight"]) @ (video @ released["video_map.weight"])
    middle = weighed(still @ sentence, released["over_frames.interact.weight"])
    matrix = (words @ released["word_map.weight"]) @ tokens.T  # (words, tokens)
    both = "over_both.{}.interact.weight".format
    by_token = torch.stack([weighed(column, released[both("over_words")]) for column in matrix.T])
    by_word = torch.stack([weighed(row, released[both("over_frames")]) for row in matrix])
    fine = weighed(by_token, released[both("then_frames")]) + weighed(by_word, released[both("then_words")])
    return torch.stack([scale * coarse, scale * middle, fine / 2])


@pytest.mark.parametrize("padding", ["masked", "attended"])
@torch.no_grad()
def test_scores_are_those_of_the_steps(small_encoder: Callable[..., Any], padding: str) -> None:
    model = build(small_encoder, padding=padding)
    texts, videos = features(model)
    parts, scores = model.part_scores(texts, videos), model.score(texts, videos)
    for t in range(3):
        for v in range(4):
            expected = obvious(model, texts, videos, t, v)
            torch.testing.assert_close(parts[t, v], expected, rtol=0, atol=1e-10)
            torch.testing.assert_close(scores[t, v], expected.mean(), rtol=0, atol=1e-10)


@torch.no_grad()
def test_attended_features_fill_every_place(small_encoder: Callable[..., Any]) -> None:
    model = build(small_encoder, padding="attended")
    tokens = torch.tensor([[5, 6, 49407, 0, 0], [5, 6, 7, 8, 49407]])
    text = TextInput(tokens, tokens > 0, torch.arange(2), torch.arange(2))
    found = model.encode_text(text)
    assert bool(found.word_mask.all())
    assert found.words.shape == (2, WORDS, 32)
    assert bool((found.words.norm(dim=-1) > 0).all())
    pixels = torch.randint(0, 256, (2, FRAMES, 3, 32, 32), dtype=torch.uint8)
    mask = torch.arange(FRAMES) < torch.tensor([[FRAMES], [2]])
    video = model.encode_video(VideoInput(pixels, mask, torch.arange(2)))
    assert video.still.shape == (2, PLACES, 32)
    assert video.tokens.shape == (2, PLACES * model.tokens, 32)
    empty = model.encoder.encode_padding()
    torch.testing.assert_close(video.still[1, 2:], empty.expand(PLACES - 2, -1), rtol=0, atol=1e-10)
    assert video.frame_mask.tolist() == [[True] * 4 + [False] * 2, [True] * 2 + [False] * 4]


@torch.no_grad()
def test_tokens_of_a_frame_are_its_class_token_and_its_best_patches(small_encoder: Callable[..., Any]) -> None:
    model = build(small_encoder)
    pixels, mask = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8), torch.ones(2, 3).bool()
    found = model.encode_video(VideoInput(pixels, mask, torch.arange(2)))
    plain = model.encoder.encode_patches(pixels, mask)
    torch.testing.assert_close(found.tokens[:, :: model.tokens], plain.frames)
    assert torch.equal(found.tokens.unflatten(1, (3, -1)), model.select(plain.frames, plain.patches))
    torch.testing.assert_close(found.still, plain.frames)


@torch.no_grad()
def test_blocks_of_texts_change_nothing(small_encoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(small_encoder)
    texts, videos = features(model)
    whole = model.score(texts, videos)
    monkeypatch.setattr(device, "CPU", dataclasses.replace(device.CPU, similarities=1))
    torch.testing.assert_close(model.score(texts, videos), whole, rtol=0, atol=1e-12)


def test_a_softmax_without_scale_is_refused(small_encoder: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\.softmax_scale is 0\.0"):
        UCoFiA(small_encoder(), softmax_scale=0.0)
