"""Hashing results in the run's table, in comparisons and in figures."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from rich.console import Console
from torch import Tensor, nn

from tvr_lightning.commands.main import main
from tvr_lightning.data.stores.files import write_json
from tvr_lightning.errors import RunError
from tvr_lightning.evaluation import EncodedSplit, Evaluation, EvaluationResult, evaluate
from tvr_lightning.evaluation.code_files import load_codes
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.optim import Optimizer
from tvr_lightning.report.bits import bits_lines, bits_table
from tvr_lightning.report.comparison import compare
from tvr_lightning.report.formats import to_latex, to_markdown, to_table
from tvr_lightning.run.callbacks.hashing_plots import HashingPlots
from tvr_lightning.run.hashing_curves import draw_precision_recall
from tvr_lightning.run.results import find_runs, hashing_line, read_run, result_table
from tvr_lightning.types import CodeFeatures, TextInput, VideoInput


class Hashes(RetrievalModule[CodeFeatures, CodeFeatures]):
    """Scores codes; it is handed features."""

    image_size = 8
    encoders: Sequence[nn.Module] = ()

    def encode_video(self, video: VideoInput) -> CodeFeatures:
        raise AssertionError("features are handed over")

    def encode_text(self, text: TextInput) -> CodeFeatures:
        raise AssertionError("features are handed over")

    def score(self, texts: CodeFeatures, videos: CodeFeatures) -> Tensor:
        return texts.codes.float() @ videos.codes.float().T

    def compute_losses(self, texts: CodeFeatures, videos: CodeFeatures, video_index: Tensor) -> dict[str, Tensor]:
        raise AssertionError("features are handed over")


def found(method: Hashes, bits: int = 16, labels: bool = True) -> EvaluationResult:
    generator = torch.Generator().manual_seed(0)
    texts, videos = (CodeFeatures(*torch.randn(2, 30, bits, generator=generator)) for _ in range(2))
    known = [(i % 3,) for i in range(30)] if labels else ()
    return evaluate(method, EncodedSplit(texts, videos, torch.arange(30), labels=known), Evaluation(resamples=50))


def make_run(root: Path, name: str, bits: int, m_ap: float, database: str = "train", **changes: Any) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    seed = changes.pop("seed", 0)
    init_args = {"code_length": bits, "variant": changes.pop("variant", "full")}
    config = {"seed_everything": seed, "experiment": folder.parent.name, "model": {"init_args": init_args}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    metrics = {f"test/{d}/{k}": 10.0 for d in ("t2v", "v2t") for k in ("R@1", "R@5", "R@10", "MdR", "MnR")}
    metrics["test/SumR"] = 60.0
    for i, d in enumerate(("t2v", "v2t")):
        metrics |= {f"test/hash/{d}/mAP": m_ap + i, f"test/hash/{d}/mAP@50": 40.0, f"test/hash/{d}/P@50": 30.0}
        metrics[f"test/hash/{d}/n_queries_without_relevant"] = 3.0
        metrics |= {f"test/hash/{b}/{d}/mAP": v for b, v in (("pca", 12.0), ("random", 11.0), ("chance", 10.5))}
    content: dict[str, Any] = {
        "experiment": folder.parent.name, "method": "SPTCH", "encoder": "tiny", "dataset": "shapes", "split": "9k",
        "seed": seed, "metrics": metrics, "intervals": {"test/hash/t2v/mAP": [m_ap - 2, m_ap + 2.5]},
        "data": {"left_out": 0, "subset": None, "videos": 40, "captions": 40}, "selected_on_test": False,
        "partial": False, "v2t": "sets",
        "hashing": {
            "database": database, "texts": 1000, "videos": 1100, "normalise": "relevant", "bits": bits,
            "queries_without_relevant": {"t2v": 3, "v2t": 0},
        },
    }  # fmt: skip
    write_json(folder / "metrics.json", content | changes)
    return folder


def text_of(table: Any) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_run_s_table_has_ranks_and_codes(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, "sptch_shapes_64/a", 64, 33.0))
    text = text_of(result_table(run.content))
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.count("│") > 2}
    assert "10.0" in rows["R@1"]
    assert "33.0  [31.0, 35.5]" in rows["hash/mAP"]
    assert "34.0" in rows["hash/mAP"]
    assert list(rows)[-6:] == [
        "hash/mAP",
        "hash/mAP@50",
        "hash/P@50",
        "hash/pca/mAP",
        "hash/random/mAP",
        "hash/chance/mAP",
    ]
    assert "n_queries" not in text
    line = (
        "hash: 64 bits, database train (1,000 texts, 1,100 videos), mAP@k over relevant, 3 queries without a relevant"
    )
    assert line in hashing_line(run.content)
    assert "64 bits, database train" in text
    plain = dict(run.content) | {"hashing": None}
    assert hashing_line(plain) == ""
    assert "hash" not in text_of(result_table(plain))


def test_one_comparison_holds_ranks_and_codes(tmp_path: Path) -> None:
    make_run(tmp_path, "sptch_shapes_16/a", 16, 22.0)
    make_run(tmp_path, "sptch_shapes_64/a", 64, 33.0)
    other = read_run(make_run(tmp_path, "clip4clip_shapes/a", 64, 0.0, hashing=None, method="CLIP4Clip"))
    content = dict(other.content)
    content["metrics"] = {k: v for k, v in content["metrics"].items() if "hash/" not in k}
    write_json(other.path / "metrics.json", content)
    comparison = compare(find_runs([], tmp_path))
    assert [c.key for c in comparison.columns][-3:] == ["SumR", "hash/t2v/mAP", "hash/v2t/mAP"]
    assert comparison.blocks[0].best["hash/t2v/mAP"] == 33.0
    notes = {e.group.runs[0].content["experiment"]: " ".join(e.notes) for e in comparison.blocks[0].ranked}
    assert "16 bits, database train" in notes["sptch_shapes_16"]
    assert notes["clip4clip_shapes"] == ""
    assert "33.0" in text_of(to_table(comparison))
    full = compare(find_runs([], tmp_path), full=True)
    assert {"hash/v2t/P@50", "hash/pca/t2v/mAP"} <= {c.key for c in full.columns}
    assert "hash/t2v" in to_markdown(full)


def test_codes_over_other_databases_are_not_ranked_together(tmp_path: Path) -> None:
    make_run(tmp_path, "a/x", 64, 22.0)
    make_run(tmp_path, "b/x", 64, 33.0, database="test")
    best = compare(find_runs([], tmp_path)).blocks[0].best
    assert "hash/t2v/mAP" not in best
    assert "SumR" in best


def test_lines_join_runs_that_differ_in_code_length_and_seed(tmp_path: Path) -> None:
    for bits, seed, m_ap in ((64, 0, 33.0), (16, 0, 22.0), (16, 1, 24.0)):
        make_run(tmp_path, f"sptch_shapes_{bits}/s{seed}", bits, m_ap, seed=seed)
    make_run(tmp_path, "sptch_cont_32/a", 32, 20.0, variant="cont")
    lines = bits_lines(find_runs([], tmp_path), "t2v")
    learned = {line.name: dict(line.points) for line in lines if line.learned}
    assert learned == {
        "sptch_cont, database train": {32: [20.0]},
        "sptch_shapes, database train": {16: [22.0, 24.0], 64: [33.0]},
    }
    baselines = {line.name.partition(",")[0]: sorted(line.points) for line in lines if not line.learned}
    assert baselines == {kind: [16, 32, 64] for kind in ("pca", "random", "chance")}
    assert bits_lines(find_runs([], tmp_path), "v2t")[0].points == {32: [21.0]}


def test_compare_draws_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for bits in (16, 64):
        make_run(runs, f"sptch_shapes_{bits}/a", bits, 20.0 + bits / 8)
    assert main(["compare", "--runs_dir", str(runs), "--plot", "bits"]) == 0
    file = Path(capsys.readouterr().out.strip())
    assert file == runs / "map_by_bits.png"
    assert np.asarray(Image.open(file).convert("RGB")).std() > 10
    for path in runs.rglob("metrics.json"):
        write_json(path, json.loads(path.read_text()) | {"hashing": None})
    assert main(["compare", "--runs_dir", str(runs), "--plot", "bits"]) == 1
    assert "no run has hashing metrics" in capsys.readouterr().err


class KeptLog(WandbLogger):
    """W&B's logger without W&B."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(log=self.logged.append)


def test_curves_are_kept_and_logged(tmp_path: Path) -> None:
    method = Hashes(Optimizer(), Evaluation())
    method.result = found(method)
    logger = TensorBoardLogger(tmp_path, name="", version="log")
    wandb = KeptLog()
    records = [SimpleNamespace(video_id=f"v{i}", labels=(i % 3,)) for i in range(30)]
    captions = SimpleNamespace(first=torch.arange(30))
    split = SimpleNamespace(records=records, caption_video=torch.arange(30), captions=captions)
    data = SimpleNamespace(split_of=lambda _: split)
    trainer: Any = SimpleNamespace(is_global_zero=True, loggers=[logger, wandb], datamodule=data)
    HashingPlots(tmp_path).on_test_end(trainer, method)
    points = json.loads((tmp_path / "pr_curve.json").read_text())
    assert method.result.hashing is not None
    assert points["t2v"]["recall"] == method.result.hashing.curves["t2v"].recall.tolist()
    assert points["v2t"]["recall"][-1] == 1.0
    kept = load_codes(tmp_path / "codes.npz")
    assert torch.equal(kept["text"].signs, method.result.hashing.codes["text"])
    assert (list(kept["text"].ids[:2]), list(kept["video"].ids[:2])) == (["v0#0", "v1#0"], ["v0", "v1"])
    assert kept["video"].labels == tuple((i % 3,) for i in range(30))
    assert points["v2t"]["radius"] == sorted(points["v2t"]["radius"])
    assert np.asarray(Image.open(tmp_path / "pr_curve.png").convert("RGB")).std() > 10
    logger.experiment.flush()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert events.Tags()["images"] == ["hashing/pr_curve"]
    assert [list(entry) for entry in wandb.logged] == [["hashing/pr_curve"]]
    assert wandb.logged[0]["hashing/pr_curve"].image.size[0] > 400
    assert len(draw_precision_recall(points, "x").axes) == 2


def test_a_test_without_hashing_metrics_leaves_no_curve(tmp_path: Path) -> None:
    method = Hashes(Optimizer(), Evaluation())
    trainer: Any = SimpleNamespace(is_global_zero=True, loggers=[])
    HashingPlots(tmp_path).on_test_end(trainer, method)
    with pytest.warns(UserWarning, match="no hashing metrics"):
        method.result = found(method, labels=False)
    HashingPlots(tmp_path).on_test_end(trainer, method)
    trainer.is_global_zero = False
    method.result = found(method)
    HashingPlots(tmp_path).on_test_end(trainer, method)
    assert list(tmp_path.iterdir()) == []
    trainer.is_global_zero = True
    with pytest.raises(RunError, match="cannot write"):
        HashingPlots(tmp_path / "gone").on_test_end(trainer, method)


def test_code_lengths_are_columns(tmp_path: Path) -> None:
    for bits, seed, m_ap in ((64, 0, 33.0), (16, 0, 22.0), (16, 1, 24.0)):
        make_run(tmp_path, f"sptch_shapes_{bits}/s{seed}", bits, m_ap, seed=seed)
    make_run(tmp_path, "djsrh_shapes/s0", 64, 20.0, method="DJSRH")
    head, *rows = bits_table(find_runs([], tmp_path))
    assert head == ("hash/mAP by bits", "t2v 16", "t2v 64", "v2t 16", "v2t 64")
    cells = {name: found for name, *found in rows}
    assert cells["sptch_shapes, database train"] == ["23.0 ±1.4", "33.0", "24.0 ±1.4", "34.0"]
    assert cells["djsrh_shapes, database train"] == ["-", "20.0", "-", "21.0"]
    comparison = compare(find_runs([], tmp_path))
    assert "| sptch\\_shapes, database train | 23.0 ±1.4 | 33.0 | 24.0 ±1.4 | 34.0 |" in to_markdown(comparison)
    assert "sptch_shapes, database train" in text_of(to_table(comparison))
    assert r"sptch\_shapes, database train & 23.0 $\pm$1.4 & 33.0" in to_latex(comparison)


def test_one_code_length_needs_no_columns(tmp_path: Path) -> None:
    make_run(tmp_path, "sptch_shapes_64/a", 64, 33.0)
    assert bits_table(find_runs([], tmp_path)) == []
    assert "by bits" not in to_markdown(compare(find_runs([], tmp_path)))
