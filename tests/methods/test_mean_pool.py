"""Mean pooling over VGG and BERT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.mean_pool import MeanPool
from tvr_lightning.types import TextInput, VideoInput


@torch.no_grad()
def test_scores_are_scaled_cosines_of_mean_token_and_mean_unit_frame(
    small_vgg: Callable[..., Any], small_bert: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    model = MeanPool(small_vgg(), small_bert(context_length=6), width=24, logit_scale=5.0).eval()
    tokens, words = torch.randint(1, 50, (2, 6)), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    frames = torch.randint(0, 256, (3, 4, 3, model.image_size, model.image_size), dtype=torch.uint8)
    seen = torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [True] * 4])
    texts = model.encode_text(TextInput(tokens, words, torch.arange(2), torch.arange(2)))
    videos = model.encode_video(VideoInput(frames, seen, torch.arange(3)))
    scores = model.score(texts, videos)
    token = model.text_encoder.encode_tokens(tokens, words)
    frame = model.video_encoder.encode_frames(frames, seen)
    for t in range(2):
        for v in range(3):
            text = model.textual(token[t][words[t]].mean(0))
            video = F.normalize(model.visual(frame[v][seen[v]]), dim=-1).mean(0)
            expected = 5.0 * F.cosine_similarity(text, video, dim=0)
            torch.testing.assert_close(scores[t, v], expected)


@pytest.mark.parametrize("settings", [{"width": 0}, {"logit_scale": 0.0}])
def test_bad_settings(settings: dict[str, Any], small_vgg: Callable[..., Any], small_bert: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{next(iter(settings))}"):
        MeanPool(small_vgg(), small_bert(context_length=6), **settings)
