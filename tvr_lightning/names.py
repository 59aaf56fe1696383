"""Names that several rooms write and read, without loading torch: of figures, and of what lies in a run's folder."""

from __future__ import annotations

LEAKY = "leaky/"  # begins the name of every figure whose scores read the ground truth
HASH_BASELINES = PCA, RANDOM, CHANCE = "pca", "random", "chance"  # codes that nobody learned

CONFIG, METRICS, CHECKPOINTS = "config.yaml", "metrics.json", "checkpoints"
BEST, LAST = "best.ckpt", "last.ckpt"
UNTRAINED = "none"  # what selected the weights of a result for which nothing was trained
RANKS, PREDICTIONS = "ranks.parquet", "predictions.parquet"
