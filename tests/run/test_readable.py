"""What torch and the system say when something ran out becomes a sentence with the way out."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from tvr_lightning.errors import ConfigError, DecodeError, RunError
from tvr_lightning.run.readable import readable_error

GPU = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of 79.10 GiB of which 1.20 GiB is free."
    " Including non-PyTorch memory, this process has 77.80 GiB memory in use."
)


def test_errors_of_workers() -> None:
    text = (
        'Caught DecodeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "x"\n'
    )
    told = readable_error(DecodeError(f"{text}tvr_lightning.errors.DecodeError: a.mp4: cannot be decoded: b: c\n"))
    assert type(told) is DecodeError
    assert str(told) == "a.mp4: cannot be decoded: b: c"
    assert readable_error(DecodeError("a.mp4: cannot be decoded")) is None
    died = readable_error(RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"))
    assert isinstance(died, RunError)
    assert "died (pid 12, 13, exited unexpectedly)" in str(died)
    advised = readable_error(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed."), "Start again")
    assert str(advised).endswith("--data.num_workers=0. Start again")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError(GPU), "out of memory on GPU 1: 2.00 GiB more were wanted, 1.20 GiB of its 79.10 "),
        (torch.OutOfMemoryError("HIP out of memory"), "out of memory on the GPU: HIP out of memory. Three"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
                         "you tried to allocate 34359738368 bytes. Error code 12 (Cannot allocate memory)"),
            "out of memory: 32.0 GiB more were wanted, the machine has ",
        ),
        (MemoryError(), "out of memory: no size is known"),
        (RuntimeError("DataLoader timed out after 1800 seconds"), "no batch came .* for 1800 s: .*--shm-size"),
        (
            RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: unable to allocate shared "
                         "memory(shm) for file </torch_3_1_1>: No space left on device (28)"),
            "shared memory is full, .*--shm-size=8g.*num_workers=0",
        ),
    ],
)  # fmt: skip
def test_what_ran_out_is_one_line_with_the_way_out(error: RuntimeError, said: str) -> None:
    told = readable_error(error)
    assert isinstance(told, RunError)
    assert len(str(told).splitlines()) == 1
    assert re.match(said, str(told)), str(told)
    if "out of memory" in said:
        for setting in ("loss_chunk", "gradient_checkpointing", "data.batch_size"):
            assert setting in str(told)


def test_what_the_libraries_really_raise() -> None:
    with pytest.raises(RuntimeError) as torch_s:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert "more were wanted" in str(readable_error(torch_s.value))
    with pytest.raises(MemoryError) as numpy_s:
        np.empty(1 << 60, dtype=np.uint8)
    assert "Unable to allocate" in str(readable_error(numpy_s.value))


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError("x"), KeyError(1)]
)
def test_other_errors_stay_themselves(error: Exception) -> None:
    assert readable_error(error) is None


def test_a_worker_that_was_told_to_end_is_no_lack_of_memory() -> None:
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")
    said = str(readable_error(error, "The run can continue"))
    assert "SIGTERM" in said
    assert "memory" not in said
    assert said.endswith("The run can continue")


class Wrong(LightningModule):
    """A method whose author has logged a figure so that it says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        loss = self.layer(batch).sum()
        self.log("x", loss, on_step=False, on_epoch=False)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_what_a_method_does_wrong_keeps_its_traceback() -> None:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    with pytest.raises(MisconfigurationException, match="not useful") as raised:
        Trainer(max_steps=1, enable_model_summary=False, **quiet).fit(Wrong(), DataLoader(torch.ones(2, 1)))
    assert readable_error(raised.value) is None
    with pytest.raises(MisconfigurationException) as raised:
        Trainer(devices=0, **quiet)
    told = readable_error(raised.value)
    assert isinstance(told, ConfigError)
    assert str(told).startswith("trainer: ")


def test_what_lightning_says_of_settings_is_known_by_its_kind_too() -> None:
    text = "Early stopping conditioned on metric `val/x` which is not available"
    assert isinstance(readable_error(RuntimeError(text)), ConfigError)
    assert readable_error(AssertionError(text)) is None
