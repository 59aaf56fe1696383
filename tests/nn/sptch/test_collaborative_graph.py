"""The collaborative graph against the dense computation, entry by entry."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tvr_lightning.nn.sptch import collaborative_graph
from tvr_lightning.nn.sptch.collaborative_graph import CollaborativeGraph


def draw(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def dense(video: Tensor, text: Tensor, weight: float, dropped: float) -> tuple[list[list[float]], list[list[bool]]]:
    """Eq. 1 and Eq. 2 with loops: S before it is made symmetric and after tanh, and what was dropped."""
    count = len(video)

    def cos(a: Tensor, b: Tensor) -> float:
        a, b = a.double(), b.double()
        return float((a @ b) / (a.norm() * b.norm())) if a.norm() > 0 and b.norm() > 0 else 0.0

    rows, gone = [], []
    for i in range(count):
        row = [weight * cos(video[i], video[j]) + (1 - weight) * cos(text[i], text[j]) for j in range(count)]
        row = [float(torch.tensor(x, dtype=torch.float64).float()) for x in row]
        smallest = sorted(range(count), key=lambda j, row=row: (row[j], j))[: round(dropped * count)]
        rows.append([math.tanh(-1 if j in smallest else x) for j, x in enumerate(row)])
        gone.append([j in smallest for j in range(count)])
    return rows, gone


@pytest.mark.parametrize(("weight", "dropped"), [(0.6, 0.1), (0.6, 0.37), (1.0, 0.5), (0.0, 0.0), (0.3, 1.0)])
def test_equals_the_dense_computation(weight: float, dropped: float) -> None:
    video, text = draw(23, 11, 1).relu(), draw(23, 5, 2)
    expected = torch.tensor(dense(video, text, weight, dropped)[0])
    expected = (expected + expected.T) / 2
    block = CollaborativeGraph(video, text, weight, dropped).block(torch.arange(23))
    torch.testing.assert_close(block, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(block, block.T)


def test_blocks_are_parts_of_the_whole() -> None:
    graph = CollaborativeGraph(draw(40, 7, 1), draw(40, 9, 2), dropped=0.3)
    whole = graph.block(torch.arange(40))
    for seed in range(5):
        rows = torch.randint(0, 40, (12,), generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(graph.block(rows), whole[rows][:, rows], rtol=0, atol=0)


def test_never_holds_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    video, text = draw(30, 6, 1), draw(30, 4, 2)
    whole = CollaborativeGraph(video, text, dropped=0.2).block(torch.arange(30))
    monkeypatch.setattr(collaborative_graph, "BLOCK_NUMBERS", 70)
    monkeypatch.setattr(collaborative_graph, "COLUMNS", 4)
    sizes: list[int] = []
    plain = CollaborativeGraph._similarity

    def counted(self: CollaborativeGraph, rows: Tensor, columns: Tensor) -> Tensor:
        sizes.append(len(rows) * len(columns))
        return plain(self, rows, columns)

    monkeypatch.setattr(CollaborativeGraph, "_similarity", counted)
    graph = CollaborativeGraph(video, text, dropped=0.2)
    assert max(sizes) <= 70
    assert len(sizes) == 15
    assert torch.equal(graph.block(torch.arange(30)), whole)


def test_ties_drop_an_exact_number_from_the_left() -> None:
    """Items of three kinds: every entry has equals in its row."""
    kinds = torch.arange(21) % 3
    video = torch.eye(3)[kinds]
    graph = CollaborativeGraph(video, video, dropped=0.2)  # round(4.2) = 4 of the 14 equal zeros
    similarity = graph._similarity(torch.arange(21), torch.arange(21))
    for i in range(21):
        zeros = [j for j in range(21) if kinds[j] != kinds[i]]
        assert float(graph._value[i]) == 0
        assert int(graph._column[i]) == zeros[3]
        assert sorted(similarity[i].tolist())[:14] == [0.0] * 14
    expected, gone = dense(video, video, 0.6, 0.2)
    assert all(sum(row) == 4 for row in gone)
    whole = torch.tensor(expected)
    torch.testing.assert_close(graph.block(torch.arange(21)), (whole + whole.T) / 2)


def test_plain_similarity_of_variant_s1() -> None:
    video, text = draw(10, 4, 1), draw(10, 4, 2)
    block = CollaborativeGraph(video, text, 0.6, 0.5, processed=False).block(torch.arange(10))
    video, text = (torch.nn.functional.normalize(x, dim=1) for x in (video, text))
    torch.testing.assert_close(block, 0.6 * video @ video.T + 0.4 * text @ text.T, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(block.diagonal(), torch.ones(10))


def test_a_feature_of_zeros_is_similar_to_nothing() -> None:
    video = draw(6, 4, 1)
    video[2] = 0
    block = CollaborativeGraph(video, draw(6, 4, 2), weight=1.0, dropped=0.0).block(torch.arange(6))
    assert torch.isfinite(block).all()
    assert block[2].abs().max() == 0


def test_is_not_touched_by_reduced_precision() -> None:
    graph = CollaborativeGraph(draw(20, 64, 1), draw(20, 64, 2), dropped=0.25)
    plain = graph.block(torch.arange(20))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(graph.block(torch.arange(20)), plain)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="3 videos, but 4 texts"):
        CollaborativeGraph(draw(3, 2, 1), draw(4, 2, 1))
    with pytest.raises(ValueError, match="dropped is 10"):
        CollaborativeGraph(draw(3, 2, 1), draw(3, 2, 1), dropped=10)
    with pytest.raises(ValueError, match=r"weight is -0\.1"):
        CollaborativeGraph(draw(3, 2, 1), draw(3, 2, 1), weight=-0.1)
