"""LEAN's forms for score.py: all pairs densely against one batch of their hypergraphs under torch_geometric.

Both share weights and go from projected words and frames to the score; with gradients to scores and divergences, as a
training step does. Building indices is part of the hypergraphs' form, its attention already multiplies nodes and
hyperedges before they meet in a membership.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from cases import Case, Form
from torch import Tensor, nn

from tvr_lightning.encoders.bert import BERTEncoder, BERTSize
from tvr_lightning.encoders.vgg import VGGEncoder, VGGSize
from tvr_lightning.methods.lean import LEAN, WordFeatures
from tvr_lightning.nn.lean.hypergraph import pair_hypergraphs, visual_nodes
from tvr_lightning.types import VideoFeatures

ITERATIONS = 2


def features(case: Case, device: str) -> tuple[WordFeatures, VideoFeatures]:
    """Random words and frames of full length: the dearest case."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int, length: int) -> tuple[Tensor, Tensor]:
        nodes = torch.randn(count, length, case.dim, generator=generator).to(device)
        return nodes, torch.ones(count, length, dtype=torch.bool, device=device)

    return WordFeatures(*draw(case.texts, case.words)), VideoFeatures(*draw(case.videos, case.frames))


def forms(case: Case, device: str) -> tuple[nn.Module, Mapping[str, Form]]:
    """LEAN's scores through hypergraphs and densely; states at their means, so that both give the same."""
    torch.manual_seed(0)
    vgg = VGGEncoder(size=VGGSize(16, ((8,),), 2, 16, 16))  # encoders take no part
    bert = BERTEncoder(size=BERTSize(16, 1, 1, 16, 16))
    model = LEAN(vgg, bert, case.dim, ITERATIONS).to(device).eval()
    scorer = model.scorer
    for parameter in scorer.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)

    def hypergraphs(texts: WordFeatures, videos: VideoFeatures) -> Tensor:
        visual, visual_mask = visual_nodes(videos.frames, videos.frame_mask)
        graphs, _ = pair_hypergraphs(texts.words, texts.word_mask, visual, visual_mask, scorer.kinds)
        scores, divergence = scorer.score_graphs(graphs, torch.is_grad_enabled())
        total = scores if divergence is None else scores + divergence
        return total.view(len(texts), len(videos))

    def dense(texts: WordFeatures, videos: VideoFeatures) -> Tensor:
        if not torch.is_grad_enabled():
            return model.score(texts, videos)
        inputs = (texts.words, texts.word_mask, videos.frames, videos.frame_mask)
        scores, divergence = scorer.learn(*inputs, with_divergence=True)
        assert divergence is not None
        total: Tensor = scores + divergence
        return total

    return model, {"hypergraphs": hypergraphs, "dense": dense}
