"""GHAN's forms for score.py: all pairs densely against one batch of their graphs under torch_geometric.

Both share weights and score from phrases and clips to cosines, both graphs of every pair.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from cases import Case, Form
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.encoders import CLIPEncoder, CLIPSize
from tvr_lightning.methods.ghan import GHAN
from tvr_lightning.nn.ghan.alignment import DenseAlignment, Hierarchy
from tvr_lightning.nn.ghan.graphs import complete_edges
from tvr_lightning.nn.ghan.mpaa import MPAA

PARTS = 6
HEADS, HEAD_WIDTH = 8, 256


def features(case: Case, device: str) -> tuple[Hierarchy, Hierarchy]:
    """Random phrases and clips with their means."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> Hierarchy:
        parts = torch.randn(count, PARTS, case.dim, generator=generator).to(device)
        return Hierarchy(parts.mean(1), parts, torch.ones(count, PARTS, dtype=torch.bool, device=device))

    return draw(case.texts), draw(case.videos)


def forms(case: Case, device: str) -> tuple[nn.Module, Mapping[str, Form]]:
    """GHAN's scores through graphs and densely; the paper's sizes, without dropout so that both give the same."""
    torch.manual_seed(0)
    encoder = CLIPEncoder(size=CLIPSize(32, 16, 64, 1, 1, 64, 1, 1, case.dim))  # only its width matters here
    model = GHAN(encoder, PARTS, PARTS, heads=HEADS, head_width=HEAD_WIDTH, dropout=0.0).to(device)
    align = model.align
    assert isinstance(align, DenseAlignment)

    def graphs(texts: Hierarchy, videos: Hierarchy) -> Tensor:
        of_text = read_graphs(align.text_clips, texts.whole, videos)  # (V, T, D)
        of_video = read_graphs(align.video_phrases, videos.whole, texts)  # (T, V, D)
        cosines = F.cosine_similarity(of_text.transpose(0, 1), of_video, dim=-1)
        return model.logit_scale(cosines)

    def dense(texts: Hierarchy, videos: Hierarchy) -> Tensor:
        if not torch.is_grad_enabled():
            return model.score(texts, videos)
        return model.logit_scale(align.learn(texts, videos))

    return model, {"graphs": graphs, "dense": dense}


def read_graphs(network: MPAA, roots: Tensor, items: Hierarchy) -> Tensor:
    """Every root with every item's parts, all graphs in one: (L, R, D)."""
    num_roots, (num_items, count) = len(roots), items.mask.shape
    nodes = torch.cat(
        [roots[None, :, None].expand(num_items, -1, -1, -1), items.parts[:, None].expand(-1, num_roots, -1, -1)], dim=2
    )
    exists = F.pad(items.mask, (1, 0), value=True)[:, None].expand(-1, num_roots, -1).flatten(0, 1)
    read = torch.arange(len(exists), device=roots.device) * (count + 1)
    vectors: Tensor = network(nodes.flatten(0, 2), complete_edges(exists), read).unflatten(0, (num_items, num_roots))
    return vectors
