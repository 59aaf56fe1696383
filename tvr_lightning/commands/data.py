"""`tvr data`: make, check, compress and describe datasets."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_lightning.commands.parser import Parser
from tvr_lightning.commands.tables import print_wide
from tvr_lightning.errors import ConfigError, RunError, nearest
from tvr_lightning.visible import say

if TYPE_CHECKING:
    from rich.table import Table

    from tvr_lightning.data.tools.check import Check
    from tvr_lightning.data.tools.stats import SplitStatistics

OVERVIEW = """\
  data      make the embedded dataset             tvr data shapes
            say what a dataset lacks              tvr data check --config experiments/X.yaml
            compress videos, describe a dataset   tvr data compress SRC DST, tvr data stats --config experiments/X.yaml
"""
SHOWN = 5  # how many entries of a list are printed before the rest is counted
_OVERRIDES = "Settings may follow, e.g. --data.annotations.root=/videos/msvd."


def main(words: Sequence[str]) -> int:
    """Runs `tvr data ...`; returns the exit code, 1 also for a dataset that is incomplete or a video that failed."""
    parser = Parser("tvr data", description="Datasets.")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(
        name: str, function: Callable[[argparse.Namespace], int], text: str, **more: Any
    ) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, **more)
        command.set_defaults(function=function)
        return command

    shapes = add("shapes", _shapes, "make the embedded dataset, unless it exists and is current")
    shapes.add_argument(
        "--root", type=Path, default=Path("data/shapes"), help="the dataset's folder (default: data/shapes)"
    )
    shapes.add_argument("--num_videos", type=int, default=2700, help="videos of all splits (default: 2700)")
    shapes.add_argument("--seed", type=int, default=0)

    check = add("check", _check, "say what an experiment's dataset lacks, before training does", epilog=_OVERRIDES)
    check.add_argument("--config", type=Path, required=True, help="an experiment: experiments/NAME.yaml")
    check.add_argument("--split", choices=("all", "train", "validation", "test"), default="all")
    check.add_argument("--full", action="store_true", help="decode every frame, not only the first")
    check.add_argument("--out", type=Path, help="also write the complete lists to this folder, as JSON")

    stats = add("stats", _stats, "captions, words, durations and labels per video: a table and plots",
                epilog=_OVERRIDES)  # fmt: skip
    stats.add_argument("--config", type=Path, required=True, help="an experiment: experiments/NAME.yaml")
    stats.add_argument("--out", type=Path, help="folder of the plots (default: runs/data-stats/DATASET)")

    compress = add("compress", _compress, "copy videos at a lower frame rate and size; the source stays as it is")
    compress.add_argument("source", type=Path, metavar="SRC", help="folder of videos")
    compress.add_argument("destination", type=Path, metavar="DST", help="folder of the copies, with the same ids")
    compress.add_argument("--fps", type=float, default=3.0, help="frames per second (default: 3)")
    compress.add_argument("--short-side", type=int, default=224, help="pixels (default: 224)")

    for command in (check, stats, compress):
        command.add_argument("--workers", type=int, help="processes (default: one per core)")

    export = add("export-shapes", _export, "make a small embedded dataset in another dataset's layout")
    export.add_argument("root", type=Path, metavar="ROOT", help="where it goes")
    export.add_argument(
        "--layout", required=True, metavar="READER", help="a reader's name, e.g. MSVD, or its class path: mymodule.Foo"
    )
    export.add_argument("--num_videos", type=int, default=24, help="videos of all splits (default: 24)")
    export.add_argument("--seed", type=int, default=0)

    options, settings = parser.parse_known_args(words[1:])
    options.settings = settings
    if options.settings and options.function not in (_check, _stats):
        parser.error(f"unrecognized arguments: {' '.join(options.settings)}")
    return int(options.function(options))


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}. Choose another folder with --out.") from error
    return folder


def _shapes(options: argparse.Namespace) -> int:
    from tvr_lightning.synthetic.shapes import make_shapes

    made = make_shapes(options.root, options.num_videos, options.seed)
    counts = ", ".join(f"{count} {split}" for split, count in made.splits.items())
    how = f"made in {made.seconds:.0f} s, {made.megabytes:.0f} MB" if made.created else "already there"
    say(f"shapes in {made.root}: {counts} videos ({how})")
    return 0


def _export(options: argparse.Namespace) -> int:
    from tvr_lightning.config.objects import build_reader
    from tvr_lightning.run.reader import known_readers
    from tvr_lightning.synthetic.shapes import export_shapes

    class_path = options.layout
    if "." not in class_path:
        known = {path.rpartition(".")[2].lower(): path for path in known_readers()}
        if class_path.lower() not in known:
            raise ConfigError(f"no reader '{class_path}'; {nearest(class_path.lower(), known)}")
        class_path = known[class_path.lower()]
    reader = build_reader({"class_path": class_path, "init_args": {"root": str(options.root)}})
    export_shapes(reader, options.num_videos, options.seed)
    counts = ", ".join(f"{len(reader.load(split))} {split}" for split in reader.splits)
    say(f"shapes as {reader.name} in {options.root}: {counts}")
    return 0


def _compress(options: argparse.Namespace) -> int:
    from tvr_lightning.data.tools.compress import compress

    done = compress(options.source, options.destination, options.fps, options.short_side, options.workers)
    size = f" ({done.source_bytes / 1e6:,.1f} MB became {done.made_bytes / 1e6:,.1f} MB)" if done.made else ""
    say(f"{options.destination}: {done.made:,} made{size}, {done.skipped:,} were there, {len(done.failed):,} failed")
    if done.ignored:
        say(f"{len(done.ignored):,} files are not videos by their names: {', '.join(done.ignored[:SHOWN])}")
    for what, files in (("copied despite damage", done.patched), ("FAILED", done.failed)):
        for name, reason in files.items():
            say(f"{what}: {name}: {reason}", file=sys.stderr)
    return 1 if done.failed else 0


def _check(options: argparse.Namespace) -> int:
    from tvr_lightning.data.stores.files import write_json
    from tvr_lightning.data.tools.check import check_dataset
    from tvr_lightning.run.reader import data_of

    reader, data = data_of(options.config, options.settings)
    splits = () if options.split == "all" else (options.split,)
    gallery = {name: Path(data[name]) for name in ("distractors", "relevance") if data.get(name) is not None}
    check = check_dataset(reader, splits, options.full, options.workers, **gallery)
    for name in ("frame_folders", "frame_features"):
        if data.get(name) is not None:
            check.notes.append(f"training reads data.{name} instead of videos; this command looked at the videos")
    if options.out:
        folder = _made(options.out)
        summary = {"dataset": check.dataset, "full": options.full, "splits": [asdict(split) for split in check.splits]}
        for name, content in {"summary": summary, **check.lists}.items():
            write_json(folder / f"{name}.json", content)
    print_wide(_check_table(check))
    for note in check.notes:
        say(f"note: {note}")
    for kind, entries in check.lists.items():
        if entries:
            say(f"\n{kind.replace('_', ' ')} ({len(entries):,}):")
            shown = [_entry(kind, entry) for entry in entries[:SHOWN]]
            say("\n".join(f"  {text}" for text in shown))
            if len(entries) > SHOWN:
                where = f"see {options.out / kind}.json" if options.out else "--out FOLDER writes them all"
                say(f"  and {len(entries) - SHOWN:,} more, {where}")
    rate = f", {check.files / check.seconds:,.0f} a second" if check.seconds else ""
    lists = f"; lists in {options.out}" if options.out else ""
    say(f"\n{check.files:,} files looked at in {check.seconds:.1f} s{rate}{lists}")
    incomplete = [split.name for split in check.splits if not split.complete]
    say(
        f"INCOMPLETE: {', '.join(incomplete)}" if incomplete else "complete: " + ", ".join(s.name for s in check.splits)
    )
    return 1 if incomplete else 0


def _entry(kind: str, entry: dict[str, Any]) -> str:
    match kind:
        case "missing":
            hint = f"; similar: {', '.join(entry['similar'])}" if entry["similar"] else ""
            return f"{entry['split']} {entry['id']}: no {entry['file']}{hint}"
        case "duplicates":
            videos = ", ".join(f"{v['split']} {v['id']}" for v in entry["videos"])
            return f"{videos}: " + " = ".join(entry["files"])
        case "in_training" | "repeats":
            return f"{entry['split']} {entry['id']} = {entry['same_as']}"
        case "unlisted":
            return str(entry["file"])
        case "errors":
            return f"{entry['split']}: {entry['reason']}"
        case _:
            return f"{entry['split']} {entry['id']}: {entry.get('reason', entry['file'])}"


def _check_table(check: Check) -> Table:
    from rich.table import Table

    columns = (
        "listed",
        "found",
        "missing",
        "undecodable",
        "damaged",
        "without_captions",
        "in_training",
        "repeats",
        "duplicates",
    )
    table = Table("split", title=check.dataset, caption=f"{len(check.lists['unlisted']):,} files that no id names")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for split in check.splits:
        cells = ["?" if split.error else f"{getattr(split, column):,}" for column in columns]
        table.add_row(split.name, *cells, style=None if split.complete else "bold red")
    return table


def _stats(options: argparse.Namespace) -> int:
    from tvr_lightning.data.stores.files import atomic_write, write_json
    from tvr_lightning.data.tools.stats import describe_dataset, draw_histograms
    from tvr_lightning.run.reader import reader_of

    reader = reader_of(options.config, options.settings)
    splits = describe_dataset(reader, options.workers)
    dataset = f"{reader.name} ({reader.protocol})"
    folder = _made(options.out or Path("runs", "data-stats", re.sub(r"[^A-Za-z0-9.-]+", "_", dataset).strip("_.")))
    write_json(folder / "statistics.json", {"dataset": dataset, "splits": [split.summary() for split in splits]})
    for name, figure in draw_histograms(dataset, splits).items():
        with atomic_write(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png")
    print_wide(_stats_table(dataset, splits))
    say(f"plots in {folder}")
    return 0


def _stats_table(dataset: str, splits: Sequence[SplitStatistics]) -> Table:
    from rich.table import Table

    table = Table("split", title=dataset, caption="per video or caption: mean, then least to most")
    names = ("videos", "missing", "unreadable", "captions", "captions / video", "words / caption", "seconds", "hours",
             "labels / video")  # fmt: skip
    for name in names:
        table.add_column(name, justify="right")
    for split in splits:
        summary = split.summary()

        def spread(name: str, digits: int = 1, summary: dict[str, Any] = summary) -> str:
            figures = summary.get(name)
            if figures is None:
                return "-"
            ends = f"{figures['min']:,.{digits}f} to {figures['max']:,.{digits}f}"
            return f"{figures['mean']:,.1f} ({ends})"

        hours = f"{summary['duration']['sum'] / 3600:,.2f}" if "duration" in summary else "-"
        counts = [f"{summary[name]:,}" for name in names[:4]]
        per_video = spread("captions_per_video", 0), spread("words_per_caption", 0), spread("duration")
        table.add_row(split.name, *counts, *per_video, hours, spread("labels_per_video", 0))
    return table
