from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tvr_lightning.encoders.bert import BERTEncoder, BERTSize
from tvr_lightning.encoders.vgg import VGGEncoder, VGGSize
from tvr_lightning.evaluation import EncodedSplit
from tvr_lightning.methods.lean import LEAN, WordFeatures
from tvr_lightning.types import VideoFeatures

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WIDTH = 8


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("lean_readout")


def build(**settings: Any) -> LEAN:
    torch.manual_seed(0)
    vgg = VGGEncoder(size=VGGSize(16, ((8,),), 2, 16, 16))
    return LEAN(vgg, BERTEncoder(size=BERTSize(16, 1, 1, 16, 16)), WIDTH, **settings)


def split() -> EncodedSplit[WordFeatures, VideoFeatures]:
    generator = torch.Generator().manual_seed(1)
    texts = WordFeatures(
        torch.randn(40, 5, WIDTH, generator=generator), torch.arange(5) < torch.arange(40)[:, None] % 6
    )
    videos = VideoFeatures(torch.randn(40, 3, WIDTH, generator=generator), torch.ones(40, 3, dtype=torch.bool))
    return EncodedSplit(texts, videos, torch.arange(40))


def test_shares_are_those_of_the_weights(script: Any) -> None:
    """An attention that prefers nobody weighs every state alike: shares are shares of their number."""
    model = build(readout="nodes_and_hyperedges")
    torch.nn.init.zeros_(model.scorer.readout.attention.weight)
    found = script.account(model, split(), pairs=16 * 16)
    words = torch.arange(16) % 6
    states = 2 * words + 4 + 2 + (words > 0)
    expected = {
        "words": (words / states).mean(), "frames": (3 / states).mean(), "video": (1 / states).mean(),
        "global": (1 / states).mean(), "text": ((words > 0) / states).mean(), "visual": (1 / states).mean(),
        "cross": (words / states).mean(),
    }  # fmt: skip
    assert found.shares == pytest.approx({name: float(x) for name, x in expected.items()}, abs=1e-6)
    assert found.divergence > 0
    assert found.sigma == pytest.approx(1.0)  # where training starts


def test_what_is_not_there_is_not_counted(script: Any) -> None:
    found = script.account(build(variational=False), split(), pairs=2000)
    assert found.shares.keys() == {"words", "frames", "video"}
    assert sum(found.shares.values()) == pytest.approx(1, abs=1e-5)
    assert found.divergence is found.sigma is None


def test_runs_are_found_by_their_configuration(script: Any, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    for name in ("a", "c"):
        (tmp_path / name / "config.yaml").touch()
    assert script.runs_of([tmp_path]) == [tmp_path / "a", tmp_path / "c"]
    assert script.runs_of([tmp_path / "c"]) == [tmp_path / "c"]
    assert script.runs_of([tmp_path / "b"]) == []
