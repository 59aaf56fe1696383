"""Token-level weighted refining against its equations written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tvr_lightning.nn.ghan.refining import RefineOver, TokenRefining

both = pytest.mark.parametrize("over", ["tokens", "phrases"])


def build(over: RefineOver = "tokens", width: int = 6, parts: int = 3) -> TokenRefining:
    torch.manual_seed(0)
    return TokenRefining(width, parts, hidden_width=5, over=over).double()


@both
def test_parts_are_those_of_the_equations(over: RefineOver) -> None:
    layer, tokens = build(over), torch.randn(4, 7, 6, dtype=torch.double)
    mask = torch.arange(7) < torch.tensor([[7], [1], [4], [6]])
    parts = layer(tokens, mask)
    assert parts.shape == (4, 3, 6)
    for item in range(4):
        real = tokens[item][mask[item]]
        first, _, second = layer.transform
        m = F.relu(real @ first.weight.T + first.bias) @ second.weight.T + second.bias
        logits = real @ layer.attend.weight.T
        if over == "phrases":
            logits = logits + layer.attend.bias
        for part in range(3):
            total = logits[:, part].exp().sum() if over == "tokens" else logits.exp().sum(1)
            weights = logits[:, part].exp() / total
            expected = sum(w * row for w, row in zip(weights, m, strict=True))
            torch.testing.assert_close(parts[item, part], expected)


def test_weights_sum_to_one_over_real_tokens() -> None:
    layer, tokens = build(), torch.randn(3, 5, 6, dtype=torch.double)
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    weights = layer.weights(tokens, mask)
    torch.testing.assert_close(weights.sum(-1), mask.any(1).double()[:, None].expand(3, 3))
    assert not weights[~mask[:, None].expand_as(weights)].any()
    assert torch.equal(layer(tokens, mask)[2], torch.zeros(3, 6, dtype=torch.double))


def test_weights_sum_to_one_over_phrases() -> None:
    layer, tokens = build("phrases"), torch.randn(3, 5, 6, dtype=torch.double)
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    weights = layer.weights(tokens, mask)
    torch.testing.assert_close(weights.sum(1), mask.double())
    assert torch.equal(layer(tokens, mask)[2], torch.zeros(3, 6, dtype=torch.double))


def test_the_bias_counts_over_phrases_alone() -> None:
    assert build().attend.bias is None
    layer, tokens = build("phrases"), torch.randn(2, 5, 6, dtype=torch.double)
    mask = torch.ones(2, 5, dtype=torch.bool)
    before = layer(tokens, mask)
    layer.attend.bias.data[0] += 1.0
    assert not torch.allclose(layer(tokens, mask), before)


@both
def test_what_padded_tokens_hold_changes_nothing(over: RefineOver) -> None:
    layer, tokens = build(over), torch.randn(2, 5, 6, dtype=torch.double)
    mask = torch.arange(5) < torch.tensor([[3], [5]])
    noisy = torch.where(mask[..., None], tokens, 100 * torch.randn_like(tokens))
    torch.testing.assert_close(layer(noisy, mask), layer(tokens, mask))


@both
def test_gradients(over: RefineOver) -> None:
    layer = build(over)
    tokens = torch.randn(2, 4, 6, dtype=torch.double, requires_grad=True)
    mask = torch.arange(4) < torch.tensor([[2], [4]])
    assert torch.autograd.gradcheck(lambda x: layer(x, mask), tokens)
    layer(tokens, mask).square().sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in layer.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in layer.parameters())
