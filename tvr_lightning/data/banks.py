"""Banks of training items, with which post-processing compares the queries of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Subset

from tvr_lightning.data.dataset import (
    CaptionDataset,
    TokenizedCaptions,
    VideoDataset,
    collate_captions,
    collate_videos,
)
from tvr_lightning.types import TextInput, VideoInput

if TYPE_CHECKING:
    from tvr_lightning.data.datamodule import VideoTextDataModule

USE = "make the bank of QB-Norm and Sinkhorn; set --model.evaluation.qb_norm=null and sinkhorn=null"


def caption_bank(data: VideoTextDataModule, size: int) -> DataLoader[TextInput]:
    """A seeded choice of training captions; no video is read.

    Raises:
        DataError: the dataset has no training split.
    """
    captions = TokenizedCaptions(data.training_records(USE), data.tokenizer)
    bank = Subset(CaptionDataset(captions), _chosen(data, len(captions), size))
    return DataLoader(bank, batch_size=data.eval_batch_size, collate_fn=collate_captions)


def video_bank(data: VideoTextDataModule, size: int) -> DataLoader[Any]:
    """A seeded choice of training videos; under several ranks this rank's share of it.

    Raises:
        DataError: the dataset has no training split, or videos of it are missing.
    """
    split = data.database_split(USE)
    bank = Subset(VideoDataset(split.reader), _chosen(data, len(split.records), size))
    videos, collate = data.share_of(bank, collate_videos)
    loader: DataLoader[VideoInput | None] = data.loader(videos, data.eval_batch_size, collate)
    return loader


def _chosen(data: VideoTextDataModule, count: int, size: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(data.seed))[:size].tolist()
