"""What a full run will need, from ten steps on generated clips: time, memory, disk, and who waits for whom.

The experiment is built as it stands, its encoders at their real size with random weights; only its videos and captions
are generated, in the layout and of the length of its dataset. So a rehearsal also finds what a recipe cannot do on this
machine before the dataset is here.
"""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.objects import without_weights
from tvr_lightning.data.annotations.base import TEST, TRAIN, Extent
from tvr_lightning.data.datamodule import VideoTextDataModule
from tvr_lightning.data.stores.caches import NOTED, entries_of
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import encode_split, score_all
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.run.accelerators import ExperimentTrainer
from tvr_lightning.run.build import build_cli
from tvr_lightning.run.callbacks.run_folder import device_name, peak_memory_mib
from tvr_lightning.run.reader import reader_of
from tvr_lightning.run.training import silence_lightning
from tvr_lightning.synthetic.long_clips import write_long_clips
from tvr_lightning.synthetic.plan import plan_shapes
from tvr_lightning.visible import bytes_in_words, say

STEPS, WARM = 10, 2  # that are timed, and that come before
PAIRS = 48  # captions, and videos, whose scoring is timed


@dataclass(frozen=True)
class Needs:
    """What a full run will need on this machine, by what a rehearsal took.

    Attributes:
        device: that it was rehearsed on.
        batch: pairs of a step.
        step_s: median time of a step, waiting for its batch included.
        waiting: share of that time that went by before the batch was there.
        epochs: of the experiment.
        steps: of a full training; None where the dataset's size is not known.
        evaluation_s: of one test: encoding, scoring all pairs; None likewise.
        memory_mib: peak.
        cache_bytes: of frames and features of the whole dataset; None likewise.
        features_s: what frozen encoders take for all splits, once; None likewise.
        trains: whether the experiment trains anything.
    """

    device: str
    batch: int
    step_s: float
    waiting: float
    epochs: int
    steps: int | None
    evaluation_s: float | None
    memory_mib: int
    cache_bytes: float | None
    features_s: float | None = 0.0
    trains: bool = True

    @property
    def training_h(self) -> float | None:
        """Hours of training, validations left out."""
        return None if self.steps is None else self.steps * self.step_s / 3600


class StepClock(Callback):
    """Times steps from one batch's end to the next one's, and how much of it went by before the batch came."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.waits: list[float] = []
        self._ended = time.perf_counter()
        self._began = self._ended

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is there."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step is done; on a GPU, once it has caught up."""
        if trainer.strategy.root_device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        now = time.perf_counter()
        self.steps.append(now - self._ended)
        self.waits.append(self._began - self._ended)
        self._ended = now


def rehearse(file: Path, settings: Sequence[str] = (), steps: int = STEPS) -> Needs:
    """Builds an experiment, trains it for some steps on generated clips, and scales what that took.

    Args:
        file: the experiment.
        settings: that override it, e.g. `--data.batch_size=32`.
        steps: that are timed.

    Raises:
        ConfigError: the experiment cannot be built, or its dataset cannot be generated.
        TVRError: what its training would raise.
    """
    given = ["--config", str(file), *settings]
    config, flags = read_arguments(given)
    if flags:
        raise ConfigError(f"{flags[0]} is not a setting of an experiment")
    batch = int((config.get("data") or {}).get("batch_size", 0) or 32)
    with tempfile.TemporaryDirectory(prefix="tvr-rehearse-") as name:
        root, cache = Path(name, "data"), Path(name, "cache")
        reader = reader_of(file, [*settings, f"--data.annotations.init_args.root={root}"])
        extent = reader.extent()
        seconds = extent[TRAIN].seconds if extent else 10.0
        root.mkdir()
        plan = plan_shapes(max(24, math.ceil(2.3 * batch)))
        files = [root / place for place in reader.write_layout(root, plan.dataset())]
        for parent in {file.parent for file in files}:
            parent.mkdir(parents=True, exist_ok=True)
        write_long_clips(files, seconds)
        words = [
            *given,
            f"--data.annotations.init_args.root={root}",
            f"--data.cache_dir={cache}",
            "--data.allow_duplicates=true",
            *without_weights(config),
        ]
        cli = build_cli(read_arguments(words)[0])
        model, data = cli.model, cli.datamodule
        clock = StepClock()
        options = cli.config_init.trainer.as_dict()
        epochs, most = int(options.get("max_epochs") or 1), int(options.get("max_steps") or -1)
        if epochs < 0 and most < 0:
            raise ConfigError("trainer.max_epochs and trainer.max_steps are both -1: such a training has no end")
        own = {
            "max_steps": WARM + steps, "max_epochs": 10_000, "limit_val_batches": 0, "limit_train_batches": 1.0,
            "overfit_batches": 0, "fast_dev_run": False, "max_time": None,
            "num_sanity_val_steps": 0, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
            "enable_model_summary": False, "callbacks": [clock], "default_root_dir": name,
        }  # fmt: skip
        say(f"rehearsing {config['experiment']}: {len(files)} clips of {seconds:g} s, {WARM + steps} steps of {batch}")
        with warnings.catch_warnings():
            silence_lightning()
            trainer = ExperimentTrainer(**(options | own))
            trainer.fit(model, datamodule=data)
        taken = data.splits[TRAIN]
        items = len(data.train_dataloader().dataset)
        # the files beside frames and features do not grow with the dataset
        cached = sum(entry.size for entry in entries_of(cache, NOTED)) / len(taken.records)
        evaluation = _evaluation(model, data, extent.get(TEST))
        each_caption = len(taken.captions) > len(taken.records) and items == len(taken.captions)
        whole = extent.get(TRAIN)
        count = None if whole is None else whole.captions if each_caption else whole.videos
        features = data.feature_store.seconds / sum(len(split.records) for split in data.splits.values())
        all_videos = sum(part.videos for part in extent.values()) if extent else None
        on_gpu = trainer.strategy.root_device.type == "cuda"
        timed = clock.steps[WARM:]
        bounds = [
            *([epochs * (count // batch)] if count is not None and epochs > 0 else []),
            *([most] if most > 0 else []),
        ]
        return Needs(
            device_name(on_gpu), batch, median(timed), sum(clock.waits[WARM:]) / sum(timed), epochs,
            min(bounds, default=None), evaluation, peak_memory_mib(on_gpu),
            None if all_videos is None else cached * all_videos, None if all_videos is None else features * all_videos,
            bool(cli.config.trains),
        )  # fmt: skip


def _evaluation(model: RetrievalModule[Any, Any], data: VideoTextDataModule, test: Extent | None) -> float | None:
    """Seconds that a test of the whole split takes: by video what encoding took, by pair what scoring took."""
    if test is None:
        return None
    data.setup("test")
    split = data.split_of("test")
    began = time.perf_counter()
    encoded = encode_split(model, split, data.evaluation_loaders(split))
    encoding = time.perf_counter() - began
    texts, videos = encoded.texts[:PAIRS], encoded.videos[:PAIRS]
    began = time.perf_counter()
    score_all(model, texts, videos)
    scoring = time.perf_counter() - began
    return encoding * test.videos / len(split.records) + scoring * test.captions * test.videos / (
        len(texts) * len(videos)
    )


def needs_lines(needs: Needs) -> list[str]:
    """What is printed of a rehearsal.

    >>> needs_lines(Needs("x CPU", 8, 2.0, 0.1, 5, 3600, 90.0, 2048, 3e9))[1]
    'training: 5 epochs, 3,600 steps: 2.0 hours, without validations and what is computed once before'
    >>> needs_lines(Needs("x CPU", 8, 0.5, 0.1, 5, 720, 90.0, 2048, 3e9))[1]
    'training: 5 epochs, 720 steps: 6.0 minutes, without validations and what is computed once before'
    >>> lines = needs_lines(Needs("x CPU", 4, 18.8, 0.0, 5, 225000, 1920.0, 5632, 0.0, 98280.0))
    >>> lines[0]
    'a step: 18.80 s, 0.21 pairs a second, 0 % of it waiting for the batch, on x CPU'
    >>> lines[2], lines[3], lines[-2]
    ('once before: 27.3 hours for frozen encoders', 'a test: at most 32.0 minutes', 'caches: none')
    >>> needs_lines(Needs("x CPU", 4, 2.0, 0.0, 5, 60, 90.0, 2048, 0.0, trains=False))[:2]
    ['device: x CPU', 'training: none']
    """
    unknown = "known once the data is here: its reader does not say how many videos there are"
    hours = needs.training_h
    if not needs.trains:
        training = "none"
    elif hours is None:
        training = (
            f"{_length(1000 * needs.step_s / needs.batch)} for every 1,000 pairs of an epoch; the whole is {unknown}"
        )
    else:
        epochs = f"{needs.epochs} epochs, " if needs.epochs > 0 else ""
        length = _length(3600 * hours)
        training = f"{epochs}{needs.steps:,} steps: {length}, without validations and what is computed once before"
    rate = needs.batch / needs.step_s
    if needs.cache_bytes is None:
        caches = unknown
    else:
        caches = f"{bytes_in_words(int(needs.cache_bytes))} of disk" if needs.cache_bytes else "none"
    step = (
        f"a step: {needs.step_s:.2f} s, {rate:{'.0f' if rate >= 10 else '.2g'}} pairs a second, "
        f"{100 * needs.waiting:.0f} % of it waiting for the batch, on {needs.device}"
    )
    return [
        *([step] if needs.trains else [f"device: {needs.device}"]),
        f"training: {training}",
        *([f"once before: {_length(needs.features_s)} for frozen encoders"] if needs.features_s else []),
        # what starting costs is scaled up with the rest
        f"a test: {unknown if needs.evaluation_s is None else f'at most {_length(needs.evaluation_s)}'}",
        f"memory: {needs.memory_mib / 1024:.1f} GiB at its peak",
        f"caches: {caches}",
        "clips and captions are generated, encoders random: times are the real ones as far as their sizes agree",
    ]


def _length(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
