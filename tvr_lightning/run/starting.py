"""What a run starts from: another run's state (`--ckpt_path`), its weights alone (`--weights`), or nothing (zero-shot).

An experiment with `trains: false` has no weights of its own: its encoders are tested as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from torch import Tensor

from tvr_lightning.config.layers import flat
from tvr_lightning.data.sanity import marks_in
from tvr_lightning.encoders.kept import check_encoders
from tvr_lightning.encoders.of_runs import said_of_weights
from tvr_lightning.encoders.weights import differences, load_checkpoint
from tvr_lightning.errors import CheckpointError, ConfigError, RunError, few
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.names import CONFIG
from tvr_lightning.nn.similarity import LogitScale
from tvr_lightning.run.checkpoints import check_finite
from tvr_lightning.run.lightning_private import position
from tvr_lightning.run.reading import read_settings
from tvr_lightning.run.released import is_released, load_released, said_of_released, say_released
from tvr_lightning.run.trackers import is_first_rank
from tvr_lightning.visible import say

NO_LIMIT = (None, -1)  # of Lightning's max_epochs and max_steps


def trains(config: Mapping[str, Any]) -> bool:
    """Whether an experiment trains anything.

    Args:
        config: composed or parsed.

    >>> trains({}), trains({"trains": False})
    (True, False)
    """
    return bool(config.get("trains", True))


def command_of(command: str, config: Mapping[str, Any]) -> str:
    """What a command does with an experiment: where nothing is trained, `fit` is a test alone.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        config: a composed experiment.

    Raises:
        ConfigError: nothing is trained, and weights are named.

    >>> command_of("fit", {"trains": True}), command_of("fit", {"trains": False})
    ('fit', 'test')
    """
    if trains(config):
        return command
    for name in ("ckpt_path", "weights", "resume"):
        if config.get(name) is not None:
            raise ConfigError(
                f"--{name}={config[name]}: the experiment trains nothing (trains: false), its encoders have the "
                f"weights that from_pretrained names. Leave --{name} out, or set --trains=true"
            )
    return "test" if command == "fit" else command


def say_untrained(model: RetrievalModule[Any, Any], wanted: str) -> None:
    """Says on stderr that nothing is trained, and which parts have random weights.

    Args:
        model: of an experiment that trains nothing.
        wanted: the command that was given.
    """
    if wanted == "fit":
        say("tvr: the experiment trains nothing (trains: false): it is tested as it is", file=sys.stderr)
    if random := random_parts(model):
        say(
            f"tvr: random weights, that nothing trains, in {few(random)}: figures will be near chance. Set the "
            "encoders' from_pretrained, and choose a method without layers of its own, such as CLIP4Clip's meanP",
            file=sys.stderr,
        )


def random_parts(model: RetrievalModule[Any, Any]) -> list[str]:
    """Parts of a method that was not trained whose weights are random: its own layers, encoders without weights.

    >>> from tvr_lightning.encoders import CLIPEncoder
    >>> from tvr_lightning.methods.clip4clip import CLIP4Clip
    >>> random_parts(CLIP4Clip(CLIPEncoder("tiny", "shapes"), similarity="meanP"))
    []
    >>> random_parts(CLIP4Clip(CLIPEncoder("tiny"), similarity="seqLSTM"))
    ['encoder', 'temporal']
    """
    known = {id(x) for e in model.encoders if e.pretrained for x in e.parameters()}
    known |= {id(x) for m in model.modules() if isinstance(m, LogitScale) for x in m.parameters()}
    return list(dict.fromkeys(n.partition(".")[0] for n, x in model.named_parameters() if id(x) not in known))


def check_goes_on(path: Path, max_epochs: int | None, max_steps: int | None) -> None:
    """Refuses a checkpoint whose training is done already: nothing would be trained, and its figures reported as new.

    Args:
        path: what `--ckpt_path` of `tvr fit` names.
        max_epochs: the trainer's.
        max_steps: the trainer's.

    Raises:
        ConfigError: its epochs or steps are as many as the trainer makes in all.
        CheckpointError: it does not say how far its training came.
    """
    epochs, steps = _progress(path)
    for name, done, most in (("epochs", epochs, max_epochs), ("steps", steps, max_steps)):
        if most not in NO_LIMIT and done >= most:
            raise ConfigError(
                f"--ckpt_path={path} has trained {done} {name} already, and trainer.max_{name}={most} counts them: "
                f"nothing would be trained. Train it for more, --trainer.max_{name}=MORE (above {done}), or start anew "
                f"from its weights, with a new optimiser and schedule: --weights={path}"
            )


def start_from(model: RetrievalModule[Any, Any], path: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Loads another run's weights, or those of a method's released code, into a model that was built for them.

    Every tensor must be there, of this name and shape, and none may be left over; the encoders must compute the same.
    What the weights were trained on goes into the model's `started_from`, its checkpoints and its results.

    Args:
        model: its encoders built as the checkpoint says.
        path: a checkpoint of this suite, or of released code (`run.released`).
        settings: of the model, as a run folder keeps them; a message says in which the checkpoint's run differs.

    Raises:
        CheckpointError: it is none, or does not fit; names in one line what is missing, left over or of another shape.
    """
    if is_released(path):
        unused = load_released(model, path)
        model.started_from = said_of_released(path)
        if is_first_rank():
            say_released(model, path, unused)
        return
    content = load_checkpoint(path)
    weights, trained = content["state_dict"], content.get("trained")
    tensors = isinstance(weights, dict) and all(isinstance(x, Tensor) for x in weights.values())
    if not tensors or not isinstance(trained, dict) or not isinstance(content.get("method"), str):
        raise CheckpointError(
            f"--weights={path} was not saved by a run of this suite; pretrained weights of others go to an encoder's "
            "from_pretrained"
        )
    check_encoders(model, content.get("encoders"))
    if wrong := differences(model.state_dict(), weights):
        raise CheckpointError(
            f"--weights={path} ({content['method'].rpartition('.')[2]}) does not fit {type(model).__name__}: "
            f"{few(wrong, 3, '; ')}. Weights fit an experiment with the same method, encoders and sizes"
            f"{_as_there(path, settings or {})}"
        )
    check_finite(path, weights, model)
    model.load_state_dict(weights)
    model.vocabulary = content.get("vocabulary")
    model.seen = marks_in(content)
    model.started_from = {"checkpoint": str(path), **said_of_weights(trained, path)}


def _as_there(path: Path, settings: Mapping[str, Any]) -> str:
    """The settings of the method that a checkpoint's run has otherwise, as they would be given."""
    file = path.parent.parent / CONFIG
    if not settings or not file.is_file():
        return ""
    there, here = flat(read_settings(file).get("model")), flat(settings)
    apart = [
        f"--model.{name.replace('init_args.', '')}={there[name]}"
        for name in sorted(there.keys() & here.keys())
        if there[name] != here[name] and not name.startswith(("init_args.optimizer", "init_args.evaluation"))
    ]
    return f"; its run has {few(apart, 8)}" if apart else ""


def steps_of(path: Path) -> int:
    """Optimiser steps that a checkpoint's training made.

    Raises:
        CheckpointError: it does not say.
    """
    return _progress(path)[1]


def _progress(path: Path) -> tuple[int, int]:
    """Epochs and optimiser steps."""
    content = load_checkpoint(path)
    try:
        return int(position(content)[0]), int(content["global_step"])
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError):
        raise CheckpointError(
            f"{path} does not say how far its training came, so it cannot go on; to start from its weights alone: "
            f"--weights={path}"
        ) from None


def check_trained(trainer: Trainer, began: int) -> None:
    """Refuses to report a result of a training that made no step.

    Args:
        trainer: after its fit.
        began: steps that the run started with.

    Raises:
        RunError: there is no step more.
    """
    if not getattr(trainer, "fast_dev_run", False) and trainer.global_step <= began:
        raise RunError(
            f"nothing was trained: {trainer.max_epochs} epochs of {trainer.num_training_batches} batches made no step, "
            "so no result is reported. Look at --trainer.max_epochs, --trainer.max_steps, "
            "--trainer.limit_train_batches, and at training videos that were skipped"
        )
