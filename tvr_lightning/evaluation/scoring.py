"""Scores of all pairs, chunk by chunk, shared among ranks.

Features wait on the CPU; a chunk of them visits the model's device at a time, so that the device holds
`chunk_size` texts and videos whatever the size of the split. Scores are computed in float32.
"""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from tvr_lightning.distributed import broadcast_shards, raise_on_all_ranks, ranks, share
from tvr_lightning.errors import ScoreError
from tvr_lightning.evaluation.encoding import Retriever, TextT, VideoT, inference


def score_all(
    model: Retriever[TextT, VideoT],
    texts: TextT,
    videos: VideoT,
    chunk_size: int = 256,
    matrix_limit_mib: int = 4096,
    shared: bool = False,
) -> Tensor:
    """Scores every text with every video, chunk by chunk.

    Args:
        model: the method.
        texts: features of T texts, on any device.
        videos: features of V videos.
        chunk_size: texts and videos scored at a time; sets the peak memory of the method's `score`.
        matrix_limit_mib: above this size the matrix is a memory-mapped temporary file, removed with the tensor.
        shared: every rank calls this with the same features and scores a share of the texts; all get all scores.

    Returns:
        (T, V) float32 on the CPU.

    Raises:
        ScoreError: a score is NaN or infinite; names the method and the pair.

    >>> from tvr_lightning.encoders import CLIPEncoder
    >>> from tvr_lightning.methods.clip4clip import CLIP4Clip
    >>> from tvr_lightning.types import SentenceFeatures, VideoFeatures
    >>> model = CLIP4Clip(CLIPEncoder("tiny"), similarity="meanP")
    >>> captions = SentenceFeatures(torch.randn(3, 128))
    >>> videos = VideoFeatures(torch.randn(2, 4, 128), torch.ones(2, 4, dtype=torch.bool))
    >>> score_all(model, captions, videos).shape
    torch.Size([3, 2])
    """
    scores = _matrix(len(texts), len(videos), matrix_limit_mib)
    rank, world = ranks() if shared else (0, 1)
    shares = [share(len(texts), chunk_size, r, world) for r in range(world)]
    with inference(model), raise_on_all_ranks() if shared else nullcontext():
        for t in shares[rank][::chunk_size]:
            text_chunk = texts[t : t + chunk_size].to(model.device)
            for v in range(0, len(videos), chunk_size):
                chunk = model.score(text_chunk, videos[v : v + chunk_size].to(model.device)).float().cpu()
                finite = torch.isfinite(chunk)
                if not bool(finite.all()):
                    row, column = torch.nonzero(~finite)[0].tolist()
                    raise ScoreError(
                        f"{type(model).__name__} scored text {t + row} with video {v + column} as "
                        f"{chunk[row, column].item()}; a rank of it would mean nothing. Look at the weights "
                        "(a diverged run?) and at that video's and caption's features."
                    )
                scores[t : t + chunk_size, v : v + chunk_size] = chunk
    broadcast_shards(scores, shares)
    return scores


def _matrix(rows: int, columns: int, limit_mib: int) -> Tensor:
    if rows * columns * 4 <= limit_mib << 20:
        return torch.empty(rows, columns)
    with tempfile.TemporaryDirectory(prefix="tvr-scores-") as folder:
        # the mapping outlives the file's name: nothing is left behind even after a kill later on
        flat = torch.from_file(str(Path(folder) / "scores"), shared=True, size=rows * columns)
    return flat.view(rows, columns)
