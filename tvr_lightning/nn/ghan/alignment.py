"""Global-local alignment: texts and videos that look at each other's parts, for all pairs (GHAN, Yu, Hu, Li 2022).

The text's graph holds the video's clips and the video's graph the text's phrases (Sec. 3.3), so both vectors belong to
a pair, and so does their cosine. `DenseAlignment` is the paper's two homogeneous graphs without building them;
`GraphAlignment` builds each pair's graphs, for the structures of its Table 5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tvr_lightning.device import Graphs, graphed, has_kernels, sizes
from tvr_lightning.nn.ghan.graphs import RelationalMessagePassing, complete_edges
from tvr_lightning.nn.ghan.mpaa import MPAA, Leaves, Readout, Roots
from tvr_lightning.types import TensorRows

PreparedT = TypeVar("PreparedT", Roots, Leaves)
GraphKind = Literal["ho_1graph", "he_1graph", "he_2graph"]

BLOCK_PAIRS = 32  # at least
FURTHER_NUMBERS = 4  # hidden numbers that a further step of message passing adds to each of a node's


@dataclass(frozen=True)
class Hierarchy(TensorRows):
    """Texts or videos: each as a whole and in parts.

    Attributes:
        whole: (N, D).
        parts: (N, n, D), phrases or clips, or words or frames; n = 0 where nothing looks at parts.
        mask: (N, n) bool.

    >>> Hierarchy(torch.randn(3, 8), torch.randn(3, 6, 8), torch.ones(3, 6).bool()).parts.shape
    torch.Size([3, 6, 8])
    """

    whole: Tensor
    parts: Tensor
    mask: Tensor


class Alignment(nn.Module, ABC):
    """What the two forms share."""

    @abstractmethod
    def rows(self, texts: Hierarchy, videos: Hierarchy) -> tuple[Tensor, Tensor]:
        """The vectors of text i and of video i that saw each other: P texts, P videos -> (P, D), (P, D)."""

    @abstractmethod
    def cosines(self, texts: Hierarchy, videos: Hierarchy) -> Tensor:
        """Cosines of the vectors of every pair, (T, V); memory is a block's, with gradients up to a limit more."""

    @abstractmethod
    def pair_numbers(self, texts: Hierarchy, videos: Hierarchy) -> int:
        """Hidden numbers of one pair."""

    def weights(self, texts: Hierarchy, videos: Hierarchy) -> tuple[Tensor, Tensor] | None:
        """Attention at the roots of text i's and video i's graphs, over the root and the other's parts (Fig. 5).

        Returns:
            (P, H, 1 + clips), (P, H, 1 + phrases); None where nothing attends, or not in this shape.
        """
        return None

    def block_sides(self, texts: Hierarchy, videos: Hierarchy) -> tuple[int, int]:
        """How many texts and videos a block has."""
        limit = sizes(texts.whole.device).ghan_numbers
        if torch.is_grad_enabled():
            limit = min(limit, sizes(texts.whole.device).ghan_kept_numbers)
        pairs = max(BLOCK_PAIRS, limit // self.pair_numbers(texts, videos))
        step = min(len(texts), max(BLOCK_PAIRS, pairs // max(1, len(videos))))
        return step, min(len(videos), max(1, pairs // step))

    def learn(self, texts: Hierarchy, videos: Hierarchy) -> Tensor:
        """`cosines` of a training batch."""
        return self.cosines(texts, videos)

    def _too_many(self, texts: Hierarchy, videos: Hierarchy) -> bool:
        """Whether the pairs' activations cannot wait for the backward pass."""
        limit = sizes(texts.whole.device).ghan_kept_numbers
        return len(texts) * len(videos) * self.pair_numbers(texts, videos) > limit

    def _in_blocks(
        self, texts: Hierarchy, videos: Hierarchy, sides: tuple[int, int], block: Callable[[int, int], Tensor]
    ) -> Tensor:
        """Joins blocks of these sides, given by their numbers along texts and videos."""
        again = torch.is_grad_enabled() and self._too_many(texts, videos)
        rows = []
        for i in range(-(-len(texts) // sides[0])):
            row = []
            for j in range(-(-len(videos) // sides[1])):
                if again:  # a tensor among the arguments: checkpoint finds its device's random state
                    row.append(checkpoint(lambda _, i=i, j=j: block(i, j), texts.whole, use_reentrant=False))
                else:
                    row.append(block(i, j))
            rows.append(torch.cat(row, dim=1))
        return torch.cat(rows)


class DenseAlignment(Alignment):
    """Two homogeneous graphs a pair, text with clips and video with phrases.

        d(i, j) = cos(r(text i, clips of j), r(video j, phrases of i))

    Args:
        width: D.
        heads: of each MPAA.
        head_width: of each MPAA.
        dropout: of each MPAA.
        readout: of each MPAA.
        steps: of each MPAA.
        share: one MPAA for both graphs, instead of one for each.

    >>> align = DenseAlignment(width=8, heads=2, head_width=4, dropout=0.2, readout="softmax")
    >>> texts = Hierarchy(torch.randn(3, 8), torch.randn(3, 6, 8), torch.ones(3, 6).bool())
    >>> videos = Hierarchy(torch.randn(5, 8), torch.randn(5, 4, 8), torch.ones(5, 4).bool())
    >>> align.cosines(texts, videos).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        dropout: float,
        readout: Readout,
        steps: int = 1,
        share: bool = False,
    ) -> None:
        super().__init__()
        self._graphs = Graphs()
        self.text_clips = MPAA(width, heads, head_width, dropout, readout, steps)
        self.video_phrases = self.text_clips if share else MPAA(width, heads, head_width, dropout, readout, steps)
        self.hidden_width, self.steps = heads * head_width, steps

    def rows(self, texts: Hierarchy, videos: Hierarchy) -> tuple[Tensor, Tensor]:
        """See `Alignment`."""
        return (
            self.text_clips.row_by_row(texts.whole, videos.parts, videos.mask),
            self.video_phrases.row_by_row(videos.whole, texts.parts, texts.mask),
        )

    def weights(self, texts: Hierarchy, videos: Hierarchy) -> tuple[Tensor, Tensor] | None:
        """See `Alignment`."""
        return (
            self.text_clips.weights(texts.whole, videos.parts, videos.mask),
            self.video_phrases.weights(videos.whole, texts.parts, texts.mask),
        )

    def cosines(self, texts: Hierarchy, videos: Hierarchy) -> Tensor:
        """See `Alignment`."""
        sides = self.block_sides(texts, videos)
        text_roots = _split(self.text_clips.prepare_roots(texts.whole[None]), sides[0], dim=1)
        clips = _split(self.text_clips.prepare_leaves(videos.parts, videos.mask), sides[1])
        video_roots = _split(self.video_phrases.prepare_roots(videos.whole[None]), sides[1], dim=1)
        phrases = _split(self.video_phrases.prepare_leaves(texts.parts, texts.mask), sides[0])
        buffer = None
        if not torch.is_grad_enabled() and not has_kernels(text_roots[0].values):
            buffer = text_roots[0].values.new_empty(sides[0] * sides[1] * self.pair_numbers(texts, videos))

        def block(i: int, j: int) -> Tensor:
            of_text = self.text_clips.read_pairs(text_roots[i], clips[j], buffer)  # (V, T, D)
            of_video = self.video_phrases.read_pairs(video_roots[j], phrases[i], buffer)  # (T, V, D)
            return F.cosine_similarity(of_text.transpose(0, 1), of_video, dim=-1)

        return self._in_blocks(texts, videos, sides, block)

    def learn(self, texts: Hierarchy, videos: Hierarchy) -> Tensor:
        """`cosines` of a training batch; on a GPU as one recorded graph where all its activations are kept."""
        if self._too_many(texts, videos):
            return self.cosines(texts, videos)
        count = len(texts.tensors())

        def cosines(*x: Tensor) -> tuple[Tensor, ...]:
            return (self.cosines(Hierarchy(*x[:count]), Hierarchy(*x[count:])),)

        fields = (*texts.tensors().values(), *videos.tensors().values())
        return graphed(self._graphs, cosines, fields, [self])[0]

    def pair_numbers(self, texts: Hierarchy, videos: Hierarchy) -> int:
        """See `Alignment`; a further step keeps what it takes, its values and what it gives of every node."""
        nodes = max(texts.parts.shape[1], videos.parts.shape[1], 1)
        return nodes * (1 + FURTHER_NUMBERS * (self.steps - 1)) * self.hidden_width


class GraphAlignment(Alignment):
    """Each pair's graphs, built: one with the four kinds of nodes, or two; edges alike or typed (Table 5).

    Args:
        kind: `ho_1graph`: text, video, clips and phrases in one graph under one MPAA, read at text and video;
            `he_1graph`: the same with typed edges; `he_2graph`: `DenseAlignment`'s graphs with typed edges.
        width: D.
        heads: of the MPAA.
        head_width: of the MPAA, and hidden width under typed edges.
        dropout: see `MPAA`.
        readout: see `MPAA`.
        steps: see `MPAA`.
        share: one network for both graphs of `he_2graph`; the other kinds have one graph.

    >>> align = GraphAlignment("he_2graph", width=8, heads=1, head_width=4, dropout=0.2, readout="softmax")
    >>> items = Hierarchy(torch.randn(3, 8), torch.randn(3, 6, 8), torch.ones(3, 6).bool())
    >>> align.cosines(items, items).shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        kind: GraphKind,
        width: int,
        heads: int,
        head_width: int,
        dropout: float,
        readout: Readout,
        steps: int = 1,
        share: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.steps = kind, steps
        self.network: MPAA | RelationalMessagePassing
        if kind == "ho_1graph":
            self.network = MPAA(width, heads, head_width, dropout, readout, steps)
        elif kind == "he_1graph":
            self.network = RelationalMessagePassing(width, head_width, 4, (0, 1), dropout, readout, steps)
        else:
            settings = width, head_width, 2, (0,), dropout, readout, steps
            self.text_clips = RelationalMessagePassing(*settings)
            self.video_phrases = self.text_clips if share else RelationalMessagePassing(*settings)
        self.hidden_width = head_width * (heads if kind == "ho_1graph" else 1)

    def rows(self, texts: Hierarchy, videos: Hierarchy) -> tuple[Tensor, Tensor]:
        """See `Alignment`."""
        if self.kind == "he_2graph":
            of_text = self._read(self.text_clips, [texts.whole[:, None], videos.parts], [None, videos.mask], 1)
            of_video = self._read(self.video_phrases, [videos.whole[:, None], texts.parts], [None, texts.mask], 1)
            return of_text[:, 0], of_video[:, 0]
        nodes = [texts.whole[:, None], videos.whole[:, None], videos.parts, texts.parts]
        both = self._read(self.network, nodes, [None, None, videos.mask, texts.mask], 2)
        return both[:, 0], both[:, 1]

    def cosines(self, texts: Hierarchy, videos: Hierarchy) -> Tensor:
        """See `Alignment`."""
        sides = self.block_sides(texts, videos)

        def block(i: int, j: int) -> Tensor:
            some, others = texts[_rows(i, sides[0])], videos[_rows(j, sides[1])]
            counts = len(some), len(others)
            first = torch.arange(counts[0], device=some.whole.device).repeat_interleave(counts[1])
            second = torch.arange(counts[1], device=some.whole.device).repeat(counts[0])
            return F.cosine_similarity(*self.rows(some[first], others[second]), dim=-1).view(counts)

        return self._in_blocks(texts, videos, sides, block)

    def pair_numbers(self, texts: Hierarchy, videos: Hierarchy) -> int:
        """See `Alignment`."""
        # an edge's message is a number of its own
        count = 2 + texts.parts.shape[1] + videos.parts.shape[1]
        return count * count * self.hidden_width * self.steps

    def _read(
        self, network: MPAA | RelationalMessagePassing, nodes: list[Tensor], masks: list[Tensor | None], roots: int
    ) -> Tensor:
        """Readouts of graphs with these kinds of nodes, (P, n, D) each, at the first `roots` nodes: (P, roots, D)."""
        x = torch.cat(nodes, dim=1)  # (P, N, D)
        ones = x.new_ones(len(x), 1, dtype=torch.bool)
        edges = complete_edges(torch.cat([ones if m is None else m for m in masks], dim=1))
        at = torch.arange(len(x), device=x.device)[:, None] * x.shape[1] + torch.arange(roots, device=x.device)
        if isinstance(network, MPAA):
            read = network(x.flatten(0, 1), edges, at.flatten())
        else:
            lengths = torch.tensor([n.shape[1] for n in nodes], device=x.device)
            kinds = torch.arange(len(nodes), device=x.device).repeat_interleave(lengths)
            read = network(x.flatten(0, 1), edges, kinds.repeat(len(x)), at.flatten())
        return read.unflatten(0, (len(x), roots))


def _split(prepared: PreparedT, step: int, dim: int = 0) -> list[PreparedT]:
    """Blocks of prepared roots or leaves; of one split, whose gradient is joined once, not added up block by block."""
    return [type(prepared)(*fields) for fields in zip(*(x.split(step, dim) for x in prepared), strict=True)]


def _rows(number: int, step: int) -> slice:
    return slice(number * step, (number + 1) * step)
