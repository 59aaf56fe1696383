"""Videos that stand where they must not: in training and test, as several records, under weights that saw them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tvr_lightning.commands.main import main
from tvr_lightning.data.annotations.base import Annotations
from tvr_lightning.data.datamodule import VideoTextDataModule
from tvr_lightning.data.sanity import SAMPLE, check_apart, marks, marks_in, trained_on
from tvr_lightning.data.splitting import hold_out
from tvr_lightning.data.stores.contents import Contents
from tvr_lightning.errors import DataError
from tvr_lightning.report.comparison import compare
from tvr_lightning.run.results import read_run
from tvr_lightning.types import Record


def files(folder: Path, **contents: bytes) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def record(name: str, path: Path, start: float | None = None) -> Record:
    return Record(name, path, (f"caption of {name}",), start=start)


class Given(Annotations):
    """Splits as they are given."""

    def __init__(self, root: Path, **splits: list[Record]) -> None:
        self.name, self.protocol, self.root = "given", "as given", root
        self.records = splits

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.records)

    def load(self, split: str) -> list[Record]:
        self.check_split(split)
        return self.records[split]


def module(root: Path, allow: bool = False, **splits: list[Record]) -> VideoTextDataModule:
    return VideoTextDataModule(
        Given(root, **splits), cache_dir=str(root / "cache"), num_workers=0, batch_size=1, allow_duplicates=allow
    )


@pytest.mark.parametrize("case", ["id", "file", "content", "link", "segment"])
def test_a_video_in_training_and_test_is_refused(tmp_path: Path, case: str) -> None:
    f = files(tmp_path / "v", a=b"x" * 9000, b=b"y" * 9000, c=b"x" * 9000)
    (tmp_path / "v" / "d").symlink_to(f["a"])
    twin = {
        "id": record("one", f["b"]), "file": record("two", f["a"]), "content": record("two", f["c"]),
        "link": record("two", tmp_path / "v" / "d"), "segment": record("two", f["a"], start=3.0),
    }[case]  # fmt: skip
    splits = {"train": [record("one", f["a"])], "test": [twin, record("three", f["b"])][: 1 if case == "id" else 2]}
    with pytest.raises(DataError, match=r"given test: 1 videos are in the training split too.*allow_duplicates=true"):
        module(tmp_path, **splits).setup("fit")
    allowed = module(tmp_path, allow=True, **splits)
    with pytest.warns(UserWarning, match="1 videos are in the training split too"):
        allowed.setup("fit")
    assert allowed.trained_on(allowed.training_marks()) == [twin.video_id]


def test_equal_sizes_of_other_contents_are_other_videos(tmp_path: Path) -> None:
    f = files(tmp_path / "v", a=b"x" * 9000, b=b"y" * 9000)
    data = module(tmp_path, train=[record("a", f["a"])], test=[record("b", f["b"])])
    data.setup("fit")
    assert data.trained_on(data.training_marks()) == []


def test_one_record_a_caption_is_refused(tmp_path: Path) -> None:
    f = files(tmp_path / "v", a=b"x", b=b"y", c=b"z")
    splits = {
        "train": [record("c", f["c"])],
        "test": [record("a#0", f["a"]), record("b", f["b"]), record("a#1", f["a"])],
    }
    with pytest.raises(DataError, match=r"1 records repeat a video of the split: a#1 \(= a#0\)"):
        module(tmp_path, **splits).setup("test")
    allowed = module(tmp_path, allow=True, **splits)
    with pytest.warns(UserWarning, match="records repeat"):
        allowed.setup("test")
    assert allowed.splits["test"].summary()["repeats"] == 1
    apart = [record("a#0", f["a"]), record("a#1", f["a"], start=2.0)]
    module(tmp_path, train=splits["train"], test=apart).setup("test")


def test_ids_that_repeat_are_refused(tmp_path: Path) -> None:
    f = files(tmp_path / "v", a=b"x", b=b"y", c=b"z")
    with pytest.raises(DataError, match="repeat a video of the split: a"):
        module(tmp_path, train=[record("c", f["c"])], test=[record("a", f["a"]), record("a", f["b"])]).setup("test")


def test_segments_of_one_file_are_held_out_together(tmp_path: Path) -> None:
    records = [record(f"{i}@{s}", tmp_path / f"{i}.mp4", float(s)) for i in range(30) for s in range(3)]
    kept, held = hold_out(records, seed=0)
    assert len(held) == 6
    assert {r.video_path for r in kept}.isdisjoint(r.video_path for r in held)


def test_marks_know_ids_and_files_and_nothing_else(tmp_path: Path) -> None:
    middle = b"m" * SAMPLE
    f = files(tmp_path / "v", a=b"1" * 5000 + middle + b"2" * 5000, b=b"1" * 5000 + b"n" * SAMPLE + b"2" * 5000,
              empty=b"")  # fmt: skip
    kept = marks("mine", [record("a", f["a"]), record("gone", tmp_path / "gone.mp4"), record("empty", f["empty"])])
    assert kept.dtype == torch.int64
    assert kept.tolist() == sorted(set(kept.tolist()))
    others = [record("elsewhere", f["a"]), record("b", f["b"]), record("gone", f["b"]), record("void", f["empty"])]
    assert trained_on(kept, "mine", others) == ["elsewhere", "gone"]
    assert trained_on(kept, "another", others) == ["elsewhere"]  # ids belong to their dataset
    assert marks_in({"seen": kept}) is kept
    assert marks_in({"seen": [1, 2]}) is None
    assert marks_in({}) is None


@pytest.mark.slow
def test_ten_thousand_videos_take_a_second(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    folder.mkdir()
    records = []
    for i in range(10_000):
        path = folder / f"video{i}.mp4"
        path.write_bytes(b"%08d" % i * (1 + i % 97))
        records.append(record(f"video{i}", path))
    said: list[OSError] = []
    contents = Contents(tmp_path / "cache", said.append)
    began = time.process_time()
    check_apart("given test", records[:9000], records[9000:9050], contents, allowed=False)
    assert len(marks("given", records[:9000])) == 18_000
    assert time.process_time() - began < 5
    assert not said


@pytest.fixture
def trained(tmp_path: Path, shapes_root: Path) -> Callable[..., dict[str, Any]]:
    """Trains on the tiny dataset, or tests the weights of that; returns the metrics' data and marks."""
    common = [
        "--config", "clip4clip_shapes", f"--data.annotations.root={shapes_root}", f"--runs_dir={tmp_path / 'runs'}",
        "--tracker=none", "--trainer.max_steps=2", "--data.batch_size=4", "--data.num_workers=0",
        "--data.selection=last", f"--data.cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip

    def run(command: str, name: str, *more: str) -> dict[str, Any]:
        assert main([command, *common, f"--run_id={name}", *more]) == 0
        folder = tmp_path / "runs" / "clip4clip_shapes" / name
        return {**json.loads((folder / "metrics.json").read_text())["data"], "marks": read_run(folder).marks}

    return run


@pytest.mark.slow
def test_weights_know_what_they_were_trained_on(
    trained: Callable[..., dict[str, Any]], tmp_path: Path, shapes_root: Path
) -> None:
    first = trained("fit", "a")
    assert (first["trained_on"], first["marks"]) == (0, [])
    weights = str(tmp_path / "runs" / "clip4clip_shapes" / "a")
    assert trained("test", "b", f"--ckpt_path={weights}")["trained_on"] == 0
    table = ["video,caption", *(f"video{i},a shape moves" for i in (0, 1, 20))]  # two of training, one of the test
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "captions.csv").write_text("\n".join(table) + "\n")
    reader = {
        "class_path": "tvr_lightning.data.annotations.table.Table",
        "init_args": {"root": str(tmp_path / "mine"), "videos": str(shapes_root / "videos"), "split": "test"},
    }
    own = [f"--data.annotations={json.dumps(reader)}", "--data.keep_sources=false"]
    other = trained("test", "c", f"--ckpt_path={weights}", *own)
    assert other["trained_on"] == 2
    assert "trained on 2 of the test videos" in other["marks"]
    started = trained("fit", "d", f"--weights={weights}")
    assert started["trained_on"] == 0
    both = trained("test", "e", f"--ckpt_path={tmp_path / 'runs' / 'clip4clip_shapes' / 'd'}", *own)
    assert both["trained_on"] == 2
    groups = compare([read_run(tmp_path / "runs" / "clip4clip_shapes" / name) for name in "ace"]).blocks
    assert [len(block.ranked) for block in groups] == [1, 0]
