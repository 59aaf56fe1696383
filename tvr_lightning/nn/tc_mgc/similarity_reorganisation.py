"""From a vector or matrix of similarities to one score: reorganisation (SR), interaction (ISA), aggregation (LSA).

TC-MGC (Jing, Yang, Chu 2025). Every function takes a mask of valid places and gives one: places that do not exist are
never kept, fused or weighted.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.device import has_kernels, sizes
from tvr_lightning.nn.masked import all_valid, masked_softmax

Reorganisation = Literal["removal", "fusion", "none"]


def kept(length: int, keep_rate: float) -> int:
    """k, how many of `length` similarities are kept: floor(r m), at least 1."""
    return max(1, math.floor(keep_rate * length + 1e-9))  # 0.7 * 10 is 6.999... in floating point


def reorganised_size(length: int, keep_rate: float, kind: Reorganisation) -> int:
    """How many similarities `reorganise` gives for `length` of them."""
    if kind == "none":
        return length
    return kept(length, keep_rate) + (kind == "fusion")


def reorganise(
    similarities: Tensor, mask: Tensor, length: int, keep_rate: float, kind: Reorganisation
) -> tuple[Tensor, Tensor]:
    """Sorts the last dimension in descending order and cuts it (Sec. 3.4).

    Args:
        similarities: (..., l) with l at most `length`.
        mask: bool (..., l), broadcasts against it in the leading dimensions: which places exist.
        length: l without cropped padding; k is a share of it.
        keep_rate: r.
        kind: `removal` keeps the k largest; `fusion` besides joins the others, weighted by their softmax, to one more;
            `none` leaves everything in place.

    Returns:
        Similarities (..., `reorganised_size`) and their mask, which broadcasts alike; 0 where the
        mask is False.

    >>> similarities, mask = torch.tensor([0.1, 0.4, 0.3, 0.2]), torch.tensor([True, True, True, False])
    >>> reorganise(similarities, mask, length=4, keep_rate=0.5, kind="removal")
    (tensor([0.4000, 0.3000]), tensor([True, True]))
    """
    if kind == "none":
        missing = length - similarities.shape[-1]
        padded = nn.functional.pad(similarities * mask, (0, missing))
        return padded, nn.functional.pad(mask, (0, missing))
    keep = kept(length, keep_rate)
    missing = max(0, keep - similarities.shape[-1])
    fused = kind == "fusion"
    largest, index = _largest(similarities, mask, keep - missing, with_index=fused)
    # sorted in descending order, what is not there comes last
    exists = torch.arange(keep - missing, device=mask.device) < mask.sum(-1, keepdim=True)
    largest = largest.masked_fill(~exists, 0.0)
    if missing:
        largest, exists = nn.functional.pad(largest, (0, missing)), nn.functional.pad(exists, (0, missing))
    if fused:
        assert index is not None
        rest = mask.expand_as(similarities).scatter(-1, index, False)
        joined = (masked_softmax(similarities, rest) * similarities).sum(-1, keepdim=True)
        exists = torch.cat([exists.expand_as(largest), rest.any(-1, keepdim=True)], dim=-1)
        largest = torch.cat([largest, joined], dim=-1)
    return largest, exists


def _largest(x: Tensor, mask: Tensor, count: int, with_index: bool) -> tuple[Tensor, Tensor | None]:
    """The `count` largest of the last dimension, sorted, and their places where they are asked for."""
    learning = torch.is_grad_enabled() and x.requires_grad
    if has_kernels(x):
        from tvr_lightning.nn.kernels.largest import MAX_LENGTH, largest

        if x.shape[-1] <= MAX_LENGTH:
            values, index = largest(x.detach(), mask, count)
            return (x.gather(-1, index) if learning else values), index
    filled = x if all_valid(mask) else x.masked_fill(~mask, torch.finfo(x.dtype).min)
    if count <= sizes(x.device).insertion and not with_index and not learning:
        return _insert(filled, count), None
    values, index = filled.topk(count, dim=-1)
    return values, index


def _insert(x: Tensor, count: int) -> Tensor:
    """The `count` (a few) largest of the last dimension, sorted, for many short rows; it has no gradient.

    Places are paired first: a pair's smaller value is among the largest only below its larger one, so of the smaller
    values count // 2 at most are, and these are their largest. The rest is insertion, one place of all rows at a time.
    Several times as fast as `topk` on a processor.
    """
    half = x.shape[-1] // 2
    if half < count:
        return x.topk(count, dim=-1).values
    first, second = x[..., :half], x[..., half : 2 * half]
    places = [*torch.maximum(first, second).unbind(-1), *x[..., 2 * half :].unbind(-1)]
    smaller = torch.minimum(first, second)
    places += [smaller.amax(-1)] if count // 2 == 1 else smaller.unbind(-1) if count > 1 else []
    best = [torch.full_like(places[0], -torch.inf) for _ in range(count)]
    spare = [torch.empty_like(places[0]) for _ in range(2)]
    for place in places:
        for rank in range(count - 1):
            torch.minimum(best[rank], place, out=spare[rank % 2])
            torch.maximum(best[rank], place, out=best[rank])
            place = spare[rank % 2]
        torch.maximum(best[-1], place, out=best[-1])
    return torch.stack(best, dim=-1)


def identity_layer(size: int) -> nn.Linear:
    """A linear layer without bias that starts as the identity."""
    layer = nn.Linear(size, size, bias=False)
    nn.init.eye_(layer.weight)
    return layer


class InteractiveAggregation(nn.Module):
    """ISA: a weighted sum of similarities whose weights look at all of them.

    w = softmax(scale L(softmax(scale s))), score = sum(w s). Without the layer L, w = softmax(scale s); with it and
    without a softmax of what it gives, w = L(softmax(scale s)), as X-CLIP has it. A vector that is shorter than `size`
    counts as one whose last places are masked; a longer one is refused with a ValueError.

    Args:
        size: length of the vector.
        scale: lambda of both softmaxes (Table 13); the equations print none.
        linear: whether L exists; it starts as the identity.
        again: whether what L gives goes through a softmax.

    >>> aggregate = InteractiveAggregation(size=2, scale=100.0)
    >>> aggregate(torch.tensor([[0.5, 0.1]]), torch.ones(1, 2).bool()).round(decimals=3).tolist()
    [0.5]
    """

    def __init__(self, size: int, scale: float, linear: bool = True, again: bool = True) -> None:
        super().__init__()
        self.size, self.scale, self.again = size, scale, again
        self.interact = identity_layer(size) if linear else None

    def forward(self, similarities: Tensor, mask: Tensor) -> Tensor:
        """(..., size) and its mask -> (...)."""
        if (length := similarities.shape[-1]) > self.size:
            raise ValueError(f"{length} similarities in a row, but the layer was built for {self.size}")
        weights = masked_softmax(self.scale * similarities, mask)
        if self.interact is not None:
            weights = F.linear(weights, self.interact.weight[:length, :length])
            # of words Eq. 18, of frames Eq. 20
            weights = masked_softmax(self.scale * weights, mask) if self.again else weights * mask
        return (weights * similarities).sum(-1)  # of words Eq. 19, of frames Eq. 21


class BidirectionalAggregation(nn.Module):
    """Bi-ISA: a matrix of frames and words to one score, in both orders, averaged.

    score = (ISA_words(ISA_frames(s)) + ISA_frames(ISA_words(s))) / 2, each ISA with a layer of its own.

    Args:
        frames: rows.
        words: columns.
        scale: lambda.
        linear: see `InteractiveAggregation`.
        again: see `InteractiveAggregation`.

    >>> aggregate = BidirectionalAggregation(frames=4, words=3, scale=100.0)
    >>> aggregate(torch.rand(2, 5, 4, 3), torch.ones(2, 5, 4, 3).bool()).shape
    torch.Size([2, 5])
    """

    def __init__(self, frames: int, words: int, scale: float, linear: bool = True, again: bool = True) -> None:
        super().__init__()
        self.over_frames, self.then_words = (InteractiveAggregation(n, scale, linear, again) for n in (frames, words))
        self.over_words, self.then_frames = (InteractiveAggregation(n, scale, linear, again) for n in (words, frames))

    def forward(self, similarities: Tensor, mask: Tensor) -> Tensor:
        """(..., frames, words) and its mask -> (...)."""
        by_word = self.over_frames(similarities.mT, mask.mT)  # weights Eq. 22, sum Eq. 23
        by_frame = self.over_words(similarities, mask)  # Eq. 26, Eq. 27
        frames_first = self.then_words(by_word, mask.any(-2))  # Eq. 24, Eq. 25
        words_first = self.then_frames(by_frame, mask.any(-1))  # Eq. 28, Eq. 29
        return (frames_first + words_first) / 2  # Eq. 30


class ScoreAggregation(nn.Module):
    """LSA: the scores of several contrasts to one, sum(w s).

    Args:
        count: number of contrasts.
        kind: `lsa` w = softmax(L s) with L the identity at start; `softmax` w = softmax(s); `mean`.

    >>> ScoreAggregation(4, "lsa")(torch.tensor([1.0, 1.0, 1.0, 1.0])).item()
    1.0
    """

    def __init__(self, count: int, kind: Literal["lsa", "softmax", "mean"]) -> None:
        super().__init__()
        self.kind = kind
        self.interact = identity_layer(count) if kind == "lsa" else None

    def forward(self, scores: Tensor) -> Tensor:
        """(..., count) -> (...)."""
        if self.kind == "mean":
            return scores.mean(-1)
        return (self.weights(scores) * scores).sum(-1)  # Eq. 32

    def weights(self, scores: Tensor) -> Tensor:
        """What each score counts, (..., count) -> (..., count); sums to 1."""
        if self.kind == "mean":
            return torch.full_like(scores, 1 / scores.shape[-1])
        logits = scores if self.interact is None else self.interact(scores)
        return logits.softmax(-1)  # Eq. 31
