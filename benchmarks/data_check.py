"""Files per second of `tvr data check` on generated clips.

    python benchmarks/data_check.py [--num_videos 1000] [--json]

The clips are small (96 px, 3 to 5 s), so this is the cost of opening, deciding and handing over; longer and larger
videos add their decoder's time, and reading them the disk's. The start of the worker processes is included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import av

from tvr_lightning.data.tools.check import check_dataset
from tvr_lightning.synthetic.shapes import make_shapes

REPEATS = 3
FORMS = [("first frame", False, 1), ("first frame", False, 2), ("every frame", True, 1), ("every frame", True, 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_videos", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="one object per row")
    options = parser.parse_args()
    # late, because it imports torch: worker processes read this file's head again
    from tvr_lightning.data.annotations.msrvtt import MSRVTT

    seconds: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="tvr-bench-") as folder:
        make_shapes(Path(folder, "shapes"), options.num_videos)
        for _ in range(REPEATS):
            for name, full, workers in FORMS:
                check = check_dataset(MSRVTT(Path(folder, "shapes")), full=full, workers=workers)
                if not check.complete or check.files != options.num_videos:
                    raise SystemExit(f"the check of sound clips says {check.splits}")
                seconds.setdefault((name, workers), []).append(check.seconds)
    rows = [
        {
            "part": name,
            "workers": workers,
            "files_per_s": round(options.num_videos / min(values)),
            "minutes_per_10k": round(10_000 / options.num_videos * min(values) / 60, 2),
            "files": options.num_videos,
        }
        for (name, workers), values in seconds.items()
    ]
    for row in rows:
        print(json.dumps(row) if options.json else "  ".join(f"{k} {v}" for k, v in row.items()))
    content = {
        "command": "python benchmarks/data_check.py",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, PyAV {av.__version__}",
        "rows": rows,
    }
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "data_check.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
