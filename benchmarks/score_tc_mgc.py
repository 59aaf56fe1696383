"""TC-MGC's forms for score.py: from attention to final score, literally and through low rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import torch
from cases import Case, Form
from torch import Tensor

from tvr_lightning.encoders import CLIPEncoder, CLIPSize
from tvr_lightning.methods.tc_mgc import TCMGC
from tvr_lightning.nn.tc_mgc.language_video_attention import PairCosines
from tvr_lightning.types import TextFeatures, VideoFeatures


def encoder(dim: int, words: int) -> CLIPEncoder:
    """A small CLIP: only its widths matter here."""
    size = CLIPSize(32, 16, 64, 1, 1, 64, 1, 1, dim)
    return CLIPEncoder(size=size, context_length=words)


def features(case: Case, device: str) -> tuple[TextFeatures, VideoFeatures]:
    """Features of full length: the dearest case."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    texts = TextFeatures(
        draw(case.texts, case.dim),
        draw(case.texts, case.words, case.dim),
        torch.ones(case.texts, case.words, dtype=torch.bool, device=device),
    )
    videos = VideoFeatures(
        draw(case.videos, case.frames, case.dim),
        torch.ones(case.videos, case.frames, dtype=torch.bool, device=device),
    )
    return texts, videos


def forms(case: Case, device: str) -> tuple[torch.nn.Module, Mapping[str, Form]]:
    """TC-MGC from attention to final score, literally and through low rank."""
    torch.manual_seed(0)
    model = TCMGC(encoder(case.dim, case.words), temporal="none", max_frames=case.frames).to(device)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)

    def literal(texts: TextFeatures, videos: VideoFeatures) -> Tensor:
        def cosines(sentence: Tensor, words: Tensor, _: Any) -> PairCosines:
            both = torch.cat([sentence[:, None], words], dim=1)
            x = model.attention.literal_cosines(both, videos.frames, videos.frame_mask, both)
            return PairCosines(x[:, :, 0, 0], x[:, :, 0, 1:], x[:, :, 1:, 0], x[:, :, 1:, 1:])

        with patch.object(model.attention, "text_cosines", cosines):
            return model.aggregate(model.contrast_scores(texts, videos))

    def low_rank(texts: TextFeatures, videos: VideoFeatures) -> Tensor:
        return model.learned_scores(texts, videos)[1] if torch.is_grad_enabled() else model.score(texts, videos)

    return model, {"literal": literal, "low-rank": low_rank}
