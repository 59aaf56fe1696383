"""Peak memory of a training step against batch size, with and without gradient checkpointing and loss_chunk.

    python benchmarks/memory.py [--device cpu] [--json]

CLIP4Clip (seqTransf) on ViT-B-32 with random weights, AdamW. A figure is what the step adds to weights and optimiser
state (which are given apart), gradients among it: on the CPU resident memory, on a GPU the allocator's. A GPU computes
in bf16-mixed, 12 frames a video; a CPU small batches of 2 frames in float32: not every processor multiplies bf16.
"""

from __future__ import annotations

import argparse
import json
import time
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

WORDS = 32


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


SIZES = {"cpu": Sizes((4, 8, 16), 2, 4), "cuda": Sizes((16, 32, 64, 128), 12, 16)}


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


def measure(device: str) -> list[dict[str, Any]]:
    """One row for each way and batch size; a GPU that is too small for one says so."""
    sizes = SIZES[device]
    torch.manual_seed(0)
    encoder = CLIPEncoder("ViT-B-32", context_length=WORDS)
    model = CLIP4Clip(encoder).to(device).train()
    optimizer = build_optimizer(model, model.encoders, model.optimizer_options, fused=device == "cpu")
    whole = model.optimizer_options
    step(model, optimizer, random_batch(2, sizes.frames, model.image_size, device), device)
    numbers = sum(p.numel() for p in model.parameters())
    fixed = round(numbers * 12 / 2**20)  # float32 weights and Adam's two averages
    rows = []
    for checkpointing in (False, True):
        encoder.clip.set_grad_checkpointing(checkpointing)
        for chunk in (None, sizes.chunk):
            model.optimizer_options = replace(whole, loss_chunk=chunk)
            for count in sizes.batches:
                batch = random_batch(count, sizes.frames, model.image_size, device)
                try:
                    with PeakMemory(device) as memory:
                        began = time.perf_counter()
                        step(model, optimizer, batch, device)
                        seconds = time.perf_counter() - began
                except torch.cuda.OutOfMemoryError:
                    added = pairs_per_s = None
                    optimizer.zero_grad()
                else:
                    added, pairs_per_s = round(memory.mib), round(count / seconds, 2)
                rows.append(
                    {
                        "device": device, "precision": "bf16-mixed" if device == "cuda" else "32-true",
                        "gradient_checkpointing": checkpointing, "loss_chunk": chunk, "batch": count,
                        "frames": sizes.frames, "added_mib": added, "fixed_mib": fixed, "pairs_per_s": pairs_per_s,
                    }
                )  # fmt: skip
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    table = Table(caption="added: peak of a step above weights and optimiser state (fixed)")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        values = (
            "out of memory" if k == "added_mib" and v is None else "-" if v is None else v for k, v in row.items()
        )
        table.add_row(*map(str, values))
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object per row")
    add_device(parser)
    options = parser.parse_args()
    rows = measure(options.device)
    if options.json:
        for row in rows:
            print(json.dumps(row))
    else:
        print_table(rows)
    write_results("memory", "python benchmarks/memory.py", rows, options.device, method="CLIP4Clip seqTransf, ViT-B-32")


if __name__ == "__main__":
    main()
