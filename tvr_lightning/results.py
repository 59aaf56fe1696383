"""What a run leaves behind, and reading it back: folders, metrics, per-query ranks, tables."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_lightning.errors import RunError, nearest

if TYPE_CHECKING:
    from rich.table import Table

    from tvr_lightning.data.datamodule import Split
    from tvr_lightning.evaluation import EvaluationResult

METRICS, RANKS, CONFIG, CHECKPOINTS = "metrics.json", "ranks.parquet", "config.yaml", "checkpoints"
PREDICTIONS = "predictions.parquet"
SHOWN = ("R@1", "R@5", "R@10", "MdR", "MnR")
REQUIRED = {
    "experiment",
    "dataset",
    "split",
    "seed",
    "metrics",
    "intervals",
    "data",
    "selected_on_test",
    "partial",
    "v2t",
}


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; it replaces `path` when the block ends well, else nothing is left.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}. What was there before is untouched.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}. What was there before is untouched.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically; a number that is not finite is refused."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_ranks(path: Path, result: EvaluationResult, split: Split) -> None:
    """Writes one row per query: ids, rank with its ties, and the ten best items with their scores.

    The items of a video are captions, whatever the protocol of its rank: over `sets` the rank counts videos' captions
    as one item each.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    videos = [split.records[i].video_id for i in result.video_ids.tolist()]
    video_name = {i: split.records[i].video_id for i in result.video_ids.tolist()}
    caption_name = {i: caption_id(split, i) for i in result.caption_ids.tolist()}
    captions = list(caption_name.values())
    tables = []
    for direction, queries, items in (("t2v", captions, video_name), ("v2t", videos, caption_name)):
        ranks = getattr(result.ranks, direction)
        scores, ids = result.top[direction]
        rows = ranks.query.tolist()
        tables.append(
            pa.table(
                {
                    "direction": [direction] * len(rows),
                    "query": [queries[r] for r in rows],
                    "video": [videos[v] for v in ranks.video.tolist()],
                    "rank": ranks.expected_rank.tolist(),
                    "greater": ranks.greater.tolist(),
                    "tied_other": ranks.tied_other.tolist(),
                    "tied_own": ranks.tied_own.tolist(),
                    "average_precision": ranks.average_precision.tolist(),
                    "top_ids": [[items[i] for i in ids[r].tolist()] for r in rows],
                    "top_scores": [scores[r].tolist() for r in rows],
                }
            )
        )
    with written_atomically(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)


def caption_id(split: Split, index: int) -> str:
    """Names a caption by its video and its place among that video's captions: `video7#0`."""
    video = int(split.caption_video[index])
    return f"{split.records[video].video_id}#{index - int(split.captions.first[video])}"


@dataclass(frozen=True)
class Run:
    """A finished run, read back.

    Attributes:
        path: its folder.
        content: `metrics.json`.
    """

    path: Path
    content: Mapping[str, Any]

    @property
    def marks(self) -> list[str]:
        """Why the figures must not be ranked with plain ones: subset, left out, selected on test, ..."""
        c = self.content
        data = c["data"]
        marks = []
        if c["selected_on_test"]:
            marks.append("selected on test")
        if data["left_out"]:
            marks.append(f"{data['left_out']} videos left out")
        if data["subset"]:
            marks.append(f"subset {data['subset']}")
        if c["partial"]:
            marks.append("not all batches")
        if c["v2t"] != "sets":
            marks.append(f"v2t over {c['v2t']}")
        return marks


def read_run(path: Path) -> Run:
    """Reads a run folder.

    Raises:
        RunError: there is no such run, or its metrics are broken.
    """
    file = path / METRICS
    if not file.is_file():
        raise RunError(f"{path}: no {METRICS}; the run did not finish a test, or this is no run folder")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{file} is damaged ({error}); test the run again: make eval EXP=... CKPT={path}") from None
    if not isinstance(content, dict) or not content.keys() >= REQUIRED:
        raise RunError(f"{file} is not a run's result, or of another version; test the run again")
    return Run(path, content)


def find_runs(paths: Sequence[Path], runs_dir: Path = Path("runs")) -> list[Run]:
    """Reads runs: each path is a run's folder or a folder above runs; without paths, all of `runs_dir`.

    Raises:
        RunError: a path holds no finished run.
    """
    runs: dict[Path, Run] = {}
    for path in paths or [runs_dir]:
        if not path.is_dir():
            known = [str(p.parent) for p in runs_dir.glob(f"*/*/{METRICS}")]
            raise RunError(f"no run folder {path}; {nearest(str(path), known) if known else 'there are no runs yet'}")
        found = [path] if (path / METRICS).is_file() else sorted(p.parent for p in path.rglob(METRICS))
        if not found:
            raise RunError(f"{path} holds no finished run (no {METRICS} below it)")
        runs.update((p, read_run(p)) for p in found)
    return list(runs.values())


def compare_table(runs: Sequence[Run]) -> Table:
    """One row per run: test metrics of both directions, probes where there are any, and what sets a run apart."""
    from rich.table import Table

    probes = sorted({m for r in runs for m in r.content["metrics"] if m.startswith("test/probe/")})
    several = len({(r.content["dataset"], r.content["split"]) for r in runs}) > 1
    table = Table(title="test results", caption="R@K, probes in percent; * = see notes", padding=(0, 0, 0, 1))
    for column in ["run", *(["data"] if several else []), "seed"]:
        table.add_column(column, overflow="fold")
    for direction in ("t2v", "v2t"):
        for name in SHOWN:
            table.add_column(f"{direction}\n{name}", justify="right")
    for column in ["SumR", *(m.removeprefix("test/probe/") for m in probes)]:
        table.add_column(column, justify="right")
    table.add_column("notes", overflow="fold")
    for run in runs:
        c, metrics = run.content, run.content["metrics"]
        figures = [metrics.get(f"test/{d}/{n}") for d in ("t2v", "v2t") for n in SHOWN]
        figures += [metrics.get("test/SumR"), *(metrics.get(m) for m in probes)]
        star = "*" if run.marks else ""
        table.add_row(
            f"{c['experiment']}/{run.path.name}",
            *([f"{c['dataset']} {c['split']}"] if several else []),
            str(c["seed"]),
            *("-" if f is None else f"{f:.1f}{star}" for f in figures),
            "; ".join(run.marks),
        )
    return table


def result_table(content: Mapping[str, Any]) -> Table:
    """The table that ends a run: metrics of both directions with intervals, then SumR, probes, post-processing."""
    from rich.table import Table

    metrics, intervals, data = content["metrics"], content["intervals"], content["data"]
    prefix = "test/"
    table = Table(
        "metric",
        title=f"{content['experiment']}: {content['dataset']} {content['split']}, test",
        caption=f"{data['captions']} captions x {data['videos']} videos, video -> text over {content['v2t']};\n"
        "95 % bootstrap intervals in brackets",
    )
    table.add_column("text -> video", justify="right")
    table.add_column("video -> text", justify="right")

    def figure(name: str) -> str:
        if name not in metrics:
            return ""
        low, high = intervals.get(name, (None, None))
        return f"{metrics[name]:.1f}" + ("" if low is None else f"  [{low:.1f}, {high:.1f}]")

    for mark in ("", "dsl/", "qb/"):
        for name in ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "mAP", "RSum"):
            row = [figure(f"{prefix}{mark}{direction}/{name}") for direction in ("t2v", "v2t")]
            if any(row):
                table.add_row(f"{mark}{name}", *row)
        if any(m.startswith(prefix + mark) for m in metrics):
            table.add_section()
    table.add_row("SumR", figure(f"{prefix}SumR"), "")
    for name in metrics:
        if name.startswith(f"{prefix}probe/"):
            table.add_row(f"probe {name.rpartition('/')[2]}", figure(name), "chance 25")
    return table
