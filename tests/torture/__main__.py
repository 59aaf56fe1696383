"""Does to media, caches and runs what the world does to them, and counts what became of each.

    python -m tests.torture [--seed 0] [--rounds 2] [--kills 10] [--write docs/reliability.md]

The files are generated, all damage and every moment of a kill is drawn from the seed. A file must end as frames that a
plain decoder shows at the same times, or as a `DecodeError` that has its path; the check of a dataset must agree. A run
that is killed and goes on must end with the same weights, bit for bit. Exit code 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .damage import damages
from .judge import Verdict, in_order, judge_damaged, judge_refusal, judge_sound
from .kills import Training, kills
from .media import Clip, no_videos, sound_clips
from .table import Table
from .workers import Job, judged

SOUND, NONE, DAMAGED, KILLS = "Sound videos", "Files that are not videos", "Damaged videos", "Killed processes"
MARKS = "<!-- what make torture prints -->", "<!-- end of it -->"
LARGEST = 400_000  # bytes of a video that is worth damaging: of raw ones few bits mean anything
ROOT = Path(__file__).parents[2]


def main() -> int:
    """Runs it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2, help="of each damage to each video")
    parser.add_argument("--kills", type=int, default=10, help="of each kind")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the marks of a page")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    os.environ["SVT_LOG"] = "1"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tvr-torture-") as name:
        table = torture(Path(name), options.seed, options.rounds, options.kills, options.workers)
    minutes = (time.monotonic() - began) / 60
    print(table.markdown())
    print(f"{minutes:.1f} minutes", file=sys.stderr)
    for line in table.wrong:
        print(f"wrong: {line!r}", file=sys.stderr)
    if options.write:
        write(options.write, table.markdown())
    return 1 if table.wrong else 0


def torture(folder: Path, seed: int, rounds: int, num_kills: int, workers: int) -> Table:
    """Tries everything.

    Args:
        folder: empty, for the files.
        seed: of all draws.
        rounds: of each damage to each video.
        num_kills: of each kind.
        workers: processes at a time.
    """
    os.environ["XDG_CACHE_HOME"] = str(folder / "home")
    table = Table()
    for job, verdict in judged(media_jobs(folder, seed, rounds), workers):
        table.add(job.part, job.kind, verdict, job.what)
    stores = folder / "stores"
    stores.mkdir()
    store_jobs = (Job(KILLS, kind, what, judge) for kind, what, judge in kills(stores, seed, num_kills))
    for kind, what, judge in kills_of_trainings(folder, seed, num_kills):
        table.add(KILLS, kind, judge(), what)
    for job in store_jobs:
        table.add(job.part, job.kind, job.judge(), job.what)
    return table


def media_jobs(folder: Path, seed: int, rounds: int) -> Iterator[Job]:
    """Sound videos, then what is not a video, then damage to the sound ones."""
    for name in ("sound", "none", "damaged"):
        (folder / name).mkdir()
    clips: list[Clip] = []
    for clip in sound_clips(folder / "sound"):
        clips.append(clip)
        yield Job(SOUND, clip.kind, str(clip.path), partial(judge_sound, clip.path, clip.number))
    for clip in no_videos(folder / "none"):
        yield Job(NONE, clip.kind, str(clip.path), partial(judge_refusal, clip.path))
    for number, clip in enumerate(clips):
        content = clip.path.read_bytes()
        if clip.kind == "odd name" or len(content) > LARGEST:
            continue
        film = in_order(clip.path)
        for place, (kind, damaged) in enumerate(damages(content, f"{seed} {clip.path.name}", rounds)):
            path = folder / "damaged" / f"{number}-{place}{clip.path.suffix}"
            path.write_bytes(damaged)
            what = f"{clip.kind} ({clip.path.name}), seed {seed}, {path.name}"
            yield Job(DAMAGED, kind, what, partial(judge_damaged, path, film))


def kills_of_trainings(folder: Path, seed: int, rounds: int) -> Iterator[tuple[str, str, partial[Verdict]]]:
    """Trainings, each killed once or twice and gone on with."""
    from tvr_lightning.synthetic.shapes import make_shapes

    root = folder / "shapes"
    make_shapes(root, num_videos=24)
    training = Training(root, folder)
    training.whole()
    for number in range(rounds):
        yield (
            "killed while it trains, then --resume",
            f"seed {seed}, number {number}",
            partial(training.killed, number, seed),
        )


def write(page: Path, tables: str) -> None:
    """Puts the tables between the marks of a page."""
    text = page.read_text(encoding="utf-8")
    first, last = MARKS
    found = re.sub(
        f"(?<={re.escape(first)}\n).*(?={re.escape(last)})", lambda _: f"\n{tables}\n", text, flags=re.DOTALL
    )
    page.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
