"""Rotation, aspect, resizing and colour."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from tvr_lightning.data.video.frames import probe_video, read_frames
from tvr_lightning.data.video.key_frames import read_key_frames

from ..clips import numbered, write_clip


def quadrants(number: int, width: int, height: int) -> np.ndarray:
    """Red and green above, blue and white below."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2, 0] = 255
    picture[: height // 2, width // 2 :, 1] = 255
    picture[height // 2 :, : width // 2, 2] = 255
    picture[height // 2 :, width // 2 :] = 255
    return picture


def corners(frame: torch.Tensor) -> str:
    quarter, three = frame.shape[1] // 4, 3 * frame.shape[1] // 4
    names = {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 1): "w"}
    places = [(quarter, quarter), (quarter, three), (three, quarter), (three, three)]
    return "".join(names[tuple((frame[:, y, x] > 127).long().tolist())] for y, x in places)


@pytest.mark.parametrize(("degrees", "turned"), [(0, "rgbw"), (90, "gwrb"), (180, "wbgr"), (270, "brwg")])
def test_rotation_is_applied(tmp_path, degrees, turned):
    path = write_clip(tmp_path / "phone.mp4", 4, width=128, height=64, paint=quadrants, rotation=degrees)
    assert corners(read_frames(path, 1, size=32).frames[0]) == turned
    probe = probe_video(path)
    assert (probe.width, probe.height) == ((64, 128) if degrees % 180 else (128, 64))


def test_a_mirrored_video_is_not_a_rotated_one(tmp_path):
    path = write_clip(tmp_path / "selfie.mp4", 2, paint=quadrants, mirrored=True)
    assert corners(read_frames(path, 1, size=32).frames[0]) == "grwb"


def test_square_pixels(tmp_path):
    """A disc stored squeezed to half its width comes out round."""

    def disc(number, width, height):
        y, x = np.mgrid[:height, :width]
        inside = ((x + 0.5) / width * 2 - 1) ** 2 * 4 + ((y + 0.5) / height * 2 - 1) ** 2 < 0.5  # shown at 2 : 1
        return np.repeat(inside[..., None] * np.uint8(255), 3, axis=2)

    path = write_clip(tmp_path / "wide.mp4", 2, width=96, height=96, paint=disc, pixel_aspect=Fraction(2))
    frame = read_frames(path, 1, size=64).frames[0].float().mean(0) > 127
    across, down = frame.sum(1).max().item(), frame.sum(0).max().item()
    assert abs(across - down) <= 2
    assert probe_video(path)[1:3] == (192, 96)


@pytest.mark.parametrize(("width", "height"), [(63, 37), (37, 63), (300, 50), (33, 33)])
def test_resize_and_crop_agree_with_torch(tmp_path, width, height):
    def waves(number, width, height):
        y, x = np.mgrid[:height, :width]
        channels = [np.sin(x / 5 + 1), np.cos(y / 4), np.sin((x + y) / 7)]
        return (np.stack(channels, -1) * 110 + 128).astype(np.uint8)

    path = write_clip(tmp_path / "odd.mkv", 1, width=width, height=height, paint=waves, codec="ffv1", pix_fmt="bgr0")
    frame = read_frames(path, 1, size=24).frames[0]
    source = torch.from_numpy(waves(0, width, height)).permute(2, 0, 1)[None].float()
    short = min(width, height)
    shape = (24 * height // short, 24 * width // short)
    resized = interpolate(source, shape, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 255)
    top, left = (shape[0] - 24) // 2, (shape[1] - 24) // 2
    expected = resized[:, top : top + 24, left : left + 24]
    assert (frame.float() - expected).abs().mean() < 2.5


@pytest.mark.parametrize("size", [(63, 37), (37, 63), (300, 50)])
def test_squashing_keeps_the_whole_picture(tmp_path, size):
    def ramp(number, width, height):
        y, x = np.mgrid[:height, :width]
        return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), 0 * x], -1).astype(np.uint8)

    path = write_clip(tmp_path / "a.mkv", 1, width=size[0], height=size[1], paint=ramp, codec="ffv1", pix_fmt="bgr0")
    source = torch.from_numpy(ramp(0, *size)).permute(2, 0, 1)[None].float()
    expected = interpolate(source, (24, 24), mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 255)
    frame = read_frames(path, 1, size=24, resize="squash").frames[0]
    assert (frame.float() - expected).abs().mean() < 2.5
    assert frame[0, 12, [0, -1]].tolist() == pytest.approx([0, 255], abs=16)  # `crop` cuts one of them off
    assert frame[1, [0, -1], 12].tolist() == pytest.approx([0, 255], abs=16)
    key = read_key_frames(path, 1, 24, resize="squash").frames[0]
    assert torch.equal(key, frame)


@pytest.mark.parametrize(("degrees", "turned"), [(90, "gwrb"), (180, "wbgr")])
def test_squashed_frames_are_upright(tmp_path, degrees, turned):
    path = write_clip(tmp_path / "phone.mp4", 4, width=128, height=64, paint=quadrants, rotation=degrees)
    assert corners(read_frames(path, 1, size=32, resize="squash").frames[0]) == turned


@pytest.mark.parametrize("colorspace", [1, 5])
@pytest.mark.parametrize("color_range", [1, 2])
def test_colours_survive_every_range_and_matrix(tmp_path, colorspace, color_range):
    colours = [(255, 0, 0), (0, 200, 40), (20, 60, 230), (0, 0, 0), (255, 255, 255), (90, 90, 90)]

    def flat(number, width, height):
        return np.full((height, width, 3), colours[number], np.uint8)

    path = write_clip(
        tmp_path / "c.mp4",
        6,
        paint=flat,
        colorspace=colorspace,
        color_range=color_range,
        options={"crf": "1", "bf": "0"},
    )
    frames = read_frames(path, 6, size=16).frames.float().mean((2, 3))
    assert (frames - torch.tensor(colours)).abs().max() < 6


@pytest.mark.parametrize("pix_fmt", ["gray", "yuv420p10le", "rgb24"])
def test_black_and_white_in_unusual_formats(tmp_path, pix_fmt):
    name, codec = ("g.mov", "qtrle") if pix_fmt == "rgb24" else ("g.mkv", "ffv1")
    path = write_clip(tmp_path / name, 2, codec=codec, pix_fmt=pix_fmt, paint=lambda k, w, h: numbered(255 * k, w, h))
    low, high = read_frames(path, 2, size=32).frames.float().mean((1, 2, 3)).tolist()
    assert low < 4
    assert high > 251
