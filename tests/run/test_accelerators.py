from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator

from tvr_lightning.commands.main import main
from tvr_lightning.errors import ConfigError
from tvr_lightning.run import accelerators
from tvr_lightning.run.accelerators import ExperimentTrainer, choose_precision, device_advice, runs_on
from tvr_lightning.run.smoke import smoke_arguments

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "clip4clip_msrvtt.yaml"
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CUDA_12 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CARDS = {
    "Tesla V100": (7, 0),
    "Tesla T4": (7, 5),
    "A100": (8, 0),
    "RTX 3090": (8, 6),
    "RTX 4090": (8, 9),
    "H100": (9, 0),
}


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that the machine has cards, and torch kernels for some."""

    def pretend(*names: str, built: list[str] = CUDA_12) -> None:
        found: dict[str, Callable[..., Any]] = {
            "is_available": lambda: bool(names),
            "device_count": lambda: len(names),
            "get_device_capability": lambda card: CARDS[names[card]],
            "get_device_name": lambda card: names[card],
            "get_arch_list": lambda: built,
        }
        for name, function in found.items():
            monkeypatch.setattr(torch.cuda, name, function)

    return pretend


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, int], None]:
    """Puts a program of that name and answer in the place of nvidia-smi; no device file is there."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(accelerators, "Path", lambda name: tmp_path / "absent")

    def install(answer: str, code: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{answer}'\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return install


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), "32-true"),
        (("Tesla V100",), "16-mixed"),
        (("Tesla T4",), "16-mixed"),
        (("A100",), "bf16-mixed"),
        (("RTX 3090",), "bf16-mixed"),
        (("H100", "H100"), "bf16-mixed"),
        (("H100", "Tesla V100"), "16-mixed"),
    ],
)
def test_auto_follows_the_cards(cards: Callable[..., None], names: tuple[str, ...], expected: str) -> None:
    cards(*names)
    assert choose_precision("auto") == expected


def test_auto_looks_at_the_devices_of_the_run_only(cards: Callable[..., None]) -> None:
    cards("H100", "Tesla V100")
    assert choose_precision("auto", "cpu") == "32-true"
    assert choose_precision("auto", CPUAccelerator(), 1) == "32-true"
    for devices in (1, "1", [0], "0,"):
        assert choose_precision("auto", "gpu", devices) == "bf16-mixed", devices
    for devices in (2, -1, "auto", [1], "0,1"):
        assert choose_precision("auto", CUDAAccelerator(), devices) == "16-mixed", devices


@pytest.mark.parametrize("precision", [None, "32-true", "bf16-mixed", 32, "bf16"])
def test_what_is_named_stays(cards: Callable[..., None], precision: Any) -> None:
    cards("Tesla V100")
    assert choose_precision(precision, "gpu") == precision
    assert choose_precision(precision, "cpu") == precision


def test_devices_that_are_not_there_are_named(cards: Callable[..., None], driver: Callable[..., None]) -> None:
    cards("H100")
    with pytest.raises(ConfigError, match=r"trainer.devices=4: .*only has: \[0\]"):
        choose_precision("auto", "gpu", 4)
    cards()
    driver("no devices", 1)
    with pytest.raises(ConfigError, match=r"cannot use a GPU here: there is none; set trainer\.accelerator=cpu"):
        choose_precision("32-true", "gpu")


def test_half_precision_is_not_for_processors(cards: Callable[..., None]) -> None:
    cards()
    for precision in ("16-mixed", "16", 16):
        with pytest.raises(ConfigError, match=f"precision={precision} is for GPUs, and this run is on a CPU: set auto"):
            choose_precision(precision)  # type: ignore[arg-type]
    cards("H100")
    assert choose_precision("16-mixed") == "16-mixed"
    with pytest.raises(ConfigError, match="is for GPUs"):
        choose_precision("16-mixed", "cpu")


@pytest.mark.parametrize("devices", ["a", "", "0-1", None, ["0"]])
def test_devices_that_mean_nothing_are_named(cards: Callable[..., None], devices: Any) -> None:
    cards("a100", "a100")
    with pytest.raises(ConfigError, match=r"trainer\.devices="):
        choose_precision("auto", "gpu", devices)


def test_the_trainer_computes_in_what_was_chosen(cards: Callable[..., None]) -> None:
    cards()
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    assert ExperimentTrainer(precision="auto", accelerator="cpu", **quiet).precision == "32-true"
    assert ExperimentTrainer(precision="bf16-mixed", accelerator="cpu", **quiet).precision == "bf16-mixed"
    assert ExperimentTrainer(accelerator="cpu", **quiet).precision == "32-true"


@pytest.mark.parametrize("card", CARDS)
def test_kernels_run_on_their_generation(card: str) -> None:
    assert runs_on(CUDA_12, CARDS[card])
    assert runs_on(CUDA_13, CARDS[card]) == (card != "Tesla V100")


def test_kernels_of_one_card_and_portable_code() -> None:
    assert runs_on(["sm_90a"], (9, 0))
    assert not runs_on(["sm_90a"], (9, 1))
    assert runs_on(["sm_100f"], (10, 3))
    assert runs_on(["compute_90"], (12, 0))
    assert not runs_on(["compute_90"], (8, 0))
    assert not runs_on([], (9, 0))


def test_advice_for_cards_without_kernels_or_bf16(cards: Callable[..., None]) -> None:
    cards("Tesla V100", built=CUDA_13)
    advice = device_advice("auto")
    assert advice
    assert "no kernels for Tesla V100 (sm_70; it has sm_75, " in advice
    assert "make setup TORCH=cu126" in advice
    assert device_advice("auto", "cpu") is None
    cards("Tesla V100")
    advice = device_advice("bf16-mixed")
    assert advice
    assert "Tesla V100 (compute capability 7.0) has no bf16" in advice
    assert device_advice("auto") is device_advice("16-mixed") is None
    cards("RTX 4090", built=CUDA_13)
    assert device_advice("bf16-mixed") is None


def test_advice_for_a_gpu_that_torch_cannot_use(
    cards: Callable[..., None], driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards()
    driver("GPU 0: Tesla V100 (UUID: GPU-1)")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    advice = device_advice("auto")
    assert advice
    assert advice.startswith("the run is on the CPU, though there is a GPU: its driver is too old for torch ")
    assert "make setup TORCH=cu126" in advice
    assert "\n" not in advice
    assert device_advice("auto", "cpu") is None
    with pytest.raises(ConfigError, match="cannot use a GPU here: its driver is too old"):
        device_advice("auto", "gpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is a build without CUDA" in str(device_advice("auto"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # somebody does not want it
    assert device_advice("auto") is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    driver("No devices were found", 6)
    assert device_advice("auto") is None


def test_a_driver_that_hangs_is_no_gpu(monkeypatch: pytest.MonkeyPatch, driver: Callable[..., None]) -> None:
    driver("GPU 0: H100")

    def hang(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 10)

    monkeypatch.setattr(accelerators.subprocess, "run", hang)
    assert accelerators.no_cuda_advice() is None


@pytest.fixture
def fit(shapes_root: Path, tmp_path: Path) -> Callable[..., int]:
    return lambda *more: main(["fit", *smoke_arguments(EXPERIMENT, shapes_root, tmp_path / "runs"), *more])


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", "transformer-engine"])
def test_precisions_without_a_method_that_learns_in_them_are_refused(
    fit: Callable[..., int], tmp_path: Path, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(f"--trainer.precision={precision}") != 0
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    assert f"trainer.precision: '{precision}' does not fit" in message
    assert not (tmp_path / "runs" / "clip4clip_msrvtt").exists()


def test_half_precision_on_a_processor_is_refused_before_a_run_folder_is_made(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--trainer.precision=16-mixed") != 0
    assert "trainer.precision=16-mixed is for GPUs" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "runs" / "clip4clip_msrvtt").exists()
