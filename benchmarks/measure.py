"""What the benchmarks share: peak memory of a block, and results kept with command, date and machine."""

from __future__ import annotations

import ctypes
import json
import os
import platform
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


def write_results(name: str, command: str, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    """Keeps the rows of a benchmark as `results/NAME.json`."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    date = datetime.now(UTC).date().isoformat()
    content = {"command": command, "date": date, "machine": machine, **more, "rows": list(rows)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
