"""What each query adds to a metric that is a mean over queries, so that two runs can be compared query by query."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class QueryValues:
    """One metric, query by query.

    Attributes:
        value: (Q,) float64, in percent; their mean is the metric. NaN for queries that are left out.
        video: (Q,) int64, position in the evaluated videos of the one that the query is or describes.
        query: (Q,) int64, position of what is asked in the evaluated captions or videos; of a minimal pair its second
            video.
        captions: whether `query` numbers captions.
    """

    value: Tensor
    video: Tensor
    query: Tensor
    captions: bool = False
