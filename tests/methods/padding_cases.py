"""Captions and videos with places that do not exist, for methods that can leave them out or let them take part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tvr_lightning.encoders import CLIPEncoder
from tvr_lightning.types import TextInput, VideoInput

WORDS, FRAMES, FIXED = 7, 4, 6  # m, frames that a video brings at most, n


def perturbed(model: Any) -> Any:
    """A method in float64 for evaluation, its head away from where it starts."""
    for name, parameter in model.named_parameters():
        if not name.startswith("encoder"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.double().eval()


def text_and_video(texts: int, videos: int) -> tuple[TextInput, VideoInput]:
    """Captions and videos of every length that there is room for; the second of each is as long as can be."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(3, WORDS, (texts, 1), generator=generator)
    counts = torch.randint(1, FRAMES, (videos, 1), generator=generator)
    lengths[1], counts[1] = WORDS, FRAMES
    mask = torch.arange(WORDS) < lengths
    tokens = torch.randint(1, 400, (texts, WORDS), generator=generator) * mask
    tokens[torch.arange(texts), lengths[:, 0] - 1] = 49407  # CLIP's end
    frames = torch.randint(0, 256, (videos, FRAMES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    index = torch.arange(texts)
    exists = torch.arange(FRAMES) < counts
    return TextInput(tokens, mask, index, index), VideoInput(frames, exists, torch.arange(videos))


def words_of_padded(encoder: CLIPEncoder, text: TextInput, t: int) -> tuple[Tensor, Tensor]:
    """A sentence, and all `WORDS` words as the encoder gives them when it is told that all of them exist."""
    tokens = text.tokens[t : t + 1]
    sentence, words = encoder.encode_text(tokens, torch.ones_like(tokens, dtype=torch.bool))
    return sentence[0], words[0]


def empty_frame(encoder: CLIPEncoder) -> Tensor:
    """The feature of a picture that is zero after normalisation: of the mean colour before it."""
    mean = encoder.pixel_mean.expand(3, 32, 32)
    picture: Tensor = (mean - encoder.pixel_mean) / encoder.pixel_std
    feature: Tensor = encoder.clip.visual(picture[None])[0]
    return feature


def all_pairs(score: Callable[[int, int], Tensor], texts: int, videos: int) -> Tensor:
    """The matrix of a function of one pair."""
    return torch.stack([torch.stack([score(t, v) for v in range(videos)]) for t in range(texts)])
