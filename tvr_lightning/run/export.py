"""`tvr features` and `tvr scores`: what a run makes of a split, as files that other programs read.

FOLDER/texts.parquet, videos.parquet          a row per caption and per video
FOLDER/texts.safetensors, videos.safetensors  of `tvr features`: the fields of the method's features, row by row
FOLDER/scores.npy                             of `tvr scores`: (texts, videos) float32, as the evaluator has them
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tvr_lightning.data.split import Split
from tvr_lightning.data.stores.files import atomic_folder, save_tensors
from tvr_lightning.errors import RunError
from tvr_lightning.evaluation import EncodedSplit, score_all, scored_items
from tvr_lightning.names import run_of
from tvr_lightning.run.prepared import SplitName, check_room, prepare_split
from tvr_lightning.run.results import caption_id
from tvr_lightning.types import TensorRows

FEATURES, SCORES = "features", "scores"
MATRIX = "scores.npy"


def export_features(
    path: Path, split: SplitName, out: Path | None = None, trust: bool = False
) -> tuple[Path, Mapping[str, Mapping[str, tuple[int, ...]]]]:
    """Writes features of every caption and every video of a split, whole or not at all.

    Args:
        path: the run's folder, or one of its checkpoints.
        split: whose captions and videos.
        out: the folder; `features-SPLIT` in the run's folder when None.
        trust: see `load_run`.

    Returns:
        The folder, and the shapes of what is in it: by `texts` and `videos`, then by field.

    Raises:
        RunError: no run folder, or the folder cannot be written.
        ConfigError: the dataset has no such split.
        CheckpointError: no readable weights, or the tokeniser is another than they were trained with.
        DataError: the split is incomplete.
    """
    target = _target(path, FEATURES, split, out)
    prepared = prepare_split(path, split, trust)
    encoded = prepared.encode()
    parts: dict[str, TensorRows] = {"texts": encoded.texts, "videos": encoded.videos}
    with atomic_folder(target) as folder:
        for name, rows in parts.items():
            save_tensors(folder / f"{name}.safetensors", rows.tensors(), {"features": type(rows).__name__})
        _write_items(folder, prepared.split, encoded)
    return target, {name: {f: tuple(x.shape) for f, x in rows.tensors().items()} for name, rows in parts.items()}


def export_scores(
    path: Path, split: SplitName, out: Path | None = None, trust: bool = False
) -> tuple[Path, tuple[int, int], bool]:
    """Writes the scores of all pairs of a split as the evaluator has them, whole or not at all.

    The matrix is written while it is computed and never lies in memory as a whole. Captions of videos that could not be
    encoded are left out, as in the evaluation. A method that reads the ground truth does so here too.

    Args:
        path: the run's folder, or one of its checkpoints.
        split: whose captions and videos.
        out: the folder; `scores-SPLIT` in the run's folder when None.
        trust: see `load_run`.

    Returns:
        The folder, the shape of the matrix, and whether the scores read the ground truth.

    Raises:
        RunError: no run folder, or the folder cannot be written.
        ConfigError: the dataset has no such split.
        CheckpointError: no readable weights, or the tokeniser is another than they were trained with.
        DataError: the split is incomplete.
        ScoreError: a score is not finite.
    """
    target = _target(path, SCORES, split, out)
    prepared = prepare_split(path, split, trust)
    model, options = prepared.model, prepared.model.evaluation
    encoded = scored_items(model, prepared.encode())
    shape = (len(encoded.texts), len(encoded.videos))
    with atomic_folder(target) as folder:
        matrix: Any = np.lib.format.open_memmap(folder / MATRIX, mode="w+", dtype=np.float32, shape=shape)
        with (folder / MATRIX).open("r+b") as file:  # a mapped file on a full disk would end the process
            os.posix_fallocate(file.fileno(), 0, file.seek(0, os.SEEK_END))
        score_all(model, encoded.texts, encoded.videos, options.chunk_size, out=torch.from_numpy(matrix))
        matrix.flush()
        del matrix
        _write_items(folder, prepared.split, encoded)
    return target, shape, model.reads_ground_truth


def _target(path: Path, what: str, split: str, out: Path | None) -> Path:
    target = run_of(path) / f"{what}-{split}" if out is None else out
    if target == path or target.resolve() == run_of(path).resolve():
        raise RunError(f"{target} is the run's own folder: give another --out")
    check_room(target)
    return target


def _write_items(folder: Path, split: Split, encoded: EncodedSplit[Any, Any]) -> None:
    """Writes which caption and which video each row is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    captions, owners = encoded.caption_ids.tolist(), encoded.caption_video.tolist()
    first = split.captions.first.tolist()
    own = [split.records[v] for v in owners]
    texts = {
        "caption_id": pa.array([caption_id(split, c) for c in captions], pa.string()),
        "video_id": pa.array([record.video_id for record in own], pa.string()),
        "caption": pa.array(
            [r.captions[c - first[v]] for r, c, v in zip(own, captions, owners, strict=True)], pa.string()
        ),
    }
    records = [split.records[v] for v in encoded.video_ids.tolist()]
    videos = {
        "video_id": pa.array([record.video_id for record in records], pa.string()),
        "path": pa.array([str(record.video_path) for record in records], pa.string()),
        "start": pa.array([record.start for record in records], pa.float64()),
        "end": pa.array([record.end for record in records], pa.float64()),
    }
    for name, columns in (("texts", texts), ("videos", videos)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
