from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.nn.temporal import FramePositions, TemporalLSTM, TemporalTransformer, copy_clip_layers


def test_masked_mean_is_a_mean_and_safe_without_valid_rows() -> None:
    x = torch.randn(3, 4, 2, requires_grad=True)
    mask = torch.tensor([[True, True, False, False], [True] * 4, [False] * 4])
    mean = masked_mean(x, mask)
    torch.testing.assert_close(mean, torch.stack([x[0, :2].mean(0), x[1].mean(0), torch.zeros(2)]))
    mean.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_transformer_starts_as_the_text_towers_first_layers(small_encoder: Callable[..., Any]) -> None:
    """A layer with copied weights computes what CLIP's own block computes."""
    encoder = small_encoder(context_length=9)
    temporal = TemporalTransformer(32, 2, 2, max_frames=20)
    second = {k: v.clone() for k, v in temporal.layers[1].state_dict().items()}
    copied = copy_clip_layers(temporal.layers, temporal.positions, encoder.text_blocks, encoder.text_positions)
    assert copied == 1
    x = torch.randn(2, 6, 32)
    with torch.no_grad():
        torch.testing.assert_close(temporal.layers[0](x), encoder.text_blocks[0](x), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(v, second[k]) for k, v in temporal.layers[1].state_dict().items())
    torch.testing.assert_close(temporal.positions.weight, encoder.text_positions[:20])


def test_other_widths_are_left_alone(small_encoder: Callable[..., Any]) -> None:
    encoder = small_encoder()
    temporal = TemporalTransformer(16, 2, 1, max_frames=20)
    before = {k: v.clone() for k, v in temporal.state_dict().items()}
    assert copy_clip_layers(temporal.layers, temporal.positions, encoder.text_blocks, encoder.text_positions) == 0
    assert all(torch.equal(v, before[k]) for k, v in temporal.state_dict().items())


@pytest.mark.parametrize("kind", [TemporalLSTM, lambda width: TemporalTransformer(width, 2, 1, 8)])
def test_order_matters_and_padding_comes_back_as_zeros(kind: Callable[[int], torch.nn.Module]) -> None:
    torch.manual_seed(0)
    layer = kind(16)
    if isinstance(layer, TemporalTransformer):
        torch.nn.init.normal_(layer.positions.weight)
    frames = torch.randn(1, 4, 16)
    mask = torch.tensor([[True, True, True, False]])
    with torch.no_grad():
        forward, backward = layer(frames, mask), layer(frames[:, [2, 1, 0, 3]], mask)
    assert (forward[:, 3] == 0).all()
    assert not torch.allclose(masked_mean(forward, mask), masked_mean(backward, mask), atol=1e-4)


def test_more_frames_than_positions_is_an_error() -> None:
    with pytest.raises(ValueError, match="9 frames, but positions for 8"):
        TemporalTransformer(16, 2, 1, 8)(torch.zeros(1, 9, 16), torch.ones(1, 9, dtype=torch.bool))


def test_several_tokens_a_frame_have_a_position_each() -> None:
    positions = FramePositions(3, 16, std=0.3, tokens=4)
    assert positions.of(2).shape == (8, 16)
    assert len(positions.weight) == 12
    assert len(FramePositions(3, 16, std=0.3, tokens=4, at_least=77).weight) == 77
    with pytest.raises(ValueError, match="4 frames, but positions for 3"):
        positions.of(4)


def test_a_place_that_nobody_sees_sees_the_others() -> None:
    temporal = TemporalTransformer(16, 2, 1, max_frames=4)
    frames, seen = torch.randn(1, 4, 16), torch.tensor([[True, True, False, False]])
    whole = temporal.attended(frames, seen)
    assert torch.equal(temporal(frames, seen), whole * seen[..., None])
    assert bool((whole[0, 2:] != frames[0, 2:]).any())
    torch.testing.assert_close(temporal.attended(frames[:, :2], seen[:, :2]), whole[:, :2])
