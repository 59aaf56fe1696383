"""Errors of torch, of the system and of worker processes as sentences that say what to do."""

from __future__ import annotations

import os
import re
from traceback import walk_tb

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningModule

from tvr_lightning.errors import ConfigError, RunError, TVRError, one_line
from tvr_lightning.visible import bytes_in_words

WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", re.DOTALL)
WAITED = re.compile(r"DataLoader timed out after ([\d.]+) seconds")
SHARED_MEMORY = re.compile(
    r"unable to \w+ (?:shared memory|file </torch_).*|shared memory.*No space left", re.IGNORECASE
)
OF_GPU = re.compile(
    r"tried to allocate ([\d.]+ \w+)\."
    r"(?: GPU (\d+) has a total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free)?",
    re.IGNORECASE,
)
OF_MACHINE = re.compile(r"(?:can't allocate memory|not enough memory): you tried to allocate (\d+) bytes")
MORE_SHARED = "start the container with more shared memory (docker run --shm-size=8g), or set --data.num_workers=0"
# what Lightning says of settings once it knows the batches and the figures, in errors that others raise too
OF_SETTINGS = re.compile(r"^\W*val_check_interval\W.*must be|^Early stopping conditioned on metric")
THREE = (
    "Three settings help: --model.optimizer.loss_chunk=16 (pairs at a time, with the gradients of the whole batch), "
    "the encoder's gradient_checkpointing=true, and a smaller --data.batch_size (in evaluation "
    "--data.eval_batch_size); see docs/training.md"
)


def readable_error(error: BaseException, advice: str = "") -> TVRError | None:
    """What a user should read in place of an error that came from a worker process or from memory that ran out.

    Args:
        error: a `TVRError` that torch raised again with the worker's traceback as its text, the death of a worker, a
            wait for one that was too long, an allocation that failed, or settings that Lightning refuses.
        advice: how the run goes on, said where something ran out.

    Returns:
        None for any other error, and for those that are readable already.

    >>> print(readable_error(MemoryError("Unable to allocate 3.0 GiB for an array")))
    out of memory: Unable to allocate 3.0 GiB for an array. ...
    """
    text = str(error)
    if isinstance(error, TVRError):
        if not text.startswith("Caught "):
            return None
        kind = type(error)
        return kind(text.rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip())
    misfit = isinstance(error, MisconfigurationException) and not _in_a_method(error)
    if misfit or (isinstance(error, ValueError | RuntimeError) and OF_SETTINGS.search(text)):
        return ConfigError(f"trainer: {one_line(error)}")
    said = _ran_out(error, text)
    return None if said is None else RunError(f"{said}. {advice}".rstrip(". "))


def _in_a_method(error: BaseException) -> bool:
    """Whether a method called what failed: its author needs the line, not a hint at settings.

    The number of steps, for which a method asks the trainer, depends on settings alone.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return not any(frame.f_code.co_name == "estimated_stepping_batches" for frame in frames) and any(
        isinstance(frame.f_locals.get("self"), LightningModule)
        and not frame.f_globals.get("__name__", "").startswith("pytorch_lightning.")
        for frame in frames
    )


def _ran_out(error: BaseException, text: str) -> str | None:
    if isinstance(error, MemoryError):
        return f"out of memory: {text.splitlines()[0] if text else 'no size is known'}. {THREE}"
    if not isinstance(error, RuntimeError):
        return None
    if died := WORKER.search(text):
        how = died[2].strip().splitlines()[0].rstrip(". ")
        if "Terminated" in how:
            return f"SIGTERM reached the processes that decode videos too (pid {died[1]}), so the step was not ended"
        return (
            f"a process that decodes videos died (pid {died[1]}, {how}): usually memory ran out, or shared memory. Set "
            f"a smaller --data.num_workers or --data.batch_size, or {MORE_SHARED}"
        )
    if waited := WAITED.search(text):
        return (
            f"no batch came from the processes that decode videos for {float(waited[1]):.0f} s: a disk that hangs, or "
            f"shared memory that is full. Look at the disk, or {MORE_SHARED}"
        )
    if SHARED_MEMORY.search(text):
        return f"shared memory is full, workers cannot hand batches over: {MORE_SHARED}"
    return _out_of_memory(error, text)


def _out_of_memory(error: RuntimeError, text: str) -> str | None:
    if isinstance(error, torch.OutOfMemoryError):
        found = OF_GPU.search(text)
        if found is None:
            return f"out of memory on the GPU: {text.splitlines()[0]}. {THREE}"
        of = f", {found[4]} of its {found[3]} were free" if found[2] else ""
        return f"out of memory on GPU {found[2] or ''}: {found[1]} more were wanted{of}. {THREE}"
    if found := OF_MACHINE.search(text):
        has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        wanted = bytes_in_words(int(found[1]))
        return f"out of memory: {wanted} more were wanted, the machine has {bytes_in_words(has)} in all. {THREE}"
    return None
