"""X-CLIP against its formulas written out pair by pair, and against TC-MGC without conditioning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning import device
from tvr_lightning.encoders.base import DualEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.tc_mgc import TCMGC
from tvr_lightning.methods.xclip import CONTRASTS, XCLIP, FramesAndVideo
from tvr_lightning.types import Padding, StillFeatures

from .padding_cases import FIXED, WORDS, all_pairs, empty_frame, perturbed, text_and_video, words_of_padded

TAU = 0.01
Small = Callable[..., Any]


def build(small_encoder: Small, **settings: Any) -> XCLIP:
    torch.manual_seed(0)
    model = XCLIP(small_encoder(context_length=WORDS), num_frames=FIXED, num_layers=1, **settings)
    found: XCLIP = perturbed(model)
    return found


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def weighted(similarities: Tensor, layer: Any) -> Tensor:
    """sum_i [softmax(s / tau) B]_i s_i, of what exists alone; B multiplies a row from the right."""
    matrix = layer.interact.weight.T[: len(similarities), : len(similarities)]
    return ((similarities / TAU).softmax(0) @ matrix * similarities).sum()


def obvious(model: XCLIP, sentence: Tensor, words: Tensor, encoded: Tensor, frames: Tensor) -> Tensor:
    """The score of one pair: words (l, D); frames after (k, D) and before (j, D) the temporal layers."""
    video, sentence = unit(unit(encoded).mean(0)), unit(sentence)
    words, frames = unit(words), unit(frames)
    matrix = words @ model.word_map.weight.T @ frames.T  # (l, j)
    both = model.over_both
    by_frame = torch.stack([weighted(column, both.over_words) for column in matrix.T])
    by_word = torch.stack([weighted(row, both.over_frames) for row in matrix])
    scores = (
        sentence @ model.sentence_map.weight.T @ video,
        weighted(words @ video, model.over_words),
        weighted(frames @ sentence, model.over_frames),
        (weighted(by_frame, both.then_frames) + weighted(by_word, both.then_words)) / 2,
    )
    return torch.stack(scores).mean() * model.logit_scale.log.exp()


@pytest.mark.parametrize("padding", ["masked", "attended"])
@torch.no_grad()
def test_scores_are_those_of_the_formulas(padding: Padding, small_encoder: Small) -> None:
    model = build(small_encoder, padding=padding)
    text, video = text_and_video(5, 4)
    still = model.encoder.encode_frames(video.frames, video.frame_mask)

    def pair(t: int, v: int) -> Tensor:
        sentence, words = words_of_padded(model.encoder, text, t)  # type: ignore[arg-type]
        count = int(video.frame_mask[v].sum())
        encoded = model.temporal(still[v : v + 1], video.frame_mask[v : v + 1])[0, :count]
        frames = still[v, :count]
        if padding == "masked":
            words = words[text.token_mask[t]]
        else:
            frames = torch.cat([frames, empty_frame(model.encoder).expand(FIXED - count, -1)])  # type: ignore[arg-type]
        return obvious(model, sentence, words, encoded, frames)

    expected = all_pairs(pair, 5, 4)
    scores = model.score(model.encode_text(text), model.encode_video(video))
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_padding_that_takes_part_changes_scores(small_encoder: Small) -> None:
    text, video = text_and_video(5, 4)
    masked, attended = (build(small_encoder, padding=padding) for padding in ("masked", "attended"))
    a, b = (model.score(model.encode_text(text), model.encode_video(video)) for model in (masked, attended))
    assert (a - b).abs().min() > 1e-6
    assert attended.encode_video(video).still.shape[1] == FIXED


@torch.no_grad()
def test_blocks_of_texts_change_nothing(small_encoder: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(small_encoder)
    text, video = text_and_video(7, 3)
    texts, videos = model.encode_text(text), model.encode_video(video)
    with torch.enable_grad():
        whole = model.score(texts, videos)
    monkeypatch.setattr(device, "CPU", replace(device.CPU, similarities=2 * 3 * (WORDS + 1) * 5))
    torch.testing.assert_close(model.score(texts, videos), whole, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_at_the_start_it_is_tc_mgc_without_conditioning(small_encoder: Small) -> None:
    """Table 4 of TC-MGC: its rows without conditioning are X-CLIP's contrasts."""
    torch.manual_seed(0)
    encoder = small_encoder(context_length=WORDS)
    model = XCLIP(encoder, num_frames=FIXED, num_layers=1).double().eval()
    plain: dict[str, Any] = dict.fromkeys(
        ("video_word", "sentence_frame", "frame_word_words", "frame_word_frames"), "none"
    )
    other = TCMGC(
        encoder, conditioned=[], weighting="softmax", aggregation="mean", num_layers=1, num_frames=FIXED, **plain
    )
    other = other.double().eval()
    other.temporal.load_state_dict(model.temporal.state_dict())  # type: ignore[union-attr]
    text, video = text_and_video(5, 4)
    texts, videos, theirs = model.encode_text(text), model.encode_video(video), other.encode_video(video)
    assert isinstance(theirs, StillFeatures)
    ours = model.logit_scale(model.contrast_scores(texts, videos))
    torch.testing.assert_close(ours, other.contrast_scores(texts, theirs), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.score(texts, videos), other.score(texts, theirs), rtol=1e-12, atol=1e-12)
    assert ours.shape[-1] == len(CONTRASTS)


def test_more_frames_than_there_are_weights_for(small_encoder: Small) -> None:
    model = build(small_encoder)
    text, video = text_and_video(2, 2)
    videos = model.encode_video(video)
    more = FramesAndVideo(*(x.repeat(1, 2, *[1] * (x.ndim - 2)) for x in videos.tensors().values()))
    with pytest.raises(ValueError, match="8 similarities in a row, but the layer was built for 6"):
        model.score(model.encode_text(text), more)


class Plain(DualEncoder):
    """An encoder that knows nothing of padding."""

    embed_dim, context_length, image_size, vocabulary_size = 8, WORDS, 32, 100

    def encode_frames(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        raise NotImplementedError

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return "plain"


def test_an_encoder_without_features_of_padding_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match=r"attended, but Plain has no.*write encode_padding and encode_padded"):
        XCLIP(Plain(), padding="attended")
    assert XCLIP(Plain()).padding == "masked"


@pytest.mark.parametrize("settings", [{"softmax_scale": 0.0}, {"logit_scale": -1.0}])
def test_bad_settings(settings: dict[str, float], small_encoder: Small) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{next(iter(settings))}"):
        build(small_encoder, **settings)
