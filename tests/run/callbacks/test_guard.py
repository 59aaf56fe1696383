"""Losses, gradients and weights that are not numbers never reach a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn

from tvr_lightning.commands.main import main
from tvr_lightning.errors import ScoreError
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.run.callbacks.guard import SMALLEST_SCALE, FiniteTraining, not_finite

from ...kinds import first_fast
from ...small_runs import run_arguments


class _Broken(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * torch.nan


@pytest.fixture
def fit(shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Trains six steps; `change` is given the module and the loss of step `at`."""

    def run(at: int, change: Callable[[Any, Tensor], Tensor], *more: str) -> int:
        plain = RetrievalModule.training_step

        def step(self: Any, batch: Any, batch_idx: int) -> Tensor:
            loss = plain(self, batch, batch_idx)
            return change(self, loss) if self.trainer.global_step == at else loss

        monkeypatch.setattr(RetrievalModule, "training_step", step)
        return main(["fit", *run_arguments(shapes_root, tmp_path, "--run_id=g", "--checkpoint_every=1", *more)])

    return run


def test_all_batches_that_a_gradient_was_summed_over_are_named(
    fit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(0, lambda module, loss: _Broken.apply(loss), "--trainer.accumulate_grad_batches=2") == 1
    error = capsys.readouterr().err
    assert "the gradient of step 0 is not finite, though the loss is (" in error
    assert "its batches hold the videos video" in error


@pytest.mark.parametrize("at", first_fast([5, 3]))  # in the step that the last epoch's end saves, and within it
@pytest.mark.parametrize("more", first_fast([[], ["--trainer.gradient_clip_val=null"]]))
def test_gradients_that_are_no_numbers_leave_the_checkpoint_before(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int, more: tuple[str, ...]
) -> None:
    assert fit(at, lambda module, loss: _Broken.apply(loss), *more) == 1
    error = capsys.readouterr().err
    assert f"the gradient of step {at} is not finite, though the loss is (" in error
    assert "its batch holds the videos video" in error
    content = torch.load(tmp_path / "clip4clip_shapes" / "g" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == at
    assert not not_finite(content["state_dict"].items())


def test_weights_that_are_no_numbers_are_never_saved(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(module: Any, loss: Tensor) -> Tensor:
        module.trainer.optimizers[0].register_step_post_hook(
            lambda *_: next(module.parameters()).data.view(-1)[0].fill_(torch.inf)
        )
        return loss

    assert fit(5, spoil, "--data.selection=last") == 1
    assert "weights are not finite after step 6: " in capsys.readouterr().err
    content = torch.load(tmp_path / "clip4clip_shapes" / "g" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 5


class TestScaler:
    """What fp16 leaves out is not a fault."""

    @pytest.fixture
    def trainer(self) -> Trainer:
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        scaler.scale(torch.ones(()))  # makes the scale
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, plugins=[plugin])

    def test_a_step_that_it_leaves_out_goes_on(self, trainer: Trainer) -> None:
        module: Any = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, torch.inf)
        guard = FiniteTraining()
        guard.on_before_optimizer_step(trainer, module, optimizer)
        guard.on_save_checkpoint(trainer, module, {})

    def test_no_step_at_all_is_one(self, trainer: Trainer) -> None:
        module: Any = nn.Linear(2, 1)
        trainer.precision_plugin.scaler.update(SMALLEST_SCALE / 2)  # type: ignore[attr-defined]
        with pytest.raises(ScoreError, match="fp16 training takes no more steps at step 0"):
            FiniteTraining().on_save_checkpoint(trainer, module, {})
