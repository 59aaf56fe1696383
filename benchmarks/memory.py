"""Memory of a training step, with and without gradient checkpointing and loss_chunk.

    python benchmarks/memory.py [--device cpu] [--json]

CLIP4Clip (seqTransf) with random weights and AdamW. On a CPU: ViT-B-32, small batches of 2 frames in float32; a figure
is what the first step adds to weights and optimiser state, gradients among it, as resident memory. On a GPU: 128 videos
of 12 frames, bf16-mixed, ViT-B-32 and ViT-B-16; a figure is the peak of the whole process's tensors, weights and
optimiser state among it, over steps after the first, and what torch has reserved for them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from measure import PeakMemory, add_device, write_results
from rich.console import Console
from rich.table import Table

from tvr_lightning.encoders import CLIPEncoder
from tvr_lightning.methods.clip4clip import CLIP4Clip
from tvr_lightning.optim import build_optimizer
from tvr_lightning.types import TextInput, VideoInput, VideoTextBatch

WORDS, STEPS = 32, 3


@dataclass(frozen=True)
class Sizes:
    """What is measured on a kind of device.

    Attributes:
        batches: pairs of a step.
        frames: n.
        chunk: pairs of a chunk.
    """

    batches: tuple[int, ...]
    frames: int
    chunk: int


CPU = Sizes((4, 8, 16), 2, 4)
GPU = Sizes((128,), 12, 16)
GPU_MODELS = ("ViT-B-32", "ViT-B-16")
CARDS_GB = (16, 24, 32, 40, 80)
CONTEXT_GIB = 0.6  # what CUDA itself takes of a card


def random_batch(count: int, frames: int, size: int, device: str) -> VideoTextBatch:
    """Pairs of full length: the dearest case."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 400, (count, WORDS), generator=generator)
    tokens[:, -1] = 49407
    pixels = torch.randint(0, 256, (count, frames, 3, size, size), generator=generator, dtype=torch.uint8)
    index = torch.arange(count)
    text = TextInput(tokens, torch.ones(count, WORDS, dtype=torch.bool), index, index)
    return VideoTextBatch(text, VideoInput(pixels, torch.ones(count, frames, dtype=torch.bool), index)).to(device)


def step(model: CLIP4Clip, optimizer: torch.optim.Optimizer, batch: VideoTextBatch, device: str) -> None:
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        losses = model.compute_losses(*model.encode(batch), batch.text.video_index)
        loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if device == "cuda":
        torch.cuda.synchronize()


def build(model: str, device: str) -> tuple[CLIPEncoder, CLIP4Clip, torch.optim.Optimizer]:
    torch.manual_seed(0)
    encoder = CLIPEncoder(model, context_length=WORDS)
    method = CLIP4Clip(encoder).to(device).train()
    return encoder, method, build_optimizer(method, method.encoders, method.optimizer_options, fused=device == "cpu")


def ways(encoder: CLIPEncoder, method: CLIP4Clip, sizes: Sizes) -> Iterator[tuple[bool, int | None]]:
    """Sets each way of saving memory, and says which."""
    whole = method.optimizer_options
    for checkpointing in (False, True):
        encoder.clip.set_grad_checkpointing(checkpointing)
        for chunk in (None, sizes.chunk):
            method.optimizer_options = replace(whole, loss_chunk=chunk)
            yield checkpointing, chunk


def measure_cpu() -> list[dict[str, Any]]:
    """One row for each way and batch size."""
    encoder, method, optimizer = build("ViT-B-32", "cpu")
    step(method, optimizer, random_batch(2, CPU.frames, method.image_size, "cpu"), "cpu")
    numbers = sum(p.numel() for p in method.parameters())
    fixed = round(numbers * 12 / 2**20)  # float32 weights and Adam's two averages
    rows = []
    for checkpointing, chunk in ways(encoder, method, CPU):
        for count in CPU.batches:
            batch = random_batch(count, CPU.frames, method.image_size, "cpu")
            with PeakMemory("cpu") as memory:
                began = time.perf_counter()
                step(method, optimizer, batch, "cpu")
                seconds = time.perf_counter() - began
            rows.append(
                {
                    "model": "ViT-B-32", "precision": "32-true", "gradient_checkpointing": checkpointing,
                    "loss_chunk": chunk, "batch": count, "frames": CPU.frames, "added_mib": round(memory.mib),
                    "fixed_mib": fixed, "pairs_per_s": round(count / seconds, 2),
                }
            )  # fmt: skip
    return rows


def measure_gpu() -> list[dict[str, Any]]:
    """One row for each model and way; a GPU that is too small for one says so."""
    rows = []
    for model in GPU_MODELS:
        encoder, method, optimizer = build(model, "cuda")
        batch = random_batch(GPU.batches[0], GPU.frames, method.image_size, "cuda")
        for checkpointing, chunk in ways(encoder, method, GPU):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            row: dict[str, Any] = {
                "model": model, "precision": "bf16-mixed", "gradient_checkpointing": checkpointing,
                "loss_chunk": chunk, "batch": GPU.batches[0], "frames": GPU.frames,
            }  # fmt: skip
            try:
                times = []
                for _ in range(STEPS):
                    began = time.perf_counter()
                    step(method, optimizer, batch, "cuda")
                    times.append(time.perf_counter() - began)
            except torch.cuda.OutOfMemoryError:
                optimizer.zero_grad()
                row |= {"allocated_gib": None, "reserved_gib": None, "pairs_per_s": None, "fits_gb": []}
            else:
                allocated, reserved = (
                    x / 2**30 for x in (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
                )
                row |= {
                    "allocated_gib": round(allocated, 2), "reserved_gib": round(reserved, 2),
                    "pairs_per_s": round(GPU.batches[0] / min(times), 1),
                    "fits_gb": [gb for gb in CARDS_GB if reserved + CONTEXT_GIB < gb * 1e9 / 2**30],
                }  # fmt: skip
            rows.append(row)
        del encoder, method, optimizer, batch
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    table = Table()
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        values = (
            "out of memory" if k == "allocated_gib" and v is None else "-" if v is None else v for k, v in row.items()
        )
        table.add_row(*map(str, values))
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object per row")
    add_device(parser)
    options = parser.parse_args()
    rows = measure_cpu() if options.device == "cpu" else measure_gpu()
    if options.json:
        for row in rows:
            print(json.dumps(row))
    else:
        print_table(rows)
    write_results("memory", "python benchmarks/memory.py", rows, options.device, method="CLIP4Clip seqTransf")


if __name__ == "__main__":
    main()
