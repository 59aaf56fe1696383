"""Retrieval metrics: expected values under ties, how sure they are, post-processing, minimal pairs."""

from tvr_lightning.metrics.average_precision import average_precision
from tvr_lightning.metrics.bootstrap import BOOTSTRAPPED, PairedDifference, bootstrap_intervals, paired_bootstrap
from tvr_lightning.metrics.postprocess import dual_softmax, qb_norm
from tvr_lightning.metrics.probes import probe_metrics
from tvr_lightning.metrics.ranking import DirectionRanks, Ranks, metrics_of, query_ranks, ranking_metrics

__all__ = [
    "BOOTSTRAPPED",
    "DirectionRanks",
    "PairedDifference",
    "Ranks",
    "average_precision",
    "bootstrap_intervals",
    "dual_softmax",
    "metrics_of",
    "paired_bootstrap",
    "probe_metrics",
    "qb_norm",
    "query_ranks",
    "ranking_metrics",
]
