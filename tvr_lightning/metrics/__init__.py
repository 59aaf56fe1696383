"""Metrics of scores and of codes: expected values under ties, how sure they are, post-processing, minimal pairs."""

from tvr_lightning.metrics.average_precision import average_precision
from tvr_lightning.metrics.bootstrap import (
    BOOTSTRAPPED,
    PairedDifference,
    bootstrap_intervals,
    holm,
    interval_of_means,
    interval_over_runs,
    paired_bootstrap,
    paired_means,
)
from tvr_lightning.metrics.hashing import (
    HammingCounts,
    PrecisionRecall,
    curve_of_codes,
    hamming_counts,
    hashing_metrics,
    metrics_of_codes,
    precision_recall_curve,
    query_precisions,
)
from tvr_lightning.metrics.postprocess import dual_softmax, qb_norm
from tvr_lightning.metrics.probes import probe_metrics, probe_wins
from tvr_lightning.metrics.ranking import DirectionRanks, Ranks, metrics_of, query_ranks, ranking_metrics
from tvr_lightning.metrics.seeds import one_more_run
from tvr_lightning.metrics.sinkhorn import sinkhorn_biases, sinkhorn_single_query

__all__ = [
    "BOOTSTRAPPED",
    "DirectionRanks",
    "HammingCounts",
    "PairedDifference",
    "PrecisionRecall",
    "Ranks",
    "average_precision",
    "bootstrap_intervals",
    "curve_of_codes",
    "dual_softmax",
    "hamming_counts",
    "hashing_metrics",
    "holm",
    "interval_of_means",
    "interval_over_runs",
    "metrics_of",
    "metrics_of_codes",
    "one_more_run",
    "paired_bootstrap",
    "paired_means",
    "precision_recall_curve",
    "probe_metrics",
    "probe_wins",
    "qb_norm",
    "query_precisions",
    "query_ranks",
    "ranking_metrics",
    "sinkhorn_biases",
    "sinkhorn_single_query",
]
