"""Each kernel against PyTorch, alone and inside the layer that calls it: values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.nn.ghan.alignment import DenseAlignment, Hierarchy
from tvr_lightning.nn.lean.pair_scorer import HypergraphScorer
from tvr_lightning.nn.tc_mgc.language_video_attention import LanguageVideoAttention
from tvr_lightning.nn.tc_mgc.similarity_reorganisation import reorganise

from ...kinds import first_fast
from . import kernels

DEVICE = kernels.DEVICE


def draw(*shape: int, learned: bool = False) -> Tensor:
    return torch.randn(*shape, device=DEVICE).requires_grad_(learned)


def some(*shape: int) -> Tensor:
    """A mask with at least one place in each row."""
    mask = torch.rand(*shape, device=DEVICE) < 0.7
    mask[..., 0] = True
    return mask


def shaken(module: nn.Module) -> nn.Module:
    """Random weights instead of the identities that layers start as."""
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module.to(DEVICE)


def assert_same(found, wanted, inputs) -> None:
    """Values, and gradients of a random weighting of them."""
    weights = [torch.randn_like(x) for x in wanted]
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)

    def gradients(outputs):
        total = sum((x * w).sum() for x, w in zip(outputs, weights, strict=True))
        return torch.autograd.grad(total, inputs, allow_unused=True)

    for x, y in zip(gradients(found), gradients(wanted), strict=True):
        if y is None:
            assert x is None or not x.any()
        else:
            scale = float(y.abs().max().clamp(min=1.0))
            torch.testing.assert_close(x, y, rtol=1e-3, atol=2e-5 * scale)


@pytest.mark.parametrize(
    ("texts", "words", "videos", "frames"), [(3, 5, 4, 6), (2, 20, 3, 3), (1, 1, 2, 1), (2, 3, 1, 15)]
)
def test_cosines_and_their_gradients(texts, words, videos, frames):
    torch.manual_seed(0)
    block = shaken(LanguageVideoAttention(16))
    inputs = [
        draw(texts, 16, learned=True),
        draw(texts, words, 16, learned=True),
        draw(videos, frames, 16, learned=True),
    ]
    sentence, word, frame = inputs
    mask = some(videos, frames)

    def cosines():
        return block.text_cosines(sentence, word, block.basis(frame, mask))

    wanted = cosines()
    with kernels.everywhere():
        found = cosines()
    assert_same(found, wanted, [*inputs, *block.parameters()])


def taken(*_):
    raise RuntimeError("taken")


def test_kernels_are_really_taken(monkeypatch):
    block = shaken(LanguageVideoAttention(16))
    with kernels.everywhere():
        monkeypatch.setattr(
            kernels.load("cosines"), "pair_cosines", lambda *_: (_ for _ in ()).throw(RuntimeError("taken"))
        )
        with pytest.raises(RuntimeError, match="taken"):
            block.text_cosines(draw(2, 16), draw(2, 3, 16), block.basis(draw(2, 4, 16), some(2, 4)))


@pytest.mark.parametrize(("length", "count"), [(11, 4), (32, 3), (3, 3), (100, 10)])
def test_largest(length, count):
    torch.manual_seed(1)
    x, mask = draw(4, 7, length), some(7, length)
    values, places = kernels.load("largest").largest(x, mask, count)
    filled = x.masked_fill(~mask, torch.finfo(x.dtype).min)
    torch.testing.assert_close(values, filled.topk(count).values)
    torch.testing.assert_close(filled.gather(-1, places), values)
    assert all(len(set(row.tolist())) == count for row in places.flatten(0, 1))


def test_largest_of_no_row():
    values, places = kernels.load("largest").largest(draw(0, 5), some(0, 5), 2)
    assert values.shape == places.shape == (0, 2)


@pytest.mark.parametrize("kind", ["removal", "fusion"])
@pytest.mark.parametrize("learned", [True, False])
def test_reorganising(kind, learned):
    torch.manual_seed(2)
    x, mask = draw(3, 4, 12, learned=learned), some(4, 12)
    wanted = reorganise(x, mask, 14, 0.3, kind)
    with kernels.everywhere():
        found = reorganise(x, mask, 14, 0.3, kind)
    assert torch.equal(found[1], wanted[1])
    if learned:
        assert_same(found[:1], wanted[:1], [x])
    else:
        torch.testing.assert_close(found[0], wanted[0])


@pytest.mark.parametrize(("rows", "columns", "units"), [(5, 3, 7), (1, 1, 512), (12, 15, 40)])
def test_bent_sums(rows, columns, units):
    torch.manual_seed(3)
    inputs = [draw(3, rows, units, learned=True), draw(3, columns, units, learned=True), draw(units, learned=True)]
    a, b, weight = inputs
    wanted = (F.leaky_relu(a[:, :, None] + b[:, None], 0.2) * weight).sum(-1)
    assert_same([kernels.load("bent").bent_sums(a, b, weight, 0.2)], [wanted], inputs)


@pytest.mark.parametrize("lead", [(2, 1), (1, 3), (2, 3)])
def test_masked_sums(lead):
    torch.manual_seed(4)
    x, mask = draw(2, 3, 5, 9, learned=True), some(*lead, 5)
    wanted = x.masked_fill(~mask[..., None], 0).sum(-2)
    assert_same([kernels.load("sums").masked_sum(x, mask)], [wanted], [x])


@pytest.mark.parametrize("training", first_fast([True, False]))
@pytest.mark.parametrize(
    "kinds", first_fast([["global", "text", "visual", "cross"], ["text"], ["cross"], ["global", "visual"]])
)
def test_lean(kinds, training):
    torch.manual_seed(5)
    scorer = shaken(HypergraphScorer(8, kinds=kinds, spread=False)).train(training)
    inputs = [draw(2, 5, 8, learned=True), draw(3, 4, 8, learned=True)]
    words, frames = inputs
    masks = some(2, 5), some(3, 4)

    def scores():
        return [scorer(words, masks[0], frames, masks[1]).scores]

    wanted = scores()
    with kernels.everywhere():
        found = scores()
    assert_same(found, wanted, [*inputs, *scorer.parameters()])


@pytest.mark.parametrize("readout", ["softmax", "identity"])
def test_ghan(readout):
    torch.manual_seed(6)
    align = shaken(DenseAlignment(8, heads=2, head_width=5, dropout=0.0, readout=readout))
    texts = Hierarchy(draw(3, 8), draw(3, 6, 8), some(3, 6))
    videos = Hierarchy(draw(2, 8), draw(2, 3, 8), some(2, 3))
    with torch.no_grad():
        wanted = align.cosines(texts, videos)
        with kernels.everywhere():
            found = align.cosines(texts, videos)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
