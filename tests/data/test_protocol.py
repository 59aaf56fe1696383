"""Videos that nobody looks for, and several right videos for a caption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tvr_lightning.commands.main import main
from tvr_lightning.data.protocol import read_relevance
from tvr_lightning.errors import DataError
from tvr_lightning.run.results import read_ranks, read_run
from tvr_lightning.types import Record

Make = Callable[..., Any]


def test_distractors_stand_in_the_gallery_and_are_not_looked_for(
    make_data: Make, shapes_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "more" / "deep").mkdir(parents=True)
    for name in ("more/b.mp4", "more/deep/a.webm", "more/notes.txt"):
        (tmp_path / name).write_bytes((shapes_root / "videos" / "video19.mp4").read_bytes()[:-1] + name[-1:].encode())
    data = make_data(distractors=str(tmp_path / "more"))
    data.setup("test")
    split = data.splits["test"]
    assert [r.video_id for r in split.records[8:]] == ["distractor:b.mp4", "distractor:deep/a.webm"]
    assert (split.distractors, split.without_captions, len(split.captions)) == (2, (), 8)
    assert split.summary()["distractors"] == 2
    assert sum(len(batch) for batch in data.evaluation_loaders(split)[1]) == 10
    data.setup("fit")
    assert len(data.splits["train"].records) == 12

    (tmp_path / "more" / "list.txt").write_text("deep/a.webm\n\n")
    listed = make_data(distractors=str(tmp_path / "more" / "list.txt"))
    listed.setup("test")
    assert [r.video_id for r in listed.splits["test"].records[8:]] == ["distractor:deep/a.webm"]


@pytest.mark.parametrize(
    ("place", "message"),
    [("nowhere", "there is no"), ("empty", "it holds none"), ("listed", "not a file name inside")],
)
def test_distractors_that_are_none(make_data: Make, tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "listed").write_text("../secret.mp4\n")
    with pytest.raises(DataError, match=message):
        make_data(distractors=str(tmp_path / place)).setup("test")


def test_the_datasets_own_videos_are_no_distractors(make_data: Make, shapes_root: Path) -> None:
    with pytest.raises(DataError, match="all 24 are the dataset's own"):
        make_data(distractors=str(shapes_root / "videos")).setup("test")


RECORDS = [
    Record("a", Path("a.mp4"), ("a dog", "the  dog")), Record("b", Path("b.mp4"), ("a cat",)),
    Record("c", Path("c.mp4"), ()), Record("d", Path("d.mp4"), ("a dog",)),
]  # fmt: skip
CAPTIONS = [caption for record in RECORDS for caption in record.captions]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.csv", "query,video\na#1,c\na dog,b\nthe dog,c\na dog,a\n"),
        ("r.json", json.dumps({"a#1": ["c"], "a dog": ["b", "a"]})),
        ("r.jsonl", '{"video": ["c"], "query": "a#1"}\n{"video": ["a", "b"], "query": "a dog"}\n'),
    ],
)
def test_relevance_names_captions_by_id_or_text(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    pairs, said = read_relevance(tmp_path / name, CAPTIONS, RECORDS)
    assert pairs.tolist() == [[0, 1], [1, 2], [3, 0], [3, 1]]  # `a dog` is a caption of a and of d; d's own is a's too
    assert said.startswith("4 further right pairs (")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,video\na#7,c\n", r"line 2: the split has no caption 'a#7'; did you mean a#"),
        ("query,video\na#0,z\n", "line 2: the split has no video 'z'"),
        ("words,film\na#0,c\n", "expected the columns query and video, found words, film"),
    ],
)
def test_relevance_that_fits_nothing(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_relevance(tmp_path / "r.csv", CAPTIONS, RECORDS)
    with pytest.raises(DataError, match="there is no file"):
        read_relevance(tmp_path / "none.csv", CAPTIONS, RECORDS)


def test_a_run_counts_both(shapes_root: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.mp4").write_bytes((shapes_root / "videos" / "video19.mp4").read_bytes() + b"\0")
    (tmp_path / "r.json").write_text(json.dumps({"video16#0": ["distractor:x.mp4", "video17"]}))
    words = [
        "fit", "--config", "clip4clip_shapes", f"--data.annotations.root={shapes_root}", "--data.selection=last",
        f"--runs_dir={tmp_path / 'runs'}", "--tracker=none", "--trainer.max_steps=1", "--data.batch_size=4",
        "--data.num_workers=0",
        f"--data.cache_dir={tmp_path / 'cache'}", f"--data.distractors={tmp_path / 'more'}", "--run_id=a",
        f"--data.relevance={tmp_path / 'r.json'}",
    ]  # fmt: skip
    assert main(words) == 0
    folder = tmp_path / "runs" / "clip4clip_shapes" / "a"
    run = read_run(folder)
    assert run.content["data"]["distractors"] == 1
    assert "8 captions x 9 videos, 1 of them distractors, 2 further right pairs (" in run.test_set
    ranks = read_ranks(folder).ranks
    assert (len(ranks.t2v), len(ranks.v2t)) == (8, 8)
    assert torch.isfinite(ranks.t2v.average_precision).all()
