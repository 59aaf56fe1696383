"""What a GPU is kept busy with: training CLIP4Clip on MSR-VTT through the suite, and the same steps on batches at hand.

    python benchmarks/train_gpu.py [--workers 8] [--decoding] [--compile] [--json]

`clip4clip_msrvtt` (ViT-B/32, 12 frames, batch 128) with random weights, on generated clips of 320 x 240 and 10 s in
MSR-VTT's layout. The bare steps repeat one batch that lies on the device: forward, backward, clipping, fused AdamW. The
suite's are those of `tvr fit`'s trainer with its loaders and callbacks, with frames from the cache, with `--decoding`
while every video is decoded. Each figure is samples per second, first steps left out. `--compile` also times both with
the towers under torch.compile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from decode import write_scene
from measure import add_device, write_results
from train_step import StepTimes

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.encoders.compiling import compile_towers
from tvr_lightning.optim import build_optimizer
from tvr_lightning.run.build import build_cli
from tvr_lightning.run.reader import reader_of
from tvr_lightning.run.training import make_trainer
from tvr_lightning.synthetic.plan import plan_shapes

ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "experiments" / "clip4clip_msrvtt.yaml"
VIDEOS, SECONDS, COPIES, BATCH = 240, 10, 30, 128  # clips, their length, how often a caption stands in the lists
# past the batches that workers read ahead before the first step
STEPS = {"decoding": 30, "cached": 60, "compiled": 64, "bare": 14}
WARM = {"decoding": 26, "cached": 34, "compiled": 34, "bare": 4}


def make_videos(root: Path) -> None:
    """Generated clips in MSR-VTT's layout; many captions a video make an epoch long enough to measure in."""
    dataset = plan_shapes(VIDEOS, 0).dataset()
    videos = [replace(v, captions=v.captions * COPIES) if v.split == "train" else v for v in dataset.videos]
    reader = reader_of(EXPERIMENT, [f"--data.annotations.init_args.root={root}"])
    root.mkdir(parents=True)
    files = [root / place for place in reader.write_layout(root, replace(dataset, videos=tuple(videos)))]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(write_scene, files, [SECONDS] * len(files), range(len(files)), chunksize=4))


def arguments(root: Path, cache: Path, workers: int, kind: str) -> list[str]:
    """The experiment with random weights, cut to the steps that are measured."""
    return [
        *("--config", str(EXPERIMENT)), f"--data.annotations.init_args.root={root}", f"--data.cache_dir={cache}",
        f"--data.cache_frames={str(kind != 'decoding').lower()}", f"--data.num_workers={workers}", "--data.fps=null",
        f"--data.batch_size={BATCH}", "--model.encoder.from_pretrained=null", f"--trainer.max_steps={STEPS[kind]}",
        "--trainer.max_epochs=-1", "--trainer.enable_checkpointing=false", "--tracker=none",
        "--data.selection=last", f"--model.optimizer.compile_encoders={str(kind == 'compiled').lower()}",
    ]  # fmt: skip


def rate(ends: list[float], kind: str) -> float:
    """Samples per second of the steps after the first ones: of all together, since batches come in bursts."""
    measured = ends[WARM[kind] :]
    return BATCH * (len(measured) - 1) / (measured[-1] - measured[0])


class Steps(StepTimes):
    """Step times that the device has ended too: a queue of launches would hide what it waits for."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Notes the time at which the step before this one was done."""
        if torch.cuda.is_available():
            event = torch.cuda.Event()
            event.record()
            self.pending, ready = event, getattr(self, "pending", None)
            if ready is None:
                return
            ready.synchronize()
        super().on_train_batch_end()


def suite_rate(words: list[str], folder: Path, kind: str) -> float:
    """Through the suite's trainer."""
    cli = build_cli(read_arguments(words)[0])
    folder.mkdir()
    trainer = make_trainer(cli, "fit", folder)
    times = Steps()
    trainer.callbacks.append(times)  # type: ignore[attr-defined]
    trainer.fit(cli.model, cli.datamodule)
    return rate(times.ends, kind)


def bare_rates(words: list[str], device: torch.device, compiled: bool) -> dict[str, float]:
    """One batch that lies on the device, again and again, in the precision of the suite's run."""
    cli = build_cli(read_arguments(words)[0])
    model, data = cli.model.to(device).train(), cli.datamodule
    data.setup("fit")
    batch = next(iter(data.train_dataloader())).to(device)
    reduced = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    rates = {}
    forms = ["bare, AdamW not fused", "bare", "bare, channels last", *(["bare, compiled towers"] if compiled else [])]
    for form in forms:
        optimizer = build_optimizer(model, model.encoders, model.optimizer_options, fused="not fused" not in form)
        if "channels" in form:
            model.encoder.to(memory_format=torch.channels_last)
        if "compiled" in form:
            compile_towers(model.encoders)
        ends = []
        for _ in range(STEPS["bare"]):
            with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
                texts, videos = model.encode(batch)
                losses = model.compute_losses(texts, videos, batch.text.video_index)
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())
        rates[form] = rate(ends, "bare")
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=min(12, len(os.sched_getaffinity(0))))
    parser.add_argument("--decoding", action="store_true", help="time the suite while it decodes too, a minute more")
    parser.add_argument("--compile", action="store_true", help="time compiled towers too")
    parser.add_argument("--json", action="store_true", help="one object per row")
    add_device(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        began = time.perf_counter()
        make_videos(folder / "videos")
        print(f"videos: after {time.perf_counter() - began:.0f} s", file=sys.stderr)

        rates: dict[str, float] = {}
        for form, kind in (
            *([("suite, decoding", "decoding")] if options.decoding else []),
            ("suite, frames from the cache", "cached"),
            *([("suite, frames from the cache, compiled towers", "compiled")] if options.compile else []),
            ("bare", "bare"),
        ):
            words = arguments(folder / "videos", folder / "cache", options.workers, kind)
            if kind == "bare":
                rates |= bare_rates(words, device, options.compile)
            else:
                rates[form] = suite_rate(words, folder / kind, kind)
            print(f"{form}: {rates[form]:.0f} samples/s, after {time.perf_counter() - began:.0f} s", file=sys.stderr)
    rows = [
        {"form": form, "samples_per_s": round(value, 1), "share_of_bare": round(value / rates["bare"], 3)}
        for form, value in rates.items()
    ]
    for row in rows:
        print(json.dumps(row) if options.json else "  ".join(f"{k} {v}" for k, v in row.items()))
    of = {"workers": options.workers, "batch": BATCH, "frames": 12}
    write_results("train_gpu", "python benchmarks/train_gpu.py", rows, options.device, **of)


if __name__ == "__main__":
    main()
