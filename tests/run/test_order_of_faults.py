"""Faults show in the order of what they cost: arguments, then data, then downloads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.data.stores import hub
from tvr_lightning.data.stores.hub import FetchPostponedError, before_fetching, without_fetching
from tvr_lightning.encoders import clip_weights
from tvr_lightning.errors import CheckpointError
from tvr_lightning.run.smoke import smoke_arguments
from tvr_lightning.synthetic.reader import Shapes

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "clip4clip_shapes.yaml"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a command does that takes long: it makes the dataset, it downloads, which fails here."""
    found: list[str] = []

    def download(*args: object) -> Path:
        hub.before_fetching("weights")
        found.append("download")
        raise CheckpointError("no network")

    monkeypatch.setattr(Shapes, "prepare", lambda self: found.append("data"))
    monkeypatch.setattr(clip_weights, "_download", download)
    return found


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that fails, and gives what it says."""

    def command(name: str, root: Path, *more: str) -> str:
        words = [a for a in smoke_arguments(EXPERIMENT, root, tmp_path / "runs") if "fast_dev_run" not in a]
        assert main([name, *words, *more]) != 0
        return capsys.readouterr().err

    return command


@pytest.mark.parametrize(
    ("command", "change", "message"),
    [
        ("fit", "--model.encoder.from_pretrained=nosuch", "has no pretrained tag 'nosuch'"),
        ("fit", "--model.encoder.model=ViT-B-33", "Unknown CLIP model"),
        ("fit", "--data.batch_size=0", "it must be at least 1"),
        ("fit", "--checkpoint_every=0", "it must be at least 1"),
        ("fit", "--resume=last", "nothing to resume"),
        ("test", "--tracker=none", "needs weights"),
        ("test", "--ckpt_path=best", "has weights; train first"),
    ],
)
def test_wrong_arguments_are_refused_before_data_are_made(
    run: Callable[..., str], steps: list[str], tmp_path: Path, command: str, change: str, message: str
) -> None:
    assert message in run(command, tmp_path / "no data", change)
    assert steps == []


DOWNLOADED = ("--model.encoder.model=ViT-B-32", "--model.encoder.from_pretrained=openai")


def test_missing_data_are_said_before_weights_are_fetched(
    run: Callable[..., str], steps: list[str], tmp_path: Path
) -> None:
    assert "no 'MSRVTT_JSFUSION_test.csv' in" in run("fit", tmp_path / "no data", *DOWNLOADED)
    assert steps == ["data"]


def test_weights_are_fetched_last(run: Callable[..., str], steps: list[str], shapes_root: Path) -> None:
    assert "no network" in run("fit", shapes_root, *DOWNLOADED)
    assert steps == ["data", "download"]


def test_nothing_is_fetched_inside_the_block_and_everything_after_it() -> None:
    with without_fetching(), pytest.raises(FetchPostponedError, match="ViT-B-32 openai is not fetched yet"):
        before_fetching("ViT-B-32 openai")
    before_fetching("ViT-B-32 openai")
