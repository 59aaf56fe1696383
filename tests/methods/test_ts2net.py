"""TS2-Net against its steps written out frame by frame, with padding left out and with padding as released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.ts2net import TS2Net
from tvr_lightning.types import SentenceFeatures, VideoFeatures, VideoInput

PLACES = 6  # max_frames


def build(small_encoder: Callable[..., Any], **settings: Any) -> TS2Net:
    torch.manual_seed(0)
    model = TS2Net(small_encoder(context_length=8), num_layers=2, max_frames=PLACES, **settings)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.double().eval()


def random_video(frames: int = 4) -> VideoInput:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (3, frames, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return VideoInput(pixels, torch.arange(frames) < torch.tensor([[frames], [1], [3]]), torch.arange(3))


def temporal(model: TS2Net, tokens: Tensor, seen: list[bool]) -> Tensor:
    """The temporal layers over tokens (N, D), with attention written out."""
    x = tokens + model.temporal.positions.weight[: len(tokens)]
    for layer in model.temporal.layers:
        y = layer.norm1(x)
        attention, width = layer.self_attn, x.shape[1]
        heads, size = attention.num_heads, width // attention.num_heads
        q, k, v = (y @ attention.in_proj_weight.T + attention.in_proj_bias).split(width, dim=1)
        out = torch.zeros_like(x)
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            logits = q[:, part] @ k[:, part].T / size**0.5
            logits[:, ~torch.tensor(seen)] = -torch.inf
            out[:, part] = logits.softmax(1) @ v[:, part]
        x = x + attention.out_proj(out)
        x = x + layer.linear2(layer.activation(layer.linear1(layer.norm2(x))))
    return x + tokens


def selected(model: TS2Net, frame: Tensor, patches: Tensor) -> list[Tensor]:
    scores = model.select.scores(frame[None, None], patches[None, None])[0, 0]
    best = sorted(sorted(range(len(patches)), key=lambda j: -float(scores[j]))[: model.tokens - 1])
    return [frame, *(patches[j] for j in best)]


def obvious_score(model: TS2Net, sentence: Tensor, frames: Tensor) -> Tensor:
    cosines = torch.stack([sentence @ f / (sentence.norm() * f.norm()) for f in frames])
    weights = (4 * cosines / cosines.norm()).softmax(0)
    return model.logit_scale.log.exp() * sum(w * c for w, c in zip(weights, cosines, strict=True))


@torch.no_grad()
def test_frames_and_scores_are_those_of_the_steps(small_encoder: Callable[..., Any]) -> None:
    model, video = build(small_encoder), random_video()
    found, sentence = model.encode_video(video), torch.randn(2, 32).double()
    scores = model.score(SentenceFeatures(sentence), found)
    for v, count in enumerate(video.frame_mask.sum(1).tolist()):
        # only what exists is there
        alone = model.encoder.encode_patches(
            video.frames[v : v + 1, :count], video.frame_mask[v : v + 1, :count], model.shift
        )
        tokens = [t for f, p in zip(alone.frames[0], alone.patches[0], strict=True) for t in selected(model, f, p)]
        frames = temporal(model, torch.stack(tokens), [True] * len(tokens))[:: model.tokens]
        torch.testing.assert_close(found.frames[v, :count], frames, rtol=0, atol=1e-10)
        for t in range(2):
            torch.testing.assert_close(scores[t, v], obvious_score(model, sentence[t], frames), rtol=0, atol=1e-10)


@torch.no_grad()
def test_attended_padding_is_that_of_the_released_code(small_encoder: Callable[..., Any]) -> None:
    model, video = build(small_encoder, padding="attended"), random_video()
    found, sentence = model.encode_video(video), torch.randn(2, 32).double()
    scores = model.score(SentenceFeatures(sentence), found)
    assert found.frames.shape == (3, PLACES, 32)
    filled = torch.zeros(3, PLACES, 3, 32, 32).double()  # normalised pictures
    normal = (video.frames.double() - model.encoder.pixel_mean) / model.encoder.pixel_std
    filled[:, :4] = normal * video.frame_mask[..., None, None, None]
    for v, count in enumerate(video.frame_mask.sum(1).tolist()):
        tokens, _ = model.encoder._patches(filled[v : v + 1], torch.ones(1, PLACES).bool(), model.shift)
        flat = torch.stack([t for one in tokens[0] for t in selected(model, one[0], one[1:])])
        seen = [i % PLACES < count for i in range(len(flat))]  # the mask of frames, again and again
        frames = temporal(model, flat, seen)[:: model.tokens]
        torch.testing.assert_close(found.frames[v], frames, rtol=0, atol=1e-10)
        for t in range(2):
            torch.testing.assert_close(scores[t, v], obvious_score(model, sentence[t], frames), rtol=0, atol=1e-10)


def test_the_page_on_the_released_mask() -> None:
    """5 of 12 frames, 4 tokens each: what class tokens get."""
    mask = torch.arange(12)[None] < 5
    assert mask.repeat(1, 4)[0, ::4].int().tolist() == [1, 1, 0] * 4


def test_positions_are_as_many_as_the_released_ones_where_that_is_enough(small_encoder: Callable[..., Any]) -> None:
    for frames, rows in ((12, 77), (19, 77), (20, 80), (64, 256)):
        assert len(TS2Net(small_encoder(), max_frames=frames).temporal.positions.weight) == rows


def test_more_frames_than_places_are_refused(small_encoder: Callable[..., Any]) -> None:
    for padding in ("masked", "attended"):
        with pytest.raises(ValueError, match="raise max_frames"):
            build(small_encoder, padding=padding).encode_video(random_video(PLACES + 1))
    with pytest.raises(ConfigError, match="has 4 patches a frame, but 5 of them are to be kept"):
        TS2Net(small_encoder(), selected_patches=5)


@torch.no_grad()
def test_blocks_of_texts_change_nothing(small_encoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from tvr_lightning import device

    model = build(small_encoder)
    videos = VideoFeatures(torch.randn(3, 4, 32).double(), random_video().frame_mask)
    texts = SentenceFeatures(torch.randn(5, 32).double())
    whole = model.score(texts, videos)
    monkeypatch.setattr(device, "CPU", dataclasses.replace(device.CPU, similarities=1))
    torch.testing.assert_close(model.score(texts, videos), whole, rtol=0, atol=1e-12)
