"""Every method on a CUDA device: training, going on, evaluating, the CPU's scores, and steps that wait for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from tvr_lightning.commands.main import main
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.objects import class_of
from tvr_lightning.evaluation import score_all
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.run.build import build_cli
from tvr_lightning.run.smoke import smoke_arguments, smoke_data
from tvr_lightning.run.training import make_trainer

from ..kinds import composed
from ..methods.method_cases import EXPERIMENTS, Case, cases_of, random_text, random_video

pytestmark = pytest.mark.gpu

DEVICE, ACCELERATOR = "cuda", "gpu"
SHAPES = sorted(EXPERIMENTS.glob("*_shapes*.yaml"))
ONE_OF_A_METHOD = list({composed(file)["model"]["class_path"]: file for file in SHAPES}.values())
METHODS = sorted((EXPERIMENTS / "method").glob("*.yaml"))
WARM = 2  # steps that may wait: the first ones load kernels
Method = RetrievalModule[Any, Any]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:  # variants are found by building them: not where all of this is skipped
        found = torch.cuda.is_available()
        cases = [case for file in METHODS for case in (cases_of(file) if found else [Case(file)])]
        metafunc.parametrize("case", cases, ids=str)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def words(data_root: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments that make an experiment small; runs and caches are the test's own, so caches are cold."""

    def arguments(file: Path, *more: str) -> list[str]:
        small = smoke_arguments(file, smoke_data(file, data_root), tmp_path / "runs")
        return [*small, f"--trainer.accelerator={ACCELERATOR}", *more]

    return arguments


def fit(arguments: list[str], folder: Path, *callbacks: Callback) -> tuple[Trainer, Method]:
    """Trains as `tvr fit` does."""
    cli = build_cli(read_arguments(arguments)[0])
    trainer = make_trainer(cli, "fit", folder)
    trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]
    trainer.fit(cli.model, cli.datamodule)
    return trainer, cli.model


def assert_sound(model: Method) -> None:
    """Looks for what cannot be trained on, and for what is not a number."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert not tensor.is_inference(), name
        assert not tensor.isnan().any(), name  # masks of attention hold infinities


class SoundFromTheStart(Callback):
    """Looks at the weights once features of frozen encoders are known."""

    def __init__(self) -> None:
        self.device = torch.device("meta")

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        assert_sound(pl_module)
        self.device = pl_module.device


@pytest.mark.parametrize("file", SHAPES, ids=lambda f: f.stem)
def test_trains_from_cold_caches_and_is_tested(file: Path, words: Callable[..., list[str]], tmp_path: Path) -> None:
    start = SoundFromTheStart()
    trainer, model = fit(words(file), tmp_path, start)
    assert start.device.type == DEVICE
    assert trainer.global_step > 0
    assert_sound(model)
    trainer.test(model, datamodule=trainer.datamodule, verbose=False)  # type: ignore[attr-defined]
    assert model.result is not None
    assert_sound(model)


class Killed(BaseException):
    """Ends a run as suddenly as Python can."""


@pytest.mark.parametrize("file", ONE_OF_A_METHOD, ids=lambda f: f.stem)
def test_goes_on_and_evaluates(
    file: Path, words: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        *(word for word in words(file) if "fast_dev_run" not in word),
        *("--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1", "--checkpoint_every=1", "--tracker=none"),
    ]
    method = class_of(composed(file)["model"])
    assert method
    plain = method.training_step  # type: ignore[attr-defined]

    def step(self: Method, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 4:
            raise Killed
        return plain(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(method, "training_step", step)
        with pytest.raises(Killed):
            main(["fit", *arguments, "--run_id=k"])
    assert main(["fit", *arguments, "--resume=last"]) == 0
    home = tmp_path / "runs" / file.stem
    last = torch.load(home / "k" / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")
    assert last["global_step"] > 4
    assert all(torch.isfinite(weight).all() for weight in last["state_dict"].values())
    assert main(["test", *arguments, f"--ckpt_path={home / 'k'}", "--run_id=tested"]) == 0
    trained, tested = (json.loads((home / run / "metrics.json").read_text()) for run in ("k", "tested"))
    assert tested["metrics"] == pytest.approx(trained["metrics"], abs=1e-6)
    if DEVICE == "cuda":
        assert trained["device"] == torch.cuda.get_device_name()


@torch.no_grad()
def test_scores_are_those_of_the_cpu(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # convolutions take it unless told
    method = case.build()
    text, video = random_text(method, 9), random_video(method, 7)
    texts, videos = method.encode_text(text), method.encode_video(video)
    expected = method.score(texts, videos)
    method.to(DEVICE)
    close: dict[str, float] = {"rtol": 0, "atol": 1e-4 * float(expected.abs().max())}
    torch.testing.assert_close(method.score(texts.to(DEVICE), videos.to(DEVICE)).cpu(), expected, **close)
    texts, videos = method.encode_text(text.to(DEVICE)), method.encode_video(video.to(DEVICE))
    torch.testing.assert_close(method.score(texts, videos).cpu(), expected, **close)
    texts, videos = texts.to("cpu"), videos.to("cpu")
    torch.testing.assert_close(score_all(method, texts, videos, chunk_size=4).cpu(), expected, **close)


class NoWaiting(Callback):
    """Makes a step fail that waits for the device; Lightning's own logging may wait."""

    def __init__(self) -> None:
        self.checked = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx >= WARM:
            self.checked += 1
            pinned = batch.to("cpu").pin_memory()
            torch.cuda.set_sync_debug_mode("error")
            again = trainer.datamodule.transfer_batch_to_device(pinned, pl_module.device, 0)
            assert len(again) == len(batch)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[NoWaiting]:
    plain = LightningModule.log

    def log(self: LightningModule, *arguments: Any, **settings: Any) -> None:
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            plain(self, *arguments, **settings)
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    monkeypatch.setattr(LightningModule, "log", log)
    yield NoWaiting()
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("file", ONE_OF_A_METHOD, ids=lambda f: f.stem)
def test_steps_are_finite_and_wait_for_nothing(
    file: Path, precision: str, words: Callable[..., list[str]], tmp_path: Path, no_waiting: NoWaiting
) -> None:
    # of the 12 training videos; both passes of a method with two networks take their turn after the warm steps
    more = [f"--trainer.fast_dev_run={WARM + 2}", "--data.batch_size=3", f"--trainer.precision={precision}"]
    # the scaler of fp16 reads from the device whether gradients are finite
    trainer, model = fit(words(file, *more), tmp_path, *([] if precision == "16-mixed" else [no_waiting]))
    assert trainer.precision == precision
    assert precision == "16-mixed" or no_waiting.checked == 2
    assert_sound(model)
    losses = [float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")]
    assert losses
    assert torch.isfinite(torch.tensor(losses)).all()
