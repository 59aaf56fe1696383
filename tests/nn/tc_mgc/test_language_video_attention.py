from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.nn.tc_mgc.language_video_attention import LanguageVideoAttention


def literal(block: LanguageVideoAttention, query: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    """What one query sees (Eq. 7, Eq. 11), of one query (D,) and one video (n, D), frame by frame."""
    size = block.width // block.heads
    normed = [F.layer_norm(f, (block.width,), block.norm_inputs.weight, block.norm_inputs.bias) for f in frames[mask]]
    q = block.query(F.layer_norm(query, (block.width,), block.norm_inputs.weight, block.norm_inputs.bias))
    attended = []
    for head in range(block.heads):
        part = slice(head * size, (head + 1) * size)
        logits = torch.stack([(q[part] @ block.key(f)[part]) / size**0.5 for f in normed])
        weights = logits.softmax(0)
        attended.append(sum(w * block.value(f)[part] for w, f in zip(weights, normed, strict=True)))
    z_hat = block.norm_attended(block.output(torch.cat(attended)))
    z = block.fc(z_hat)
    return block.norm_output(z + z_hat if block.residual else z)


def random_block(generator: torch.Generator, trained: bool, width: int = 16, **kwargs) -> LanguageVideoAttention:
    block = LanguageVideoAttention(width, **kwargs).double()
    if trained:
        for parameter in block.parameters():
            parameter.data += 0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.double)
    return block


def random_inputs(generator: torch.Generator, texts: int, q: int, p: int, videos: int, n: int, width: int = 16):
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.double)

    mask = torch.rand(videos, n, generator=generator) < 0.7
    mask[:, 0] |= ~mask.any(1)
    return draw(texts, q, width), draw(videos, n, width), mask, draw(texts, p, width)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), texts=st.integers(1, 4), q=st.integers(1, 5), p=st.integers(1, 5),
    videos=st.integers(1, 4), n=st.integers(1, 6), heads=st.sampled_from([1, 2, 4]), trained=st.booleans(),
    projections=st.booleans(), residual=st.booleans(),
)  # fmt: skip
def test_low_rank_cosines_are_those_of_the_literal_form(
    seed, texts, q, p, videos, n, heads, trained, projections, residual
):
    generator = torch.Generator().manual_seed(seed)
    block = random_block(generator, trained, heads=heads, projections=projections, residual=residual)
    queries, frames, mask, others = random_inputs(generator, texts, q, p, videos, n)
    with torch.no_grad():
        expected = torch.stack(
            [
                torch.stack(
                    [
                        torch.stack([literal(block, query, frames[v], mask[v]) for query in queries[t]])
                        for t in range(texts)
                    ]
                )
                for v in range(videos)
            ]
        )  # (V, T, q, D)
        attended = block.attend(queries.flatten(0, 1), frames, mask).unflatten(1, (texts, q))
        torch.testing.assert_close(attended, expected, rtol=1e-9, atol=1e-9)
        cosines = F.normalize(expected, dim=-1) @ F.normalize(others, dim=-1).mT
        torch.testing.assert_close(
            block.cosines(queries, block.basis(frames, mask), others), cosines, rtol=0, atol=1e-10
        )
        single = block.float().cosines(queries.float(), block.basis(frames.float(), mask), others.float())
        torch.testing.assert_close(single.double(), cosines, rtol=0, atol=1e-5)


def test_gradients_are_those_of_the_literal_form():
    generator = torch.Generator().manual_seed(3)
    block = random_block(generator, trained=True, heads=2)
    queries, frames, mask, others = random_inputs(generator, 3, 4, 3, 2, 5)
    gradients = []
    for low_rank in (True, False):
        inputs = [x.clone().requires_grad_() for x in (queries, frames, others)]
        q, f, o = inputs
        if low_rank:
            cosines = block.cosines(q, block.basis(f, mask), o)
        else:
            z = torch.stack([torch.stack([torch.stack([literal(block, x, f[v], mask[v]) for x in q[t]])
                                          for t in range(3)]) for v in range(2)])  # fmt: skip
            cosines = F.normalize(z, dim=-1) @ F.normalize(o, dim=-1).mT
        weights = torch.arange(cosines.numel(), dtype=torch.double).view_as(cosines).sin()
        gradients.append(torch.autograd.grad((cosines * weights).sum(), [*inputs, *block.parameters()]))
    for low, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(low, plain, rtol=1e-8, atol=1e-9)


def test_gradcheck():
    generator = torch.Generator().manual_seed(4)
    block = random_block(generator, trained=True, width=6)
    queries, frames, mask, others = random_inputs(generator, 2, 2, 2, 2, 3, width=6)
    inputs = [x.requires_grad_() for x in (queries, frames, others)]
    assert torch.autograd.gradcheck(lambda q, f, o: block.cosines(q, block.basis(f, mask), o), inputs)


def test_weights_sum_to_one_over_the_frames_that_exist():
    generator = torch.Generator().manual_seed(5)
    block = random_block(generator, trained=True, heads=2)
    queries, frames, mask, _ = random_inputs(generator, 1, 4, 1, 3, 5)
    weights = block.weights(queries[0], frames, mask)
    assert weights.shape == (3, 2, 5, 4)
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 2, 4, dtype=torch.double))
    assert (weights.permute(0, 2, 1, 3)[~mask] == 0).all()


def test_starts_as_identity():
    block = LanguageVideoAttention(8)
    frames = torch.randn(1, 1, 8)
    z = block.attend(torch.randn(1, 8), frames, torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(z[0, 0], F.layer_norm(frames[0, 0], (8,)), rtol=1e-3, atol=1e-3)


def test_dropout_only_in_the_literal_form_and_only_while_training():
    block = LanguageVideoAttention(8, dropout=0.5)
    inputs = torch.randn(2, 3, 8), torch.randn(2, 4, 8), torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="no dropout"):
        block.cosines(inputs[0], block.basis(*inputs[1:]), inputs[0])
    drawn = [block.attend(inputs[0].flatten(0, 1), *inputs[1:]) for _ in range(2)]
    assert all(not torch.equal(a, b) for a, b in pairwise(drawn))
    block.eval()
    assert torch.isfinite(block.cosines(inputs[0], block.basis(*inputs[1:]), inputs[0])).all()


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="3 attention heads"):
        LanguageVideoAttention(8, heads=3)
