"""What a run shows of its test: some queries with what they found, its worst failures, frames of the videos.

All of it lies in one file of the run folder, `gallery.json`, below 1 MB whatever the dataset.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_lightning.data.stores.files import write_json
from tvr_lightning.errors import DecodeError
from tvr_lightning.run.reading import LARGEST, damaged, read_json
from tvr_lightning.run.results import caption_id

if TYPE_CHECKING:
    from torch import Tensor

    from tvr_lightning.data.split import Split
    from tvr_lightning.evaluation import EvaluationResult
    from tvr_lightning.types import Record

GALLERY = "gallery.json"
QUERIES, TOP = 20, 5  # queries shown, and videos shown of each
ANSWERS = 10  # videos whose captions are shown, of the first queries
FAILURES, FOUND = 10, 3  # worst failures, and videos shown of each
SEED = 0  # the same for every run, so that runs over one split show the same queries
FRAMES, SIDE = 6, 64  # of a strip, and their height and width in pixels
MAX_BYTES = (
    3800  # of a strip, the same for all so that runs share strips; 20 x 6 + 10 x 4 videos then take 0.8 MB in base64
)
QUALITIES = (*range(80, 0, -5), 1)
CAPTION_LENGTH = 400  # characters; paragraph datasets join a video's sentences
EDGES = (1, 5, 10, 50, 100, 500)


@dataclass(frozen=True)
class Query:
    """A caption and what it found.

    Attributes:
        query: the caption's id.
        caption: its text, cut after `CAPTION_LENGTH` characters.
        video: the id of the video that it describes.
        rank: expected rank of that video, 1 = best.
        top: ids of the best videos, best first.
        right: which of them are right; of a test by labels those that share one with the query.
    """

    query: str
    caption: str
    video: str
    rank: float
    top: tuple[str, ...]
    right: tuple[bool, ...]


@dataclass(frozen=True)
class Answer:
    """A video and the captions that it found.

    Attributes:
        video: its id.
        rank: expected rank of its captions, 1 = best.
        captions: of the best ones, best first: id, text and whether it is right, as for `Query`.
    """

    video: str
    rank: float
    captions: tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True)
class Gallery:
    """Queries with pictures.

    Attributes:
        queries: a seeded choice.
        worst: the queries with the largest ranks, worst first; only such as do not stand first.
        thumbnails: a JPEG of each video's frames in order, square and side by side, None where the video cannot be
            decoded. Galleries of earlier versions hold one frame.
        answers: what the videos of the first queries find in their turn.
        by_label: whether items are right that share a class label with the query, as hashing metrics count.
    """

    queries: tuple[Query, ...]
    worst: tuple[Query, ...]
    thumbnails: Mapping[str, bytes | None]
    answers: tuple[Answer, ...] = ()
    by_label: bool = False


def make_gallery(result: EvaluationResult, split: Split) -> tuple[Gallery, list[str]]:
    """Chooses queries of text -> video, lets their videos look for captions, and decodes the videos.

    Returns:
        The gallery, and why videos could not be decoded, one line each.
    """
    import torch

    ranks = result.ranks.t2v
    order = torch.randperm(len(split.captions), generator=torch.Generator().manual_seed(SEED))
    place = torch.full((len(split.captions),), -1)
    place[result.caption_ids[ranks.query]] = torch.arange(len(ranks))
    chosen = place[order]
    chosen = chosen[chosen >= 0][:QUERIES].sort().values  # in the split's order, which reads better
    worst = ranks.expected_rank.sort(descending=True, stable=True).indices[:FAILURES]
    worst = worst[ranks.expected_rank[worst] > 1]
    queries, failures = _rows(result, split, chosen, TOP), _rows(result, split, worst, FOUND)

    records = {r.video_id: r for r in split.records}
    thumbnails: dict[str, bytes | None] = {}
    reasons: list[str] = []
    for video in dict.fromkeys(v for q in (*queries, *failures) for v in (*q.top, q.video)):
        try:
            thumbnails[video] = strip(records[video])
        except DecodeError as error:
            thumbnails[video] = None
            reasons.append(str(error))
    by_label = result.hashing is not None
    return Gallery(queries, failures, thumbnails, _answers(result, split, queries), by_label), reasons


def _right(result: EvaluationResult, own: Record, other: Record) -> bool:
    """Whether an item of `other` is right for a query of `own`."""
    if result.hashing is not None:
        return not set(own.labels).isdisjoint(other.labels)
    return own.video_id == other.video_id


def _answers(result: EvaluationResult, split: Split, queries: Sequence[Query]) -> tuple[Answer, ...]:
    ranks, found = result.ranks.v2t, result.top["v2t"][1]
    column = {split.records[v].video_id: i for i, v in enumerate(result.video_ids.tolist())}
    row = {int(q): i for i, q in enumerate(ranks.query)}
    answers = []
    for video in [*dict.fromkeys(q.video for q in queries)][:ANSWERS]:
        own, captions = column[video], []
        record = split.records[int(result.video_ids[own])]
        for i in found[own, :TOP].tolist():
            right = _right(result, record, split.records[int(split.caption_video[i])])
            captions.append((caption_id(split, i), _cut(split.captions.captions[i]), right))
        answers.append(Answer(video, float(ranks.expected_rank[row[own]]), tuple(captions)))
    return tuple(answers)


def _cut(text: str) -> str:
    return text if len(text) <= CAPTION_LENGTH else text[: CAPTION_LENGTH - 1] + "…"


def _rows(result: EvaluationResult, split: Split, rows: Tensor, top: int) -> tuple[Query, ...]:
    """The queries at `rows` of the ranks, (Q,) int64."""
    ranks, found = result.ranks.t2v, result.top["t2v"][1]
    queries = []
    for row in rows.tolist():
        matrix_row = int(ranks.query[row])
        caption = int(result.caption_ids[matrix_row])
        own = split.records[int(split.caption_video[caption])]
        best = [split.records[v] for v in found[matrix_row, :top].tolist()]
        queries.append(
            Query(
                caption_id(split, caption),
                _cut(split.captions.captions[caption]),
                own.video_id,
                float(ranks.expected_rank[row]),
                tuple(record.video_id for record in best),
                tuple(_right(result, own, record) for record in best),
            )
        )
    return tuple(queries)


def strip(record: Record) -> bytes:
    """Frames spread over a video, or over the segment that the record names, side by side in one JPEG.

    Raises:
        DecodeError: it cannot be decoded.
    """
    from PIL import Image

    from tvr_lightning.data.video.records import read_record
    from tvr_lightning.data.video.sampling import FrameOptions

    found = read_record(record, FrameOptions(FRAMES, "uniform", None, SIDE))
    frames = found.frames[found.mask]  # (n, 3, SIDE, SIDE)
    picture = Image.fromarray(frames.permute(2, 0, 3, 1).reshape(SIDE, -1, 3).numpy())  # n beside each other
    encoded = b""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        encoded = buffer.getvalue()
        if len(encoded) <= MAX_BYTES:
            break
    return encoded


def num_frames(jpeg: bytes) -> int:
    """How many frames a strip holds.

    Raises:
        ValueError: it is not a picture of square frames side by side.
    """
    from PIL import Image

    try:
        width, height = Image.open(io.BytesIO(jpeg), formats=["JPEG"]).size
    except OSError as error:
        raise ValueError(f"a picture is not a JPEG: {error}") from None
    if width % height:
        raise ValueError(f"a picture of {width} x {height} pixels is not a strip of square frames")
    return width // height


def rank_histogram(ranks: Iterable[float], num_items: int) -> list[tuple[str, int]]:
    """Counts queries by rank: 1, 2-5, 6-10, ...; an expected rank between two whole ones counts with the larger.

    Args:
        ranks: expected ranks, 1 = best.
        num_items: how many items were ranked; ranges beyond it are left out.
    """
    values = list(ranks)
    lows = (0, *EDGES)
    bounds = [(low, high) for low, high in zip(lows, (*EDGES, float("inf")), strict=True) if low < num_items]
    counted = []
    for low, high in bounds:
        label = "1" if high == 1 else f"{low + 1}-{high:g}" if high != float("inf") else f"over {low}"
        counted.append((label, sum(low < v <= high for v in values)))
    return counted


def write_gallery(path: Path, gallery: Gallery) -> None:
    """Writes a gallery atomically.

    Raises:
        RunError: the folder cannot be written.
    """
    pictures = {v: None if jpeg is None else base64.b64encode(jpeg).decode() for v, jpeg in gallery.thumbnails.items()}
    write_json(path, asdict(replace(gallery, thumbnails={})) | {"thumbnails": pictures})


def read_gallery(path: Path) -> Gallery | None:
    """Reads a gallery; None when the run kept none.

    Raises:
        RunError: it is damaged.
    """
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        pictures = {
            str(v): None if text is None else base64.b64decode(text, validate=True)
            for v, text in content["thumbnails"].items()
        }
        for jpeg in filter(None, pictures.values()):
            num_frames(jpeg)
        gallery = Gallery(
            _read_rows(content["queries"]), _read_rows(content["worst"]), pictures,
            tuple(_read_answer(answer) for answer in content.get("answers", ())), bool(content.get("by_label")),
        )  # fmt: skip
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, binascii.Error) as error:
        raise damaged(path, error) from None
    shown = {v for q in (*gallery.queries, *gallery.worst) for v in (q.video, *q.top)}
    unknown = (shown | {answer.video for answer in gallery.answers}) - pictures.keys()
    if unknown:
        raise damaged(path, f"no picture of {sorted(unknown)[0]}")
    return gallery


def _read_rows(rows: Sequence[Mapping[str, object]]) -> tuple[Query, ...]:
    return tuple(map(_read_row, rows))


def _read_row(row: Mapping[str, Any]) -> Query:
    video, top = str(row["video"]), tuple(map(str, _list(row, "top")))
    right = [v == video for v in top] if "right" not in row else [bool(x) for x in _list(row, "right")]
    if len(right) != len(top):
        raise ValueError(f"{row['query']} has {len(top)} videos and {len(right)} verdicts")
    return Query(str(row["query"]), str(row["caption"]), video, _rank(row), top, tuple(right))


def _read_answer(row: Mapping[str, Any]) -> Answer:
    captions = tuple((str(name), str(text), bool(right)) for name, text, right in _list(row, "captions"))
    return Answer(str(row["video"]), _rank(row), captions)


def _rank(row: Mapping[str, Any]) -> float:
    rank = row["rank"]
    if not isinstance(rank, int | float) or not 1 <= rank <= LARGEST:
        raise ValueError(f"the rank of {row.get('query', row.get('video'))} is {rank!r}")
    return float(rank)


def _list(row: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(row[name], list):
        raise TypeError(f"{name} of {row.get('query', row.get('video'))} is not a list")
    return list(row[name])
