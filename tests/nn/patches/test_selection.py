"""The perturbed top-K against its definition, sample by sample."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.draws import RowNoise, joined_rows, row_noise, row_parts
from tvr_lightning.nn.patches import selection
from tvr_lightning.nn.patches.selection import PatchScores, TokenSelection, perturbed_top_k

SAMPLES, SIGMA, KEEP = 40, 0.3, 2
SHAPE = (3, 2, 5)  # videos, frames, patches


def draws() -> tuple[Tensor, Tensor, RowNoise]:
    generator, noise = torch.Generator().manual_seed(4), RowNoise([11, 12, 13])
    scores = torch.rand(SHAPE, generator=generator, dtype=torch.double) - 0.5
    weights = torch.randn(*SHAPE[:2], KEEP, SHAPE[2], generator=generator, dtype=torch.double)
    return scores, weights, noise


def test_shares_and_gradient_are_those_of_a_loop_over_samples() -> None:
    scores, weights, noise = draws()
    z = noise.of(0, 3, (2, SAMPLES, 5), scores)
    shares, gradient = torch.zeros_like(weights), torch.zeros_like(scores)
    for v in range(SHAPE[0]):
        for n in range(SHAPE[1]):
            for s in range(SAMPLES):
                noisy = scores[v, n] + SIGMA * z[v, n, s]
                chosen = sorted(sorted(range(5), key=lambda j: -float(noisy[j]))[:KEEP])
                gain = sum(weights[v, n, k, j] for k, j in enumerate(chosen))
                gradient[v, n] += gain * z[v, n, s] / (SAMPLES * SIGMA)
                for k, j in enumerate(chosen):
                    shares[v, n, k, j] += 1 / SAMPLES
    x = scores.clone().requires_grad_()
    found = perturbed_top_k(x, KEEP, noise, SAMPLES, SIGMA)
    (found * weights).sum().backward()
    torch.testing.assert_close(found.detach(), shares, rtol=0, atol=1e-10)
    torch.testing.assert_close(x.grad, gradient, rtol=0, atol=1e-10)


def test_the_gradient_is_that_of_the_expectation() -> None:
    """Of two places the first wins with probability Phi((a - b) / (sigma sqrt 2))."""
    x = torch.tensor([[[0.2, 0.0]]], dtype=torch.double, requires_grad=True)
    share = perturbed_top_k(x, 1, RowNoise([5]), 200_000, SIGMA)[0, 0, 0, 0]
    share.backward()
    spread = SIGMA * math.sqrt(2)
    assert share.item() == pytest.approx(0.5 * (1 + math.erf(0.2 / spread / math.sqrt(2))), abs=0.005)
    density = math.exp(-((0.2 / spread) ** 2) / 2) / math.sqrt(2 * math.pi) / spread
    assert x.grad is not None
    assert x.grad[0, 0].tolist() == pytest.approx([density, -density], abs=0.02)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def both() -> tuple[Tensor, Tensor]:
        scores, weights, noise = draws()
        x = scores.requires_grad_()
        found = perturbed_top_k(x, KEEP, noise, SAMPLES, SIGMA)
        return found.detach(), torch.autograd.grad((found * weights).sum(), x)[0]

    whole = both()
    monkeypatch.setattr(selection, "BLOCK", 1)
    for one, all_of_them in zip(both(), whole, strict=True):
        assert torch.equal(one, all_of_them)


def test_a_row_has_the_noise_of_its_place_in_the_joined_batch() -> None:
    like = torch.zeros(1)

    def noise(first: int, count: int) -> Tensor:
        with joined_rows(first, 6, 3, 1):
            return row_noise(count).of(0, count, (4,), like)

    def in_part(start: int, count: int) -> Tensor:
        with joined_rows(0, 6, 3, 1), row_parts()(start):
            return row_noise(count).of(0, count, (4,), like)

    whole = noise(0, 6)
    assert len(whole.unique()) == 24
    assert torch.equal(torch.cat([noise(0, 2), noise(2, 4)]), whole)
    assert torch.equal(torch.cat([in_part(0, 3), in_part(3, 3)]), in_part(0, 6))
    torch.manual_seed(0)
    assert not torch.equal(row_noise(2).of(0, 2, (4,), like), row_noise(2).of(0, 2, (4,), like))


def test_in_evaluation_the_best_patches_stay_in_their_order() -> None:
    torch.manual_seed(0)
    select = TokenSelection(8, keep=3).double().eval()
    frames, patches = torch.randn(2, 4, 8).double(), torch.randn(2, 4, 6, 8).double()
    scores, found = select.scores(frames, patches).detach(), select(frames, patches)
    for v in range(2):
        for n in range(4):
            best = sorted(sorted(range(6), key=lambda j: -float(scores[v, n, j]))[:3])
            expected = torch.stack([frames[v, n], *(patches[v, n, j] for j in best)])
            assert torch.equal(found[v, n], expected)


def test_scores_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    scores = PatchScores(8).double()
    frames, patches = torch.randn(2, 3, 8).double(), torch.randn(2, 3, 5, 8).double()

    def first(x: Tensor) -> Tensor:
        mean, variance = x.mean(), x.var(unbiased=False)
        x = (x - mean) / (variance + 1e-5).sqrt() * scores.norm.weight + scores.norm.bias
        return gelu(scores.reduce.weight @ x)

    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    found = scores(frames, patches)
    for v, n, j in ((0, 0, 0), (1, 2, 4), (0, 1, 3)):
        both = torch.cat([first(patches[v, n, j]), first(frames[v, n])])
        expected = torch.tanh(scores.rate.weight @ gelu(scores.mix.weight @ both))[0]
        torch.testing.assert_close(found[v, n, j], expected, rtol=0, atol=1e-10)


def test_training_selects_what_evaluation_does_where_noise_is_small() -> None:
    torch.manual_seed(0)
    select = TokenSelection(8, keep=2, num_samples=4, sigma=1e-9)
    frames, patches = torch.randn(2, 3, 8), torch.randn(2, 3, 6, 8)
    torch.testing.assert_close(select.train()(frames, patches), select.eval()(frames, patches))


def test_what_cannot_be_selected_is_refused() -> None:
    with pytest.raises(ValueError, match="7 patches of 4 cannot be kept"):
        TokenSelection(8, keep=7)(torch.zeros(1, 1, 8), torch.zeros(1, 1, 4, 8))
    for settings, name in (
        ({"keep": 0}, "selected_patches"),
        ({"num_samples": 0}, "num_samples"),
        ({"sigma": 0}, "sigma"),
    ):
        with pytest.raises(ConfigError, match=f"model.{name} is 0; it must be above 0"):
            TokenSelection(8, **settings)
