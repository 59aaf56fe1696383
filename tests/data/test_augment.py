from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tvr_lightning.data.augment import FrameAugmentation, _draw_crop, augment_frames
from tvr_lightning.errors import ConfigError

OFF = FrameAugmentation(crop=0, flip=0, jitter=0, noise=0, blur=0)
ALL = FrameAugmentation(crop=1, flip=1, jitter=1, noise=1, blur=1)


def clip(frames: int = 5, height: int = 24, width: int = 20, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (frames, 3, 4, 4), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)


def augment(frames: Tensor, options: FrameAugmentation, seed: int = 0) -> Tensor:
    return augment_frames(frames, np.random.default_rng(seed), options)


@pytest.mark.parametrize("shape", [(5, 24, 20), (1, 64, 64), (3, 1, 1), (2, 2, 7)])
def test_shape_type_and_input_stay(shape: tuple[int, int, int]) -> None:
    frames = clip(*shape)
    before = frames.clone()
    for seed in range(20):
        got = augment(frames, ALL, seed)
        assert got.shape == frames.shape
        assert got.dtype == torch.uint8
    assert torch.equal(frames, before)
    assert augment(frames[:0], ALL).shape == (0, 3, *shape[1:])


def test_one_generator_one_result() -> None:
    frames = clip()
    assert torch.equal(augment(frames, ALL, 3), augment(frames, ALL, 3))
    assert not torch.equal(augment(frames, ALL, 3), augment(frames, ALL, 4))
    torch.manual_seed(1)
    one = augment(frames, FrameAugmentation(), 5)
    torch.manual_seed(2)
    assert torch.equal(one, augment(frames, FrameAugmentation(), 5))


@pytest.mark.parametrize(
    "options", [replace(OFF, **{n: 1.0}) for n in ("crop", "flip", "jitter", "noise", "blur")] + [ALL]
)
def test_every_frame_is_changed_alike(options: FrameAugmentation) -> None:
    frames = clip()
    for seed in range(10):
        joined = augment(frames, options, seed)
        for k in range(len(frames)):  # alone, in another place, beside others: the same
            assert torch.equal(augment(frames[k : k + 1], options, seed)[0], joined[k])
        still = augment(frames[:1].expand(4, -1, -1, -1), options, seed)
        assert torch.equal(still, still[:1].expand_as(still))


def test_nothing_on_changes_nothing() -> None:
    frames = clip()
    assert torch.equal(augment(frames, OFF), frames)


def test_each_change_does_what_its_name_says() -> None:
    frames = clip(2, 32, 32)
    assert torch.equal(augment(frames, replace(OFF, flip=1)), frames.flip(-1))
    noise = augment(frames, replace(OFF, noise=1)).int() - frames.int()
    inside = (frames > 80) & (frames < 175)
    assert abs(noise[inside].float().mean()) < 2
    assert 0 < noise[inside].float().std() < 16
    sharp = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    sharp[..., 16:] = 255
    blurred = augment(sharp, replace(OFF, blur=1, blur_sigma=0.1), 2)
    assert ((blurred > 5) & (blurred < 250)).any()
    assert abs(blurred.float().mean() - 127.5) < 2
    grey = torch.full((1, 3, 8, 8), 120, dtype=torch.uint8)
    for seed in range(5):
        jittered = augment(grey, replace(OFF, jitter=1), seed).int()
        assert (jittered - jittered[0, 0, 0, 0]).abs().max() <= 1  # grey has neither hue nor saturation
        assert 120 * 0.6 - 2 <= jittered.min() <= jittered.max() <= 120 * 1.4 + 2
    red = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    red[:, 0] = 200
    turned = augment(red, replace(OFF, jitter=1, brightness=0, contrast=0, saturation=0, hue=0.5), 1)
    assert not torch.equal(turned, red)


def test_rates_are_probabilities() -> None:
    frames = clip(1, 8, 8)
    flipped = [torch.equal(augment(frames, replace(OFF, flip=0.25), seed), frames.flip(-1)) for seed in range(400)]
    assert 0.18 < np.mean(flipped) < 0.32


def test_turning_one_change_off_leaves_the_others() -> None:
    frames = clip()
    for seed in range(10):
        crop = augment(frames, replace(OFF, crop=1), seed)
        both = augment(frames, replace(OFF, crop=1, flip=1), seed)
        assert torch.equal(crop.flip(-1), both)


def test_crops_keep_their_area_and_shape() -> None:
    generator = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        top, left, tall, wide = _draw_crop(200, 300, 0.5, generator)
        assert 0 <= top <= 200 - tall
        assert 0 <= left <= 300 - wide
        assert 0.74 <= (tall / 200) / (wide / 300) <= 1.35
        areas.append(tall * wide / 60000)
    assert min(areas) > 0.49
    assert max(areas) > 0.95
    assert np.mean(areas) == pytest.approx(0.75, abs=0.03)
    assert _draw_crop(10, 10, 1.0, generator) == (0, 0, 10, 10)


def test_missing_frames_stay_zero() -> None:
    frames = clip()
    mask = torch.tensor([True, True, False, True, False])
    got = augment_frames(frames * mask[:, None, None, None], np.random.default_rng(0), ALL, mask)
    assert not got[~mask].any()
    assert torch.equal(got[mask], augment(frames[mask], ALL))


@pytest.mark.parametrize(
    "wrong",
    [{"flip": 1.5}, {"crop": -0.1}, {"min_area": 0.0}, {"hue": 0.6}, {"noise_std": -1.0}, {"jitter": math.nan}],
)
def test_options_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"frame augmentation: {next(iter(wrong))} is"):
        FrameAugmentation(**wrong)


def test_other_tensors_are_refused() -> None:
    for wrong in (clip().float(), clip()[:, :1], clip()[0]):
        with pytest.raises(ValueError, match="frames must be"):
            augment(wrong, ALL)
