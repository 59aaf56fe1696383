"""LEAN's all-pairs form against the index form with the same parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tvr_lightning.nn.lean.hypergraph import KINDS, Kind, pair_hypergraphs, visual_nodes
from tvr_lightning.nn.lean.pair_scorer import NETWORKS, HypergraphScorer, Network, Read, Reduction

SUBSETS = [subset for size in range(1, 5) for subset in combinations(KINDS, size)]
READS = get_args(Read)
BOTH = list(product(NETWORKS, READS))
SIZES = [(5, 4, 6, 3, 16), (1, 7, 1, 1, 8), (6, 1, 3, 5, 12), (3, 3, 12, 10, 24), (2, 3, 4, 1, 8)]


def build(width: int, dtype: torch.dtype = torch.double, seed: int = 0, **settings: Any) -> HypergraphScorer:
    torch.manual_seed(seed)
    scorer = HypergraphScorer(width, **settings)
    for parameter in scorer.parameters():  # away from the special points of initialisation
        parameter.data += 0.05 * torch.randn_like(parameter)
    return scorer.to(dtype).eval()


def inputs(
    texts: int, videos: int, words: int, frames: int, width: int, dtype: torch.dtype = torch.double, seed: int = 1
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random nodes; texts of 0 to all words with holes between them, videos of 1 to all frames."""
    generator = torch.Generator().manual_seed(seed)
    word_mask = torch.rand(texts, words, generator=generator) < 0.7
    word_mask[0] = False
    word_mask[-1] = True
    frame_mask = torch.arange(frames) < torch.randint(1, frames + 1, (videos, 1), generator=generator)
    return (
        torch.randn(texts, words, width, generator=generator, dtype=dtype), word_mask,
        torch.randn(videos, frames, width, generator=generator, dtype=dtype), frame_mask,
    )  # fmt: skip


def gradients(outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """Zeros where something takes no part."""
    total = outputs[0].square().sum() + outputs[1].sum()
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if x is None else x for leaf, x in zip(leaves, found, strict=True)]


def by_index(
    scorer: HypergraphScorer, words: Tensor, word_mask: Tensor, frames: Tensor, frame_mask: Tensor
) -> tuple[Tensor, Tensor]:
    graphs, _ = pair_hypergraphs(words, word_mask, *visual_nodes(frames, frame_mask), scorer.kinds)
    scores, divergence = scorer.score_graphs(graphs)
    shape = (len(words), len(frames))
    assert divergence is not None
    return scores.view(shape), divergence.view(shape)


# each subset, network and readout once, and all together, are fast
@pytest.mark.parametrize(
    ("kinds", "network", "read"),
    [
        case
        if case[0] == SUBSETS[-1] or case[1:] == (NETWORKS[0], READS[0])
        else pytest.param(*case, marks=pytest.mark.slow)
        for case in product(SUBSETS, NETWORKS, READS)
    ],
)
def test_scores_divergences_and_gradients(kinds: tuple[Kind, ...], network: Network, read: Read) -> None:
    scorer = build(12, kinds=kinds, network=network, read=read)
    words, word_mask, frames, frame_mask = inputs(4, 3, 5, 3, 12)
    leaves = [words.requires_grad_(), frames.requires_grad_(), *scorer.parameters()]
    found = scorer(words, word_mask, frames, frame_mask, with_divergence=True, chunk=5)
    expected = by_index(scorer, words, word_mask, frames, frame_mask)
    torch.testing.assert_close(tuple(found), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(found, leaves), gradients(expected, leaves), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("iterations", [1, 2, 4])
@torch.no_grad()
def test_any_size_in_both_precisions(size: tuple[int, ...], iterations: int) -> None:
    for dtype, tolerance in ((torch.double, 1e-10), (torch.float, 1e-5)):
        scorer = build(size[-1], dtype, iterations=iterations)
        given = inputs(*size, dtype=dtype)
        found, expected = scorer(*given, with_divergence=True), by_index(scorer, *given)
        torch.testing.assert_close(tuple(found), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("read", READS)
@torch.no_grad()
def test_any_network_in_both_precisions(network: Network, read: Read) -> None:
    for dtype, tolerance in ((torch.double, 1e-10), (torch.float, 1e-5)):
        scorer = build(24, dtype, network=network, read=read)
        given = inputs(*SIZES[3], dtype=dtype)
        found, expected = scorer(*given, with_divergence=True), by_index(scorer, *given)
        torch.testing.assert_close(tuple(found), expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("network", NETWORKS)
def test_only_states_reach_the_readout(network: Network, read: Read) -> None:
    """Where their means are nothing, a score is that of the empty hypergraph, whatever features there are."""
    scorer = build(8, network=network, read=read)
    heads = [heads for heads in (scorer.states.nodes, scorer.states.hyperedges) if heads is not None]
    assert len(heads) == len(read.split("_and_"))
    given = inputs(4, 5, 6, 3, 8)
    plain = scorer(*given).scores
    for head in heads:
        head.mean.weight.zero_()
    found, expected = scorer(*given).scores, by_index(scorer, *given)[0]
    assert plain.abs().min() > 0
    assert found.abs().max() == expected.abs().max() == 0  # tanh(0)


@torch.no_grad()
@pytest.mark.parametrize("read", READS)
def test_a_state_s_spread_is_all_that_a_score_s_noise_is(read: Read) -> None:
    """Drawn scores have means and spread of the states alone: with the prior for a posterior, nothing else is there."""
    scorer = build(8, read=read).train()
    for heads in (scorer.states.nodes, scorer.states.hyperedges):
        if heads is not None:
            heads.mean.weight.zero_()
            heads.log_sigma.weight.zero_()
    words, word_mask, frames, frame_mask = inputs(4, 5, 6, 3, 8)
    drawn = []
    for factor in (1.0, 50.0):
        torch.manual_seed(0)
        drawn.append(scorer(words * factor, word_mask, frames * factor, frame_mask, with_divergence=True))
    torch.testing.assert_close(tuple(drawn[0]), tuple(drawn[1]), rtol=0, atol=0)
    assert drawn[0].divergence.abs().max() == 0


@torch.no_grad()
@pytest.mark.parametrize("read", READS)
def test_a_sum_of_divergences_is_their_mean_times_states_and_dimensions(read: Read) -> None:
    given = inputs(4, 5, 6, 3, 8)
    found = {
        reduction: build(8, read=read, reduction=reduction)(*given, with_divergence=True)
        for reduction in get_args(Reduction)
    }
    words, visual = given[1].sum(1)[:, None], given[3].sum(1) + 1
    count = words + visual
    if read == "nodes_and_hyperedges":  # global and visual, textual and one for each word where there is a word
        count = count + 2 + (words > 0) + words
    torch.testing.assert_close(found["sum"].divergence, found["mean"].divergence * count * 8)
    torch.testing.assert_close(found["sum"].scores, found["mean"].scores, rtol=0, atol=0)
    by_graphs = by_index(build(8, read=read, reduction="sum"), *given)[1]
    torch.testing.assert_close(found["sum"].divergence, by_graphs, rtol=1e-10, atol=1e-10)


def fixed_noise(monkeypatch: pytest.MonkeyPatch, given: tuple[Tensor, ...], width: int) -> None:
    """The same noise in both forms, each of which draws it for its own layout."""
    generator = torch.Generator().manual_seed(2)
    word_mask, shape = given[1], (len(given[0]), len(given[2]))
    nodes = pair_hypergraphs(given[0], given[1], *visual_nodes(given[2], given[3]))[1]
    some = word_mask.any(1)[:, None, None].expand(*shape, 1)
    edges = [some, some | True, some | True, word_mask[:, None].expand(*shape, -1)]  # text, global, visual, cross
    exists = torch.cat([nodes, *edges], dim=2)
    noise = torch.randn(*exists.shape, width, dtype=torch.double, generator=generator)
    of_nodes, of_edges = noise.split([nodes.shape[2], exists.shape[2] - nodes.shape[2]], dim=2)
    order = [1, 0, *range(2, of_edges.shape[2])]  # the index form begins with the global one
    by_number = torch.cat([of_nodes[nodes], of_edges[:, :, order][torch.cat(edges, dim=2)[:, :, order]]])

    def draw(like: Tensor, *shape: int) -> Tensor:
        return noise[:, :, : shape[2]] if len(shape) == 4 else by_number[: shape[0]]

    for module in ("variational_pairs", "graph_network_pairs", "pair_scorer", "graph_networks"):
        monkeypatch.setattr(f"tvr_lightning.nn.lean.{module}.standard_normal", draw)


@pytest.mark.parametrize(("network", "read"), BOTH)
def test_drawn_states_are_the_same(monkeypatch: pytest.MonkeyPatch, network: Network, read: Read) -> None:
    scorer = build(8, network=network, read=read).train()
    given = inputs(3, 4, 5, 3, 8)
    fixed_noise(monkeypatch, given, 8)
    found, expected = scorer(*given, with_divergence=True), by_index(scorer, *given)
    torch.testing.assert_close(tuple(found), expected, rtol=1e-10, atol=1e-10)
    leaves = list(scorer.parameters())
    torch.testing.assert_close(gradients(found, leaves), gradients(expected, leaves), rtol=1e-9, atol=1e-9)
    quiet = scorer.eval()(*given).scores
    assert not torch.allclose(quiet, found.scores)


def test_noise_is_drawn_for_each_pair_and_node_and_again_the_same_in_the_backward_pass() -> None:
    scorer = build(8).train()
    words, word_mask, frames, frame_mask = inputs(4, 4, 3, 2, 8)
    same = (words[-1:].expand(4, -1, -1), word_mask[-1:].expand(4, -1), frames[:1].expand(4, -1, -1))
    scores = scorer(*same, frame_mask[:1].expand(4, -1), chunk=4).scores
    assert len(scores.flatten().unique()) == 16
    # the checkpoint refuses a second forward pass of other shapes; other noise would show in the gradient
    w = words.clone().requires_grad_()
    torch.manual_seed(0)
    a = torch.autograd.grad(scorer(w, word_mask, frames, frame_mask, chunk=4).scores.sum(), w)[0]
    torch.manual_seed(0)
    with torch.no_grad():
        one = scorer(w, word_mask, frames, frame_mask, chunk=4).scores.sum()
        step = 1e-6 * torch.randn_like(w)
        torch.manual_seed(0)
        two = scorer(w + step, word_mask, frames, frame_mask, chunk=4).scores.sum()
    torch.testing.assert_close((a * step).sum(), two - one, rtol=1e-3, atol=1e-9)


@torch.no_grad()
def test_chunks_give_the_whole() -> None:
    scorer = build(8)
    given = inputs(5, 7, 4, 3, 8)
    whole = scorer(*given, with_divergence=True)
    for chunk in (1, 2, 8, 1000):
        torch.testing.assert_close(tuple(scorer(*given, True, chunk)), tuple(whole), rtol=1e-12, atol=1e-12)
    assert scorer(*given).divergence is None
    assert build(8, spread=False)(*given, with_divergence=True).divergence is None


def test_what_waits_for_the_backward_pass_is_set_by_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = build(16, torch.float)
    given = inputs(8, 8, 6, 4, 16, torch.float)

    def kept(chunk: int | None) -> int:
        storages: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            scores = scorer(*given, with_divergence=True, chunk=chunk).scores
        assert scores.requires_grad
        return sum(storages.values())

    assert kept(8) < kept(64) / 5
    assert kept(None) > kept(64) / 2
    monkeypatch.setattr("tvr_lightning.nn.lean.pair_scorer.MAX_STORED_PAIRS", 63)
    assert kept(None) < kept(64) / 5


@pytest.mark.parametrize(("network", "read"), BOTH)
def test_masked_places_may_hold_anything(network: Network, read: Read) -> None:
    scorer = build(8, network=network, read=read)
    words, word_mask, frames, frame_mask = inputs(3, 3, 4, 3, 8)
    plain = scorer(words, word_mask, frames, frame_mask, with_divergence=True)
    for value in (1e30, torch.inf, torch.nan):
        w = words.masked_fill(~word_mask[..., None], value).requires_grad_()
        f = frames.masked_fill(~frame_mask[..., None], value).requires_grad_()
        found = scorer(w, word_mask, f, frame_mask, with_divergence=True)
        torch.testing.assert_close(tuple(found), tuple(plain), rtol=0, atol=0)
        found.scores.sum().backward()
        assert torch.isfinite(w.grad).all()
        assert (w.grad[~word_mask] == 0).all()
        assert (f.grad[~frame_mask] == 0).all()


def test_a_video_without_frames_and_a_text_without_words_stay_finite() -> None:
    for network, read in BOTH:
        scorer = build(8, network=network, read=read).train()
        words, word_mask, frames, frame_mask = inputs(2, 2, 3, 2, 8)
        leaves = [words.requires_grad_(), frames.requires_grad_()]
        scores, divergence = scorer(words, word_mask & False, frames, frame_mask & False, with_divergence=True)
        (scores.sum() + divergence.sum()).backward()
        assert torch.isfinite(scores).all()
        assert all(torch.isfinite(x.grad).all() for x in leaves)


def test_gradients_against_differences() -> None:
    scorer = build(4, iterations=2, read="nodes_and_hyperedges")
    words, word_mask, frames, frame_mask = inputs(2, 2, 2, 2, 4)
    assert torch.autograd.gradcheck(
        lambda w, f: tuple(scorer(w, word_mask, f, frame_mask, with_divergence=True, chunk=2)),
        (words.requires_grad_(), frames.requires_grad_()),
    )


def test_no_iteration() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        HypergraphScorer(8, iterations=0)
