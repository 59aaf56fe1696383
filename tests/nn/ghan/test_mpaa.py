"""MPAA: edges against loops over its equations, and the dense form for all pairs against edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.nn.ghan.graphs import RelationalMessagePassing, complete_edges
from tvr_lightning.nn.ghan.mpaa import MPAA, activated_readout

WIDTH = 6


def build(heads: int = 2, head_width: int = 3, readout: Any = "identity", dropout: float = 0.0, steps: int = 1) -> MPAA:
    layer = MPAA(WIDTH, heads, head_width, dropout, readout, steps).double()
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return layer.eval()


def obvious(layer: MPAA, nodes: Tensor, edges: list[tuple[int, int]], root: int) -> Tensor:
    """The readout (Eq. 9), node by node and head by head; (source, target) edges."""

    def attend(logits: list[Tensor]) -> Tensor:
        return F.leaky_relu(torch.stack(logits), 0.2).softmax(0)

    def one_step(step: Any, nodes: Sequence[Tensor]) -> list[Tensor]:
        heads, width = step.aggregate.att_src.shape[1:]
        w_a, w_c = (x.weight.view(heads, width, -1) for x in (step.aggregate.lin, step.combine))
        hidden = []
        for i, node in enumerate(nodes):
            neighbours = [nodes[s] for s, t in edges if t == i]
            by_head = []
            for k in range(heads):
                a = torch.cat([step.aggregate.att_dst[0, k], step.aggregate.att_src[0, k]])
                message = torch.zeros(width, dtype=node.dtype)
                if neighbours:
                    alpha = attend([a @ torch.cat([w_a[k] @ node, w_a[k] @ other]) for other in neighbours])
                    message = sum(w * (w_a[k] @ other) for w, other in zip(alpha, neighbours, strict=True))
                by_head.append(F.elu(message + w_c[k] @ node))
            hidden.append(torch.cat(by_head))
        return hidden

    hidden = list(nodes)
    for step in (layer, *layer.further):
        hidden = one_step(step, hidden)
    w_r1, sources = layer.read.lin.weight, [s for s, t in edges if t == root]
    a = torch.cat([layer.read.att_dst[0, 0], layer.read.att_src[0, 0]])
    alpha = attend([a @ torch.cat([w_r1 @ hidden[root], w_r1 @ hidden[s]]) for s in sources])
    read = sum(w * (w_r1 @ hidden[s]) for w, s in zip(alpha, sources, strict=True))
    r = F.elu(read + layer.read_root.weight @ hidden[root])
    return r.softmax(-1) if layer.readout == "softmax" else r


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("readout", ["softmax", "identity"])
def test_edges_give_the_equations(readout: str, steps: int) -> None:
    torch.manual_seed(1)
    layer, nodes = build(readout=readout, steps=steps), torch.randn(6, WIDTH, dtype=torch.double)
    edges = [(0, 0), (1, 0), (3, 0), (0, 1), (2, 1), (1, 2), (4, 3), (3, 4), (5, 5), (4, 5)]
    index = torch.tensor(edges).T
    for roots in ([0], [5, 0], [3, 1, 2]):
        expected = torch.stack([obvious(layer, nodes, edges, root) for root in roots])
        torch.testing.assert_close(layer(nodes, index, torch.tensor(roots)), expected, rtol=1e-10, atol=1e-12)


def test_complete_edges_join_what_exists() -> None:
    exists = torch.tensor([[True, False, True], [True, False, False]])
    assert {tuple(e) for e in complete_edges(exists).T.tolist()} == {(0, 0), (0, 2), (2, 0), (2, 2), (3, 3)}


def by_edges(layer: MPAA, roots: Tensor, leaves: Tensor, mask: Tensor) -> Tensor:
    """All pairs as one batch of graphs: (R, D), (L, N, D), (L, N) -> (L, R, D)."""
    num_roots, (num_items, count) = len(roots), mask.shape
    nodes = torch.cat(
        [roots[None, :, None].expand(num_items, -1, -1, -1), leaves[:, None].expand(-1, num_roots, -1, -1)], dim=2
    )
    exists = F.pad(mask, (1, 0), value=True)[:, None].expand(-1, num_roots, -1).flatten(0, 1)
    read = torch.arange(len(exists)) * (count + 1)
    return layer(nodes.flatten(0, 2), complete_edges(exists), read).view(num_items, num_roots, -1)


def draw(seed: int, num_roots: int, num_items: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    roots = torch.randn(num_roots, WIDTH, generator=generator, dtype=torch.double)
    leaves = torch.randn(num_items, count, WIDTH, generator=generator, dtype=torch.double)
    return roots, leaves, torch.rand(num_items, count, generator=generator) < 0.7  # an item may have no leaf at all


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), num_roots=st.integers(1, 5), num_items=st.integers(1, 4), count=st.integers(1, 7),
    heads=st.sampled_from([1, 2, 4]), head_width=st.integers(1, 4), readout=st.sampled_from(["softmax", "identity"]),
    masked=st.booleans(), steps=st.sampled_from([1, 1, 2, 3]),
)  # fmt: skip
def test_all_pairs_are_the_graphs_of_pairs(
    seed, num_roots, num_items, count, heads, head_width, readout, masked, steps
):
    torch.manual_seed(seed)
    layer = build(heads, head_width, readout, steps=steps)
    roots, leaves, mask = draw(seed, num_roots, num_items, count)
    mask = mask if masked else torch.ones_like(mask)
    roots.requires_grad_(), leaves.requires_grad_()
    expected, found = by_edges(layer, roots, leaves, mask), layer.all_pairs(roots, leaves, mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    weight = torch.randn_like(expected)
    inputs = (roots, leaves, *layer.parameters())
    slow = torch.autograd.grad((expected * weight).sum(), inputs)
    fast = torch.autograd.grad((found * weight).sum(), inputs)
    for name, a, b in zip(("roots", "leaves", *dict(layer.named_parameters())), fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")
    with torch.no_grad():
        buffer = torch.full((found.numel() * count * heads * head_width,), torch.nan, dtype=torch.double)
        prepared = layer.prepare_roots(roots[None]), layer.prepare_leaves(leaves, mask)
        torch.testing.assert_close(layer.read_pairs(*prepared, buffer), expected.detach(), rtol=0, atol=1e-10)
        single = layer.float()
        near = single.all_pairs(roots.float(), leaves.float(), mask)
        graphs = by_edges(single, roots.float(), leaves.float(), mask)
        torch.testing.assert_close(near, graphs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(near.double(), expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2])
def test_gradients_of_the_dense_form_by_differences(steps: int) -> None:
    torch.manual_seed(3)
    layer = build(steps=steps)
    roots, leaves, _ = draw(5, 2, 2, 3)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    inputs = roots.requires_grad_(), leaves.requires_grad_()
    assert torch.autograd.gradcheck(lambda r, x: layer.all_pairs(r, x, mask), inputs)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_padded_leaves_change_nothing_and_get_no_gradient(steps: int) -> None:
    torch.manual_seed(4)
    layer = build(steps=steps)
    roots, leaves, mask = draw(9, 3, 4, 5)
    expected = layer.all_pairs(roots, leaves, mask)
    noisy = torch.where(mask[..., None], leaves, 50 * torch.randn_like(leaves)).requires_grad_()
    found = layer.all_pairs(roots, noisy, mask)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    assert not noisy.grad[~mask].any()
    assert torch.isfinite(noisy.grad).all()


def test_rows_are_the_diagonal_of_all_pairs() -> None:
    torch.manual_seed(5)
    layer = build(readout="softmax")
    roots, leaves, mask = draw(2, 4, 4, 3)
    torch.testing.assert_close(
        layer.row_by_row(roots, leaves, mask), layer.all_pairs(roots, leaves, mask).diagonal().T, rtol=0, atol=1e-12
    )


def test_softmax_readout_is_a_distribution() -> None:
    torch.manual_seed(6)
    read = build(readout="softmax").all_pairs(*draw(1, 2, 3, 4))
    torch.testing.assert_close(read.sum(-1), torch.ones(3, 2, dtype=torch.double))
    assert (read > 0).all()


@pytest.mark.parametrize("steps", [1, 2])
def test_dropout_without_a_draw_takes_the_same_path_to_the_same_numbers(steps: int) -> None:
    torch.manual_seed(7)
    layer = build(dropout=0.5, steps=steps).train()
    inputs = draw(3, 3, 2, 4)
    assert not torch.equal(layer.all_pairs(*inputs), layer.all_pairs(*inputs))
    layer.read.dropout = 1e-12  # active, yet it drops nothing
    for step in (layer, *layer.further):
        step.dropout.p = step.aggregate.dropout = 1e-12
    found = layer.all_pairs(*inputs)
    torch.testing.assert_close(found, by_edges(layer.eval(), *inputs), rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 2])
def test_dropout_has_the_distribution_of_the_graphs(steps: int) -> None:
    torch.manual_seed(8)
    layer = build(dropout=0.3, steps=steps).train()
    roots, leaves, mask = draw(3, 1, 1, 3)
    mask = torch.ones_like(mask)
    count = 4000
    many = roots.expand(count, -1), leaves.expand(count, -1, -1), mask.expand(count, -1)
    with torch.no_grad():
        dense = layer.row_by_row(*many)
        nodes = torch.cat([many[0][:, None], many[1]], dim=1).flatten(0, 1)
        edges = complete_edges(torch.ones(count, 4, dtype=torch.bool))
        graphs = layer(nodes, edges, torch.arange(count) * 4)
    error = 4 * (graphs.std(0) / count**0.5) * 2**0.5
    assert ((dense.mean(0) - graphs.mean(0)).abs() < error).all()
    torch.testing.assert_close(dense.std(0), graphs.std(0), rtol=0.15, atol=0.0)


@pytest.mark.parametrize("readout", ["softmax", "identity"])
def test_what_is_read_is_float32_under_autocast(readout: str) -> None:
    torch.manual_seed(11)
    layer = build(readout=readout).float()
    roots, leaves, mask = (x.float() if x.is_floating_point() else x for x in draw(3, 3, 2, 4))
    by_forms = {
        "dense": lambda: layer.all_pairs(roots, leaves, mask),
        "graphs": lambda: by_edges(layer, roots, leaves, mask),
    }
    for name, read in by_forms.items():
        with torch.autocast("cpu", torch.bfloat16):
            found = read()
        assert found.dtype == torch.float32, name
        if readout == "softmax":  # bf16 would miss it by 4e-3
            torch.testing.assert_close(found.sum(-1), torch.ones(2, 3), rtol=0, atol=1e-6)
    assert activated_readout(torch.zeros(2, 3, dtype=torch.double), "softmax").dtype == torch.double


def test_a_readout_tells_apart_what_reduced_precision_would_not() -> None:
    logits = torch.zeros(2, 512).bfloat16()
    logits[1, 0] = 2**-10
    first, second = activated_readout(logits, "softmax")
    assert not torch.equal(first, second)
    assert torch.equal(first.bfloat16(), second.bfloat16())


@pytest.mark.parametrize("layer", [MPAA, lambda *x, steps: RelationalMessagePassing(*x, 4, 2, (0,), steps=steps)])
def test_there_is_a_step(layer: Any) -> None:
    with pytest.raises(ValueError, match="0 steps of message passing; at least 1"):
        layer(WIDTH, steps=0)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("grad", [True, False])
def test_reduced_precision_stays_near(grad: bool, steps: int) -> None:
    torch.manual_seed(9)
    layer = build(heads=2, head_width=16, steps=steps).float()
    roots, leaves, mask = (x.float() if x.is_floating_point() else x for x in draw(3, 3, 2, 4))
    expected = layer.all_pairs(roots, leaves, mask)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
        found = layer.all_pairs(roots, leaves, mask)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
    if grad:
        found.float().square().sum().backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


def test_relational_layers_by_hand() -> None:
    torch.manual_seed(10)
    layer = RelationalMessagePassing(WIDTH, 4, 2, (0,), 0.0, "identity").double()
    nodes = torch.randn(4, WIDTH, dtype=torch.double)
    exists = torch.tensor([[True, True, True, False]])
    found = layer(nodes, complete_edges(exists), torch.tensor([0, 1, 1, 1]), torch.tensor([0]))
    down, up, across = (layer.aggregate.weight[int(layer.relation[pair])] for pair in ((0, 1), (1, 0), (1, 1)))
    own, bias = layer.aggregate.root, layer.aggregate.bias
    hidden = [
        F.elu((nodes[1] + nodes[2]) / 2 @ up + nodes[0] @ own + bias),
        F.elu(nodes[0] @ down + nodes[2] @ across + nodes[1] @ own + bias),
        F.elu(nodes[0] @ down + nodes[1] @ across + nodes[2] @ own + bias),
    ]
    expected = F.elu((hidden[1] + hidden[2]) / 2 @ layer.read.weight[0] + hidden[0] @ layer.read.root)
    torch.testing.assert_close(found[0], expected, rtol=1e-10, atol=1e-12)
    found.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in layer.parameters())


def test_further_relational_steps_by_hand() -> None:
    torch.manual_seed(12)
    layer = RelationalMessagePassing(WIDTH, 4, 2, (0,), 0.0, "identity", steps=2).double()
    nodes = torch.randn(2, WIDTH, dtype=torch.double)
    edges = complete_edges(torch.ones(1, 2, dtype=torch.bool))
    found = layer(nodes, edges, torch.tensor([0, 1]), torch.tensor([0]))
    hidden = nodes
    for step in (layer.aggregate, *layer.further):
        down, up = (step.weight[int(layer.relation[pair])] for pair in ((0, 1), (1, 0)))
        hidden = F.elu(torch.stack([hidden[1] @ up, hidden[0] @ down]) + hidden @ step.root + step.bias)
    expected = F.elu(hidden[1] @ layer.read.weight[0] + hidden[0] @ layer.read.root)
    torch.testing.assert_close(found[0], expected, rtol=1e-10, atol=1e-12)
    found.square().sum().backward()
    assert all(p.grad is not None for p in layer.further.parameters())


def test_relations_are_those_that_graphs_can_have() -> None:
    one = RelationalMessagePassing(WIDTH, 4, 4, (0, 1))
    assert (one.aggregate.num_relations, one.read.num_relations) == (14, 6)
    assert int(one.relation[0, 0]) == int(one.relation[1, 1]) == -1
    assert int(one.read_relation[2, 3]) == -1
    two = RelationalMessagePassing(WIDTH, 4, 2, (0,))
    assert (two.aggregate.num_relations, two.read.num_relations) == (3, 1)


def test_weights_are_those_of_the_edges_into_the_root() -> None:
    torch.manual_seed(2)
    layer, roots, leaves = build(), torch.randn(2, WIDTH).double(), torch.randn(2, 4, WIDTH).double()
    mask = torch.tensor([[True, True, True, True], [True, False, True, False]])
    weights = layer.weights(roots, leaves, mask)
    assert weights.shape == (2, 2, 5)
    for pair in range(2):
        exists = torch.cat([torch.ones(1, dtype=torch.bool), mask[pair]])
        nodes = torch.cat([roots[pair, None], leaves[pair]])[exists]
        edges = complete_edges(torch.ones(1, len(nodes), dtype=torch.bool))
        _, (index, alpha) = layer.aggregate(nodes, edges, return_attention_weights=True)
        torch.testing.assert_close(weights[pair][:, exists], alpha[index[1] == 0].T)
        assert not weights[pair][:, ~exists].any()
