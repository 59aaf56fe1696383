"""`tvr index`: videos encoded once, to be searched."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tvr_lightning.commands.parser import Parser, add_trust, filled
from tvr_lightning.visible import say

OVERVIEW = """\
  index     encode a folder of videos             tvr index runs/clip4clip_shapes/RUN ~/videos videos.index
"""
NAMED = 5  # unreadable files on the terminal; index.json lists all


def main(words: Sequence[str]) -> int:
    """Makes an index or brings it up to date; returns the exit code."""
    parser = Parser(
        "tvr index",
        description="Encode videos with a trained run, for `tvr search` and `tvr serve`. Run the "
        "same command again to update the index: unchanged videos are not encoded again.",
    )
    parser.add_argument(
        "run", type=filled, help="a run's folder, one of its checkpoints, or an experiment that trains nothing"
    )
    parser.add_argument("videos", type=Path, help="a folder of videos, or a text file that lists them, one per line")
    parser.add_argument("index", type=Path, help="the index's folder")
    parser.add_argument(
        "--window",
        type=float,
        default=10.0,
        help="seconds; longer videos are cut into windows of this length (default: 10; 0: never)",
    )
    parser.add_argument("--stride", type=float, help="seconds between the starts of windows (default: half a window)")
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="of features on disk; float16 halves them"
    )
    parser.add_argument(
        "--index", dest="vectors", type=filled, metavar="PLACE",
        help="keep vectors in Milvus: milvus://HOST:19530/COLLECTION, or a local file such as clips.db",
    )  # fmt: skip
    parser.add_argument(
        "--forget", action="store_true",
        help="allow removing most videos of the index, or indexing another folder; otherwise both are refused",
    )  # fmt: skip
    parser.add_argument("--batch_size", type=int, help="windows encoded together (default: the run's eval_batch_size)")
    parser.add_argument("--workers", type=int, help="processes that decode (default: the run's)")
    parser.add_argument(
        "--device", type=filled, help="where to encode, e.g. cpu or cuda:1 (default: a GPU if there is one)"
    )
    add_trust(parser)
    options = parser.parse_args(words[1:])
    from tvr_lightning.search.videos import check_windows

    window, stride = check_windows(options.window, options.stride)
    from tvr_lightning.search.vectors import check_place

    check_place(options.vectors)
    from tvr_lightning.search.videos import list_videos

    list_videos(options.videos)  # before weights are loaded
    from tvr_lightning.search.origin import names_run

    names_run(options.run)
    from tvr_lightning.search.builder import build_index, joined_ranks
    from tvr_lightning.search.plan import IndexOptions
    from tvr_lightning.search.source import load_source, source_of

    with joined_ranks() as rank:
        run = load_source(options.run, options.device, options.trust)
        run.data.change_loading(options.batch_size, options.workers)
        source = source_of(run, options.run)
        how = IndexOptions(window, stride, options.dtype, options.vectors, options.forget)
        built = build_index(run, source, options.videos, options.index, how)
    if rank:
        return 0
    if built.unreadable:
        count = len(built.unreadable)
        say(f"tvr: cannot be read, in whole or in part: {count} video{'s' * (count > 1)}", file=sys.stderr)
        for entry in built.unreadable[:NAMED]:
            say(f"  {entry.reason}", file=sys.stderr)
        if len(built.unreadable) > NAMED:
            say(f"  and {len(built.unreadable) - NAMED} more; {options.index}/index.json lists them", file=sys.stderr)
    facts = [f"{built.videos:,} videos, {built.windows:,} windows", f"{built.added:,} encoded now"]
    facts += [f"{count:,} {what}" for count, what in (
        (built.moved, "found under another name"), (built.removed, "gone"), (len(built.unreadable), "unreadable"),
        (built.others, "not videos by their names"), (built.repeats, "named twice"),
        (built.copies, "with the content of another"),
    ) if count]  # fmt: skip
    say(f"{options.index}: {'; '.join(facts)}")
    return 0
