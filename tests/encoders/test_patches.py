"""Patches of frames: what CLIP's tower gives for each token, and hooks inside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tvr_lightning.encoders import CLIPEncoder, CLIPSize
from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.patches.hooks import SegmentCentres, TokenHook, TokenShift

SIZE = CLIPSize(
    image_size=32, patch_size=8, image_width=32, image_layers=3, image_heads=2,
    text_width=32, text_layers=1, text_heads=2, embed_dim=24,
)  # fmt: skip


@dataclass(frozen=True)
class Itself(TokenHook):
    """Attention reads what it reads anyway."""

    def before_attention(self, block: int, num_blocks: int, tokens: Tensor, mask: Tensor) -> Tensor | None:
        return tokens


def make(**settings: Any) -> CLIPEncoder:
    torch.manual_seed(0)
    encoder = CLIPEncoder(size=SIZE, **settings)
    encoder.show_patches()
    return encoder.double()


def random_frames(videos: int = 3, frames: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (videos, frames, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(frames) < torch.tensor([[frames], [2], [1]])[:videos]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_frames_are_those_of_encode_frames_and_patches_the_other_tokens() -> None:
    encoder, (frames, mask) = make(), random_frames()
    found = encoder.encode_patches(frames, mask)
    close(found.frames, encoder.encode_frames(frames, mask))
    assert found.patches.shape == (3, 4, 16, 24)
    assert not found.patches[~mask].any()
    visual, seen = encoder.clip.visual, {}
    hook = visual.ln_post.register_forward_hook(lambda _, __, out: seen.update(tokens=out))
    encoder.encode_frames(frames, mask)
    hook.remove()
    close(found.patches[mask], (seen["tokens"] @ visual.proj).unflatten(0, (3, 4))[mask][:, 1:])


@pytest.mark.parametrize("block_type", ["default", "custom"])
@torch.no_grad()
def test_attention_that_reads_its_own_tokens_changes_nothing(block_type: str) -> None:
    from open_clip.transformer import Transformer

    encoder, (frames, mask) = make(), random_frames()
    encoder.clip.visual.transformer = Transformer(32, 3, 2, ls_init_value=0.3, block_type=block_type).double()
    plain, again = (encoder.encode_patches(frames, mask, hook) for hook in (TokenHook(), Itself()))
    close(again.frames, plain.frames)
    close(again.patches, plain.patches)
    shifted = encoder.encode_patches(frames, mask, TokenShift())
    assert (shifted.frames - plain.frames)[0].abs().max() > 1e-3  # it looks at its neighbours
    close(shifted.frames[2], plain.frames[2])  # one frame has none


@torch.no_grad()
def test_segments_of_one_frame_that_keep_all_patches_are_the_frames() -> None:
    encoder, (frames, mask) = make(), random_frames()
    plain, found = (encoder.encode_patches(frames, mask, hook) for hook in (TokenHook(), SegmentCentres(frames=1)))
    close(found.frames, plain.frames)
    close(found.patches, plain.patches)
    assert encoder.encode_patches(frames, mask, SegmentCentres(frames=3)).frames.shape == (3, 2, 24)


@torch.no_grad()
def test_attended_frames_that_do_not_exist_are_empty_pictures() -> None:
    encoder, (frames, mask) = make(), random_frames()
    found = encoder.encode_patches(frames, mask, attended=True)
    assert bool(found.frame_mask.all())
    close(found.frames[~mask], encoder.encode_padding().expand_as(found.frames[~mask]))
    close(found.frames[mask], encoder.encode_frames(frames, mask)[mask])


@pytest.mark.parametrize("hook", [TokenShift(), SegmentCentres()], ids=str)
def test_gradients_are_the_same_with_checkpointing_and_layers_stay_frozen(hook: TokenHook) -> None:
    frames, mask = random_frames()

    def gradients(**settings: Any) -> dict[str, Tensor]:
        encoder = make(freeze_layers=1, **settings).train()
        found = encoder.encode_patches(frames, mask, hook)
        (found.frames.square().sum() + found.patches.square().sum()).backward()
        return {n: p.grad for n, p in encoder.clip.visual.named_parameters() if p.grad is not None}

    plain, saving = gradients(), gradients(gradient_checkpointing=True)
    assert plain.keys() == saving.keys()
    assert not any(name.startswith(("conv1", "transformer.resblocks.0.")) for name in plain)
    assert any(name.startswith("transformer.resblocks.1.") for name in plain)
    for name, gradient in plain.items():
        close(saving[name], gradient)


def test_weights_are_saved_once_and_the_tower_that_walks_is_compiled() -> None:
    encoder, plain = make(), CLIPEncoder(size=SIZE)
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    assert encoder.towers[0] is not encoder.clip.visual
    assert plain.towers[0] is plain.clip.visual


def test_what_shows_no_patches_is_refused(small_vgg: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="VGGSize does not return the patches of its frames: use CLIPEncoder"):
        small_vgg().show_patches()
    with pytest.raises(ConfigError, match="has 16 patches a frame, but 17 of them are to be kept"):
        CLIPEncoder(size=SIZE).show_patches(at_least=17)
    encoder = CLIPEncoder(size=SIZE)
    with pytest.raises(ValueError, match="call show_patches"):
        encoder.encode_patches(*random_frames())
    encoder.clip.visual.pool_type = "avg"
    with pytest.raises(ConfigError, match="image tower of CLIPSize pools its patches and has no class token"):
        encoder.show_patches()
    encoder.clip.visual = torch.nn.Identity()
    with pytest.raises(ConfigError, match="is none of open_clip's own vision transformers"):
        encoder.show_patches()
