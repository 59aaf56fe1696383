"""Weights on disk: finding them, resuming an unfinished run, saving that survives a full disk."""

from __future__ import annotations

import difflib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from tvr_lightning.config.layers import flat
from tvr_lightning.config.options import WHERE_AND_HOW_OFTEN
from tvr_lightning.config.text import parse_yaml
from tvr_lightning.encoders.kept import rebuilding, weights_of_released_code
from tvr_lightning.encoders.of_runs import UNSAID, read_checkpoint, result_weights, says_encoders
from tvr_lightning.encoders.weights import load_checkpoint
from tvr_lightning.errors import CheckpointError, ConfigError, RunError, few
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.names import BEST, CHECKPOINTS, CONFIG, LAST, METRICS
from tvr_lightning.run.callbacks.guard import not_finite
from tvr_lightning.run.reading import read_settings
from tvr_lightning.run.released import TAKES, check_weights, is_released
from tvr_lightning.visible import say_once

# what may differ in a run that goes on: where things lie and how often they are kept, nothing that a result depends on
CHANGEABLE_ON_RESUME = (
    *WHERE_AND_HOW_OFTEN,
    *("data.num_workers", "data.cache_frames", "data.cache_dir", "data.cache_gib"),
)


def find_checkpoint(home: Path, wanted: str, resume: bool = False) -> Path:
    """Turns `last`, `best`, a run folder or a file into a readable checkpoint.

    Args:
        home: the folder of the experiment's runs; `last` and `best` mean its newest run that has weights.
        wanted: what the user wrote. `best` and a run folder mean the weights that its result came from: the selected
            ones, or the last where nothing selected.
        resume: training goes on from a run folder's last weights.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = Path(wanted)
    if wanted in ("last", "best"):
        runs = _newest(home.glob(f"*/{CHECKPOINTS}/{LAST}"))
        if not runs:
            raise CheckpointError(f"no run in {home} has weights; train first, or give a file")
        path = runs[-1].parents[1]
    if path.is_dir():
        path = path / CHECKPOINTS / LAST if resume or wanted == "last" else result_weights(path)
        if wanted == "best" and path.name == LAST:
            say_once(f"{path.parents[1]} has no {BEST}, nothing selected one: its last weights are taken")
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; {_elsewhere(path, home)}")
    read_checkpoint(path)
    return path


def _elsewhere(path: Path, home: Path) -> str:
    """What to take in place of a checkpoint that is not there."""
    folder = path.parent.parent
    if path.parent.name == CHECKPOINTS and (folder / CONFIG).is_file() and not path.parent.is_dir():
        config = read_settings(folder / CONFIG)
        evaluated = config.get("ckpt_path") or config.get("weights")
        if evaluated:
            return f"{folder} only evaluated the weights {evaluated}: give those"
    if len(path.parts) == 1 and not path.suffix and (meant := difflib.get_close_matches(path.name, ("best", "last"))):
        return f"did you mean {meant[0]}?"
    near = _near(path, home)
    return f"there is {few(near, 3)}" if near else "train first"


def _beside(path: Path, home: Path) -> str:
    """Checkpoints that may be meant by a path that is not there, in brackets; empty where there are none."""
    near = _near(path, home)
    return f" (there is {few(near, 3)})" if near else ""


def _near(path: Path, home: Path) -> list[str]:
    # a folder of runs that the path names goes before the experiment's own
    named = path.parents[2] if path.parent.name == CHECKPOINTS and len(path.parents) > 2 else path.parent
    homes = [x for x in (named, home) if any(x.glob(f"*/{CHECKPOINTS}/*.ckpt"))]
    return [str(p) for x in homes[:1] for p in reversed(_newest(x.glob(f"*/{CHECKPOINTS}/*.ckpt")))]


def has_weights(home: Path) -> bool:
    """Whether a run among those of an experiment has weights.

    >>> has_weights(Path("runs/none"))
    False
    """
    return any(home.glob(f"*/{CHECKPOINTS}/{LAST}"))


def find_weights(home: Path, wanted: str) -> Path:
    """The checkpoint that `--weights` means: of a run, as `find_checkpoint` has it, or of a method's released code.

    Raises:
        CheckpointError: there is none, it is damaged, or holds something else.
    """
    path = Path(wanted)
    if wanted in ("last", "best") or (path.is_dir() and (path / CONFIG).is_file()):
        return find_checkpoint(home, wanted)
    if not path.exists():
        raise CheckpointError(f"--weights={wanted}: there is no such file or run{_beside(path, home)}. {TAKES}")
    if not path.is_file():
        what = "a folder, but no run's" if path.is_dir() else "a pipe or a device, no file"
        raise CheckpointError(f"--weights={wanted} is {what}. {TAKES}")
    check_weights(path)
    return path


def encoders_of(path: Path) -> AbstractContextManager[None]:
    """Lets encoders that are built inside the block read no weights but compute what a checkpoint's do.

    Raises:
        CheckpointError: an earlier version saved it, which did not say what they compute.
    """
    return weights_of_released_code() if is_released(path) else rebuilding(kept_in(path))


def kept_in(path: Path) -> dict[str, dict[str, Any]]:
    """What a checkpoint says of its encoders; see `encoders.kept.keep_encoders`.

    Raises:
        CheckpointError: an earlier version saved it, which did not say.
    """
    kept = load_checkpoint(path).get("encoders")
    if not says_encoders(kept):
        raise CheckpointError(f"{path}: {UNSAID}")
    return kept


def restore(model: RetrievalModule[Any, Any], path: Path) -> None:
    """Loads a checkpoint's weights into the model that was built for it.

    Raises:
        CheckpointError: it is of another method, size or encoder, or holds values that are not finite.
    """
    content = load_checkpoint(path)
    model.on_load_checkpoint(content)
    check_finite(path, content["state_dict"], model)
    model.load_state_dict(content["state_dict"])


def check_finite(path: Path, weights: Mapping[str, Any], model: nn.Module) -> None:
    """Refuses weights that are not numbers: what they score is not a result.

    Args:
        path: where they lie.
        weights: by name.
        model: which of them it learns; other tensors of it may hold what they like.

    Raises:
        CheckpointError: names them.
    """
    learned = {name for name, _ in model.named_parameters()}
    if broken := not_finite((name, x) for name, x in weights.items() if name in learned):
        raise CheckpointError(f"{path} holds values that are not finite: {few(broken)}")


def _newest(paths: Iterator[Path]) -> list[Path]:
    return sorted(paths, key=lambda p: p.stat().st_mtime)


def find_unfinished(home: Path, wanted: str) -> Path:
    """The folder of the run that `--resume` means.

    Args:
        home: the folder of the experiment's runs; `last` means its newest one without a result.
        wanted: `last`, a run folder, or its last checkpoint.

    Raises:
        RunError: there is no such run, it is finished, or it has no checkpoint yet.
        ConfigError: another checkpoint than the last.
    """
    if wanted == "last":
        runs = [p.parents[1] for p in _newest(home.glob(f"*/{CHECKPOINTS}/{LAST}"))]
        open_ones = [run for run in runs if not (run / METRICS).exists()]
        if not open_ones:
            what = "all its runs with a checkpoint are finished" if runs else "none of its runs has a checkpoint"
            raise RunError(f"nothing to resume in {home}: {what}; train without resuming")
        return open_ones[-1]
    path = Path(wanted)
    if path.is_file():
        if path.name != LAST:
            raise ConfigError(
                f"{path}: a run is resumed from its {LAST}; to start a new run from other weights: --weights={path}"
            )
        path = path.absolute().parents[1]
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} is not a run folder (no {CONFIG}); resume `last`, a folder in {home}, or its {LAST}")
    if (path / METRICS).exists():
        raise RunError(
            f"{path} is finished, there is nothing to resume. To train on from its weights, in a new run: "
            f"--ckpt_path={path} --trainer.max_epochs=MORE, or from its weights alone: --weights={path}"
        )
    if not (path / CHECKPOINTS / LAST).is_file():
        raise RunError(f"{path} ended before its first checkpoint, there is nothing to resume; train without resuming")
    return path


def check_settings(
    folder: Path, config: Mapping[str, Any], complete: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> None:
    """Refuses to go on with a run under other settings than it began with.

    Args:
        folder: the run's folder.
        config: the resolved settings of now.
        complete: gives the folder's settings the defaults of those that an update has added since.

    Raises:
        RunError: names what differs; or the folder's own settings are damaged.
    """
    file = folder / CONFIG
    try:
        stored = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{file} is damaged ({' '.join(str(error).split())}); the run cannot be resumed") from None
    if not isinstance(stored, Mapping):
        raise RunError(f"{file} is damaged (no settings in it); the run cannot be resumed")
    there, here = flat(stored), flat(config)
    if any(key not in there for key in here):
        try:
            there = flat(complete(stored))
        except ConfigError as error:
            raise RunError(
                f"{folder} was started by a version of the suite whose settings differ ({error}): resume it with that "
                f"version, or start a new run from its weights: --weights={folder}"
            ) from None
    keys = (k for k in sorted(there.keys() | here.keys()) if not _is_free(k))
    wrong = [
        f"{k} is {there.get(k, 'absent')} there, {here.get(k, 'absent')} here"
        for k in keys
        if there.get(k, "absent") != here.get(k, "absent")
    ]
    if wrong:
        raise RunError(
            f"{folder} was started with other settings: {few(wrong, separator='; ')}. Resume it with its own: "
            f"tvr fit --config {file} --resume={folder}"
        )


def _is_free(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in CHANGEABLE_ON_RESUME)


@contextmanager
def run_folder_lock(folder: Path) -> Iterator[None]:
    """Marks a run folder as in use while the block runs; the mark goes with the process, however it ends.

    It is a lock on `config.yaml`, of the kind that worker processes do not inherit.

    Raises:
        RunError: another process is writing to the folder.
    """
    with (folder / CONFIG).open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise RunError(
                    f"{folder} is still being written by another process, so that run is still going on"
                ) from None
            rank_zero_warn(f"{folder} cannot be locked ({error.strerror}): do not resume it while it is running")
        yield


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then puts it there whole: what was there survives whatever happens."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves without holding a second copy in memory.

        Raises:
            RunError: the disk is full, read-only or broken; names the path and the reason.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")  # one name: what a kill leaves behind, the next save replaces
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):  # a read-only disk holds none
                partial.unlink(missing_ok=True)
            reason = _system_error(error)
            if reason is None:
                raise
            before = "The checkpoint that was there is untouched." if path.exists() else "There was none before."
            then = (
                f"go on: --resume={path.parents[1]}"
                if path.with_name(LAST).is_file()
                else "start it again: it has no checkpoint to go on from. --runs_dir puts runs on another disk"
            )
            raise RunError(
                f"cannot save the checkpoint {path}: {reason.strerror}. {before} Free space or make it writable, then "
                f"{then}"
            ) from error


def _system_error(error: BaseException | None) -> OSError | None:
    """The operating system's error behind one; torch reports a failed write as its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
