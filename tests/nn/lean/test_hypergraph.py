"""LEAN's layers in index form against their equations written out node by node."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.nn.lean.graph_networks import ReplacementNetwork
from tvr_lightning.nn.lean.hypergraph import (
    KINDS,
    Hypergraphs,
    Kind,
    LEANConv,
    RefreshedHyperedges,
    check_kinds,
    clique_expansion,
    pair_hypergraphs,
    visual_nodes,
)
from tvr_lightning.nn.lean.variational import Activation, HypergraphGaussian, Readout

WIDTH = 8
SUBSETS: list[tuple[Kind, ...]] = [KINDS, ("global",), ("text", "visual"), ("cross",), ("visual", "cross"), ("text",)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def one_pair(words: int, frames: int, kinds: Sequence[Kind] = KINDS) -> tuple[Hypergraphs, dict[str, list[set[int]]]]:
    """A hypergraph, and its hyperedges as sets of nodes, by kind and in order."""
    exists = torch.ones(1, frames, dtype=torch.bool)
    visual, visual_mask = visual_nodes(draw(1, frames, WIDTH), exists)
    graph, _ = pair_hypergraphs(
        draw(1, words, WIDTH, seed=1), torch.ones(1, words, dtype=torch.bool), visual, visual_mask, kinds
    )
    seen = set(range(words, words + frames + 1))
    edges: dict[str, list[set[int]]] = {}
    if "global" in kinds:
        edges["global"] = [set(range(words)) | seen]
    if "text" in kinds and words:
        edges["text"] = [set(range(words))]
    if "visual" in kinds:
        edges["visual"] = [seen]
    if "cross" in kinds:
        edges["cross"] = [{word} | seen for word in range(words)]
    return graph, edges


@pytest.mark.parametrize("kinds", SUBSETS)
@pytest.mark.parametrize(("words", "frames"), [(4, 3), (1, 1), (0, 2)])
def test_hypergraphs_have_the_hyperedges_of_the_paper(kinds: tuple[Kind, ...], words: int, frames: int) -> None:
    graph, edges = one_pair(words, frames, kinds)
    expected = [(KINDS.index(kind), members) for kind, sets in edges.items() for members in sets]  # type: ignore[arg-type]
    found = [
        (int(kind), set(graph.hyperedge_index[0][graph.hyperedge_index[1] == edge].tolist()))
        for edge, kind in enumerate(graph.hyperedge_kind)
    ]
    assert found == expected
    assert graph.textual.tolist() == [True] * words + [False] * (frames + 1)
    torch.testing.assert_close(graph.x[words], graph.x[words + 1 :].mean(0))  # the video is the mean of its frames


def test_pairs_are_kept_apart() -> None:
    word_mask = torch.tensor([[True, False, True], [False, False, False]])
    visual, visual_mask = visual_nodes(draw(2, 2, WIDTH), torch.tensor([[True, True], [True, False]]))
    graphs, exists = pair_hypergraphs(draw(2, 3, WIDTH, seed=1), word_mask, visual, visual_mask)
    assert exists.shape == (2, 2, 6)
    assert torch.bincount(graphs.graph, minlength=4).tolist() == [5, 4, 3, 2]
    assert torch.bincount(graphs.hyperedge_graph, minlength=4).tolist() == [5, 5, 2, 2]
    node, edge = graphs.hyperedge_index
    assert torch.equal(graphs.graph[node], graphs.hyperedge_graph[edge])


def test_clique_expansion_against_sets() -> None:
    graph, edges = one_pair(3, 2, ("text", "cross"))
    expected = {(a, b) for sets in edges.values() for members in sets for a in members for b in members if a != b}
    found = [tuple(edge) for edge in clique_expansion(graph.hyperedge_index, len(graph.x)).T.tolist()]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert clique_expansion(torch.empty(2, 0, dtype=torch.int64), 3).shape == (2, 0)


def obvious_conv(conv: LEANConv, x: Tensor, textual: Tensor, edges: dict[str, list[set[int]]]) -> tuple[Tensor, Tensor]:
    """An iteration, Eq. 8 to Eq. 12, one node and one hyperedge at a time."""
    every = [(kind, sorted(members)) for kind, sets in edges.items() for members in sets]
    around = [{j for _, members in every if i in members for j in members} - {i} for i in range(len(x))]
    rows = []
    for i in range(len(x)):
        total = sum((x[j] / len(around[j]) for j in around[i]), torch.zeros(WIDTH, dtype=x.dtype))
        rows.append(F.leaky_relu(conv.neighbour.weight @ total + conv.own.weight @ x[i], 0.2))
    x = torch.stack(rows)
    e = []
    for kind, members in every:
        if kind == "cross":
            word = next(i for i in members if textual[i])
            seen = x[[i for i in members if not textual[i]]]
            weight = (seen @ x[word] / math.sqrt(WIDTH)).softmax(0)
            e.append(F.layer_norm(weight @ seen, (WIDTH,), conv.norm.weight, conv.norm.bias))
        else:
            e.append(F.leaky_relu(conv.encode[kind].weight @ x[members].mean(0), 0.2))
    first = torch.cat([conv.node_part.weight, conv.edge_part.weight], dim=1)  # the MLP's layer over [x_i ; e_k]
    rows = []
    for i in range(len(x)):
        own = [k for k, (_, members) in enumerate(every) if i in members]
        if own:
            hidden = [F.leaky_relu(first @ torch.cat([x[i], e[k]]) + conv.node_part.bias, 0.2) for k in own]
            alpha = torch.stack([conv.logit.weight[0] @ h for h in hidden]).softmax(0)
            rows.append(x[i] + sum(a * e[k] for a, k in zip(alpha, own, strict=True)))
        else:
            rows.append(x[i])
    return torch.stack(rows), torch.stack(e)


@pytest.mark.parametrize("kinds", SUBSETS)
@pytest.mark.parametrize(("words", "frames"), [(4, 3), (1, 1)])
def test_convolution_is_that_of_the_equations(kinds: tuple[Kind, ...], words: int, frames: int) -> None:
    torch.manual_seed(3)
    conv = LEANConv(WIDTH, kinds).double()
    for parameter in conv.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    graph, edges = one_pair(words, frames, kinds)
    found = conv(graph.x, graph.hyperedge_index, graph.hyperedge_kind, graph.textual)
    expected = obvious_conv(conv, graph.x, graph.textual, edges)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kinds", SUBSETS)
def test_hyperedges_are_refreshed_from_their_members(kinds: tuple[Kind, ...]) -> None:
    torch.manual_seed(6)
    layer = RefreshedHyperedges(WIDTH).double()
    layer.gamma.data.fill_(0.7)
    graph, sets = one_pair(3, 2, kinds)
    damped = graph.x * torch.exp((-0.7 * graph.x).clamp(-10, 10))
    members = [list(m) for same in sets.values() for m in same]
    expected = [F.leaky_relu(layer.weight.weight @ damped[m].mean(0), 0.2) for m in members]
    found = layer(graph.x, graph.hyperedge_index, len(members))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_large_features_do_not_overflow() -> None:
    conv, refresh = LEANConv(WIDTH).double(), RefreshedHyperedges(WIDTH).double()
    refresh.gamma.data.fill_(50.0)
    graph, _ = one_pair(3, 2)
    x = (1e3 * graph.x).requires_grad_()
    nodes, _ = conv(x, graph.hyperedge_index, graph.hyperedge_kind, graph.textual)
    edges = refresh(nodes, graph.hyperedge_index, len(graph.hyperedge_kind))
    (nodes.sum() + edges.sum()).backward()
    assert torch.isfinite(edges).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kinds", SUBSETS)
def test_states_come_from_the_laplacian(kinds: tuple[Kind, ...]) -> None:
    torch.manual_seed(4)
    layer = HypergraphGaussian(WIDTH, kinds, hyperedges=True).double()
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    graph, edges = one_pair(3, 2, kinds)
    every = [(kind, members) for kind, sets in edges.items() for members in sets]
    incidence = torch.zeros(len(graph.x), len(every), dtype=torch.double)
    for k, (_, members) in enumerate(every):
        incidence[list(members), k] = 1
    weight = torch.stack([layer.kind_weights()[kind] for kind, _ in every])  # type: ignore[index]
    degree = incidence @ weight
    root = torch.where(degree > 0, degree**-0.5, 0.0)
    laplacian = root[:, None] * (incidence * weight / incidence.sum(0)) @ incidence.T * root
    hidden = laplacian @ F.relu(laplacian @ graph.x @ layer.shared.weight.T)
    states = layer(graph.x, graph.hyperedge_index, graph.hyperedge_kind)
    torch.testing.assert_close(states.mean, hidden @ layer.nodes.mean.weight.T)
    torch.testing.assert_close(states.log_sigma, (hidden @ layer.nodes.log_sigma.weight.T).clamp(-10, 10))

    e = draw(len(every), WIDTH, seed=8)
    half = root[:, None] * incidence * (weight / incidence.sum(0)).sqrt()
    torch.testing.assert_close(half @ half.T, laplacian)
    dual = half.T @ half
    hidden = dual @ F.relu(dual @ e @ layer.shared.weight.T)
    of_edges = layer.of_hyperedges(e, len(graph.x), graph.hyperedge_index, graph.hyperedge_kind)
    torch.testing.assert_close(of_edges.mean, hidden @ layer.hyperedges.mean.weight.T)
    torch.testing.assert_close(of_edges.log_sigma, (hidden @ layer.hyperedges.log_sigma.weight.T).clamp(-10, 10))
    with pytest.raises(ValueError, match="hyperedges=True"):
        HypergraphGaussian(WIDTH, kinds).of_hyperedges(e, len(graph.x), graph.hyperedge_index, graph.hyperedge_kind)
    noise = draw(*graph.x.shape, seed=5)
    torch.testing.assert_close(states.draw(noise), states.mean + noise * states.log_sigma.exp())


def test_states_start_at_the_priors_spread_with_equal_kinds() -> None:
    layer = HypergraphGaussian(WIDTH)
    torch.testing.assert_close(torch.stack(list(layer.kind_weights().values())), torch.ones(4))
    graph, _ = one_pair(3, 2)
    states = layer.double()(graph.x, graph.hyperedge_index, graph.hyperedge_kind)
    assert states.log_sigma.abs().max() == 0
    assert HypergraphGaussian(WIDTH, spread=False).double()(
        graph.x, graph.hyperedge_index, graph.hyperedge_kind
    ).log_sigma is None  # fmt: skip


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_readout_by_hand(activation: Activation) -> None:
    readout = Readout(WIDTH, activation).double()
    h, graph = draw(5, WIDTH), torch.tensor([0, 1, 0, 1, 1])
    expected = []
    for g in range(2):
        mine = h[graph == g]
        weight = (mine @ readout.attention.weight[0]).softmax(0)
        expected.append(F.leaky_relu(readout.score.weight[0] @ getattr(torch, activation)(weight @ mine), 0.2))
        torch.testing.assert_close(readout.weights(h, graph, 2)[graph == g], weight)
    torch.testing.assert_close(readout(h, graph, 2), torch.stack(expected))


def test_uncertain_graph_convolution_by_hand() -> None:
    network = ReplacementNetwork("uncertain_gcn", WIDTH, 2).double()
    graph, _ = one_pair(2, 1, ("text", "cross"))
    count = len(graph.x)
    adjacency = torch.eye(count, dtype=torch.double)
    adjacency[tuple(clique_expansion(graph.hyperedge_index, count))] = 1
    root = adjacency.sum(1) ** -0.5
    adjacency = root[:, None] * adjacency * root
    mean = F.leaky_relu(network.start[0](graph.x), 0.2)
    variance = F.relu(network.start[1](graph.x))
    for layer in network.layers:
        damping = torch.exp(-variance)
        mean, variance = (
            F.leaky_relu(adjacency @ layer.mean(mean * damping), 0.2),
            F.relu(adjacency**2 @ layer.variance(variance * damping**2)),
        )
    torch.testing.assert_close(network.eval()(graph), mean)
    network.train()
    with torch.no_grad():
        drawn = torch.stack([network(graph) for _ in range(400)])
        torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=5 * float(variance.max()) ** 0.5 / 20 + 1e-6)


def test_kinds_that_do_not_fit() -> None:
    assert check_kinds(["cross", "global"]) == ("global", "cross")
    for kinds in ([], ["global", "global"], ["words"]):
        with pytest.raises(ValueError, match="at least one, each once"):
            check_kinds(kinds)  # type: ignore[arg-type]
    graph, _ = one_pair(2, 1)
    with pytest.raises(ValueError, match="weights for hyperedges text"):
        LEANConv(WIDTH, ("text",)).double()(graph.x, graph.hyperedge_index, graph.hyperedge_kind, graph.textual)
