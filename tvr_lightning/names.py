"""Parts of the names of figures: evaluation writes them, results and reports read them without loading torch."""

from __future__ import annotations

LEAKY = "leaky/"  # begins the name of every figure whose scores read the ground truth
HASH_BASELINES = PCA, RANDOM, CHANCE = "pca", "random", "chance"  # codes that nobody learned
