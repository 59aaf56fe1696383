"""LEAN's weights of one pair are those that its score is made with."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tvr_lightning.nn.lean.hypergraph import SLOPE
from tvr_lightning.nn.lean.pair_scorer import HypergraphScorer, Network
from tvr_lightning.nn.lean.pair_weights import pair_weights

WIDTH, WORDS, FRAMES = 8, 3, 2


def draw(network: Network = "lean", iterations: int = 2) -> tuple[HypergraphScorer, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    scorer = HypergraphScorer(WIDTH, iterations, network).double().eval()
    return scorer, torch.randn(WORDS, WIDTH).double(), torch.randn(FRAMES, WIDTH).double()


def test_a_node_s_weights_are_a_softmax_over_its_hyperedges() -> None:
    scorer, words, frames = draw(iterations=1)
    found = pair_weights(scorer, words, frames)
    assert found.kinds == ("global", "text", "visual", "cross", "cross", "cross")
    member = torch.tensor(
        [[1, 1, 0, 1, 0, 0], [1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 1], *[[1, 0, 1, 1, 1, 1]] * 3]
    ).bool()
    assert torch.equal(~found.attention.isnan(), member[None])
    torch.testing.assert_close(found.attention.nansum(-1), torch.ones(1, 6, dtype=torch.double))
    # Eq. 11 of the first word, with what the layer gives it and its hyperedges
    conv, seen = scorer.convs[0], {}
    conv.register_forward_hook(lambda _, given, __: seen.update(given=given))
    pair_weights(scorer, words, frames)
    x, e, _ = conv.attend(*seen["given"])
    logits = [conv.logit(F.leaky_relu(conv.node_part(x[0]) + conv.edge_part(e[k]), SLOPE)) for k in (0, 1, 3)]
    torch.testing.assert_close(found.attention[0, 0, member[0]], torch.cat(logits).softmax(0))


def test_the_readout_s_weights_give_the_score() -> None:
    scorer, words, frames = draw()
    states: list[torch.Tensor] = []
    scorer.readout.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    found = pair_weights(scorer, words, frames)
    torch.testing.assert_close(found.readout.sum(), torch.ones((), dtype=torch.double))
    ones = torch.ones(1, WORDS).bool(), torch.ones(1, FRAMES).bool()
    score = scorer(words[None], ones[0], frames[None], ones[1]).scores[0, 0]
    torch.testing.assert_close(scorer.readout.scores(found.readout @ states[0]), score)
    assert not scorer.readout._forward_hooks
    assert len(scorer.readout._forward_pre_hooks) == 1  # ours, above


@pytest.mark.parametrize("network", ["none", "gcn"])
def test_other_networks_have_a_readout_alone(network: Network) -> None:
    found = pair_weights(*draw(network))
    assert found.attention.shape == (0, WORDS + 1 + FRAMES, 6)
    assert len(found.readout) == WORDS + 1 + FRAMES
