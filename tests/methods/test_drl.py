"""DRL against its formulas written out pair by pair."""

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
from tvr_lightning.methods.drl import DRL
from tvr_lightning.types import TextFeatures, VideoFeatures

from .padding_cases import FIXED, FRAMES, WORDS, all_pairs, perturbed, text_and_video

Small = Callable[..., Any]


def build(small_encoder: Small, **settings: Any) -> DRL:
    torch.manual_seed(0)
    model = DRL(small_encoder(context_length=WORDS), num_frames=FIXED, num_layers=1, **settings)
    found: DRL = perturbed(model)
    return found


def features(model: DRL, texts: int, videos: int) -> tuple[TextFeatures, VideoFeatures]:
    """Of several signs: a maximum of similarities below 0 is where padding shows."""
    text, video = text_and_video(texts, videos)
    words, frames = model.encode_text(text), model.encode_video(video)
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (words.words, frames.frames)]
    return replace(words, words=drawn[0] * words.word_mask[..., None]), replace(
        frames, frames=drawn[1] * frames.frame_mask[..., None]
    )


def obvious(model: DRL, sentence: Tensor, words: Tensor, frames: Tensor) -> Tensor:
    """The score of one pair, of what exists alone."""
    scale = model.logit_scale.log.exp()
    w, f = F.normalize(words, dim=-1), F.normalize(frames, dim=-1)
    if model.interaction == "dp":
        return F.cosine_similarity(sentence, f.mean(0), dim=0) * scale
    a, b = (torch.full((len(x),), 1 / len(x), dtype=x.dtype) for x in (words, frames))
    if model.interaction == "wti":
        assert model.interact.of_words is not None
        assert model.interact.of_frames is not None
        a, b = model.interact.of_words(words)[:, 0].softmax(0), model.interact.of_frames(frames)[:, 0].softmax(0)
    total = torch.zeros((), dtype=words.dtype)
    for i in range(len(words)):
        found = [w[i] @ frame for frame in f]
        if model.padding == "attended" and len(frames) < FIXED:
            found.append(torch.zeros_like(found[0]))
        total = total + a[i] * max(found) / 2
    for j in range(len(frames)):
        found = [word @ f[j] for word in w]
        if model.padding == "attended" and len(words) < WORDS:
            found.append(torch.zeros_like(found[0]))
        total = total + b[j] * max(found) / 2
    return total * scale


@pytest.mark.parametrize("padding", ["masked", "attended"])
@pytest.mark.parametrize(
    "settings",
    [{"interaction": "dp"}, {"interaction": "ti"}, {"interaction": "wti"}, {"interaction": "wti", "weight_layers": 3}],
    ids=str,
)
@torch.no_grad()
def test_scores_are_those_of_the_formulas(settings: dict[str, Any], padding: str, small_encoder: Small) -> None:
    model = build(small_encoder, padding=padding, **settings)
    texts, videos = features(model, 6, 5)

    def pair(t: int, v: int) -> Tensor:
        words, frames = texts.words[t][texts.word_mask[t]], videos.frames[v][videos.frame_mask[v]]
        return obvious(model, texts.sentence[t], words, frames)

    torch.testing.assert_close(model.score(texts, videos), all_pairs(pair, 6, 5), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_padding_that_takes_part_changes_scores(small_encoder: Small) -> None:
    masked, attended = (build(small_encoder, padding=padding) for padding in ("masked", "attended"))
    texts, videos = features(masked, 6, 5)
    a, b = masked.score(texts, videos), attended.score(texts, videos)
    assert not torch.allclose(a, b)
    assert (b >= a).all()


@pytest.mark.parametrize("interaction", ["ti", "wti"])
@torch.no_grad()
def test_blocks_of_texts_change_nothing(
    interaction: str, small_encoder: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(small_encoder, interaction=interaction)
    texts, videos = features(model, 7, 3)
    with torch.enable_grad():
        whole = model.score(texts, videos)
    monkeypatch.setattr(device, "CPU", replace(device.CPU, similarities=2 * 3 * (WORDS + 1) * (FRAMES + 1)))
    torch.testing.assert_close(model.score(texts, videos), whole, rtol=1e-12, atol=1e-12)


def standardised(rows: Tensor) -> Tensor:
    return (rows - rows.mean(0)) / rows.std(0)


def obvious_correlation(model: DRL, texts: TextFeatures, videos: VideoFeatures) -> Tensor:
    """C of a batch, row by row."""
    sides: list[list[tuple[Tensor, Tensor, Tensor]]] = [[], []]  # of words, of frames: itself, its best, its weight
    for i in range(len(texts)):
        words, frames = texts.words[i][texts.word_mask[i]], videos.frames[i][videos.frame_mask[i]]
        w, f = F.normalize(words, dim=-1), F.normalize(frames, dim=-1)
        for side, network, raw, own, other in (
            (sides[0], model.interact.of_words, words, w, f),
            (sides[1], model.interact.of_frames, frames, f, w),
        ):
            weights = None if network is None else network(raw)[:, 0].softmax(0)
            for k, row in enumerate(own):
                weight = torch.ones((), dtype=row.dtype) if weights is None else weights[k]
                side.append((row, other[(other @ row).argmax()], weight))
    found: list[Tensor] = []
    for side in sides:
        one, best = (standardised(torch.stack([rows[k] for rows in side])) for k in (0, 1))
        weights = torch.stack([rows[2] for rows in side])
        weights = weights / weights.sum()
        outer = [weight * torch.outer(x, y) for weight, x, y in zip(weights, one, best, strict=True)]
        found.append(torch.stack(outer).sum(0))
    return (found[0] + found[1]) / 2


@pytest.mark.parametrize("interaction", ["ti", "wti"])
def test_channels_of_words_and_their_best_frames(interaction: str, small_encoder: Small) -> None:
    model = build(small_encoder, interaction=interaction, cdcr_off_diagonal=0.06)
    texts, videos = features(model, 6, 6)
    correlation = obvious_correlation(model, texts, videos)
    torch.testing.assert_close(model.channel_correlation(texts, videos), correlation, rtol=1e-10, atol=1e-10)
    same = correlation.diagonal()
    loss = 0.14 * ((same - 1) ** 2).sum() + 0.06 * sum(
        correlation[i, j] ** 2 for i in range(len(same)) for j in range(len(same)) if i != j
    )
    losses = model.compute_losses(texts, videos, torch.arange(6))
    torch.testing.assert_close(losses["cdcr"], 0.001 * loss, rtol=1e-10, atol=1e-10)
    scores, target = model.score(texts, videos), torch.arange(6)
    expected = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
    torch.testing.assert_close(losses["contrastive"], expected)


def test_channels_of_sentences_and_mean_frames(small_encoder: Small) -> None:
    model = build(small_encoder, interaction="dp", cdcr="pooled")
    texts, videos = features(model, 6, 6)
    means = [
        F.normalize(F.normalize(frames[mask], dim=-1).mean(0), dim=-1)
        for frames, mask in zip(videos.frames, videos.frame_mask, strict=True)
    ]
    expected = standardised(F.normalize(texts.sentence, dim=-1)).T @ standardised(torch.stack(means)) / 6
    torch.testing.assert_close(model.channel_correlation(texts, videos), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", [{"cdcr": None}, {"cdcr_weight": 0.0}], ids=str)
def test_without_cdcr_there_is_one_loss(settings: dict[str, Any], small_encoder: Small) -> None:
    model = build(small_encoder, **settings)
    assert set(model.compute_losses(*features(model, 3, 3), torch.arange(3))) == {"contrastive"}


@pytest.mark.parametrize(
    "settings", [{"weight_layers": 0}, {"cdcr_weight": -1.0}, {"cdcr_diagonal": -0.1}, {"logit_scale": 0.0}], ids=str
)
def test_bad_settings(settings: dict[str, Any], small_encoder: Small) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{next(iter(settings))}"):
        build(small_encoder, **settings)
