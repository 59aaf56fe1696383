import itertools
import math
from statistics import mean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tvr_lightning.errors import ScoreError
from tvr_lightning.metrics import average_precision


def expected_precision(scores, relevant):
    """Mean over every order of the items before they are sorted stably."""
    precisions = []
    for order in itertools.permutations(range(len(scores))):
        ranked = [relevant[i] for i in sorted(order, key=lambda i: -scores[i])]
        places = [place for place, is_own in enumerate(ranked, 1) if is_own]
        precisions.append(sum(found / place for found, place in enumerate(places, 1)) / len(places))
    return mean(precisions)


def test_without_ties_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
    relevant = torch.tensor([[False, True, True, False]])  # places 1 and 3
    assert float(average_precision(scores, relevant)) == pytest.approx((1 + 2 / 3) / 2)


items = st.lists(st.tuples(st.integers(-2, 0), st.booleans()), min_size=5, max_size=5)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(items, min_size=1, max_size=3))
def test_every_ordering_of_small_cases(rows):
    scores = torch.tensor([[s for s, _ in row] for row in rows])
    relevant = torch.tensor([[r for _, r in row] for row in rows])
    for row, own, found in zip(scores.tolist(), relevant.tolist(), average_precision(scores, relevant), strict=True):
        if any(own):
            assert float(found) == pytest.approx(expected_precision(row, own))
        else:
            assert math.isnan(found)


def test_a_constant_scorer_by_the_definition():
    items, own = 1000, 30
    relevant = torch.zeros(1, items, dtype=torch.bool)
    relevant[0, torch.randperm(items, generator=torch.Generator().manual_seed(0))[:own]] = True
    expected = mean((1 + (j - 1) * (own - 1) / (items - 1)) / j for j in range(1, items + 1))
    assert float(average_precision(torch.ones(1, items), relevant)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 70, 1000])
def test_chunks_layout_and_integers_do_not_matter(chunk):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-8, 1, (13, 35), generator=generator)
    relevant = torch.rand(13, 35, generator=generator) < torch.linspace(0, 1, 13)[:, None]
    expected = average_precision(scores.double(), relevant)
    assert expected.isnan().sum() == (~relevant.any(1)).sum() > 0
    strided = scores.T.contiguous().T
    for same in (scores, strided, scores.half(), scores.numpy()):
        found = average_precision(same, relevant, chunk)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0, equal_nan=True)


def test_input_that_does_not_fit():
    with pytest.raises(ValueError, match="relevant must be bool"):
        average_precision(torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="relevant must be bool"):
        average_precision(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ScoreError, match=r"\(query 1, item 2\)"):
        average_precision(torch.tensor([[0.0, 0, 0], [0, 0, math.nan]]), torch.ones(2, 3, dtype=torch.bool))
