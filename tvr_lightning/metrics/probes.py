"""Minimal pairs: does a method tell apart two videos that differ in one respect only?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tvr_lightning.metrics.matrix import as_relation, as_scores, require_finite

if TYPE_CHECKING:
    from tvr_lightning.metrics.matrix import ArrayLike


def probe_metrics(
    scores: ArrayLike, caption_video: ArrayLike, probes: Sequence[tuple[str, int, int]]
) -> dict[str, float]:
    """Share of minimal pairs of which both captions prefer their own video over the other.

    A video's first caption speaks for it. A caption that scores both videos alike counts one half, so chance, and a
    method that cannot see the difference, is 25.

    Args:
        scores: (T, V).
        caption_video: (T,) integers, the column of each caption's video.
        probes: (kind, video, video), the videos as columns of `scores`.

    Returns:
        `probe/<kind>` in percent; empty without probes.

    Raises:
        ValueError: shapes that do not fit, or a probe of one video twice, of an unknown or of an uncaptioned one.
        ScoreError: a score is not finite.
    """
    return {name: 100.0 * float(wins.mean()) for name, (_, wins) in probe_wins(scores, caption_video, probes).items()}


def probe_wins(
    scores: ArrayLike, caption_video: ArrayLike, probes: Sequence[tuple[str, int, int]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Which minimal pairs are told apart; see `probe_metrics`.

    Returns:
        By `probe/<kind>`: the pairs, (P, 2) int64, and what each adds to the mean, (P,) float64 in 0..1.
    """
    matrix = as_scores(scores)
    video = as_relation(caption_video, matrix)
    require_finite(matrix)
    texts, videos = matrix.shape
    positions = torch.arange(texts, device=video.device)
    first = torch.full((videos,), texts, device=video.device).scatter_reduce_(0, video, positions, "amin")
    caption = first.tolist()
    for kind, a, b in probes:
        if a == b or not (0 <= a < videos and 0 <= b < videos):
            raise ValueError(f"probe '{kind}' must name two different videos of 0..{videos - 1}, got {a} and {b}")
        silent = [v for v in (a, b) if caption[v] == texts]
        if silent:
            raise ValueError(f"probe '{kind}' ({a}, {b}): video {silent[0]} has no caption, so nothing can prefer it")
    found = {}
    for kind in dict.fromkeys(k for k, _, _ in probes):
        pair = torch.tensor([(a, b) for k, a, b in probes if k == kind], device=video.device)
        wins = _preference(matrix, first, pair) * _preference(matrix, first, pair.flip(1))
        found[f"probe/{kind}"] = pair, wins
    return found


def _preference(scores: Tensor, first: Tensor, pair: Tensor) -> Tensor:
    """1, 1/2 or 0 as the caption of each pair's first video prefers it over the second, ties, or does not."""
    own, other = (scores[first[pair[:, 0]], v] for v in pair.unbind(1))
    return (own > other).double() + (own == other).double() / 2
