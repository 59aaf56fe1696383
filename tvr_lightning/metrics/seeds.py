"""What another seed may give: the range of one further run, by how runs of several seeds differ."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan, sqrt
from statistics import NormalDist, fmean, stdev

# the 97.5 % quantile of Student's t with 1, 2, ... 9 degrees of freedom, where the expansion below is not close enough
_FEW = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


def student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: 95 % of its values lie between it and its negative.

    Raises:
        ValueError: fewer than one degree of freedom.

    >>> student_quantile(2), round(student_quantile(20), 3)
    (4.3027, 2.086)
    """
    if freedom < 1:
        raise ValueError(f"Student's t has at least 1 degree of freedom, got {freedom}")
    if freedom <= len(_FEW):
        return _FEW[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    # Abramowitz and Stegun, 26.7.5
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def one_more_run(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % prediction interval of one further run: where another seed's figure lies, were they normal.

    mean -+ t s sqrt(1 + 1/n), with s the standard deviation of the n runs and t Student's with n - 1 degrees of
    freedom. It knows seeds alone: the further run is tested on the same videos.

    Args:
        values: a figure of each run, of other seeds and nothing else.

    Returns:
        (low, high); None of fewer than two runs, which say nothing of it, and NaN where one of the values is.

    >>> low, high = one_more_run([46.8, 47.1, 47.4])
    >>> round(low, 1), round(high, 1)
    (45.6, 48.6)
    >>> one_more_run([47.0]) is None
    True
    """
    if len(values) < 2:
        return None
    if not all(map(isfinite, values)):
        return nan, nan
    reach = student_quantile(len(values) - 1) * stdev(values) * sqrt(1 + 1 / len(values))
    return fmean(values) - reach, fmean(values) + reach
