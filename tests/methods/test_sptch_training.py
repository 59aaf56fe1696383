"""SPTCH in a trainer: passes that take turns, and runs that go on in the middle of one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from tvr_lightning.errors import ConfigError, ScoreError
from tvr_lightning.methods.sptch import SPTCH, Variant
from tvr_lightning.optim import Optimizer
from tvr_lightning.run.callbacks.guard import FiniteTraining
from tvr_lightning.run.callbacks.resume import KeepLast
from tvr_lightning.run.checkpoints import AtomicCheckpointIO

from ..kinds import first_fast
from .sptch_cases import (
    BATCH,
    STEPS,
    VARIANTS,
    VIDEOS,
    Data,
    batch_of,
    build,
    terms,
    texts_of,
    videos_of,
)

CASES = Path(__file__).parent / "sptch_cases.py"


class Killed(BaseException):
    """Ends a run as suddenly as Python can."""


class Watch(Callback):
    """Keeps weights at the end of every epoch; kills the run in a step."""

    def __init__(self, at: int = -1) -> None:
        self.at = at
        self.weights: list[dict[str, Tensor]] = []
        self.logged: list[set[str]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.at:
            raise Killed

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.weights.append({k: v.clone() for k, v in pl_module.state_dict().items()})
        self.logged.append(set(trainer.callback_metrics))


def fit(
    model: SPTCH, epochs: int = 4, at: int = -1, folder: Path | None = None, resume: Path | None = None, **settings: Any
) -> Watch:
    watch = Watch(at)
    callbacks: list[Callback] = [FiniteTraining(), watch, *settings.pop("callbacks", ())]
    if folder is not None:
        callbacks.append(KeepLast(folder, 1))
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=callbacks, logger=False, enable_progress_bar=False,
        enable_checkpointing=folder is not None, enable_model_summary=False, limit_val_batches=0,
        use_distributed_sampler=False, num_sanity_val_steps=0,
        plugins=[AtomicCheckpointIO(), *settings.pop("plugins", ())], **settings,
    )  # fmt: skip
    torch.manual_seed(7)
    more: dict[str, Any] = {} if resume is None else {"ckpt_path": str(resume), "weights_only": True}
    trainer.fit(model, Data(), **more)
    return watch


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_passes_take_turns_and_change_their_network_only() -> None:
    model = build(optimizer=Optimizer(warmup=0.5))
    watch = fit(model)
    turns = [changed(a, b) for a, b in zip(watch.weights, watch.weights[1:], strict=False)]
    hashing = {"video_hash", "text_hash", "text_hash_encoder"}
    assert turns == [{"graph_network"}, hashing, {"graph_network"}, hashing]
    assert {"train/reconstruction", "train/graph_loss"} <= watch.logged[1]
    assert {"train/inter_modal", "train/loss"} <= watch.logged[2]
    assert model.trainer.global_step == 4 * STEPS
    graph, hashes = model.trainer.optimizers
    assert (graph.param_groups[0]["lr"], hashes.param_groups[0]["lr"]) == (1e-3, 1e-4)
    assert len(model.graph) == VIDEOS  # type: ignore[arg-type]


def test_the_graph_holds_what_frozen_encoders_say_of_the_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def captions(self: Data, split: Any) -> Any:
        """Video 3 has no caption, video 5 has two, video 11 cannot be read."""
        keep = torch.tensor([i for i in range(VIDEOS) if i != 3] + [0])
        text = self.pairs.text[keep]
        video = torch.cat([keep[:-1], torch.tensor([5])])
        split.caption_video = video
        text = replace(text, index=torch.arange(len(text)), video_index=video)
        return [text], [self.pairs.video[torch.tensor([i for i in range(VIDEOS) if i != 11])]]

    monkeypatch.setattr(Data, "evaluation_loaders", captions)
    monkeypatch.setattr(Data, "train_dataloader", lambda self: DataLoader([batch_of(3)], batch_size=None))
    model = build("bin")
    fit(model, epochs=2)
    assert model.graph is not None
    assert len(model.graph) == VIDEOS - 2
    places = [i for i in range(VIDEOS) if i not in (3, 11)]
    assert model._row.tolist() == [places.index(i) if i in places else -1 for i in range(VIDEOS)]
    with torch.no_grad():
        text, video = model.encode_text(texts_of(VIDEOS)).source, model.encode_video(videos_of(VIDEOS)).source
    torch.testing.assert_close(model.graph.video_features, video[places])
    text[5] = (text[5] + text[0]) / 2
    torch.testing.assert_close(model.graph.text_features, text[places])


@pytest.mark.parametrize("at", first_fast([2, STEPS + 2, 2 * STEPS, 3 * STEPS - 1]))
def test_a_run_that_was_killed_in_a_pass_ends_as_one_that_was_not(tmp_path: Path, at: int) -> None:
    settings: dict[str, Any] = {"dropout": 0.1, "optimizer": Optimizer(schedule="cosine", weight_decay=0.1)}
    whole = fit(build(**settings), folder=tmp_path / "whole")
    with pytest.raises(Killed):
        fit(build(**settings), folder=tmp_path / "killed", at=at)
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == at
    other = build(**settings)
    for parameter in other.parameters():
        parameter.data += 1.0  # everything comes from the checkpoint
    resumed = fit(other, folder=tmp_path / "killed", resume=last)
    assert not changed(whole.weights[-1], resumed.weights[-1])
    ends = [torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("whole", "killed")]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 4 * STEPS
    for a, b in zip(*(end["optimizer_states"] for end in ends), strict=True):
        assert a["param_groups"] == b["param_groups"]
        for key, state in a["state"].items():
            assert all(torch.equal(state[name], b["state"][key][name]) for name in state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains(variant: Variant) -> None:
    watch = fit(build(variant), epochs=2)
    graph = changed(watch.weights[0], watch.weights[1])
    assert graph == (set() if variant == "bin" else {"graph_network"})
    assert changed(watch.weights[1], watch.weights[2]) == {"video_hash", "text_hash", "text_hash_encoder"}


class Norms(Callback):
    """Notes the norm of the gradients that an optimiser steps with."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._note)

    def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.found.append(float(torch.stack([g.norm() for g in grads]).norm()))


@pytest.mark.parametrize("scale", [None, 1024.0], ids=["float32", "fp16"])
def test_gradients_are_clipped(scale: float | None) -> None:
    norms, plugins = Norms(), []
    if scale is not None:
        plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))]
    fit(build(clip_norm=1e-3), epochs=2, callbacks=[norms], plugins=plugins)
    assert len(norms.found) == 2 * STEPS
    assert all(n == pytest.approx(1e-3, rel=1e-2) for n in norms.found)


@pytest.mark.parametrize("part", ["graph_network", "video_hash"])
def test_a_loss_that_is_no_number_stops_either_pass(part: str) -> None:
    model = build()
    with torch.no_grad():
        next(getattr(model, part).parameters()).fill_(torch.nan)
    step = 0 if part == "graph_network" else STEPS
    with pytest.raises(ScoreError, match=rf"loss of step {step} is not finite; its batch holds the videos video\d"):
        fit(model)


@pytest.mark.parametrize("part", ["graph_network", "video_hash"])
def test_a_gradient_that_is_no_number_stops_either_pass(part: str, tmp_path: Path) -> None:
    model = build()
    next(getattr(model, part).parameters()).register_hook(lambda gradient: gradient * torch.nan)
    step = 0 if part == "graph_network" else STEPS
    with pytest.raises(ScoreError, match=rf"gradient of step {step} is not finite, though the loss is \({part}\."):
        fit(model, folder=tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert not last.exists() if step == 0 else torch.load(last, weights_only=True)["global_step"] == step


def test_an_odd_number_of_epochs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_epochs is 3: .*set an even number"):
        fit(build(), epochs=3)


def test_a_trial_run_shows_both_passes() -> None:
    model = build()
    watch = fit(model, epochs=1, fast_dev_run=2)
    assert len(changed(watch.weights[0], watch.weights[1])) == 4
    assert {"train/reconstruction", "train/inter_modal"} <= watch.logged[1]


def test_a_single_item_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Data, "train_dataloader", lambda self: DataLoader([batch_of(1)], batch_size=None))
    watch = fit(build(), epochs=2)
    assert not changed(watch.weights[0], watch.weights[2])


def test_chunks_of_a_step_give_the_same_gradients() -> None:
    def gradients(chunk: int | None) -> dict[str, Tensor]:
        model = build(optimizer=Optimizer(loss_chunk=chunk)).double()
        torch.stack(list(terms(model, batch_of(6)).values())).sum().backward()
        return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}

    whole, parts = gradients(None), gradients(4)
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name])


@pytest.mark.parametrize(
    ("epochs", "batch", "message"),
    [(3, BATCH, "set an even number"), (4, VIDEOS + 1, "no batch")],
)
def test_wrong_settings_are_refused_before_features_are_computed(
    epochs: int, batch: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_dataloader(data: Data) -> Any:
        if batch > VIDEOS:
            raise ConfigError("no batch can be filled")
        return loader(data)

    loader, computed = Data.train_dataloader, []
    monkeypatch.setattr(Data, "train_dataloader", train_dataloader)
    monkeypatch.setattr(Data, "precompute_features", lambda *_: computed.append(1))
    with pytest.raises(ConfigError, match=message):
        fit(build(), epochs=epochs)
    assert not computed


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_both_passes_on_two_devices_are_those_on_one(tmp_path: Path) -> None:
    """Under the plain `ddp` strategy: no parameter is unused in either pass."""
    for devices in (1, 2):
        subprocess.run([sys.executable, str(CASES), str(devices), str(tmp_path / f"{devices}.pt")], check=True)
    one, two = (torch.load(tmp_path / f"{devices}.pt", weights_only=True) for devices in (1, 2))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-12, msg=name)
