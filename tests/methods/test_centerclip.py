"""CenterCLIP against CLIP4Clip, whose head it has, and against a walk through the image tower written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tvr_lightning.encoders import CLIPEncoder, CLIPSize
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.centerclip import CenterCLIP
from tvr_lightning.methods.clip4clip import CLIP4Clip
from tvr_lightning.nn.patches.clustering import Algorithm, cluster_centres
from tvr_lightning.types import SentenceFeatures, VideoInput

SIZE = CLIPSize(
    image_size=32, patch_size=8, image_width=32, image_layers=4, image_heads=2,
    text_width=32, text_layers=1, text_heads=2, embed_dim=24,
)  # fmt: skip


def encoder(**settings: Any) -> CLIPEncoder:
    torch.manual_seed(0)
    return CLIPEncoder(size=SIZE, **settings)


def random_video(frames: int = 5) -> VideoInput:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (3, frames, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return VideoInput(pixels, torch.arange(frames) < torch.tensor([[frames], [1], [4]]), torch.arange(3))


@pytest.mark.parametrize("similarity", ["meanP", "seqTransf"])
@torch.no_grad()
def test_segments_of_one_frame_that_keep_all_are_clip4clip(similarity: str) -> None:
    models = []
    for kind, more in ((CLIP4Clip, {}), (CenterCLIP, {"segment_frames": 1})):
        torch.manual_seed(0)
        models.append(kind(encoder(), similarity=similarity, num_layers=2, **more).double().eval())  # type: ignore[arg-type]
    sentence = SentenceFeatures(torch.randn(4, 24).double())
    models[1].load_state_dict(models[0].state_dict())
    plain, own = (model.score(sentence, model.encode_video(random_video())) for model in models)
    torch.testing.assert_close(own, plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("clustering", ["k_medoids", "spectral"])
@torch.no_grad()
def test_segments_are_those_of_a_walk_through_the_tower(clustering: Algorithm) -> None:
    model = CenterCLIP(encoder(), segment_frames=2, keep_rate=0.5, clustering=clustering).double().eval()
    video, visual = random_video(), model.encoder.clip.visual
    found = model.encode_video(video)
    pixels = (video.frames.double() - model.encoder.pixel_mean) / model.encoder.pixel_std
    for v, count in enumerate(video.frame_mask.sum(1).tolist()):
        assert found.frame_mask[v].tolist() == [2 * i < count for i in range(3)]
        frames = visual._embeds(pixels[v, :count])
        for block in visual.transformer.resblocks[:2]:
            frames = block(frames)
        for i, start in enumerate(range(0, count, 2)):
            own = frames[start : min(start + 2, count)]
            points = own[:, 1:].reshape(1, -1, 32)
            kept = points[0, cluster_centres(points, torch.ones(points.shape[:2]).bool(), 8, clustering)[0]]
            x = torch.cat([own[:, 0].mean(0)[None], kept])[None]
            for block in visual.transformer.resblocks[2:]:
                x = block(x)
            torch.testing.assert_close(found.frames[v, i], (visual.ln_post(x[0, 0]) @ visual.proj), rtol=0, atol=1e-10)


def test_later_blocks_see_fewer_tokens() -> None:
    seen: list[int] = []
    model = CenterCLIP(encoder(), segment_frames=3).eval()
    for block in model.encoder.clip.visual.transformer.resblocks:
        block.register_forward_hook(lambda _, __, out: seen.append(out.shape[0] * out.shape[1]))
    with torch.no_grad():
        model.encode_video(random_video(6))
    assert seen == [18 * 17, 18 * 17, 6 * 17, 6 * 17]


def test_features_of_plain_frames_are_not_taken_for_segments() -> None:
    frozen = CenterCLIP(encoder(freeze_image=True)).eval().frozen_video()
    assert frozen is not None
    assert frozen.encode(random_video()).shape == (3, 5, 25)  # one more than a frame has
    assert CenterCLIP(encoder()).frozen_video() is None


def test_numbers_outside_of_their_range_are_refused(small_encoder: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\.iterations is -1"):
        CenterCLIP(small_encoder(), iterations=-1)
    with pytest.raises(ConfigError, match=r"model\.keep_rate is 2\.0"):
        CenterCLIP(small_encoder(), keep_rate=2.0)
