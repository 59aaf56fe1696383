"""Where a training step's time goes, and what the suite costs beside a bare PyTorch loop of the same model.

    python benchmarks/train_step.py [--device cpu] [--experiment clip4clip_shapes] [--root data/shapes] [--json]
                                    [--tracker wandb]

The bare loop (the same loader, model, optimiser, schedule and clipping, nothing else) and `tvr fit`'s trainer with all
its callbacks take turns; each time is the median step, the first steps of each turn left out. The split is the bare
loop's; on a GPU, where a call returns before its kernels end, that of a turn of its own whose parts wait for them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from measure import WHOLE_CLIP, add_device, write_results
from pytorch_lightning import Callback

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.optim import build_optimizer, build_schedule
from tvr_lightning.run.build import build_cli
from tvr_lightning.run.training import make_trainer

ROOT = Path(__file__).parents[1]
TURNS, STEPS, WARM = 3, 24, 6


class StepTimes(Callback):
    """Wall time from the end of one batch to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Notes the time."""
        self.ends.append(time.perf_counter())


def settings(options: argparse.Namespace, cache: Path) -> list[str]:
    """The experiment with decoded frames at hand, cut to the steps of a turn."""
    experiment = ["--config", str(ROOT / "experiments" / f"{options.experiment}.yaml")]
    has_clip = "encoder" in read_arguments(experiment)[0]["model"]["init_args"]
    return [
        *experiment, *(f"--{setting}" for setting in WHOLE_CLIP if has_clip),
        f"--data.annotations.root={options.root}", f"--data.cache_dir={cache}", "--data.cache_frames=true",
        f"--trainer.accelerator={'gpu' if options.device == 'cuda' else 'cpu'}", f"--trainer.max_steps={STEPS}",
        "--trainer.max_epochs=-1", "--trainer.check_val_every_n_epoch=1000000",
        "--trainer.enable_checkpointing=false", f"--tracker={options.tracker}",
    ]  # fmt: skip


def suite_steps(arguments: list[str], folder: Path) -> list[float]:
    """Step times through the suite's trainer."""
    cli = build_cli(read_arguments(arguments)[0])
    trainer = make_trainer(cli, "fit", folder)
    times = StepTimes()
    trainer.callbacks.append(times)  # type: ignore[attr-defined]
    trainer.fit(cli.model, cli.datamodule)
    return [b - a for a, b in zip(times.ends[WARM:], times.ends[WARM + 1 :], strict=False)]


def bare_steps(
    arguments: list[str], device: torch.device, apart: bool = False
) -> tuple[list[float], dict[str, list[float]]]:
    """Step times of the bare loop, and their parts; `apart` waits for the device between them."""
    cli = build_cli(read_arguments(arguments)[0])
    model, data = cli.model.to(device), cli.datamodule
    data.setup("fit")

    def now() -> float:
        if apart and device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    optimizer = build_optimizer(model, model.encoders, model.optimizer_options, True)
    schedule = build_schedule(optimizer, STEPS, model.optimizer_options)
    loader = data.train_dataloader()
    model.train()
    ends, parts = [], defaultdict(list)
    step, epoch = 0, 0
    while step < STEPS:
        loader.sampler.set_epoch(epoch)
        batches = iter(loader)
        while step < STEPS:
            marks = [now()]
            batch = next(batches, None)
            batch = batch if batch is None else batch.to(device, non_blocking=True)
            marks.append(now())
            if batch is None:
                break
            texts, videos = model.encode_text(batch.text), model.encode_video(batch.video)
            marks.append(now())
            losses = model.compute_losses(texts, videos, batch.text.video_index)
            loss = torch.stack(list(losses.values())).sum()
            marks.append(now())
            optimizer.zero_grad()
            loss.backward()
            marks.append(now())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            model.on_train_batch_end(None, batch, step)
            marks.append(now())
            ends.append(marks[-1])
            if step >= WARM:
                names = ("data", "encoders", "head and loss", "backward", "clipping and optimiser")
                for name, a, b in zip(names, marks, marks[1:], strict=False):
                    parts[name].append(b - a)
            step += 1
        epoch += 1
    return [b - a for a, b in zip(ends[WARM:], ends[WARM + 1 :], strict=False)], parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="clip4clip_shapes")
    parser.add_argument("--root", type=Path, default=ROOT / "data" / "shapes")
    parser.add_argument("--tracker", default="wandb", choices=("wandb", "tensorboard", "csv", "none"))
    parser.add_argument("--json", action="store_true", help="one object per row")
    add_device(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    os.environ["WANDB_MODE"] = "offline"
    suite: list[float] = []
    bare: list[float] = []
    parts: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        arguments = settings(options, Path(folder) / "cache")
        bare_steps(arguments, device)  # fills the frame cache
        for turn in range(TURNS):
            run = Path(folder) / f"run{turn}"
            run.mkdir()
            suite += suite_steps(arguments, run)
            steps, split = bare_steps(arguments, device)
            bare += steps
            if device.type == "cuda":
                split = bare_steps(arguments, device, apart=True)[1]
            for name, values in split.items():
                parts[name] += values
    whole = statistics.median(bare)
    rows: list[dict[str, Any]] = [
        {"part": name, "ms": round(1e3 * statistics.median(v), 2), "share": round(statistics.median(v) / whole, 4)}
        for name, v in parts.items()
    ]
    overhead = statistics.median(suite) / whole - 1
    rows += [
        {"part": "bare loop", "ms": round(1e3 * whole, 2), "share": 1.0},
        {"part": "suite", "ms": round(1e3 * statistics.median(suite), 2), "share": round(1 + overhead, 4)},
        {"part": "suite's overhead (logging, callbacks, trainer)", "ms": round(1e3 * overhead * whole, 2),
         "share": round(overhead, 4)},
    ]  # fmt: skip
    for row in rows:
        print(
            json.dumps(row) if options.json else f"{row['part']:<48} {row['ms']:>9.2f} ms {100 * row['share']:>7.1f} %"
        )
    of = {"experiment": options.experiment, "tracker": options.tracker}
    write_results("train_step", "python benchmarks/train_step.py", rows, options.device, **of)


if __name__ == "__main__":
    main()
