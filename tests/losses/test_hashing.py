"""Loss terms of hashing against closed forms and loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tvr_lightning.losses.hashing import (
    agreement,
    code_regression,
    instance_contrast,
    inter_modal_contrast,
    intra_modal_contrast,
    neighbourhood_preservation,
    neighbourhood_reconstruction,
    quantisation,
    reconstruction,
    semantic_reconstruction,
)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def cos(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_reconstruction_adds_the_means_of_two_modalities() -> None:
    decoded = (torch.zeros(2, 3), torch.zeros(2, 5))
    assert semantic_reconstruction(decoded, (torch.full((2, 3), 2.0), torch.full((2, 5), 3.0))) == 4 + 9


def test_quantisation_and_regression() -> None:
    codes = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert quantisation(codes, codes / 2) == 0.25
    assert quantisation(codes, codes) == 0
    assert code_regression(codes, codes, -codes) == 4


def neighbours(similarity: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> float:
    count = len(similarity)
    return sum(
        sum((float(similarity[i, j]) - cos(a[i], b[j])) ** 2 for i in range(count) for j in range(count)) / count**2
        for a, b in pairs
    )


def test_neighbourhoods_against_loops() -> None:
    s, v, t, h = draw(4, 4), draw(4, 6, seed=2), draw(4, 6, seed=3), draw(4, 6, seed=4)
    assert float(neighbourhood_reconstruction(s, v, t, h)) == pytest.approx(neighbours(s, [(v, v), (t, t), (h, h)]))
    assert float(neighbourhood_preservation(s, v, t)) == pytest.approx(neighbours(s, [(v, t), (v, v), (t, t)]))


def contrast(anchors: Tensor, others: Tensor, temperature: float, video: list[int]) -> float:
    total = 0.0
    for i in range(len(anchors)):
        kept = [j for j in range(len(others)) if j == i or video[j] != video[i]]
        scores = {j: math.exp(cos(anchors[i], others[j]) / temperature) for j in kept}
        total -= math.log(scores[i] / sum(scores.values()))
    return total / len(anchors)


@pytest.mark.parametrize("video", [[0, 1, 2, 3, 4], [7, 1, 7, 3, 1]])
def test_contrasts_against_loops(video: list[int]) -> None:
    v, t, w, u = (draw(5, 6, seed=s) for s in (2, 3, 4, 5))
    index = torch.tensor(video)
    assert float(instance_contrast(v, t, 0.2, index)) == pytest.approx(contrast(v, t, 0.2, video))
    pairs = [(v, t), (w, u), (t, v), (u, w)]
    expected = sum(contrast(a, b, 0.2, video) for a, b in pairs)
    assert float(inter_modal_contrast(v, t, w, u, 0.2, index)) == pytest.approx(expected)
    expected = sum(contrast(a, b, 0.2, video) for a, b in [(v, w), (t, u)])
    assert float(intra_modal_contrast(v, t, w, u, 0.2, index)) == pytest.approx(expected)


def test_contrast_of_orthogonal_items() -> None:
    """log(1 + (B - 1) exp(-1 / tau)), whatever the vectors' lengths."""
    x = 7 * torch.eye(4, dtype=torch.double)
    expected = math.log(1 + 3 * math.exp(-1 / 0.2))
    assert float(instance_contrast(x, x, 0.2, torch.arange(4))) == pytest.approx(expected)


def test_one_video_alone_has_nothing_to_learn() -> None:
    x = draw(3, 4).requires_grad_()
    loss = instance_contrast(x, draw(3, 4, seed=2), 0.2, torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(x.grad).all()  # type: ignore[arg-type]


def test_gradients() -> None:
    s, index = draw(4, 4), torch.tensor([0, 1, 0, 2])
    v, t, w, u = (draw(4, 3, seed=x).requires_grad_() for x in (2, 3, 4, 5))
    assert torch.autograd.gradcheck(lambda *x: neighbourhood_preservation(s, *x), (v, t))
    assert torch.autograd.gradcheck(lambda *x: neighbourhood_reconstruction(s, *x), (v, t, w))
    assert torch.autograd.gradcheck(lambda *x: inter_modal_contrast(*x, 0.2, index), (v, t, w, u))
    assert torch.autograd.gradcheck(lambda *x: intra_modal_contrast(*x, 0.2, index), (v, t, w, u))


def test_codes_of_two_kinds_repeat_similarities_and_agree() -> None:
    video, text, similarity = draw(4, 6), draw(4, 6, seed=2), draw(4, 4, seed=3)
    gaps = [(cos(v, t) - float(similarity[i, j])) ** 2 for i, v in enumerate(video) for j, t in enumerate(text)]
    assert float(reconstruction(video, text, similarity)) == pytest.approx(sum(gaps) / 16)
    assert float(agreement(video, text)) == pytest.approx(-sum(map(cos, video, text)) / 4)
    assert float(agreement(video, 2 * video)) == pytest.approx(-1)
