"""Augmentation of a video's frames: drawn once per video, applied to all its frames (SPTCH, Sec. 3.1.4).

One crop, flip, noise, colour jitter and blur for all frames leaves what moves between them as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tvr_lightning.errors import ConfigError


@dataclass(frozen=True)
class FrameAugmentation:
    """How frames are changed; a rate is the probability that it is done to a video, 0 turns it off.

    Attributes:
        crop: rate of random crops, resized to the frame's size.
        min_area: smallest share of the frame that a crop keeps.
        flip: rate of mirroring left to right; captions that tell left from right are wrong then.
        jitter: rate of colour jitter.
        brightness: largest change of the factor from 1, likewise `contrast` and `saturation`.
        contrast: see `brightness`.
        saturation: see `brightness`.
        hue: largest shift of hue, as a share of the circle.
        noise: rate of Gaussian noise, the same on every frame.
        noise_std: its largest standard deviation, in 0 to 255.
        blur: rate of Gaussian blur.
        blur_sigma: its largest standard deviation, as a share of the frame's side.
    """

    crop: float = 1.0
    min_area: float = 0.5
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    noise: float = 0.5
    noise_std: float = 15.0
    blur: float = 0.5
    blur_sigma: float = 0.01

    def __post_init__(self) -> None:
        for name in ("crop", "flip", "jitter", "noise", "blur", "brightness", "contrast", "saturation"):
            self._check(name, 0.0, 1.0)
        self._check("min_area", 1e-3, 1.0)
        self._check("hue", 0.0, 0.5)
        self._check("noise_std", 0.0, 255.0)
        self._check("blur_sigma", 0.0, 1.0)

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ConfigError(f"frame augmentation: {name} is {value}; it lies between {low:g} and {high:g}")


def augment_frames(
    frames: Tensor,
    generator: np.random.Generator,
    options: FrameAugmentation = FrameAugmentation(),
    frame_mask: Tensor | None = None,
) -> Tensor:
    """Changes all frames of one video in the same way.

    What is drawn depends on the generator and the frames' size alone, and as much is drawn whatever is turned off, so
    that turning off one change leaves the others as they are.

    Args:
        frames: (n, 3, H, W) uint8.
        generator: gives every random number.
        options: rates and strengths.
        frame_mask: (n,) bool, True = the frame exists; the others stay zero. None: all exist.

    Returns:
        (n, 3, H, W) uint8.

    Raises:
        ValueError: frames of another shape or type.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"frames must be (n, 3, H, W) uint8, got {tuple(frames.shape)} {frames.dtype}")
    from torchvision.transforms.v2 import functional as F  # slow to import, and only training with it needs it

    height, width = frames.shape[2:]
    crop, flip, jitter, noise, blur = generator.random(5) < (
        options.crop, options.flip, options.jitter, options.noise, options.blur,
    )  # fmt: skip
    box = _draw_crop(height, width, options.min_area, generator)
    brightness, contrast, saturation = (
        float(1 + strength * generator.uniform(-1, 1))
        for strength in (options.brightness, options.contrast, options.saturation)
    )
    hue = float(options.hue * generator.uniform(-1, 1))
    std, sigma = options.noise_std * generator.random(), options.blur_sigma * max(height, width) * generator.random()
    pattern = generator.standard_normal((3, height, width), dtype=np.float32)

    if not len(frames):
        return frames
    x = frames
    if crop:
        x = F.resized_crop(x, *box, size=[height, width], antialias=True)
    if flip:
        x = F.horizontal_flip(x)
    if jitter:
        x = F.adjust_contrast(F.adjust_brightness(x, brightness), contrast)
        x = F.adjust_hue(F.adjust_saturation(x, saturation), hue)
    if blur and sigma > 0:
        x = F.gaussian_blur(x, kernel_size=[_kernel(sigma, width), _kernel(sigma, height)], sigma=[sigma, sigma])
    if noise:  # after the blur, which would take it away
        x = (x + std * torch.from_numpy(pattern)).round_().clamp_(0, 255).to(torch.uint8)
    return x if frame_mask is None else x * frame_mask[:, None, None, None]


def _draw_crop(height: int, width: int, min_area: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop of random area and of a shape between 3 : 4 and 4 : 3 of the frame's."""
    area, turn = generator.uniform(min_area, 1.0), generator.uniform(-1, 1)
    shape = np.exp(turn * min(np.log(4 / 3), -np.log(area)) / 2)  # neither side may exceed the frame's
    tall, wide = (max(round(side * area**0.5 * f), 1) for side, f in ((height, shape), (width, 1 / shape)))
    top, left = (int(generator.integers(0, whole - part + 1)) for whole, part in ((height, tall), (width, wide)))
    return top, left, int(tall), int(wide)


def _kernel(sigma: float, side: int) -> int:
    """Odd width of three standard deviations to both sides; reflection at the border needs it below twice the side."""
    return 2 * min(max(round(3 * sigma), 1), (side - 1) // 2) + 1
