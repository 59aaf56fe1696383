"""Methods that index videos in tests: each experiment on `shapes`, untrained, with the smallest encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvr_lightning.evaluation.encoding import EncodedSplit, encode_split
from tvr_lightning.run.load import Experiment, load_experiment
from tvr_lightning.run.smoke import smoke_arguments
from tvr_lightning.search.builder import Built, build_index
from tvr_lightning.search.manifest import Source
from tvr_lightning.search.plan import IndexOptions
from tvr_lightning.search.source import source_of

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
METHODS = sorted(
    next(iter(sorted(EXPERIMENTS.glob(f"{file.stem}_shapes*.yaml")))).stem
    for file in (EXPERIMENTS / "method").glob("*.yaml")
    if list(EXPERIMENTS.glob(f"{file.stem}_shapes*.yaml"))
)


def untrained(name: str, data: Path, folder: Path) -> Experiment:
    """An experiment over a generated dataset, its tokeniser taught."""
    words = smoke_arguments(EXPERIMENTS / f"{name}.yaml", data, folder)
    settings = [w for w in words if w.startswith("--") and w != "--config"]
    run = load_experiment(EXPERIMENTS / f"{name}.yaml", [*settings, "--data.eval_batch_size=3"])
    run.model.eval()
    run.data.setup("test")
    return run


def build(run: Experiment, videos: Path, folder: Path, **options: Any) -> Built:
    """Indexes videos with a run of this process."""
    return build_index(run, said(run), videos, folder, IndexOptions(**options))


def said(run: Experiment) -> Source:
    """What an index says of such a run."""
    return source_of(run, f"untrained {run.name}")


def encoded_test(run: Experiment) -> EncodedSplit[Any, Any]:
    """The test split as the evaluator encodes it."""
    split = run.data.split_of("test")
    return encode_split(run.model, split, run.data.evaluation_loaders(split))
