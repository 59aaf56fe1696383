"""How an evaluation is computed: `model.evaluation` of an experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tvr_lightning.errors import ConfigError

SMALLEST, LARGEST = 1e-4, 1e4  # temperatures and betas: a hundred times beyond the units that scores have
BOUNDS = {
    "resamples": (0, 100_000),
    "sinkhorn_rounds": (1, 1000),
    "qb_bank": (1, 10**9),
    "qb_videos": (0, 10**9),
    "matrix_limit_mib": (0, 1 << 40),
}


@dataclass(frozen=True)
class CodeOptions:
    """What concerns binary codes.

    Attributes:
        database: where a test looks up codes: among those of the `train` items (the convention of cross-modal hashing)
            or of the `test` items. Validation takes its own split.
        normalise: what mAP@k of codes is divided by: min(k, number of `relevant` items), or the number of relevant
            ones among the k `retrieved` (the released code of several hashing methods).
    """

    database: Literal["train", "test"] = "train"
    normalise: Literal["relevant", "retrieved"] = "relevant"


@dataclass(frozen=True)
class Evaluation:
    """How scores become numbers.

    Attributes:
        v2t: what a video ranks: `sets`, each video's captions together (score: their maximum), or `captions`, each
            caption alone (rank: the best of its own).
        chunk_size: texts and videos scored at a time; null for a size that suits the device, 256 on a CPU.
        resamples: bootstrap resamples for the 95 % intervals of test results, 0 for none, 100,000 at most.
        dual_softmax: temperature of dual softmax (CAMoE), also reported as `dsl/...`; null for none. It, `qb_norm`
            and `sinkhorn` are between 0.0001 and 10,000.
        qb_norm: beta of QB-Norm, also reported as `qb/...`; null for none.
        sinkhorn: temperature of Sinkhorn's rounds, 1 for cosines times a logit scale of 100, 0.01 for plain ones;
            also reported as `sk/...`, biases of a bank alone (UCoFiA), and as `sk1/...`, each query in the bank for
            itself (Yakovlev 2023); null for none.
        sinkhorn_rounds: of both scalings; 4 in the papers, 1,000 at most.
        qb_bank: training captions in the bank of QB-Norm and Sinkhorn, text to video.
        qb_videos: how many training videos make it, video to text: they are read and encoded; 0 for none, and no such
            figures.
        matrix_limit_mib: a score matrix above this size is kept in a temporary file instead of memory.
        codes: options for methods whose features are binary codes.

    >>> Evaluation(dual_softmax=1.0, codes=CodeOptions(database="test")).codes
    CodeOptions(database='test', normalise='relevant')
    """

    v2t: Literal["sets", "captions"] = "sets"
    chunk_size: int | None = None
    resamples: int = 1000
    dual_softmax: float | None = None
    qb_norm: float | None = None
    sinkhorn: float | None = None
    sinkhorn_rounds: int = 4
    qb_bank: int = 5000
    qb_videos: int = 1000
    matrix_limit_mib: int = 4096
    codes: CodeOptions = field(default_factory=CodeOptions)

    def __post_init__(self) -> None:
        check_chunk_size(self.chunk_size)
        for name in ("dual_softmax", "qb_norm", "sinkhorn"):
            value = getattr(self, name)
            if value is not None and not SMALLEST <= value <= LARGEST:
                raise ConfigError(
                    f"model.evaluation.{name} is {value}; from {SMALLEST:g} to {LARGEST:g}, or null for none"
                )
        for name, (least, most) in BOUNDS.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise ConfigError(f"model.evaluation.{name} is {value}; from {least} to {most:,}")

    @property
    def wants_bank(self) -> bool:
        """Whether a test looks at a bank of training items."""
        return self.qb_norm is not None or self.sinkhorn is not None


def check_chunk_size(chunk_size: int | None) -> None:
    """Refuses a size with which nothing would be scored.

    Raises:
        ConfigError: it is below 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ConfigError(f"model.evaluation.chunk_size is {chunk_size}; at least 1, or null for what suits the device")
