"""Token shift and segments against loops over videos, frames and places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.patches.clustering import cluster_centres
from tvr_lightning.nn.patches.hooks import SegmentCentres, TokenHook, TokenShift


def random_tokens(length: int, frames: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(4, frames, length, 6, generator=generator, dtype=torch.double)
    mask = torch.arange(frames) < torch.tensor([[frames], [1], [3], [2]])
    return tokens * mask[..., None, None], mask


@pytest.mark.parametrize(("length", "step"), [(50, 7), (197, 28), (29, 4), (17, 4), (5, 4)])
def test_shifted_tokens_are_those_of_the_neighbours(length: int, step: int) -> None:
    tokens, mask = random_tokens(length)
    found = TokenShift(blocks=2).before_attention(10, 12, tokens, mask)
    assert found is not None
    expected = tokens.clone()
    for v, count in enumerate(mask.sum(1).tolist()):
        for n in range(count):
            if n > 0:
                for place in range(1, length, step):
                    expected[v, n, place] = tokens[v, n - 1, place]
            if n + 1 < count:
                for place in range(4, length, step):
                    expected[v, n, place] = tokens[v, n + 1, place]
    assert torch.equal(found, expected)
    assert torch.equal(found[:, :, 0], tokens[:, :, 0])  # class tokens stay


def test_only_the_last_blocks_shift() -> None:
    tokens, mask = random_tokens(9)
    shifts = [TokenShift(2).before_attention(i, 5, tokens, mask) is not None for i in range(5)]
    assert shifts == [False, False, False, True, True]
    assert TokenShift(0).before_attention(4, 5, tokens, mask) is None
    assert TokenHook().before_attention(4, 5, tokens, mask) is None


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.01])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_segments_are_means_and_centres_of_their_frames(rate: float, frames: int) -> None:
    tokens, mask = random_tokens(9)
    found, exists = SegmentCentres(frames, rate).before_block(1, 2, tokens, mask)
    keep = max(1, round(8 * rate))
    assert found.shape == (4, -(-5 // frames), 1 + keep, 6)
    for v, count in enumerate(mask.sum(1).tolist()):
        assert exists[v].tolist() == [i * frames < count for i in range(found.shape[1])]
        for i, start in enumerate(range(0, count, frames)):
            own = tokens[v, start : min(start + frames, count)]
            points = own[:, 1:].reshape(1, -1, 6)
            centres = cluster_centres(points, torch.ones(points.shape[:2]).bool(), keep)[0]
            expected = torch.cat([own[:, 0].mean(0)[None], points[0, centres]])
            torch.testing.assert_close(found[v, i], expected, rtol=0, atol=1e-10)


def test_segments_are_made_once_where_they_are_asked_for() -> None:
    tokens, mask = random_tokens(9)
    for depth, blocks, where in ((0.5, 12, 6), (0.5, 3, 1), (0.0, 12, 0), (0.99, 12, 11), (0.5, 1, 0)):
        hook = SegmentCentres(2, depth=depth)
        counts = [hook.before_block(i, blocks, tokens, mask)[1].shape[1] for i in range(blocks)]
        assert counts == [3 if i == where else 5 for i in range(blocks)]


def test_centres_pass_gradients_on() -> None:
    tokens, mask = random_tokens(9)
    x = tokens.requires_grad_()
    segments, exists = SegmentCentres(2).before_block(1, 2, x, mask)
    segments[exists].sum().backward()
    assert x.grad is not None
    assert bool((x.grad[mask][:, 0] > 0).all())
    assert float(x.grad[:, :, 1:].sum()) == 6 * 8 * 7  # width, centres, segments that exist


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 0}, "model.segment_frames is 0; it counts frames"),
        ({"keep_rate": 0.0}, "model.keep_rate is 0.0; it is a share"),
        ({"keep_rate": 1.5}, "model.keep_rate is 1.5"),
        ({"depth": 1.0}, "model.depth is 1.0; it is a share"),
    ],
)
def test_numbers_outside_of_their_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentCentres(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"model\.shifted_blocks is -1"):
        TokenShift(-1)
