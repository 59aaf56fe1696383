"""The run, or the experiment that trains nothing, that encodes an index's videos and its queries."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from tvr_lightning.data.stores.reading import is_there
from tvr_lightning.device import open_device
from tvr_lightning.encoders.weights import Fingerprint
from tvr_lightning.errors import ConfigError, SearchError
from tvr_lightning.evaluation.encoding import inference
from tvr_lightning.run.load import Experiment, load_experiment, load_run
from tvr_lightning.search.manifest import Manifest, Source
from tvr_lightning.search.origin import names_run
from tvr_lightning.types import TensorRows, VideoInput


def load_source(path: str, device: str | torch.device | None = None, trust: bool = False) -> Experiment:
    """Loads what encodes: a run's folder, one of its checkpoints, or an experiment that trains nothing.

    Args:
        path: as the user wrote it.
        device: where it computes; a GPU where there is one when None.
        trust: whether its configuration may import modules of the working directory.

    Raises:
        TVRError: it cannot be loaded, or is an experiment whose weights have yet to be trained.
    """
    device = open_device(device)
    if device.type == "meta":
        raise ConfigError("device meta: it computes nothing. Give cpu, cuda or cuda:N")
    if names_run(path):
        return load_run(path, device, trust)
    run = load_experiment(path)
    run.model.to(device).eval()
    return run


def black_features(run: Experiment) -> TensorRows:
    """The method's features of a black video: their class, names and shapes are those of every video's."""
    frames = run.data.frames
    black = torch.zeros(1, frames.num_frames, 3, frames.size, frames.size, dtype=torch.uint8)
    video = VideoInput(black, torch.ones(black.shape[:2], dtype=torch.bool), torch.zeros(1, dtype=torch.int64))
    with inference(run.model):
        found: TensorRows = run.model.encode_video(video.to(run.model.device))
    return found


def source_of(run: Experiment, path: str) -> Source:
    """What an index says of the run that encoded it."""
    place = str(Path(path).absolute()) if is_there(Path(path)) else path
    method = type(run.model)
    return Source(
        place,
        run.name,
        f"{method.__module__}.{method.__qualname__}",
        Fingerprint().of(run.model, ("index", run.data.tokenizer.fingerprint())),
        repr(sorted(asdict(run.data.frames).items())),
    )


def check_source(manifest: Manifest, found: Source, what: str) -> None:
    """Refuses weights or frames that an index was not made with.

    Args:
        manifest: the index.
        found: `source_of` what was loaded.
        what: names the index.

    Raises:
        SearchError: says what differs.
    """
    made = manifest.source
    if made.weights != found.weights:
        how = "was trained on since, or replaced" if made.path == found.path else "holds others"
        raise SearchError(
            f"{what} was made with other weights ({made.experiment}, {made.path}) than {found.path} holds now: it "
            f"{how}. Features of two encoders cannot be compared: make the index again in another folder"
        )
    if made.frames != found.frames:
        raise SearchError(
            f"{what} was made with other frames ({made.frames}) than the run takes now ({found.frames}): make the "
            "index again in another folder"
        )
