"""Draws that belong to a step and to rows of the joined batch, not to a process."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tvr_lightning.nn.draws import RowDropout, drawing, joined_rows, row_parts

CPU = torch.device("cpu")
BATCH = torch.ones(8, 5, 3)


def drop(x: Tensor, rate: float = 0.4) -> Tensor:
    return RowDropout(rate)(x)


def test_a_key_gives_its_numbers_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    drawn = []
    for key in ((0, 1, 2, 0), (0, 1, 2, 0), (0, 1, 2, 1), (0, 1, 3, 0), (0, 2, 2, 0), (1, 1, 2, 0)):
        with drawing(CPU, *key):
            drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[1])
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn[1:]) for b in drawn[i + 2 :])
    assert torch.equal(torch.rand(4), expected)


def test_the_generator_is_given_back_after_an_error() -> None:
    state = torch.get_rng_state()
    with pytest.raises(KeyError), drawing(CPU, 3):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("cuts", [(0, 8), (0, 4, 8), (0, 3, 8), (0, 1, 2, 7, 8), (0, 0, 8)])
def test_shares_drop_what_the_joined_batch_drops(cuts: tuple[int, ...]) -> None:
    with joined_rows(0, 8, 5):
        whole = drop(BATCH), drop(BATCH)
    assert not torch.equal(*whole)
    parts = []
    for first, end in pairwise(cuts):
        torch.manual_seed(first)  # ranks' own generators differ
        with joined_rows(first, 8, 5):
            parts.append((drop(BATCH[first:end]), drop(BATCH[first:end])))
    for number, expected in enumerate(whole):
        assert torch.equal(torch.cat([p[number] for p in parts]), expected)


def test_parts_draw_the_same_whatever_their_size_and_again_in_the_backward_pass() -> None:
    x = torch.randn(8, 5, 3, dtype=torch.double, requires_grad=True)

    def gradient(size: int, again: bool) -> Tensor:
        def block(start: int, rows: Tensor) -> Tensor:
            with parts(start):
                return drop(drop(rows).sin()).square()

        with joined_rows(0, 8, 7):
            row_parts()  # of another tensor before
            parts = row_parts()
            pieces = [(i, x[i : i + size]) for i in range(0, 8, size)]
            out = [checkpoint(block, *p, use_reentrant=False) if again else block(*p) for p in pieces]
        return torch.autograd.grad(torch.cat(out).sum(), x)[0]

    expected = gradient(8, False)
    assert (expected == 0).any()
    for size in (1, 3, 8):
        assert torch.equal(gradient(size, True), expected)


def test_tensors_of_rows_have_draws_of_their_own() -> None:
    with joined_rows(0, 8, 7):
        texts, videos = row_parts(), row_parts()
        with texts(0):
            first = drop(BATCH)
        with videos(0):
            second = drop(BATCH)
    assert not torch.equal(first, second)


def test_rows_are_dropped_at_the_rate_and_the_others_scaled() -> None:
    x = torch.full((400, 100), 2.0)
    with joined_rows(0, 400, 1):
        y = drop(x, 0.3)
    assert y.unique().tolist() == pytest.approx([0.0, 2 / 0.7])
    assert float((y == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    same = (y[:-1] == y[1:]).float().mean()
    assert float(same) == pytest.approx(0.3**2 + 0.7**2, abs=0.01)  # rows are independent


def test_outside_of_a_batch_and_in_evaluation_it_is_plain_dropout() -> None:
    torch.manual_seed(3)
    expected = torch.nn.functional.dropout(BATCH, 0.4)
    torch.manual_seed(3)
    assert torch.equal(drop(BATCH), expected)
    with joined_rows(0, 8, 1):
        assert torch.equal(RowDropout(0.4).eval()(BATCH), BATCH)
        assert torch.equal(drop(BATCH, 0.0), BATCH)


def test_a_row_that_stands_in_for_none_drops_like_any() -> None:
    with joined_rows(8, 8, 1):  # a rank without rows, the last one
        assert drop(BATCH[:1]).shape == (1, 5, 3)


def test_more_rows_than_the_batch_has() -> None:
    with joined_rows(0, 4, 1), pytest.raises(ValueError, match="8 rows, but the joined batch has 4"):
        drop(BATCH)


def test_what_drops_everything_leaves_nothing():
    with joined_rows(0, 4, 1):
        assert not RowDropout(1.0)(torch.ones(2, 3)).any()
