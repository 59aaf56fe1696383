from __future__ import annotations

import torch

from tvr_lightning.losses.decorrelation import channel_correlation, channel_decorrelation


def test_rows_that_do_not_exist_take_no_part() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 3, 4, 5, dtype=torch.double)
    mask = torch.tensor([[True, True, False, True], [True] * 4, [False] * 4])
    found = channel_correlation(one, other, mask)
    torch.testing.assert_close(found, channel_correlation(one[mask], other[mask], torch.ones(7).bool()))
    noisy = torch.where(mask[..., None], one, 1e6)
    torch.testing.assert_close(channel_correlation(noisy, other, mask), found)


def test_weights_of_rows() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 6, 4, dtype=torch.double)
    every = torch.ones(6).bool()
    equal = torch.full((6,), 1 / 6, dtype=torch.double)
    torch.testing.assert_close(channel_correlation(one, other, every, equal), channel_correlation(one, other, every))
    first = torch.eye(6, dtype=torch.double)[0]
    x, y = ((rows - rows.mean(0)) / rows.std(0) for rows in (one, other))
    torch.testing.assert_close(channel_correlation(one, other, every, first), torch.outer(x[0], y[0]))


def test_constant_channels_and_single_rows_have_finite_gradients() -> None:
    for rows in (1, 4):
        x = torch.ones(rows, 3, requires_grad=True)
        loss = channel_decorrelation(channel_correlation(x, x * 2, torch.ones(rows).bool()), 1.0, 1.0)
        loss.backward()
        assert loss.item() == 3.0  # nothing correlates: (0 - 1)^2 of each channel
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
