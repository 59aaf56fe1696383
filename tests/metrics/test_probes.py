import math

import pytest
import torch

from tvr_lightning.errors import ScoreError
from tvr_lightning.metrics import probe_metrics

RELATION = torch.tensor([2, 0, 1, 0, 3])  # first captions: video 0 -> 1, 1 -> 2, 2 -> 0, 3 -> 4


def test_both_captions_must_prefer_their_own_video():
    scores = torch.zeros(5, 5)
    scores[1, 0], scores[2, 1] = 1.0, 1.0  # captions of videos 0 and 1 know their own
    scores[0, 2], scores[4, 2] = 1.0, 1.0  # the captions of videos 2 and 3 both prefer video 2
    scores[3, 1] = 9.0  # the second caption of video 0 is not asked
    probes = [("order", 0, 1), ("order", 2, 3), ("colour", 3, 2)]
    assert probe_metrics(scores, RELATION, probes) == {"probe/order": 50.0, "probe/colour": 0.0}
    assert probe_metrics(scores.numpy(), RELATION.numpy(), probes[:1]) == {"probe/order": 100.0}


def test_ties_count_one_half_per_caption():
    scores = torch.zeros(5, 5)
    assert probe_metrics(scores, RELATION, [("order", 0, 1), ("order", 2, 3)]) == {"probe/order": 25.0}
    scores[1, 0] = 1.0
    assert probe_metrics(scores, RELATION, [("order", 0, 1)]) == {"probe/order": 50.0}
    scores[2, 0] = 1.0
    assert probe_metrics(scores, RELATION, [("order", 1, 0)]) == {"probe/order": 0.0}


def test_random_scores_get_chance():
    scores = torch.randn(4000, 4000, generator=torch.Generator().manual_seed(0))
    probes = [("order", 2 * i, 2 * i + 1) for i in range(2000)]
    error = 100 * math.sqrt(0.25 * 0.75 / 2000)
    assert probe_metrics(scores, torch.arange(4000), probes)["probe/order"] == pytest.approx(25, abs=4 * error)


def test_no_probes_no_metrics():
    assert probe_metrics(torch.zeros(5, 5), RELATION, []) == {}


def test_probes_that_do_not_fit():
    scores = torch.zeros(5, 5)
    with pytest.raises(ValueError, match="video 4 has no caption"):
        probe_metrics(scores, RELATION, [("order", 0, 4)])
    for pair in ((1, 1), (0, 5), (-1, 0)):
        with pytest.raises(ValueError, match="two different videos"):
            probe_metrics(scores, RELATION, [("order", *pair)])
    scores[4, 1] = math.nan
    with pytest.raises(ScoreError, match="text 4, video 1"):
        probe_metrics(scores, RELATION, [("order", 0, 1)])
