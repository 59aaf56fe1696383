"""Two processes against one: gradients and metrics. The processes are forks of a script: this file, run by the tests.

A fork starts at once, but not from a process that has computed gradients: hence the script between.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader

from tvr_lightning.data.annotations.msrvtt import MSRVTT
from tvr_lightning.data.datamodule import VideoTextDataModule
from tvr_lightning.data.dataset import PairDataset, collate_pairs
from tvr_lightning.distributed import share
from tvr_lightning.encoders import CLIPEncoder, CLIPSize
from tvr_lightning.errors import ConfigError, ScoreError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.methods import base
from tvr_lightning.methods.clip4clip import CLIP4Clip
from tvr_lightning.methods.tc_mgc import TCMGC
from tvr_lightning.optim import Optimizer
from tvr_lightning.run.smoke import smoke_arguments
from tvr_lightning.run.switches import check_strategy
from tvr_lightning.types import VideoTextBatch

ROOT = Path(__file__).parents[1]
WORLD = 2
SIZE = CLIPSize(32, 16, 32, 1, 2, 32, 1, 2, 32)
LIMIT_S = 200

METHODS: dict[str, Callable[..., base.RetrievalModule[Any, Any]]] = {
    "clip4clip": lambda encoder, **more: CLIP4Clip(encoder, "seqTransf", num_layers=1, **more),
    "tight": lambda encoder, **more: CLIP4Clip(encoder, "tightTransf", num_layers=1, **more),
    "tc_mgc": lambda encoder, **more: TCMGC(encoder, keep_rate=0.5, num_layers=1, **more),
}
# rows of the joined batches that each rank holds; None: none of its videos could be decoded
SHARES: dict[str, tuple[slice | None, slice | None]] = {
    "equal": (slice(0, 4), slice(4, 8)),
    "unequal": (slice(0, 3), slice(3, 8)),
    "one empty": (slice(0, 8), None),
    "all empty": (None, None),
}


class Given(VideoTextDataModule):
    """Gives the batches that it is told."""

    given: Sequence[VideoTextBatch | None]

    def train_dataloader(self) -> Any:
        return DataLoader(self.given, batch_size=None)


class Gradients(Callback):
    """Keeps the gradients of the first optimiser step."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.kept = {name: p.grad.clone() for name, p in pl_module.named_parameters()}


def make_data(root: Path, **settings: Any) -> Given:
    defaults = {"num_frames": 4, "fps": None, "size": 32, "num_workers": 0}
    return Given(MSRVTT(root), **{**defaults, **settings})


def make_method(name: str, **settings: Any) -> base.RetrievalModule[Any, Any]:
    torch.manual_seed(0)
    method = METHODS[name](CLIPEncoder(size=SIZE), **settings)
    for parameter in method.parameters():
        if parameter.ndim > 1:
            parameter.data += 0.02 * torch.randn_like(parameter)
    return method


def joined_batch(data: VideoTextDataModule, start: int = 0) -> VideoTextBatch:
    """Eight pairs; two captions belong to one video."""
    split = data.splits["train"]
    pairs = PairDataset(split.captions, split.reader, "all", False, 0)
    batch = collate_pairs([pairs[(start + p, 0)] for p in (0, 1, 15, 20, 38, 47, 51, 60)])
    assert batch is not None
    assert len(batch.video.index.unique()) == 7
    return batch


def rows(batch: VideoTextBatch, part: slice | None) -> VideoTextBatch | None:
    return None if part is None else VideoTextBatch(batch.text[part], batch.video[part])


def make_trainer(devices: int, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        accelerator="cpu", devices=devices, enable_model_summary=False, limit_val_batches=0,
        use_distributed_sampler=False, **{**quiet, **settings},
    )  # fmt: skip


def step_gradients(
    data: Given, name: str, parts: Sequence[slice | None], chunk: int | None = None, batches: int = 1
) -> Any:
    """Gradients of one step of this rank, through the trainer."""
    data.given = [rows(joined_batch(data, i), parts[dist_rank()]) for i in range(batches)]
    seen = Gradients()
    trainer = make_trainer(len(parts), max_steps=1, callbacks=[seen], accumulate_grad_batches=batches)
    trainer.fit(make_method(name, optimizer=Optimizer(loss_chunk=chunk)).double(), data)
    return seen.kept


def dist_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def gathered_without_gradient(features: Any, counts: Sequence[int]) -> Any:
    """The common wrong scheme: gather, put the own rows back."""

    def gather(x: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(x) for _ in counts]
        dist.all_gather(parts, x.detach())
        return torch.cat([x if i == dist.get_rank() else part for i, part in enumerate(parts)])

    return features.map(gather)


def result_of(data: VideoTextDataModule, devices: int, stage: str, name: str = "tc_mgc", seen: Any = None) -> Any:
    options = Evaluation(chunk_size=3, resamples=20, dual_softmax=1.0, qb_norm=0.2, qb_bank=30)
    method = make_method(name, evaluation=options)
    if seen is not None:
        seen(method)
    trainer = make_trainer(devices)
    trainer.limit_val_batches = 1.0
    getattr(trainer, stage)(method, datamodule=data, verbose=False)
    result = method.result
    assert result is not None
    split = data.split_of("test" if stage == "test" else "validate")
    return {
        "metrics": dict(result.metrics), "intervals": dict(result.intervals),
        "ranks": {d: getattr(result.ranks, d).expected_rank for d in ("t2v", "v2t")},
        "ids": (result.caption_ids, result.video_ids), "top": dict(result.top), "left_out": result.left_out,
        "undecodable": split.undecodable,
        "logged": {k: float(v) for k, v in trainer.callback_metrics.items()},
    }  # fmt: skip


def evaluations(root: Path, broken: Path, devices: int) -> dict[str, Any]:
    """What every scheme of sharing must find alike."""
    found = {
        "odd": result_of(make_data(root, subset=7, eval_batch_size=2), devices, "test"),
        "one batch": result_of(make_data(root, eval_batch_size=64), devices, "test", "clip4clip"),
        "many captions": result_of(make_data(root, eval_batch_size=3), devices, "validate"),
        "undecodable": result_of(
            make_data(broken, eval_batch_size=2, on_decode_error="skip", allow_missing=True), devices, "test"
        ),
    }

    def poison(method: Any) -> None:
        score = method.score

        def scored(texts: Any, videos: Any) -> torch.Tensor:
            scores = score(texts, videos)
            return scores.masked_fill(texts.sentence[:, :1] == last[None], torch.nan)

        encode = method.encode_text
        last = torch.zeros(1)

        def encoded(text: Any) -> Any:
            features = encode(text)
            if 7 in text.index:  # of all captions only the last one gets a score that is not a number
                last.copy_(features.sentence[text.index == 7][:, 0])
            return features

        method.score, method.encode_text = scored, encoded

    try:
        result_of(make_data(root, eval_batch_size=2), devices, "test", "clip4clip", poison)
    except ScoreError as error:
        found["error"] = str(error)
    return found


def rank_main(rank: int, root: Path, broken: Path, out: Path, port: int) -> None:
    # what torchrun sets
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(WORLD),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    data = make_data(root)
    data.setup("fit")
    found: dict[str, Any] = {f"clip4clip {how}": step_gradients(data, "clip4clip", SHARES[how]) for how in SHARES}
    for name in ("tc_mgc", "tight"):
        found[f"{name} unequal"] = step_gradients(data, name, SHARES["unequal"])
    found["tc_mgc all empty"] = step_gradients(data, "tc_mgc", SHARES["all empty"])
    found["clip4clip chunked one empty"] = step_gradients(data, "clip4clip", SHARES["one empty"], chunk=3)
    found["tc_mgc chunked unequal"] = step_gradients(data, "tc_mgc", SHARES["unequal"], chunk=2)
    found["tc_mgc chunked accumulated"] = step_gradients(data, "tc_mgc", SHARES["equal"], chunk=3, batches=2)
    right, base.gather = base.gather, gathered_without_gradient
    found["clip4clip wrong"] = step_gradients(data, "clip4clip", SHARES["equal"])
    base.gather = right
    found["evaluations"] = evaluations(root, broken, WORLD)
    torch.save(found, out / f"rank{rank}.pt")


def single_main(root: Path, broken: Path, out: Path) -> None:
    """The same in one process; gradients without the trainer and without the base's training step."""
    data = make_data(root)
    data.setup("fit")
    found: dict[str, Any] = {}
    for name in METHODS:
        for batches in (1, 2):
            method = make_method(name).double()
            for i in range(batches):
                batch = joined_batch(data, i)
                texts, videos = method.encode_text(batch.text), method.encode_video(batch.video)
                losses = method.compute_losses(texts, videos, batch.text.video_index)
                (torch.stack(list(losses.values())).sum() / batches).backward()
            found[f"{name} {batches}"] = {n: p.grad for n, p in method.named_parameters()}
    found["evaluations"] = evaluations(root, broken, 1)
    torch.save(found, out / "single.pt")


@pytest.fixture(scope="module")
def broken_root(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset with a test video that cannot be decoded."""
    root = tmp_path_factory.mktemp("broken") / "data"
    shutil.copytree(shapes_root, root)
    victim = (root / "MSRVTT_JSFUSION_test.csv").read_text().splitlines()[4].split(",")[2]
    (root / "videos" / f"{victim}.mp4").write_bytes(b"not a video")
    return root


@pytest.fixture(scope="module")
def found(
    shapes_root: Path, broken_root: Path, tmp_path_factory: pytest.TempPathFactory, run_alone: Any
) -> dict[str, Any]:
    """What two ranks and one process found."""
    out = tmp_path_factory.mktemp("found")
    run_alone([sys.executable, __file__, str(shapes_root), str(broken_root), str(out)], LIMIT_S)
    return {name: torch.load(out / f"{name}.pt", weights_only=False) for name in ("rank0", "rank1", "single")}


def gap(mine: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """The largest difference of a parameter's gradient, relative to it; rounding of gradients that are zero is none."""
    assert mine.keys() == reference.keys()
    rounding = 1e-6 * max(float(g.norm()) for g in reference.values())
    return max(float((mine[n] - g).norm() / g.norm().clamp(min=rounding)) for n, g in reference.items())


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize(
    "case",
    [
        *(f"clip4clip {how}" for how in ("equal", "unequal", "one empty", "chunked one empty")),
        *(f"tc_mgc {how}" for how in ("unequal", "chunked unequal", "chunked accumulated")),
        "tight unequal",
    ],
)
def test_gradients_are_those_of_one_process_with_the_joined_batch(found: dict[str, Any], case: str) -> None:
    name = case.partition(" ")[0]
    reference = found["single"][f"{name} {2 if 'accumulated' in case else 1}"]
    assert {n.partition(".")[0] for n in reference} >= {"encoder", "cross" if name == "tight" else "logit_scale"}
    for rank in ("rank0", "rank1"):
        assert gap(found[rank][case], reference) < 1e-6


def test_the_check_sees_a_gather_without_gradients(found: dict[str, Any]) -> None:
    wrong, reference = found["rank0"]["clip4clip wrong"], found["single"]["clip4clip 1"]
    assert gap(wrong, reference) > 0.1
    scale, projection = "logit_scale.log", "encoder.clip.visual.proj"
    torch.testing.assert_close(wrong[scale], reference[scale])  # it is the encoder that this scheme gets wrong, by 1/N
    torch.testing.assert_close(wrong[projection], reference[projection] / WORLD, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["clip4clip", "tc_mgc"])
def test_a_step_without_any_video_has_zero_gradients(found: dict[str, Any], name: str) -> None:
    for rank in ("rank0", "rank1"):
        assert all(bool((g == 0).all()) for g in found[rank][f"{name} all empty"].values())


@pytest.mark.parametrize("case", ["odd", "one batch", "many captions", "undecodable"])
def test_metrics_of_two_processes_are_those_of_one(found: dict[str, Any], case: str) -> None:
    reference = found["single"]["evaluations"][case]
    for rank in ("rank0", "rank1"):
        mine = found[rank]["evaluations"][case]
        for key in ("metrics", "intervals", "left_out", "undecodable", "logged"):
            assert mine[key] == reference[key], key
        for direction in ("t2v", "v2t"):
            assert torch.equal(mine["ranks"][direction], reference["ranks"][direction])
            for ours, theirs in zip(mine["top"][direction], reference["top"][direction], strict=True):
                assert torch.equal(ours, theirs)
        for ours, theirs in zip(mine["ids"], reference["ids"], strict=True):
            assert torch.equal(ours, theirs)
    counts = {"odd": (7, 7), "one batch": (8, 8), "many captions": (40, 4), "undecodable": (7, 7)}[case]
    assert tuple(len(ids) for ids in reference["ids"]) == counts
    assert len(reference["undecodable"]) == reference["left_out"] == (case == "undecodable")


def test_a_score_that_is_no_number_stops_every_rank_with_the_same_words(found: dict[str, Any]) -> None:
    reference = found["single"]["evaluations"]["error"]
    assert "CLIP4Clip scored text 7 with video 0 as nan" in reference
    assert {found[rank]["evaluations"]["error"] for rank in ("rank0", "rank1")} == {reference}


def test_shares_are_whole_blocks_and_none_is_twice() -> None:
    for length in (0, 1, 7, 8, 64, 65, 1000):
        for block in (1, 3, 64):
            for world in (1, 2, 3, 8):
                shares = [share(length, block, rank, world) for rank in range(world)]
                assert [i for rows in shares for i in rows] == list(range(length))
                assert all(rows.start % block == 0 for rows in shares if rows)
                blocks = [-(-len(rows) // block) for rows in shares]
                assert max(blocks) - min(blocks) <= 1


@pytest.mark.parametrize("name", ["fsdp", "deepspeed_stage_2", "fsdp_cpu_offload"])
def test_sharded_parameters_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=r"splits parameters into shards .* docs/training.md"):
        check_strategy(name)
    check_strategy("ddp")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_on_two_devices_is_the_run_on_one(shapes_root: Path, tmp_path: Path, run_alone: Any) -> None:
    settings = [a for a in smoke_arguments(ROOT / "experiments/clip4clip_shapes.yaml", shapes_root, tmp_path)
                if "fast_dev_run" not in a]  # fmt: skip
    settings += ["--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1", "--tracker=csv",
                 "--data.cache_frames=false", "--data.eval_batch_size=3"]  # fmt: skip
    for devices, size in ((1, 6), (2, 3)):
        run_alone(
            [sys.executable, "-m", "tvr_lightning", "fit", *settings, f"--trainer.devices={devices}",
             f"--data.batch_size={size}", f"--run_id=on{devices}"], 280,
        )  # fmt: skip
    one, two = (json.loads((tmp_path / f"clip4clip_shapes/on{n}/metrics.json").read_text()) for n in (1, 2))
    assert two["devices"] == 2
    assert {p.name for p in (tmp_path / "clip4clip_shapes").iterdir()} == {"on1", "on2"}
    a, b = (
        torch.load(tmp_path / f"clip4clip_shapes/on{n}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for n in (1, 2)
    )
    assert all((a[k] - b[k]).abs().max() < 1e-3 for k in a)
    assert two["data"] == one["data"]
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, rel=0.02), name


if __name__ == "__main__":
    folders = [Path(a) for a in sys.argv[1:4]]
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    torch.multiprocessing.start_processes(rank_main, (*folders, number), nprocs=WORLD, start_method="fork")
    single_main(*folders)
