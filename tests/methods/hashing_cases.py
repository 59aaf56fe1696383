"""Small hashing baselines over mean features, and features that they see."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from tvr_lightning.encoders import BERTEncoder, VGGEncoder
from tvr_lightning.types import CodeFeatures

from .sptch_cases import BERT, VGG

BITS = 12
Method = TypeVar("Method")


def build(kind: type[Method], **settings: Any) -> Method:
    """One of them with the smallest encoders, in float64."""
    torch.manual_seed(0)
    encoders = VGGEncoder(size=VGG), BERTEncoder(size=BERT, freeze=True, context_length=16)
    model: Any = kind(*encoders, **{"code_length": BITS, **settings})  # type: ignore[call-arg]
    built: Method = model.double()
    return built


def features_of(items: int, seed: int = 5) -> tuple[Tensor, Tensor]:
    """X^v (N, F) and X^t (N, F'), float64, as VGG's: none below 0 on the videos' side."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(items, 4, generator=generator, dtype=torch.float64)
    sides = []
    for width in (VGG.embed_dim, BERT.width):
        map_ = torch.randn(4, width, generator=generator, dtype=torch.float64)
        noise = torch.randn(items, width, generator=generator, dtype=torch.float64)
        sides.append(shared @ map_ + 0.3 * noise)
    return sides[0].relu(), sides[1]


def codes_of(model: Any, video: Tensor, text: Tensor) -> tuple[CodeFeatures, CodeFeatures]:
    """Codes of texts and of videos, as `compute_losses` takes them."""
    return CodeFeatures(model.hash_text(text), text), CodeFeatures(model.hash_video(video), video)


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two vectors, by sums."""
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / (sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b)) ** 0.5


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Of all pairs of rows, one by one."""
    return torch.tensor([[cosine(x, y) for y in b] for x in a], dtype=torch.float64)


def mean_square(a: Tensor, b: Tensor) -> float:
    """Mean of squared differences, one by one."""
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    return sum((x - y) ** 2 for x, y in pairs) / len(pairs)
