"""Every method on two devices against one: after two epochs with all that is drawn at random, the same weights.

Methods are all that the package has, each as its experiment on shapes trains it, with noise, augmentation and dropout,
in the sizes that it declares as `tested_with` and with the smallest encoders; where our own dropout can be set, it is.
Processes are forks of a script, this module: see tests/test_distributed.py.
"""

from __future__ import annotations

import inspect
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tests.kinds import composed, is_fast
from tvr_lightning import methods
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.compose import experiments_in
from tvr_lightning.config.objects import class_of
from tvr_lightning.distributed import ranks
from tvr_lightning.methods import base
from tvr_lightning.nn.draws import drawing, joined_rows
from tvr_lightning.run.build import build_cli
from tvr_lightning.run.smoke import smoke_arguments, smoke_data
from tvr_lightning.synthetic.reader import Shapes
from tvr_lightning.types import VideoTextBatch

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
EPOCHS, DROPOUT, EPS, WORLD = 2, 0.2, 1e-5, 2
TOLERANCE = 1e-5  # of the norm of all trained weights


@dataclass(frozen=True)
class Size:
    """How much is trained on: of so many videos, so many clips, in joined batches."""

    videos: int
    clips: int
    batch: int
    limit_s: int


@dataclass(frozen=True)
class Scheme:
    """How two ranks train.

    Attributes:
        first: rows of a joined batch that the first rank holds; the second one has the others. None: what the data
            module gives each.
        chunk: `optimizer.loss_chunk`, of the ranks alone.
        accumulate: batches of an optimiser step, of one process too.
        wrong: every rank draws for itself, as without the keys.
    """

    first: int | None = None
    chunk: int | None = None
    accumulate: int = 1
    wrong: bool = False


SMALL, LARGE = Size(24, 12, 4, 500), Size(80, 64, 8, 1200)
RUNS: dict[str, tuple[Size, Mapping[str, Scheme]]] = {
    "quick": (SMALL, {"odd": Scheme(first=1)}),  # of `QUICK` alone
    "others": (SMALL, {"odd": Scheme(first=1)}),
    "settings": (
        SMALL,
        {
            "chunked": Scheme(first=1, chunk=2),
            "accumulated": Scheme(accumulate=3),
            "wrong": Scheme(first=1, wrong=True),
        },
    ),
    "large": (LARGE, {"even": Scheme(), "odd": Scheme(first=3)}),
}


@cache
def experiments() -> dict[str, Path]:
    """An experiment of each method of the package, on shapes where there is one."""
    modules = [import_module(f"{methods.__name__}.{m.name}") for m in iter_modules(methods.__path__)]
    found = {c for m in modules for c in vars(m).values() if inspect.isclass(c)}
    wanted = {c for c in found if issubclass(c, base.RetrievalModule) and not inspect.isabstract(c)}
    files: dict[type, tuple[bool, Path]] = {}
    for name in experiments_in(EXPERIMENTS):
        file = EXPERIMENTS / f"{name}.yaml"
        config = composed(file)
        method, on_shapes = class_of(config["model"]), class_of(config["data"]["annotations"]) is Shapes
        if method in wanted and (method not in files or (on_shapes and not files[method][0])):
            files[method] = on_shapes, file
    assert files.keys() == wanted
    return {c.__module__.rpartition(".")[2]: file for c, (_, file) in files.items()}


NAMES = sorted(experiments())
QUICK = [name for name in NAMES if is_fast(name)]


@dataclass
class Shares:
    """A loader's joined batches, of each the rows of one rank."""

    loader: DataLoader[VideoTextBatch]
    rows: slice

    @property
    def sampler(self) -> Any:
        return self.loader.sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[VideoTextBatch]:
        return map(self._part, self.loader)

    def _part(self, batch: VideoTextBatch) -> VideoTextBatch:
        other = batch.augmented
        return VideoTextBatch(
            batch.text[self.rows], batch.video[self.rows], None if other is None else self._part(other)
        )


def settings_of(name: str, folder: Path, size: Size) -> list[str]:
    file = experiments()[name]
    root = smoke_data(file, folder / f"{size.videos} videos", size.videos)
    small = [a for a in smoke_arguments(file, root, folder) if "fast_dev_run" not in a]
    method: Any = class_of(composed(file)["model"])
    sizes = {k: json.dumps(v) for k, v in method.tested_with.items()}
    if "dropout" in inspect.signature(method).parameters:
        sizes["dropout"] = str(DROPOUT)
    return [*small, *(f"--model.init_args.{k}={v}" for k, v in sizes.items()), f"--data.subset={size.clips}"]


def train(name: str, folder: Path, size: Size, scheme: Scheme) -> Mapping[str, Mapping[str, Tensor]] | None:
    """What a method has learned after two epochs, on this rank or alone; None where it cannot accumulate."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    settings = settings_of(name, folder, size)
    settings += [f"--data.batch_size={size.batch // (1 if scheme.first else world)}"]
    # Adam takes the sign of gradients that are zero but for rounding, such as those of the biases of keys
    settings += [f"--model.init_args.optimizer.eps={EPS}"]
    if world > 1 and scheme.chunk:
        settings += [f"--model.init_args.optimizer.loss_chunk={scheme.chunk}"]
    cli = build_cli(read_arguments(settings)[0])
    model, data = cli.model, cli.datamodule
    if scheme.accumulate > 1 and not model.automatic_optimization:
        return None
    if world > 1 and scheme.first:
        joined, rows = data.train_dataloader, (slice(0, scheme.first), slice(scheme.first, None))[rank]

        def share() -> Any:
            trainer, data.trainer = data.trainer, None  # alone it gives joined batches
            loader, data.trainer = joined(), trainer
            return Shares(loader, rows)

        data.train_dataloader = share
    trainer = Trainer(
        accelerator="cpu", devices=world, max_epochs=EPOCHS, accumulate_grad_batches=scheme.accumulate,
        gradient_clip_val=cli.config.trainer.gradient_clip_val, limit_val_batches=0, use_distributed_sampler=False,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    assert trainer.global_step == EPOCHS * size.clips // size.batch // scheme.accumulate
    state, trained = model.state_dict(), {n for n, p in model.named_parameters() if p.requires_grad}
    statistics = {n for n, _ in model.named_buffers()} & state.keys()
    return {"weights": {n: state[n] for n in trained}, "statistics": {n: state[n] for n in statistics}}


def draw_apart() -> None:
    base.drawing = lambda device, *key: drawing(device, *key, ranks()[0])
    base.joined_rows = lambda first, total, *key: joined_rows(0, total, *key, ranks()[0])


def names_of(run: str) -> list[str]:
    """The methods that a run trains."""
    return {"quick": QUICK, "others": [name for name in NAMES if name not in QUICK]}.get(run, NAMES)


def rank_main(rank: int, folder: Path, run: str, port: int) -> None:
    # what torchrun sets
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(WORLD),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    size, schemes = RUNS[run]
    found = {}
    for how, scheme in schemes.items():
        if scheme.wrong:
            draw_apart()
        found |= {(how, name): train(name, folder, size, scheme) for name in names_of(run)}
    torch.save(found, folder / f"rank{rank}.pt")


def single_main(folder: Path, run: str) -> None:
    size, schemes = RUNS[run]
    found = {}
    for name in names_of(run):
        known = {n: train(name, folder, size, Scheme(accumulate=n)) for n in {s.accumulate for s in schemes.values()}}
        found |= {(how, name): known[scheme.accumulate] for how, scheme in schemes.items()}
    torch.save(found, folder / "single.pt")


def gap(mine: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Norm of the difference over the norm, of all together."""
    assert mine.keys() == reference.keys()
    difference = sum(float((mine[name] - x).double().square().sum()) for name, x in reference.items())
    norm = sum(float(x.double().square().sum()) for x in reference.values())
    return (difference / max(norm, 1e-30)) ** 0.5


def check(how: str, name: str, found: Mapping[str, Any]) -> None:
    alone, first, second = (found[process][how, name] for process in ("single", "rank0", "rank1"))
    if alone is None:
        pytest.skip(f"{name} steps its optimisers itself: no accumulation")
    assert alone["weights"]
    for kind, values in first.items():
        assert all(torch.equal(x, second[kind][n]) for n, x in values.items()), "the ranks have parted"
    differences = {kind: gap(first[kind], alone[kind]) for kind in alone}
    print(how, name, differences)
    assert max(differences.values()) < TOLERANCE


def results(folder: Path, run: str, run_alone: Any) -> dict[str, Any]:
    """What two ranks and one process found."""
    run_alone([sys.executable, "-m", "tests.methods.test_devices", str(folder), run], RUNS[run][0].limit_s)
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in ("single", "rank0", "rank1")}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, run_alone: Any) -> dict[str, Any]:
    return results(tmp_path_factory.mktemp("quick"), "quick", run_alone)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, run_alone: Any) -> dict[str, Any]:
    return results(tmp_path_factory.mktemp("others"), "others", run_alone)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, run_alone: Any) -> dict[str, Any]:
    return results(tmp_path_factory.mktemp("settings"), "settings", run_alone)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, run_alone: Any) -> dict[str, Any]:
    return results(tmp_path_factory.mktemp("large"), "large", run_alone)


@pytest.mark.slow
@pytest.mark.timeout(SMALL.limit_s + 60)
@pytest.mark.parametrize("name", QUICK)
def test_two_devices_with_uneven_shares_train_as_one(quick: dict[str, Any], name: str) -> None:
    check("odd", name, quick)


@pytest.mark.slow
@pytest.mark.timeout(SMALL.limit_s + 60)
@pytest.mark.parametrize("name", names_of("others"))
def test_so_do_the_other_methods(others: dict[str, Any], name: str) -> None:
    check("odd", name, others)


@pytest.mark.slow
@pytest.mark.timeout(LARGE.limit_s + 60)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", RUNS["large"][1])
def test_two_devices_train_64_clips_as_one(large: dict[str, Any], how: str, name: str) -> None:
    check(how, name, large)


@pytest.mark.slow
@pytest.mark.timeout(SMALL.limit_s + 60)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["chunked", "accumulated"])
def test_chunks_and_accumulation_change_nothing_of_it(settings: dict[str, Any], how: str, name: str) -> None:
    check(how, name, settings)


@pytest.mark.slow
@pytest.mark.timeout(SMALL.limit_s + 60)
def test_the_check_sees_ranks_that_draw_for_themselves(settings: dict[str, Any]) -> None:
    alone, apart = settings["single"], settings["rank0"]
    gaps = [gap(apart["wrong", name]["weights"], alone["wrong", name]["weights"]) for name in NAMES]
    assert sum(x > 100 * TOLERANCE for x in gaps) > 1


if __name__ == "__main__":
    place, what = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    for each in names_of(what):
        settings_of(each, place, RUNS[what][0])  # makes the data
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    torch.multiprocessing.start_processes(rank_main, (place, what, number), nprocs=WORLD, start_method="fork")
    single_main(place, what)
