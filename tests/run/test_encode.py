"""`tvr encode`: codes of a split, by the weights of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tvr_lightning.commands.main import main
from tvr_lightning.errors import CheckpointError, ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.evaluation.code_files import load_codes
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.optim import Optimizer
from tvr_lightning.run import prepared as module
from tvr_lightning.run.encode import encode_run
from tvr_lightning.run.load import Experiment
from tvr_lightning.run.smoke import smoke_arguments
from tvr_lightning.types import CodeFeatures, TextInput, VideoInput

ROOT = Path(__file__).parents[2]
BITS = 12


class TinyHash(RetrievalModule[CodeFeatures, CodeFeatures]):
    """Random projections of mean colours and of which tokens a text has."""

    image_size = 32

    def __init__(self) -> None:
        super().__init__(Optimizer(), Evaluation())
        torch.manual_seed(0)
        self.video, self.text = nn.Linear(3, BITS), nn.Embedding(50_000, BITS)

    @property
    def encoders(self) -> Sequence[nn.Module]:
        return ()

    def encode_video(self, video: VideoInput) -> CodeFeatures:
        source = video.frames.float().mean((1, 3, 4)) - 100
        return CodeFeatures(self.video(source), source)

    def encode_text(self, text: TextInput) -> CodeFeatures:
        assert not self.training
        real = (self.text(text.tokens) * text.token_mask[..., None]).sum(1)
        return CodeFeatures(real, real)

    def score(self, texts: CodeFeatures, videos: CodeFeatures) -> Tensor:
        return texts.codes.float() @ videos.codes.float().T

    def compute_losses(self, texts: CodeFeatures, videos: CodeFeatures, video_index: Tensor) -> dict[str, Tensor]:
        raise AssertionError("codes are given, nothing is trained")


@pytest.fixture
def run(tmp_path: Path, make_data: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder whose weights are a fresh `TinyHash`."""

    def load(path: Path, trust: bool) -> Experiment:
        data = make_data(eval_batch_size=5, cache_features=False)
        return Experiment("tiny", TinyHash().eval(), data, {}, {})

    monkeypatch.setattr(module, "load_run", load)
    folder = tmp_path / "runs" / "tiny" / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    return folder


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_codes_of_a_split(
    run: Path, split: str, make_data: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    file = "codes.npz" if split == "test" else f"codes_{split}.npz"
    assert main(["encode", str(run), "--split", split]) == 0
    data = make_data()
    data.setup("fit")
    chosen = data.splits[split]
    told = capsys.readouterr().out
    assert told == (
        f"{run / file}: {len(chosen.captions)} text codes of 12 bits, {len(chosen.records)} video codes of 12 bits\n"
    )
    codes = load_codes(run / file)
    assert codes["video"].ids.tolist() == [r.video_id for r in chosen.records]
    assert codes["text"].ids[0] == f"{chosen.records[0].video_id}#0"
    model = TinyHash().eval()
    # an item's code does not depend on its batch
    with torch.inference_mode():
        for row in (0, len(chosen.records) - 1):
            clip = chosen.reader.read(row)
            assert torch.equal(codes["video"].signs[row], model.encode_video(clip).codes[0])
            text = chosen.captions.rows(torch.tensor([row]))
            assert torch.equal(codes["text"].signs[row], model.encode_text(text).codes[0])
    assert len(torch.unique(codes["video"].signs, dim=0)) > 1


def test_the_file_goes_where_it_is_wanted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", str(run), "--out", str(tmp_path / "x.npz")]) == 0
    assert len(load_codes(tmp_path / "x.npz")["video"]) > 0
    assert not (run / "codes.npz").exists()
    assert main(["encode", str(run), "--out", str(tmp_path / "gone" / "x.npz")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_a_split_that_nothing_reads(run: Path, make_data: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(selection="test")
    monkeypatch.setattr(module, "load_run", lambda _, trust: Experiment("tiny", TinyHash(), data, {}, {}))
    with pytest.raises(ConfigError, match=r"has no validation split under data\.selection=test"):
        encode_run(run, "validation")


def test_weights_of_another_vocabulary(
    run: Path, make_data: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data()
    data.trained_tokenizer = "words of another dataset"
    monkeypatch.setattr(module, "load_run", lambda _, trust: Experiment("tiny", TinyHash(), data, {}, {}))
    with pytest.raises(CheckpointError, match="another vocabulary"):
        encode_run(run, "test")


def test_methods_without_codes_and_folders_without_a_run(
    tmp_path: Path, shapes_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", str(tmp_path)]) == 1
    assert "is not a run: no config.yaml in" in capsys.readouterr().err
    experiment = ROOT / "experiments" / "clip4clip_shapes.yaml"
    words = [a for a in smoke_arguments(experiment, shapes_root, tmp_path) if "fast_dev_run" not in a]
    assert main(["fit", *words, "--trainer.max_epochs=1", "--tracker=none", "--run_id=a"]) == 0
    capsys.readouterr()
    assert main(["encode", str(tmp_path / "clip4clip_shapes" / "a")]) == 2
    assert "CLIP4Clip makes no codes" in capsys.readouterr().err
    assert not (tmp_path / "clip4clip_shapes" / "a" / "codes.npz").exists()
