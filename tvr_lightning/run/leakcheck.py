"""Does a method retrieve what cannot be retrieved? A short training on noise, a test on fresh noise.

Texts and videos are drawn independently, so nothing about a pair can be learned but by heart, and nothing that was
learned helps on new pairs. A method that finds them all the same is told which belong together: its score of a pair
reads the ground truth, or the place of an item in the list.

The probe builds the experiment's own method and uses its training step and the suite's evaluator. Frozen random maps of
noise take the place of its encoders, generated noise that of its data.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from tvr_lightning.config.objects import smallest_parts
from tvr_lightning.data.annotations.base import TEST, TRAIN
from tvr_lightning.encoders.base import encoders_in
from tvr_lightning.errors import ConfigError, ScoreError
from tvr_lightning.evaluation import EncodedSplit, EvaluationResult, encode_texts, encode_videos, evaluate
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.metrics.ranking import DirectionRanks
from tvr_lightning.synthetic.noise import LeakProbe, NoiseData, NoiseEncoder

SIGNIFICANCE = 1e-3  # of the whole check: a method without a leak fails it once in a thousand times at most
CUTOFFS = (1, 10)
TRAINED = 100  # training pairs that show whether anything was learned
FEW = 3  # texts that are scored with all videos


@dataclass(frozen=True)
class Finding:
    """One figure of the test, and how likely it is without a leak.

    Attributes:
        name: the metric.
        queries: how many queries there were.
        hits: how many found their item; an expectation where scores tie.
        chance: the probability of a hit without any knowledge.
    """

    name: str
    queries: int
    hits: float
    chance: float

    @property
    def percent(self) -> float:
        """The metric's value."""
        return 100.0 * self.hits / self.queries

    @property
    def p_value(self) -> float:
        """Probability of so many hits or more by chance, binomial."""
        return binomial_tail(math.ceil(self.hits - 1e-6), self.queries, self.chance)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the value in percent (Wilson 1927)."""
        z, n, share = 1.959964, self.queries, self.hits / self.queries
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return 100 * max(centre - reach, 0.0), 100 * min(centre + reach, 1.0)


@dataclass(frozen=True)
class LeakReport:
    """What the probe found.

    Attributes:
        name: the experiment's.
        findings: R@1 and R@10 on fresh noise, both directions.
        trained: R@1 on pairs of the training, learned by heart.
        reads_ground_truth: whether the method says itself that it leaks.
        trainable: whether the method has anything to train beside its encoders.
        trains: whether the experiment trains anything.
    """

    name: str
    findings: tuple[Finding, ...]
    trained: Finding
    reads_ground_truth: bool
    trainable: bool = True
    trains: bool = True

    @property
    def leaks(self) -> bool:
        """Whether a figure lies above chance (Bonferroni's correction over the figures)."""
        return any(f.p_value < SIGNIFICANCE / len(self.findings) for f in self.findings)

    def text(self) -> str:
        """The report in lines."""
        lines = [
            f"{f.name:20} {f.percent:5.1f}  [{f.interval[0]:.1f}, {f.interval[1]:.1f}]   "
            f"chance {100 * f.chance:.1f}   p = {f.p_value:.2g}"
            for f in (*self.findings, self.trained)
        ]
        if self.leaks:
            why = (
                "as its settings say: scores read the ground truth" if self.reads_ground_truth else "noise is retrieved"
            )
            lines.append(f"{self.name}: LEAK, {why}. Its figures are not retrieval results; see docs/leakage.md.")
        else:
            lines.append(f"{self.name}: no leak found, fresh noise is retrieved at chance.")
            if not self.trains:
                lines.append("The experiment trains nothing (trains: false): the method was tested untrained.")
            elif not self.trainable:
                lines.append(
                    "The method has no trainable parameters besides its encoders', which noise replaces: it was tested "
                    "untrained."
                )
            elif self.trained.p_value >= SIGNIFICANCE:
                lines.append(
                    "The training pairs are at chance too: nothing was learned, so a leak that is learned could not "
                    "show. Try another --lr or more --steps."
                )
        return "\n".join(lines)


def binomial_tail(hits: int, trials: int, chance: float) -> float:
    """P(X >= hits) of X ~ Binomial(trials, chance), exact."""
    if hits <= 0:
        return 1.0
    if hits > trials or chance <= 0:
        return 0.0
    if chance >= 1:
        return 1.0
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(chance) + (trials - k) * math.log1p(-chance)
        for k in range(hits, trials + 1)
    ]  # fmt: skip
    return min(math.fsum(math.exp(x) for x in logs), 1.0)


def probe_arguments(words: Sequence[str], probe: LeakProbe) -> dict[str, Any]:
    """The experiment's configuration with the smallest random encoders, which the noise then replaces.

    Args:
        words: `--config FILE` and settings.
        probe: sizes.

    Raises:
        ConfigError: no experiment, or one that cannot be composed.
    """
    from tvr_lightning.config.arguments import read_arguments

    config, flags = read_arguments(words)
    if flags or "model" not in config:
        raise ConfigError("`tvr leakcheck` needs an experiment: --config experiments/NAME.yaml, then settings")
    config, _ = read_arguments([*words, *smallest_parts(config), f"--data.max_words={probe.max_words}"])
    config.setdefault("data", {})["tokenizer"] = None
    return config


def replace_encoders(model: RetrievalModule[Any, Any], seed: int) -> int:
    """Puts noise in place of every encoder of a method; returns how many there were."""
    found = encoders_in(model)
    for number, (parent, name, child) in enumerate(found):
        setattr(parent, name, NoiseEncoder(child, seed + number))
    return len(found)


def check_leak(words: Sequence[str], probe: LeakProbe) -> LeakReport:
    """Trains an experiment's method on noise and tests it on fresh noise.

    Args:
        words: `--config FILE` and settings, as `tvr fit` takes them.
        probe: how much.

    Raises:
        ConfigError: the experiment cannot be built.
        ScoreError: the method cannot score another number of texts than of videos.
    """
    from pytorch_lightning import Trainer, seed_everything

    from tvr_lightning.run.load import build
    from tvr_lightning.run.starting import trains

    with _quiet():
        seed_everything(probe.seed, verbose=False)
        experiment = build(probe_arguments(words, probe))
        model = experiment.model
        if not replace_encoders(model, probe.seed):
            raise ConfigError(f"{experiment.name}: {type(model).__name__} has no encoder that noise could replace")
        model.optimizer_options = replace(
            model.optimizer_options,
            lr=probe.lr,
            encoder_lr=None,
            logit_scale_lr=None,
            warmup=0.05,
            schedule="constant",
            loss_chunk=None,
        )
        model.evaluation = replace(
            model.evaluation, v2t="sets", resamples=0, dual_softmax=None, qb_norm=None, sinkhorn=None
        )
        data = NoiseData(probe, experiment.data.augment)
        epochs = math.ceil(probe.steps / (probe.pairs // probe.batch_size))
        trainer = Trainer(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, use_distributed_sampler=False,
            max_steps=probe.steps, max_epochs=epochs + epochs % 2,  # methods that train two parts in turn need both
            gradient_clip_val=experiment.trainer_config.get("gradient_clip_val"),
        )  # fmt: skip
        trainable = any(parameter.requires_grad for parameter in model.parameters())
        if trainable and trains(experiment.config):
            trainer.fit(model, datamodule=data)
        else:  # nothing is to be trained, and no optimiser takes an empty list
            data.setup("fit")
        fresh, trained = _retrieve(model, data, TEST), _retrieve(model, data, TRAIN, TRAINED)
    t2v, v2t = fresh.ranks.t2v, fresh.ranks.v2t  # captions in sets: as many items as videos
    findings = tuple(
        _finding(f"{name}/R@{k}", ranks, k, probe.videos)
        for name, ranks in (("t2v", t2v), ("v2t", v2t))
        for k in CUTOFFS
    )
    known = _finding("t2v/R@1, trained on", trained.ranks.t2v, 1, len(trained.video_ids))
    return LeakReport(
        experiment.name, findings, known, bool(model.reads_ground_truth), trainable, trains(experiment.config)
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Lightning's advice on small runs, and a leaky method's own warning: the report says it."""
    logs = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _retrieve(
    model: RetrievalModule[Any, Any], data: NoiseData, name: str, count: int | None = None
) -> EvaluationResult:
    """Evaluates a split, or its first `count` pairs."""
    split = data.splits[name]
    captions, clips = data.evaluation_loaders(split)
    texts, videos = encode_texts(model, captions)[:count], encode_videos(model, clips)[:count]
    try:
        if not model.reads_ground_truth:
            with torch.inference_mode():
                shape = tuple(model.score(texts[:FEW].to(model.device), videos.to(model.device)).shape)
            if shape != (min(FEW, len(texts)), len(videos)):
                raise ValueError(f"the scores of {FEW} texts and {len(videos)} videos have the shape {shape}")
        return evaluate(model, EncodedSplit(texts, videos, split.caption_video[:count]), model.evaluation, final=False)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ScoreError(
            f"{type(model).__name__} cannot score other numbers of texts than of videos: {error}. Code that needs as "
            "many of both may read which of them belong together."
        ) from error


def _finding(name: str, ranks: DirectionRanks, cutoff: int, items: int) -> Finding:
    return Finding(name, len(ranks), float(ranks.hit(cutoff).sum()), min(cutoff / items, 1.0))
