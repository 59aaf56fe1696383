"""Fills a run's folder: metrics and ranks after a test, predictions."""

from __future__ import annotations

import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.trainer.states import TrainerFn

from tvr_lightning import __version__
from tvr_lightning.data.stores.files import write_json
from tvr_lightning.encoders.kept import keep_encoders
from tvr_lightning.errors import RunError
from tvr_lightning.evaluation import EvaluationResult
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.names import METRICS, PREDICTIONS, RANKS, RELEASED, UNTRAINED
from tvr_lightning.run.callbacks.progress import count_parameters
from tvr_lightning.run.git import git_commit
from tvr_lightning.run.query_values import write_values
from tvr_lightning.run.results import LOWER_IS_BETTER, is_part, result_table, write_ranks
from tvr_lightning.run.trackers import log_result
from tvr_lightning.visible import console

PACKAGES = ("torch", "pytorch_lightning", "open_clip_torch", "av")  # besides this one, which may run from a checkout


class RunFolder(Callback):
    """Writes a run's results.

    Args:
        path: the run's folder; it exists.
        experiment: the experiment's name.
        seed: the run's seed.
        trains: whether the experiment trains anything.
    """

    def __init__(self, path: Path, experiment: str, seed: int, trains: bool = True) -> None:
        self.path = path
        self.experiment = experiment
        self.seed = seed
        self.trains = trains
        self._began = time.monotonic()
        self._train_time = 0.0
        self._fit_began = 0.0
        self._said: dict[str, Any] = {}  # of the training that this process did
        self._earlier = {"train": 0.0, "wall": 0.0}  # seconds of the parts of a resumed run before this one

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far, of all parts of a resumed run."""
        now = time.monotonic()
        return {
            "train": self._earlier["train"] + now - self._fit_began,
            "wall": self._earlier["wall"] + now - self._began,
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Goes on counting where this run itself stopped; weights of another run bring no time along."""
        own = Path(str(trainer.ckpt_path)).absolute().is_relative_to(self.path.absolute())
        if own and trainer.state.fn == TrainerFn.FITTING:
            self._earlier = dict(checkpoint["callbacks"].get(self.state_key, self._earlier))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, and tells W&B which value of a curve is its best."""
        self._fit_began = time.monotonic()
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.experiment.define_metric("val/*", summary="max")
                for direction in ("t2v", "v2t", "leaky/t2v", "leaky/v2t"):
                    for name in LOWER_IS_BETTER:
                        logger.experiment.define_metric(f"val/{direction}/{name}", summary="min")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps how the weights came about, which a run without checkpoints says nowhere else."""
        self._said = pl_module.said_of_training() if isinstance(pl_module, RetrievalModule) else {}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._train_time = self._earlier["train"] + time.monotonic() - self._fit_began

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `metrics.json`, `ranks.parquet` and `values.parquet` and prints the table."""
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        method, result = _result(pl_module)
        split = data.split_of("test")
        # without checkpoints the method itself is what was trained
        said = method.trained or self._said
        trained = {"weights": method.started_from, "encoders_from": method.encoders_from, **said}
        if not self.trains:
            trained["selection"] = UNTRAINED
        # the last weights of a run are nobody's choice, whatever might have chosen others
        elif not said and (method.started_from or {}).get("released"):
            trained["selection"] = RELEASED
        elif Path(trainer.ckpt_path or "last").stem == "last":
            trained["selection"] = "last"
        on_gpu = trainer.strategy.root_device.type == "cuda"
        write_ranks(self.path / RANKS, result, split)
        write_values(self.path, result, split)
        parameters, trainable = count_parameters(pl_module)
        result_metrics = {f"test/{k}": v for k, v in result.metrics.items()}
        content = {
            "experiment": self.experiment,
            "method": type(pl_module).__name__,
            "encoder": " + ".join(encoder.name for encoder in method.encoders),
            "encoders": keep_encoders(method),
            "padding": method.padding,
            "dataset": data.dataset,
            "split": data.annotations.protocol,
            "metrics": result_metrics,
            "intervals": {f"test/{k}": list(v) for k, v in result.intervals.items()},
            "v2t": method.evaluation.v2t,
            "hashing": dict(result.hashing.facts) if result.hashing else None,
            "data": {
                "videos": len(result.video_ids),
                "captions": len(result.caption_ids),
                "left_out": len(split.missing) + len(split.undecodable),
                "subset": data.subset,
                "repeats": split.repeats,
                "distractors": split.distractors,
                "relevance": split.relevance,
                "trained_on": None if method.seen is None else len(data.trained_on(method.seen)),
                "splits": [s.summary() for s in data.splits.values()],
            },
            "trained": trained,
            "selected_on_test": trained["selection"] == "test",
            "selected_by": None
            if trained["selection"] in ("last", UNTRAINED, RELEASED)
            else method.monitor.removeprefix("val/"),
            "partial": is_part(trainer.limit_test_batches),
            "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
            "parameters": parameters,
            "trainable": trainable,
            "seed": trained.get("seed", self.seed),
            "precision": str(trainer.precision),
            "devices": trainer.world_size,
            "device": device_name(on_gpu),
            "train_time_s": round(self._train_time, 1),
            "wall_time_s": round(self._earlier["wall"] + time.monotonic() - self._began, 1),
            "peak_memory_mib": peak_memory_mib(on_gpu),
            "versions": {
                "tvr_lightning": __version__,
                **{p: version(p) for p in PACKAGES},
                "python": platform.python_version(),
            },
            "git_commit": git_commit(),
        }
        write_json(self.path / METRICS, content)
        for logger in trainer.loggers:
            log_result(logger, result_metrics, trainer.global_step)
        console().print(result_table(content))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `predictions.parquet`: the ten best items of each caption and each video, with scores."""
        if trainer.is_global_zero:
            split = trainer.datamodule.split_of("predict")  # type: ignore[attr-defined]
            write_ranks(self.path / PREDICTIONS, _result(pl_module)[1], split)


def _result(module: LightningModule) -> tuple[RetrievalModule[Any, Any], EvaluationResult]:
    if not isinstance(module, RetrievalModule) or module.result is None:
        raise RunError("the evaluation ended without a result")
    return module, module.result


def device_name(on_gpu: bool) -> str:
    """The GPU's name, or the processor's architecture and number of threads."""
    if on_gpu:
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' * (threads > 1)}"


def peak_memory_mib(on_gpu: bool) -> int:
    """Peak of GPU memory where the run is on a GPU, else of this process's resident memory."""
    if on_gpu:
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
