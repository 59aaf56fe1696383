"""Runs experiments for two batches on tiny generated data, with tiny random encoders: does everything fit together?

Each experiment finds the generated videos in the layout of its own dataset, so that its reader runs too.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.config.arguments import TRUST, read_arguments
from tvr_lightning.config.compose import find_file, known_experiments
from tvr_lightning.config.objects import smallest_parts
from tvr_lightning.errors import TVRError
from tvr_lightning.run.reader import reader_of
from tvr_lightning.synthetic.shapes import export_shapes
from tvr_lightning.visible import say

NUM_VIDEOS = 24
BATCHES = 2


def smoke_arguments(file: Path, data_root: Path, runs_dir: Path, trust: bool = False) -> list[str]:
    """The arguments that shrink an experiment: generated videos, tiny encoders, two batches, CPU."""
    return [*small_arguments(file, data_root, runs_dir, trust), f"--trainer.fast_dev_run={BATCHES}"]


def small_arguments(file: Path, data_root: Path, runs_dir: Path, trust: bool = False) -> list[str]:
    """Those of them that leave a run its length: it keeps weights and results as any other."""
    named = [*("--config", str(file)), *([TRUST] if trust else [])]
    config, _ = read_arguments(named)
    return [
        *named,
        f"--data.annotations.init_args.root={data_root}",
        f"--runs_dir={runs_dir}",
        f"--data.cache_dir={runs_dir / 'cache'}",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        *smallest_parts(config),
        *(["--data.augment.every=1"] if config["data"].get("augment") else []),  # either batch may need the second view
        "--data.batch_size=4",
        "--data.num_workers=0",
    ]


def smoke_data(file: Path, folder: Path, num_videos: int = NUM_VIDEOS, trust: bool = False) -> Path:
    """Makes the generated dataset that an experiment can read, once for a reader and its settings; returns its root.

    Args:
        file: the experiment.
        folder: above the roots.
        num_videos: of all splits.
        trust: whether a run's configuration may import modules of the working directory.

    Raises:
        ConfigError: the experiment cannot be composed, or its reader has no `write_layout`.
    """
    trusted = [TRUST] if trust else []
    config, _ = read_arguments(["--config", str(file), *trusted])
    part = config["data"]["annotations"]
    if isinstance(part, dict):  # the same for every root, and whatever results call the dataset
        own = {name: x for name, x in (part.get("init_args") or {}).items() if name not in ("root", "name")}
        part = {**part, "init_args": own}
    key = hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
    root = folder / key[:16]
    if not root.exists():
        export_shapes(reader_of(file, [f"--data.annotations.init_args.root={root}", *trusted]), num_videos)
    return root


def smoke(names: Sequence[str], trust: bool = False) -> int:
    """Runs experiments, all when none is given; returns 1 when one fails.

    Args:
        names: names or files.
        trust: whether a run's configuration may import modules of the working directory.

    Raises:
        ConfigError: there is no such experiment.
    """
    files = {name: find_file(name) for name in names} or known_experiments()
    for file in files.values():
        read_arguments(
            ["--config", str(file), *([TRUST] if trust else [])]
        )  # all are said to be right before the first runs
    from tvr_lightning.run.training import run

    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tvr-smoke-") as temporary:
        root = Path(temporary)
        for name, file in files.items():
            began = time.monotonic()
            try:
                data = smoke_data(file, root / "data", trust=trust)
                config, _ = read_arguments(smoke_arguments(file, data, root / "runs", trust))
                if run("fit", config, kept=False) != 0:
                    raise KeyboardInterrupt  # a signal: the only other end of a run that is not an error
            except Exception as error:  # one broken experiment must not hide the next
                failed.append(name)
                if not isinstance(error, TVRError):
                    traceback.print_exc()
                say(f"smoke {name}: FAILED: {error}", file=sys.stderr)
            else:
                say(f"smoke {name}: ok, {time.monotonic() - began:.0f} s")
    say(f"smoke: {len(files) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0
