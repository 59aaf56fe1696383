from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tvr_lightning.methods.clip4clip import CLIP4Clip
from tvr_lightning.types import SentenceFeatures, VideoFeatures

SEEN: list[tuple[bool, torch.dtype]] = []


def seen(texts: SentenceFeatures) -> None:
    SEEN.append((torch.is_autocast_enabled("cpu"), texts.sentence.dtype))


class Mixin:
    """Scores for a method that is named after it."""

    def score(self, texts: Any, videos: Any) -> Tensor:
        seen(texts)
        return super().score(texts, videos)  # type: ignore[misc]


class Mixed(Mixin, CLIP4Clip):
    """Its score comes from a class that is not a method."""


class More(CLIP4Clip):
    """Names a function of its own, and one of its parent's."""

    in_float32 = ("more", "encoded")

    def more(self, texts: Any) -> None:
        seen(texts)

    def score(self, texts: Any, videos: Any) -> Tensor:
        seen(texts)
        return super().score(texts, videos)


def test_wherever_a_score_is_written_it_is_computed_in_float32(small_encoder: Callable[..., Any]) -> None:
    texts = SentenceFeatures(torch.randn(2, 32).bfloat16())
    videos = VideoFeatures(torch.randn(3, 4, 32).bfloat16(), torch.ones(3, 4).bool())
    SEEN.clear()
    with torch.autocast("cpu", torch.bfloat16):
        for kind in (Mixed, More):
            scores = kind(small_encoder(), similarity="meanP").score(texts, videos)
            assert scores.dtype == torch.float32
        More(small_encoder(), similarity="meanP").more(texts)
    assert [(False, torch.float32)] * 3 == SEEN
