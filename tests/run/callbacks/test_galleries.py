"""What a test leaves in the tracker and in the run folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.offline_wandb import offline_file, read_items, records_of, wait_for_end
from tvr_lightning.commands.main import main
from tvr_lightning.errors import RunError
from tvr_lightning.evaluation import EncodedSplit, Evaluation, EvaluationResult, evaluate
from tvr_lightning.run import gallery as module
from tvr_lightning.run.callbacks.curves import Curves
from tvr_lightning.run.callbacks.galleries import BORDER, GREEN, GREY, label, mosaic, picture
from tvr_lightning.run.curves import read_curves, write_curves
from tvr_lightning.run.gallery import FRAMES, SIDE, Gallery, make_gallery, num_frames, rank_histogram, read_gallery
from tvr_lightning.run.results import read_run
from tvr_lightning.run.smoke import smoke_arguments
from tvr_lightning.types import TensorRows

ROOT = Path(__file__).parents[3]


def arguments(data: Path, runs: Path, *more: str) -> list[str]:
    small = [a for a in smoke_arguments(ROOT / "experiments/clip4clip_shapes.yaml", data, runs) if "fast_dev" not in a]
    return [*small, "--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=2", "--run_id=r", *more]


@pytest.fixture(scope="module")
def logged(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, tracked by W&B offline."""
    import wandb

    wandb.finish()  # a run that another test left open would be gone on with
    runs = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("NETRC", str(runs / "netrc"))
        for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(variable, str(runs / variable))
        assert main(["fit", *arguments(shapes_root, runs, "--tracker=wandb")]) == 0
        wandb.finish()
    folder = runs / "clip4clip_shapes" / "r"
    wait_for_end(offline_file(folder))
    return folder


@pytest.mark.slow
def test_offline_run_read_back(logged: Path) -> None:
    file = offline_file(logged)
    history: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    staged: dict[str, Path] = {}
    run = None
    for record in records_of(file):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            history.update(read_items(record.history.item))
        elif kind == "summary":
            summary.update(read_items(record.summary.update))
        elif kind == "config":
            config.update(read_items(record.config.update))
        elif kind == "run":
            run = record.run
        elif kind == "artifact":  # what W&B uploads of a table with its pictures
            staged.update((entry.path, Path(entry.local_path)) for entry in record.artifact.manifest.contents)
    content = json.loads((logged / "metrics.json").read_text())
    assert run is not None
    assert (run.run_group, run.display_name) == ("shapes", "clip4clip_shapes-0-r")
    assert (config["dataset"], config["split"], config["method"], config["marks"]) == ("shapes", "9k", "CLIP4Clip", "")
    # what `tvr compare` arranges runs by
    assert (config["test_set"], config["settings"]) == (read_run(logged).test_set, read_run(logged).settings())
    assert {"train/loss", "val/SumR", "val/t2v/R@1"} <= history.keys()
    assert summary["test/t2v/R@1"] == content["metrics"]["test/t2v/R@1"]
    low, high = content["intervals"]["test/t2v/R@1"]
    assert (summary["test/t2v/R@1/low"], summary["test/t2v/R@1/high"]) == (low, high)

    def table(name: str) -> dict[str, Any]:
        assert history[name]["_type"] == "table-file"
        return json.loads(staged[f"{name}.table.json"].read_text())

    queries = table("gallery/queries")
    assert queries["columns"] == ["query", "caption", "rank", "correct", *(f"top {i}" for i in range(1, 6))]
    gallery = read_gallery(logged / "gallery.json")
    assert gallery is not None
    for row, query in zip(queries["data"], gallery.queries, strict=True):
        assert row[:3] == [query.query, query.caption, query.rank]
        assert row[3]["caption"] == f"{query.video} (correct)"
        assert [c["caption"].split()[0] for c in row[4:]] == list(query.top)
        assert [c["caption"].endswith("(correct)") for c in row[4:]] == [v == query.video for v in query.top]
        assert all(staged[c["path"]].read_bytes()[:4] == b"\x89PNG" for c in row[3:])
    answers = table("gallery/answers")["data"]
    assert [row[1] for row in answers] == [answer.rank for answer in gallery.answers]
    for row, answer in zip(answers, gallery.answers, strict=True):
        assert row[2:] == [text + (" (correct)" if right else "") for _, text, right in answer.captions]
        assert any(right for _, _, right in answer.captions) == (answer.rank <= 5)
    assert [r[0] for r in table("gallery/worst")["data"]] == [q.query for q in gallery.worst]
    figures = {r[0]: r[1:] for r in table("gallery/metrics")["data"]}
    assert figures["test/t2v/R@1"] == [content["metrics"]["test/t2v/R@1"], low, high]
    assert figures["test/t2v/MnR"][1:] == [None, None]
    ranks = table("gallery/ranks_t2v_table")
    assert ranks["columns"] == ["rank", "queries"]
    assert sum(count for _, count in ranks["data"]) == content["data"]["captions"]


def test_folder_keeps_gallery_and_curves(logged: Path) -> None:
    gallery = read_gallery(logged / "gallery.json")
    assert gallery is not None
    assert (logged / "gallery.json").stat().st_size < 1_000_000
    assert len(gallery.queries) == 8  # all there are
    assert [q.rank for q in gallery.worst] == sorted((q.rank for q in gallery.worst), reverse=True)
    assert all(q.rank > 1 for q in gallery.worst)
    assert {jpeg and num_frames(jpeg) for jpeg in gallery.thumbnails.values()} == {FRAMES}
    rows = read_curves(logged / "curves.csv")
    assert [(r["epoch"], r["step"]) for r in rows] == [(0, 3), (1, 6)]
    assert all(r["train/loss"] > 0 for r in rows)
    assert "val/SumR" not in rows[0]  # it was validated in every second epoch only
    assert 0 <= rows[1]["val/t2v/R@1"] <= 100


@pytest.mark.slow
def test_tensorboard_has_the_kinds_it_knows(shapes_root: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(["fit", *arguments(shapes_root, tmp_path, "--tracker=tensorboard", "--trainer.max_epochs=1")]) == 0
    events = EventAccumulator(str(tmp_path / "clip4clip_shapes/r/tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()
    assert {"gallery/queries", "gallery/worst"} <= set(tags["images"])
    assert {"gallery/ranks_t2v", "gallery/ranks_v2t"} <= set(tags["histograms"])
    text = events.Tensors("gallery/metrics/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| test/t2v/R@1 |" in text


def result_of(scores: torch.Tensor, caption_video: torch.Tensor) -> EvaluationResult:
    """Evaluates a given score matrix: features are row numbers."""
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Numbers(TensorRows):
        number: torch.Tensor

    class Lookup:
        training, device = False, torch.device("cpu")

        def encode_text(self, text: Any) -> Any: ...
        def encode_video(self, video: Any) -> Any: ...
        def train(self, mode: bool = True) -> None: ...
        def score(self, texts: Numbers, videos: Numbers) -> torch.Tensor:
            return scores[texts.number][:, videos.number]

    texts, videos = (Numbers(torch.arange(n)) for n in scores.shape)
    return evaluate(Lookup(), EncodedSplit(texts, videos, caption_video), Evaluation(resamples=0))


def test_queries_are_the_same_for_every_run_and_failures_the_worst(make_data: Any) -> None:
    data = make_data()
    data.setup("fit")
    split = data.splits["train"]  # 160 captions of 16 videos
    generator = torch.Generator().manual_seed(0)
    galleries = []
    for _ in range(2):
        scores = torch.randn(len(split.captions), len(split.records), generator=generator)
        galleries.append(make_gallery(result_of(scores, split.caption_video), split)[0])
        own = scores.gather(1, split.caption_video[:, None])
        by_hand = (1 + (scores > own).sum(1)).tolist()
        worst = sorted(range(len(by_hand)), key=lambda i: -by_hand[i])[:10]
        assert [q.rank for q in galleries[-1].worst] == [by_hand[i] for i in worst]
        assert [q.caption for q in galleries[-1].worst] == [split.captions.captions[i] for i in worst]
        first = galleries[-1].queries[0]
        row = split.captions.captions.index(first.caption)
        assert first.top == tuple(split.records[i].video_id for i in scores[row].argsort(descending=True)[:5].tolist())
    assert len(galleries[0].queries) == 20
    assert [q.query for q in galleries[0].queries] == [q.query for q in galleries[1].queries]


def test_a_video_that_cannot_be_decoded_says_so(make_data: Any, tmp_path: Path, shapes_root: Path) -> None:
    import shutil

    shutil.copytree(shapes_root, tmp_path / "data")
    data = make_data(root=tmp_path / "data")
    data.setup("test")
    split = data.split_of("test")
    broken = split.records[0]
    broken.video_path.write_bytes(b"no video")
    gallery, reasons = make_gallery(result_of(torch.eye(8), split.caption_video), split)
    assert gallery.thumbnails[broken.video_id] is None
    assert len(reasons) == 1
    assert str(broken.video_path) in reasons[0]
    assert label(gallery, broken.video_id, True) == f"{broken.video_id} (correct) (not decodable)"
    image = picture(gallery, broken.video_id, True)
    assert image.getpixel((0, 0)) == GREEN
    assert image.getpixel((BORDER + 1, BORDER + 1)) == GREY
    assert max(c for _, c in image.convert("L").getcolors() or []) > 200  # the words on it
    shown = next(v for v, jpeg in gallery.thumbnails.items() if jpeg)
    assert picture(gallery, shown, False).size == image.size == (FRAMES * SIDE + 2 * BORDER, SIDE + 2 * BORDER)


@pytest.mark.parametrize(
    ("ranks", "items", "counts"),
    [
        ([1, 1, 1.5, 5, 6, 50, 51], 60, [("1", 2), ("2-5", 2), ("6-10", 1), ("11-50", 1), ("51-100", 1)]),
        ([], 3, [("1", 0), ("2-5", 0)]),
        (
            [501, 500],
            1000,
            [*((n, 0) for n in ("1", "2-5", "6-10", "11-50", "51-100")), ("101-500", 1), ("over 500", 1)],
        ),
    ],
)
def test_ranks_are_counted_in_ranges(ranks: list[float], items: int, counts: list[tuple[str, int]]) -> None:
    assert rank_histogram(ranks, items) == counts


@pytest.mark.parametrize(
    "damage",
    ["{", "{}", *(f'{{"queries": [], "worst": [], "thumbnails": {{"a": "{x}"}}}}' for x in ("<script>", "YQ=="))],
)
def test_a_damaged_gallery_is_named(tmp_path: Path, damage: str) -> None:
    assert read_gallery(tmp_path / "gallery.json") is None
    (tmp_path / "gallery.json").write_text(damage)
    with pytest.raises(RunError, match=r"gallery.json is damaged"):
        read_gallery(tmp_path / "gallery.json")


def test_curves_go_on_after_a_resumed_run_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "curves.csv"
    write_curves(file, [{"epoch": e, "step": 3 * e, "train/loss": 1.0} for e in range(4)])
    trainer = SimpleNamespace(
        is_global_zero=True, sanity_checking=False, current_epoch=2, global_step=9, accumulate_grad_batches=2,
        callback_metrics={"val/SumR": torch.tensor(7.0), "logit_scale": torch.tensor(14.0), "x": torch.tensor(0.0)},
    )  # fmt: skip
    curves: Any = Curves(tmp_path)
    curves.on_train_epoch_start(trainer, None)
    for loss in (1.0, 2.0):
        curves.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, 0)
    curves.on_train_batch_end(trainer, None, None, None, 0)  # a skipped step
    curves.on_validation_end(trainer, None)
    curves.on_train_epoch_end(trainer, None)
    rows = read_curves(file)
    assert [r["epoch"] for r in rows] == [0, 1, 2]
    assert rows[2] == {"epoch": 2, "step": 9, "train/loss": 3.0, "logit_scale": 14.0, "val/SumR": 7.0}
    assert "val/SumR" not in rows[1]
    with file.open() as lines:
        assert next(csv.reader(lines))[:3] == ["epoch", "step", "train/loss"]
    trainer.is_global_zero = False
    trainer.current_epoch = 3
    before = file.read_bytes()
    curves.on_train_epoch_end(trainer, None)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_damaged_curves_are_named(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text("epoch,step\n0,x\n")
    with pytest.raises(RunError, match=r"curves.csv is damaged"):
        read_curves(tmp_path / "curves.csv")


def test_a_gallery_without_failures_has_none(make_data: Any) -> None:
    data = make_data()
    data.setup("test")
    split = data.split_of("test")
    gallery, reasons = make_gallery(result_of(torch.eye(8), split.caption_video), split)
    assert isinstance(gallery, Gallery)
    assert (gallery.worst, reasons) == ((), [])


def test_the_largest_gallery_stays_small(make_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tvr_lightning.data.video import frames as video

    data = make_data()
    data.setup("test")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (FRAMES, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    found = SimpleNamespace(frames=noise, mask=torch.ones(FRAMES).bool())
    monkeypatch.setattr(video, "read_frames", lambda *_, **__: found)
    pictures = module.QUERIES * (module.TOP + 1) + module.FAILURES * (module.FOUND + 1)
    size = len(module.strip(data.split_of("test").records[0]))
    assert 1000 < size <= module.MAX_BYTES
    assert pictures * module.MAX_BYTES * 4 / 3 + 30 * 4 * module.CAPTION_LENGTH < 900_000


def test_a_strip_shows_the_frames_in_order(make_data: Any) -> None:
    """Of the video and of a segment of it; a short video gives fewer frames."""
    import io
    from dataclasses import replace

    from PIL import Image

    from tvr_lightning.data.video.frames import read_frames

    data = make_data()
    data.setup("test")
    record = data.split_of("test").records[0]
    whole = replace(record, start=None, end=None)
    length = float(read_frames(record.video_path, 1000).times.max())
    for part in (whole, replace(record, start=0.0, end=length / 2), replace(record, start=0.0, end=1e-3)):
        found = read_frames(part.video_path, FRAMES, size=SIDE, start=part.start, end=part.end)
        jpeg = module.strip(part)
        assert num_frames(jpeg) == int(found.mask.sum())
        pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(jpeg)))).float()  # (SIDE, n SIDE, 3)
        for i, frame in enumerate(found.frames[found.mask].float()):
            error = (pixels[:, i * SIDE : (i + 1) * SIDE].permute(2, 0, 1) - frame).abs().mean()
            assert error < 6, f"frame {i}"
    assert num_frames(jpeg) == 1
    frames = read_frames(record.video_path, FRAMES, size=SIDE).frames.float()
    assert (frames[0] - frames[1:]).abs().mean() > 0  # the frames differ: an order can be told


def test_a_mosaic_has_two_lines_a_query(make_data: Any) -> None:
    data = make_data()
    data.setup("test")
    split = data.split_of("test")
    gallery, _ = make_gallery(result_of(torch.eye(8), split.caption_video), split)
    image = mosaic(gallery, gallery.queries[:2])
    width, height = FRAMES * SIDE + 2 * BORDER, SIDE + 2 * BORDER
    assert image.size == (3 * width, 2 * (2 * height + BORDER))
    first = gallery.queries[0]
    assert image.crop((0, 0, width, height)).tobytes() == picture(gallery, first.video, True).tobytes()
    last = image.crop((2 * width, height, 3 * width, 2 * height))
    assert last.tobytes() == picture(gallery, first.top[4], False).tobytes()
