"""Samples per second of decoding and of training on the embedded dataset.

    python benchmarks/throughput.py [--device cpu] [--root data/shapes] [--json]

Decoding: videos read by the training loader, with one and with two workers, against reading in the main process.
Training: `clip4clip_shapes` on decoded frames, seqTransf against meanP, so that both forms see the same machine state.
Every figure is the best of several repetitions, the forms taking turns; ratios are what counts on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from measure import WHOLE_CLIP, add_device, write_results

from tvr_lightning import load_experiment

ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "experiments" / "clip4clip_shapes.yaml"
REPEATS, STEPS = 3, 6


def decoding_rate(root: Path, workers: int) -> float:
    """Videos per second of one epoch without the frame cache, the start of the workers left out."""
    settings = [f"data.annotations.root={root}", f"data.num_workers={workers}", "data.cache_frames=false"]
    data = load_experiment(EXPERIMENT, [*settings, *WHOLE_CLIP, "data.batch_size=20"]).data
    data.setup("fit")
    batches = iter(data.train_dataloader())
    next(batches)
    began = time.perf_counter()
    count = sum(len(batch) for batch in batches if batch is not None)
    return count / (time.perf_counter() - began)


def training_rate(exp: Any, batch: Any) -> float:
    """Samples per second of forward, backward and optimiser on one batch, on the batch's device."""
    device = batch.text.tokens.device
    exp.model.to(device)
    optimizer = torch.optim.AdamW(exp.model.parameters(), lr=1e-4)
    exp.model.train()
    for step in range(STEPS + 1):
        if step == 1:
            wait(device)
            began = time.perf_counter()  # the first step warms up
        texts, videos = exp.model.encode_text(batch.text), exp.model.encode_video(batch.video)
        torch.stack(list(exp.model.compute_losses(texts, videos, batch.video.index).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    wait(device)
    return STEPS * len(batch) / (time.perf_counter() - began)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT / "data" / "shapes")
    parser.add_argument("--json", action="store_true", help="one object per row")
    add_device(parser)
    options = parser.parse_args()
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(REPEATS):
        for workers in (0, 1, 2):
            rates.setdefault(("decoding", f"{workers} workers"), []).append(decoding_rate(options.root, workers))
    data_root = f"data.annotations.root={options.root}"
    forms = {
        s: load_experiment(EXPERIMENT, [data_root, *WHOLE_CLIP, f"model.similarity={s}"])
        for s in ("meanP", "seqTransf")
    }
    data = forms["meanP"].data
    data.setup("fit")
    batch = next(iter(data.train_dataloader())).to(options.device)
    for _ in range(REPEATS):
        for name, exp in forms.items():
            rates.setdefault(("training", name), []).append(training_rate(exp, batch))
    rows = [
        {
            "part": part,
            "form": form,
            "samples_per_s": round(max(values), 1),
            "ratio": round(max(values) / max(next(v for k, v in rates.items() if k[0] == part)), 2),
            "frames": data.frames.num_frames,
            "size": data.frames.size,
            "batch": len(batch) if part == "training" else 20,
        }
        for (part, form), values in rates.items()
    ]
    for row in rows:
        print(json.dumps(row) if options.json else "  ".join(f"{k} {v}" for k, v in row.items()))
    write_results("throughput", "python benchmarks/throughput.py", rows, options.device)


if __name__ == "__main__":
    main()
