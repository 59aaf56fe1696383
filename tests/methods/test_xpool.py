"""X-Pool against its formulas written out pair by pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning import device
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.xpool import XPool
from tvr_lightning.types import Padding

from .padding_cases import FIXED, WORDS, all_pairs, perturbed, text_and_video

Small = Callable[..., Any]


def build(small_encoder: Small, **settings: Any) -> XPool:
    torch.manual_seed(0)
    found: XPool = perturbed(XPool(small_encoder(context_length=WORDS), num_frames=FIXED, **settings))
    return found


def obvious(model: XPool, sentence: Tensor, frames: Tensor) -> Tensor:
    """The score of one pair, with the pooled video itself."""
    block = model.pool
    seen = block.norm_inputs(frames)
    logits = block.key(seen) @ block.query(block.norm_inputs(sentence)) / frames.shape[-1] ** 0.5
    attended = block.norm_attended(block.output(logits.softmax(0) @ block.value(seen)))
    pooled = block.norm_output(attended + block.fc(attended))
    return F.cosine_similarity(sentence, pooled, dim=0) * model.logit_scale.log.exp()


@pytest.mark.parametrize("padding", ["masked", "attended"])
@torch.no_grad()
def test_scores_are_those_of_the_formulas(padding: Padding, small_encoder: Small) -> None:
    model = build(small_encoder, padding=padding)
    text, video = text_and_video(5, 4)
    texts, still = model.encode_text(text), model.encoder.encode_frames(video.frames, video.frame_mask)

    def pair(t: int, v: int) -> Tensor:
        frames = still[v][video.frame_mask[v]]
        if padding == "attended":  # the last one again and again
            frames = torch.cat([frames, frames[-1:].expand(FIXED - len(frames), -1)])
        return obvious(model, texts.sentence[t], frames)

    scores = model.score(texts, model.encode_video(video))
    torch.testing.assert_close(scores, all_pairs(pair, 5, 4), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_blocks_of_texts_change_nothing(small_encoder: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(small_encoder)
    text, video = text_and_video(7, 3)
    texts, videos = model.encode_text(text), model.encode_video(video)
    with torch.enable_grad():
        whole = model.score(texts, videos)
    monkeypatch.setattr(device, "CPU", replace(device.CPU, similarities=2 * 3 * (4 + 2)))
    torch.testing.assert_close(model.score(texts, videos), whole, rtol=1e-12, atol=1e-12)


def test_dropout_trains_through_the_literal_form_with_the_same_mean_path(small_encoder: Small) -> None:
    model = build(small_encoder, dropout=0.3)
    text, video = text_and_video(3, 2)
    texts, videos = model.encode_text(text), model.encode_video(video)
    plain = model.score(texts, videos)
    model.train()
    assert not torch.allclose(model.score(texts, videos), plain)
    model.pool.dropout.p = 1e-12  # active, yet it drops nothing
    torch.testing.assert_close(model.score(texts, videos), plain, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_repeated_frames_count_for_the_one_that_is_shown(small_encoder: Small) -> None:
    model = build(small_encoder, padding="attended")
    text, video = text_and_video(2, 3)
    (picture,) = model.explain(text[:1], video[:1])
    (panel,) = picture.panels  # type: ignore[union-attr]
    count = int(video.frame_mask[0].sum())
    assert panel.values.shape == (1, count)
    frames = model.encode_video(video[:1])
    weights = model.pool.weights(model.encode_text(text[:1]).sentence, frames.frames, frames.frame_mask)[0, 0, :, 0]
    torch.testing.assert_close(panel.values[0, -1], weights[count - 1] * (FIXED - count + 1))


@pytest.mark.parametrize("settings", [{"dropout": 1.0}, {"dropout": -0.1}, {"logit_scale": 0.0}])
def test_bad_settings(settings: dict[str, float], small_encoder: Small) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{next(iter(settings))}"):
        build(small_encoder, **settings)
