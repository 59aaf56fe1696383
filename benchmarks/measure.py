"""What the benchmarks share: the device, peak memory of a block, and results kept with command, date and machine."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

LIBC = ctypes.CDLL("libc.so.6")
RESULTS = Path(__file__).parent / "results"
# speed does not depend on weights, and what is measured is a CLIP that trains whole
WHOLE_CLIP = ("model.encoder.from_pretrained=null", "model.encoder.freeze_image=false")


class PeakMemory:
    """Peak memory in MiB that the block adds; Linux counts resident pages, a GPU its allocator's bytes."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.mib = 0.0

    def __enter__(self) -> PeakMemory:
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 2**20
        else:
            LIBC.malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
            self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else _status("VmHWM")
        self.mib = peak - self._before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the one device that a benchmark runs on: a GPU where there is one."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")


def card_of(name: str) -> str:
    """The model in a GPU's name, as files are called: `h100` of `NVIDIA H100 80GB HBM3`, `3090` of a GeForce RTX 3090.

    Raises:
        ValueError: the name has no number.
    """
    models = [word for word in re.split(r"[\s-]+", name.lower()) if re.search(r"\d", word)]
    if not models:
        raise ValueError(f"no model in the GPU's name '{name}'")
    return models[0]


def write_results(name: str, command: str, rows: Sequence[dict[str, Any]], device: str = "cpu", **more: Any) -> None:
    """Keeps the rows of a benchmark as `results/NAME.json`, those of a GPU as `results/NAME.CARD.json`."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    file = f"{name}.json"
    if device == "cuda":
        machine += f", {torch.cuda.get_device_name()}"
        file = f"{name}.{card_of(torch.cuda.get_device_name())}.json"
    date = datetime.now(UTC).date().isoformat()
    content = {"command": command, "date": date, "machine": machine, **more, "rows": list(rows)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / file).write_text(json.dumps(content, indent=1) + "\n")
