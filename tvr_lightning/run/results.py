"""What a run leaves behind, and reading it back: folders, metrics, per-query ranks, tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_lightning.config.options import WHERE_AND_HOW_OFTEN
from tvr_lightning.data.stores.files import atomic_write, is_file
from tvr_lightning.data.stores.reading import is_there
from tvr_lightning.errors import RunError, nearest
from tvr_lightning.names import CONFIG, HASH_BASELINES, LEAKY, METRICS, PROBE, PROBE_CHANCE, RANKS, RELEASED, UNTRAINED
from tvr_lightning.run.reading import damaged, misfits, read_columns, read_json, read_settings
from tvr_lightning.visible import encodable

if TYPE_CHECKING:
    from rich.table import Table

    from tvr_lightning.data.split import Split
    from tvr_lightning.evaluation import EvaluationResult
    from tvr_lightning.metrics.ranking import Ranks

DIRECTIONS = {"t2v": "text → video", "v2t": "video → text"}
POST_PROCESSED = ("dsl/", "qb/", "sk/", "sk1/")  # what begins names of figures that see more than their pair
# of `ranks.parquet`, those that runs are compared by; the others are for readers
RANK_COLUMNS = ("direction", "query", "video", "greater", "tied_other", "tied_own", "average_precision")
LOWER_IS_BETTER = ("MdR", "MnR")  # of all metrics these
ATTENDED = "attended"  # what a method whose padding takes part says of itself
NOT_SETTINGS = ("seed_everything", *WHERE_AND_HOW_OFTEN)  # in which two seeds of one setting may differ
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


def write_ranks(path: Path, result: EvaluationResult, split: Split) -> None:
    """Writes one row per query: ids, rank with its ties, and the ten best items with their scores.

    The items of a video are captions, whatever the protocol of its rank: over `sets` the rank counts videos' captions
    as one item each.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    videos = [encodable(split.records[i].video_id) for i in result.video_ids.tolist()]
    video_name = {i: encodable(split.records[i].video_id) for i in result.video_ids.tolist()}
    caption_name = {i: encodable(caption_id(split, i)) for i in result.caption_ids.tolist()}
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
    with atomic_write(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)


@dataclass(frozen=True)
class StoredRanks:
    """A run's ranks, read back in an order that does not depend on how the run came to its queries.

    Attributes:
        queries: (direction, query, video) of every row; runs with equal ones can be compared query by query.
        ranks: the rows of each direction, in this order.
    """

    queries: tuple[tuple[str, str, str], ...]
    ranks: Ranks


def read_ranks(folder: Path) -> StoredRanks:
    """Reads a run's `ranks.parquet`.

    Raises:
        RunError: there is none, or it is damaged.
    """
    import torch

    from tvr_lightning.metrics.ranking import DirectionRanks, Ranks

    path = folder / RANKS
    rows = read_columns(path, RANK_COLUMNS)
    videos_of = {
        d: {v for own, v in zip(rows["direction"], rows["video"], strict=True) if own == d} for d in DIRECTIONS
    }
    if set(rows["direction"]) != set(DIRECTIONS) or videos_of["t2v"] != videos_of["v2t"]:
        raise damaged(path, "its two directions are not t2v and v2t over the same videos")
    keys = list(zip(rows["direction"], rows["query"], rows["video"], strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    video = {name: i for i, name in enumerate(sorted(set(rows["video"])))}

    def direction(name: str) -> DirectionRanks:
        own = [i for i in order if keys[i][0] == name]
        greater, other, tied_own = (
            torch.tensor([rows[c][i] for i in own], dtype=torch.int64) for c in RANK_COLUMNS[3:6]
        )
        precision = torch.tensor([rows["average_precision"][i] for i in own], dtype=torch.float64)
        videos = torch.tensor([video[keys[i][2]] for i in own], dtype=torch.int64)
        return DirectionRanks(greater, other, tied_own, precision, videos, torch.arange(len(own)))

    return StoredRanks(tuple(keys[i] for i in order), Ranks(direction("t2v"), direction("v2t")))


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

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration, as JSON has it; empty where the folder has none."""
        return read_settings(self.path / CONFIG)

    @property
    def leaky(self) -> bool:
        """Whether the scores read the ground truth."""
        return leaky_prefix(self.content) != "test/"

    @property
    def untrained(self) -> bool:
        """Whether nothing was trained: encoders as they come, zero-shot."""
        return bool(self.content.get("trained", {}).get("selection") == UNTRAINED)

    @property
    def test_set(self) -> str:
        """Dataset, split and size in words; figures over different test sets are never ranked together."""
        c, data = self.content, self.content["data"]
        size = f"{data['captions']:,} captions x {data['videos']:,} videos"
        return ", ".join([f"{c['dataset']} {c['split']}, test: {size}", *_added(data)])

    def settings(self, *ignored: str) -> str:
        """A digest of all that the run was made with except its seed: runs that share it are seeds of one setting.

        Args:
            ignored: names of settings, at any depth, in which the runs may differ as well.
        """
        c = self.content
        facts = {k: c.get(k) for k in ("experiment", "method", "encoder", "precision", "devices")}
        facts |= {"test_set": self.test_set, "marks": self.marks}
        facts["selection"] = c.get("trained", {}).get("selection", c.get("selection"))
        # nothing says what a run without a configuration was made with
        config = {k: v for k, v in self.config.items() if k not in NOT_SETTINGS} or str(self.path.resolve())
        content = json.dumps(_without({**facts, "config": config}, ignored), sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def marks(self) -> list[str]:
        """Why the figures must not be ranked with plain ones: subset, left out, selected on test, other data, ..."""
        c = self.content
        data = c["data"]
        marks = []
        if self.leaky:
            marks.append("leaky")
        if c["selected_on_test"]:
            marks.append("selected on test")
        elif (c.get("selected_by") or "").startswith("hash/"):  # mAP counts labels, which training must not see
            marks.append("selected by labels")
        trained = c.get("trained", {})
        source = f"{trained.get('dataset')} {trained.get('protocol')}"
        if "protocol" in trained and source != f"{c['dataset']} {c['split']}":
            marks.append(f"trained on {source}")
        marks += _begun_from(trained)
        if count := data.get("trained_on"):
            marks.append(f"trained on {count} of the test videos")
        if count := data.get("repeats"):
            marks.append(f"{count} test records repeat a video")
        if data["left_out"]:
            marks.append(f"{data['left_out']} videos left out")
        if data["subset"]:
            marks.append(f"subset {data['subset']}")
        if c["partial"]:
            marks.append("not all batches")
        limits = trained.get("limits") or {}
        if is_part(limits.get("train")):
            marks.append("not all training batches")
        if c.get("padding") == ATTENDED:
            marks.append("padding attended")
        if is_part(limits.get("val")) and trained.get("selection") != "last":
            marks.append("selected on a part")
        if c["v2t"] != "sets":
            marks.append(f"v2t over {c['v2t']}")
        return marks


def without_synonyms(content: Mapping[str, Any]) -> list[str]:
    """What a training lacked that augments captions by synonyms; empty where it lacked nothing."""
    lacked = (content.get("trained") or {}).get("without_synonyms")
    return ["captions were augmented without synonyms: no WordNet"] if lacked else []


def _begun_from(trained: Mapping[str, Any]) -> list[str]:
    """On what other runs' weights were trained that this one began with, in words."""
    taken = [trained.get("weights"), *(trained.get("encoders_from") or {}).values()]
    begun = [w for w in taken if isinstance(w, Mapping)]
    as_they_are = trained.get("selection") == RELEASED
    said = [
        of_released_code(w, as_they_are) or f"starts from weights of {w.get('dataset')} {w.get('protocol')}"
        for w in begun
    ]
    return list(dict.fromkeys(said))


def of_released_code(said: Mapping[str, Any], as_they_are: bool = True) -> str:
    """Weights of a method's released code in words, by file and hash; empty for others.

    Args:
        said: what a result keeps of them.
        as_they_are: whether nothing was trained since.

    >>> of_released_code({"released": "pytorch_model.bin.2", "sha256": "0123456789abcdef"})
    'weights of the released code: pytorch_model.bin.2 (0123456789ab)'
    """
    if not said.get("released"):
        return ""
    line = f"weights of the released code: {said['released']} ({str(said.get('sha256'))[:12]})"
    return line if as_they_are else f"starts from {line}"


def _added(data: Mapping[str, Any]) -> list[str]:
    """What the test's protocol adds to its dataset, in words."""
    distractors = [f"{data['distractors']:,} of them distractors"] if data.get("distractors") else []
    return [*distractors, *([data["relevance"]] if data.get("relevance") else [])]


def is_part(limit: float | None) -> bool:
    """Whether a limit of batches leaves some out: a share below 1, or a number of them.

    >>> is_part(1.0), is_part(1), is_part(None)
    (False, True, False)
    """
    return limit is not None and (isinstance(limit, int) or limit != 1.0)


def _without(value: Any, names: Sequence[str]) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {k: _without(v, names) for k, v in value.items() if k not in names}


def read_run(path: Path) -> Run:
    """Reads a run folder.

    Raises:
        RunError: there is no such run, or its metrics are broken.
    """
    file = path / METRICS
    if not file.is_file():
        raise RunError(f"{path}: no {METRICS}; the run did not finish a test, or this is not a run folder")
    again = f"test the run again: make eval EXP=... CKPT={path}"
    content = read_json(file, again)
    if not isinstance(content, dict) or not content.keys() >= REQUIRED:
        raise RunError(f"{file} is not a run's result, or of another version; test the run again")
    if wrong := next(misfits(content), None):
        raise damaged(file, wrong, again)
    return Run(path, content)


def find_runs(paths: Sequence[Path], runs_dir: Path = Path("runs")) -> list[Run]:
    """Reads runs: each path is a run's folder or a folder above runs; without paths, all of `runs_dir`.

    Raises:
        RunError: a path holds no finished run.
    """
    runs: dict[Path, Run] = {}
    for path in paths or [runs_dir]:
        if is_file(path):
            raise RunError(f"{path} is a file; give the folder of a run, or a folder above runs")
        if not is_there(path, folder=True):
            above = next(folder for folder in path.parents if is_there(folder, folder=True))
            wrong = above / path.relative_to(above).parts[0]
            known = {str(p.parent) for p in runs_dir.glob(f"*/*/{METRICS}")}
            for pattern in (f"*/{METRICS}", f"*/*/{METRICS}", f"*/*/*/{METRICS}"):
                known |= {str(above / p.relative_to(above).parts[0]) for p in above.glob(pattern)}
            hint = nearest(str(wrong), known) if known else f"there are no runs yet in {runs_dir}"
            raise RunError(f"no run folder {path}; {hint}")
        found = [path] if (path / METRICS).is_file() else sorted(p.parent for p in path.rglob(METRICS))
        if not found:
            raise RunError(f"{path} holds no finished run (no {METRICS} below it): `tvr fit` and `tvr test` make one")
        runs.update((p, read_run(p)) for p in found)
    return list(runs.values())


def leaky_prefix(content: Mapping[str, Any]) -> str:
    """What the names of a run's metrics begin with: `test/`, or `test/leaky/` where scores read the ground truth."""
    leaky = f"test/{LEAKY}"
    return leaky if any(name.startswith(leaky) for name in content["metrics"]) else "test/"


def result_table(content: Mapping[str, Any]) -> Table:
    """The table that ends a run: metrics of both directions with intervals, then SumR, probes, post-processing."""
    from rich.table import Table

    metrics, intervals, data = content["metrics"], content["intervals"], content["data"]
    prefix = leaky_prefix(content)
    leaky = prefix.removeprefix("test/")
    table = Table(
        "metric",
        title=f"{content['experiment']}: {content['dataset']} {content['split']}, test",
        caption=f"{data['captions']} captions x {data['videos']} videos, video -> text over {content['v2t']};\n"
        + "".join(f"{what};\n" for what in _added(data))
        + "95 % bootstrap intervals in brackets"
        + ("\nnot all batches: a part of the test split, which is easier than the whole" if content["partial"] else "")
        + ("\nleaky: scores read the ground truth, these are not retrieval results" if leaky else "")
        + ("\npadding attended: places that do not exist take part" if content.get("padding") == ATTENDED else "")
        + "".join(f"\n{what}" for what in _begun_from(content.get("trained", {})))
        + "".join(f"\n{what}" for what in without_synonyms(content))
        + ("\nzero-shot: nothing was trained" if content.get("trained", {}).get("selection") == UNTRAINED else "")
        + (f"\ntrained on {seen} of the test videos: no results" if (seen := data.get("trained_on")) else ""),
    )
    table.add_column("text -> video", justify="right")
    table.add_column("video -> text", justify="right")

    def figure(name: str) -> str:
        if name not in metrics:
            return ""
        low, high = intervals.get(name, (None, None))
        return f"{metrics[name]:.1f}" + ("" if low is None else f"  [{low:.1f}, {high:.1f}]")

    for mark in ("", *POST_PROCESSED):
        for name in ("R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "mAP", "RSum"):
            row = [figure(f"{prefix}{mark}{direction}/{name}") for direction in ("t2v", "v2t")]
            if any(row):
                table.add_row(f"{leaky}{mark}{name}", *row)
        if mark and f"{prefix}{mark}SumR" in metrics:
            table.add_row(f"{leaky}{mark}SumR", figure(f"{prefix}{mark}SumR"), "")
        if any(m.startswith(prefix + mark) for m in metrics):
            table.add_section()
    table.add_row(f"{leaky}SumR", figure(f"{prefix}SumR"), "")
    for name in metrics:
        if name.startswith(f"{prefix}{PROBE}"):
            table.add_row(f"{leaky}probe {name.rpartition('/')[2]}", figure(name), f"chance {PROBE_CHANCE:g}")
    if content.get("hashing"):
        table.add_section()
        table.caption = f"{table.caption}\n{hashing_line(content)}"
        own = [n.rpartition("/")[2] for n in metrics if n.startswith(f"{prefix}hash/t2v/")]
        shown = [f"hash/{{}}/{n}" for n in own if not n.startswith("n_")]
        for key in (*shown, *(f"hash/{name}/{{}}/mAP" for name in HASH_BASELINES)):
            row = [figure(prefix + key.format(direction)) for direction in ("t2v", "v2t")]
            if any(row):
                table.add_row(leaky + key.replace("{}/", ""), *row)
    return table


def hashing_line(content: Mapping[str, Any]) -> str:
    """What the hashing metrics of a run are over, in one line; empty where it has none."""
    facts = content.get("hashing")
    if not facts:
        return ""
    items = f"{facts['texts']:,} texts, {facts['videos']:,} videos"
    line = f"hash: {facts['bits']} bits, database {facts['database']} ({items}), mAP@k over {facts['normalise']}"
    left_out = facts["queries_without_relevant"]
    return line + (f", {max(left_out.values())} queries without a relevant item" if any(left_out.values()) else "")
