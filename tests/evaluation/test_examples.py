"""The examples of the public functions run."""

from __future__ import annotations

import doctest
import sys

import pytest

from tvr_lightning import evaluation, metrics

PUBLIC = [
    evaluation.Evaluation,
    evaluation.encode_texts,
    evaluation.encode_videos,
    evaluation.score_all,
    metrics.hashing_metrics,
    metrics.ranking_metrics,
]


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda x: x.__name__)
def test_the_example_runs(thing: type) -> None:
    names = vars(sys.modules[thing.__module__])
    tests = [
        t for t in doctest.DocTestFinder(recurse=False).find(thing, thing.__name__, globs=dict(names)) if t.examples
    ]
    assert tests, f"{thing.__name__} has no example"
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0
