"""Scores of all pairs, chunk by chunk, shared among ranks.

A chunk of features visits the model's device at a time, so that the device holds `chunk_size` texts and videos whatever
the size of the split. On a GPU features and scores lie there whole while they fit, and nothing waits between chunks.
Scores are computed in float32.
"""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvr_lightning.device import fits, sizes, wait
from tvr_lightning.distributed import broadcast_shards, raise_on_all_ranks, ranks, share
from tvr_lightning.errors import ScoreError
from tvr_lightning.evaluation.encoding import Retriever, TextT, VideoT, inference
from tvr_lightning.evaluation.options import check_chunk_size
from tvr_lightning.types import TensorRows


def score_all(
    model: Retriever[TextT, VideoT],
    texts: TextT,
    videos: VideoT,
    chunk_size: int | None = None,
    matrix_limit_mib: int = 4096,
    shared: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Scores every text with every video, chunk by chunk.

    Args:
        model: the method.
        texts: features of T texts, on any device.
        videos: features of V videos.
        chunk_size: texts and videos scored at a time, which sets the peak memory of the method's `score`; null for what
            suits the device, 256 on a CPU.
        matrix_limit_mib: above this size the matrix is a memory-mapped temporary file, removed with the tensor.
        shared: every rank calls this with the same features and scores a share of the texts; all get all scores.
        out: (T, V) float32 on the CPU, a mapped file for example, that takes the scores; a new matrix when None.

    Returns:
        (T, V) float32 on the CPU; `out` where it is given.

    Raises:
        ScoreError: a score is NaN or infinite; names the method and the pair. Or scores of another shape.
        ConfigError: `chunk_size` is below 1.
        ValueError: `out` is of another shape or type.

    >>> from tvr_lightning.encoders import CLIPEncoder
    >>> from tvr_lightning.methods.clip4clip import CLIP4Clip
    >>> from tvr_lightning.types import SentenceFeatures, VideoFeatures
    >>> model = CLIP4Clip(CLIPEncoder("tiny"), similarity="meanP")
    >>> captions = SentenceFeatures(torch.randn(3, 128))
    >>> videos = VideoFeatures(torch.randn(2, 4, 128), torch.ones(2, 4, dtype=torch.bool))
    >>> score_all(model, captions, videos).shape
    torch.Size([3, 2])
    """
    check_chunk_size(chunk_size)
    device, (rank, world) = model.device, ranks() if shared else (0, 1)
    step = chunk_size or _suited(device, len(texts), world)
    shares = [share(len(texts), step, r, world) for r in range(world)]
    scores, own = _matrix(len(texts), len(videos), matrix_limit_mib) if out is None else out, shares[rank]
    if scores.shape != (len(texts), len(videos)) or scores.dtype != torch.float32:
        raise ValueError(
            f"`out` is {scores.dtype} {tuple(scores.shape)}; {len(texts)} texts and {len(videos)} videos need float32 "
            f"{(len(texts), len(videos))}"
        )
    there = torch.empty(0, 0)
    if fits(len(own) * len(videos) * 4, device):  # the share's scores come to the CPU once, at the end
        there = torch.empty(len(own), len(videos), device=device)
    if _resident(videos, device):
        videos = videos.to(device)
    with inference(model), raise_on_all_ranks() if shared else nullcontext():
        finite = torch.ones((), dtype=torch.bool, device=device)
        for t in own[::step]:
            text_chunk = texts[t : t + step].to(device)
            for v in range(0, len(videos), step):
                video_chunk = videos[v : v + step].to(device)
                chunk = model.score(text_chunk, video_chunk).float()
                if chunk.shape != (len(text_chunk), len(video_chunk)):
                    raise ScoreError(
                        f"{type(model).__name__} gave scores {tuple(chunk.shape)} for {len(text_chunk)} texts and "
                        f"{len(video_chunk)} videos; `score` gives one for each pair, a row for each text"
                    )
                finite = finite & torch.isfinite(chunk).all()
                if len(there):
                    there[t - own.start : t - own.start + step, v : v + step] = chunk
                else:
                    scores[t : t + step, v : v + step].copy_(chunk, non_blocking=True)
        if len(there):
            scores[own.start : own.stop].copy_(there)
        wait(device)
        if not bool(finite):
            _refuse(model, scores, own)
    broadcast_shards(scores, shares)
    return scores


def _refuse(model: Retriever[Any, Any], scores: Tensor, rows: range) -> None:
    row = next(r for r in rows if not bool(torch.isfinite(scores[r]).all()))  # row by row: the matrix may be a file
    column = int(torch.isfinite(scores[row]).int().argmin())
    raise ScoreError(
        f"{type(model).__name__} scored text {row} with video {column} as {scores[row, column].item()}; a rank of it "
        "would mean nothing. Look at the weights (a diverged run?) and at that video's and caption's features."
    )


def _suited(device: torch.device, num_texts: int, world: int) -> int:
    """Texts and videos that a device scores at a time; on GPUs there is a chunk for every rank."""
    chunk = sizes(device).score_chunk
    return chunk if device.type == "cpu" else max(1, min(chunk, -(-num_texts // world)))


def _resident(rows: TensorRows, device: torch.device) -> bool:
    return fits(sum(x.nbytes for x in rows.tensors().values()), device)


def _matrix(rows: int, columns: int, limit_mib: int) -> Tensor:
    if rows * columns * 4 <= limit_mib << 20:
        return torch.empty(rows, columns)
    with tempfile.TemporaryDirectory(prefix="tvr-scores-") as folder:
        # the mapping outlives the file's name: nothing is left behind even after a kill later on
        flat = torch.from_file(str(Path(folder) / "scores"), shared=True, size=rows * columns)
    return flat.view(rows, columns)
