"""What hashing methods that see the training set share: features that are centred, or are not, and are finite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from tvr_lightning.encoders.kept import keep_encoders
from tvr_lightning.errors import CheckpointError, DataError
from tvr_lightning.methods.agch import AGCH
from tvr_lightning.methods.cirh import CIRH
from tvr_lightning.methods.cmfh import CMFH
from tvr_lightning.methods.djsrh import DJSRH
from tvr_lightning.methods.jdsh import JDSH
from tvr_lightning.methods.stmh import STMH

from .hashing_cases import build
from .sptch_cases import VIDEOS, Data, texts_of, videos_of


def fit(model: Any, data: Data) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, limit_val_batches=0, use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, data)
    return trainer


@pytest.mark.parametrize("kind", [DJSRH, JDSH, AGCH, CIRH, CMFH])
def test_features_are_centred_by_the_training_set(kind: Any) -> None:
    """Frozen features have much in common: similarities are of what is left."""
    model = build(kind).float()
    taken: list[tuple[Tensor, Tensor]] = []
    learn_from = model.learn_from
    model.learn_from = lambda video, text, row: (taken.append((video, text)), learn_from(video, text, row))
    fit(model, Data())
    with torch.no_grad():
        videos, texts = model.video_source(videos_of(VIDEOS)), model.text_source(texts_of(VIDEOS))
        torch.testing.assert_close(model.video_mean, videos.mean(0))
        torch.testing.assert_close(model.text_mean, texts.mean(0))
        torch.testing.assert_close(taken[0], (videos - videos.mean(0), texts - texts.mean(0)))
        torch.testing.assert_close(model.encode_video(videos_of(VIDEOS)).source, videos - videos.mean(0))
        torch.testing.assert_close(model.encode_text(texts_of(VIDEOS)).source, texts - texts.mean(0))
    assert {"video_mean", "text_mean"} <= {*model.state_dict()}


class Talkative(Data):
    """Of one video there are several captions, of others none."""

    def __init__(self) -> None:
        super().__init__()
        self.splits["train"].caption_video = (torch.arange(VIDEOS) - 3).clamp(min=0)


@pytest.mark.parametrize("kind", [DJSRH, CMFH])
def test_a_video_of_many_captions_counts_once(kind: Any) -> None:
    model = build(kind).float()
    fit(model, Talkative())
    with torch.no_grad():
        videos, texts = model.video_source(videos_of(VIDEOS)), model.text_source(texts_of(VIDEOS))
    each = torch.stack([texts[:4].mean(0), *texts[4:]])
    torch.testing.assert_close(model.text_mean, each.mean(0))
    torch.testing.assert_close(model.video_mean, videos[: len(each)].mean(0))  # the others have no caption
    assert not torch.allclose(model.text_mean, texts.mean(0))


@pytest.mark.parametrize(
    ("kind", "source", "rows", "named"),
    [
        (JDSH, "video_source", [7, 9], "of the video of video7, video9 are"),
        (CMFH, "text_source", [5], "of the captions of video5 are"),
        (STMH, "video_source", [VIDEOS - 1], f"of the video of video{VIDEOS - 1} are"),
    ],
)
def test_features_that_are_not_finite_are_named_before_anything_is_learned(
    kind: Any, source: str, rows: list[int], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(kind).float()
    whole, seen = getattr(model, source), 0

    def broken(items: Any) -> Tensor:
        nonlocal seen
        features: Tensor = whole(items).clone()
        for row in rows:
            if seen <= row < seen + len(features):
                features[row - seen, 0] = math.nan
        seen += len(features)
        return features

    monkeypatch.setattr(model, source, broken)
    monkeypatch.setattr(model, "learn_from", lambda *_: pytest.fail("it has learned from NaN"))
    with pytest.raises(DataError, match=f"the frozen features {named} not finite"):
        fit(model, Data())


@pytest.mark.parametrize("kind", [DJSRH, JDSH, AGCH, CIRH])
def test_or_not(kind: Any) -> None:
    model = build(kind, centred=False).float()
    assert "video_mean" not in model.state_dict()
    with torch.no_grad():
        source = model.encode_text(texts_of(3)).source
        torch.testing.assert_close(source, model.text_source(texts_of(3)))


@pytest.mark.parametrize("kind", [DJSRH, CIRH])
def test_weights_of_before_centring_are_used_as_they_were_trained(kind: Any, tmp_path: Path) -> None:
    old = build(kind, centred=False).float().eval()
    name = f"{kind.__module__}.{kind.__qualname__}"
    content = {"state_dict": old.state_dict(), "method": name, "encoders": keep_encoders(old)}
    model = build(kind).float().eval()
    model.on_load_checkpoint({**content, "state_dict": dict(content["state_dict"])})
    model.on_load_checkpoint(content)  # as `tvr test` does, once more
    model.load_state_dict(content["state_dict"])
    assert not model.centred  # nor would a resumed run begin with it
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(texts_of(3)).source, model.text_source(texts_of(3)))
        assert torch.equal(model.encode_video(videos_of(3)).codes, old.encode_video(videos_of(3)).codes)
    fit(model, Data()).save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    again = build(kind).float()
    again.on_load_checkpoint(saved)  # a run that was resumed, resumed once more
    assert not again.centred
    again.load_state_dict(saved["state_dict"])
    content["state_dict"].pop("video_mean")  # one alone is damage
    with pytest.raises(CheckpointError, match="video_mean: missing"):
        build(kind).float().on_load_checkpoint(content)
