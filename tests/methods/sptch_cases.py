"""Small SPTCHs and what trains them; run as a program it trains on the given number of devices."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tvr_lightning.data.dataset import SeededSampler, collate_pairs
from tvr_lightning.encoders import BERTEncoder, BERTSize, VGGEncoder, VGGSize
from tvr_lightning.methods.sptch import SPTCH, Variant
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import TextInput, VideoInput, VideoTextBatch

WORDS, FRAMES, SIZE, BITS, PIECES = 7, 5, 16, 12, 60
VGG = VGGSize(image_size=SIZE, blocks=((4,), (8,)), pooled=2, hidden_dim=24, embed_dim=20)
BERT = BERTSize(width=16, layers=1, heads=2, mlp_width=32, vocabulary_size=PIECES, positions=16, dropout=0.0)
VARIANTS: tuple[Variant, ...] = get_args(Variant)
VIDEOS = 18
BATCH = 4
STEPS = VIDEOS // BATCH  # of a pass


def build(variant: Variant = "full", **settings: Any) -> SPTCH:
    torch.manual_seed(0)
    small = {"code_length": BITS, "width": 16, "num_layers": 1, "graph_width": 16, "dropout": 0.0, "max_frames": 8}
    return SPTCH(
        VGGEncoder(size=VGG),
        BERTEncoder(size=BERT, freeze=True, context_length=16),
        BERTEncoder(size=BERT, context_length=16),
        variant=variant,
        **{**small, **settings},
    )


def texts_of(count: int, seed: int = 1) -> TextInput:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, PIECES, (count, WORDS), generator=generator)
    mask = torch.arange(WORDS) < torch.randint(3, WORDS + 1, (count, 1), generator=generator)
    return TextInput(tokens * mask, mask, torch.arange(count), torch.arange(count))


def videos_of(count: int, seed: int = 2) -> VideoInput:
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 256, (count, 1, 3, 1, 1), generator=generator)
    frames = torch.randint(-60, 60, (count, FRAMES, 3, SIZE, SIZE), generator=generator) + colours
    mask = torch.arange(FRAMES) < torch.randint(1, FRAMES + 1, (count, 1), generator=generator)
    return VideoInput(frames.clamp(0, 255).byte() * mask[..., None, None, None], mask, torch.arange(count))


def noisy(video: VideoInput, seed: int) -> VideoInput:
    change = torch.randint(-9, 9, video.frames.shape, generator=torch.Generator().manual_seed(seed))
    frames = (video.frames.int() + change).clamp(0, 255).byte() * video.frame_mask[..., None, None, None]
    return replace(video, frames=frames)


def batch_of(count: int, seed: int = 3) -> VideoTextBatch:
    text, video = texts_of(count), videos_of(count)
    return VideoTextBatch(text, video, VideoTextBatch(text, noisy(video, seed)))


def terms(model: SPTCH, batch: VideoTextBatch) -> dict[str, Tensor]:
    return dict(model.compute_losses(*model.encode(batch), batch.text.video_index))


class Pairs(Dataset[VideoTextBatch]):
    """Pairs whose second view depends on place and epoch alone."""

    def __init__(self) -> None:
        self.text, self.video = texts_of(VIDEOS), videos_of(VIDEOS)

    def __len__(self) -> int:
        return VIDEOS

    def __getitem__(self, key: tuple[int, int]) -> VideoTextBatch:
        place, epoch = key
        rows = slice(place, place + 1)
        text, video = self.text[rows], self.video[rows]
        return VideoTextBatch(text, video, VideoTextBatch(text, noisy(video, 100 * epoch + place)))


class Data(LightningDataModule):
    """What a run needs of a data module."""

    dataset, selection, seed, subset, augment = "fake", "last", 0, None, None
    tokenizer = SimpleNamespace(
        vocabulary_size=PIECES, fingerprint=lambda: "fake", vocabulary_fingerprint=lambda: "fake", learned=lambda: None
    )
    annotations = SimpleNamespace(protocol="fake")

    def __init__(self) -> None:
        super().__init__()
        self.start = (0, 0)
        self.pairs = Pairs()
        records = [SimpleNamespace(video_id=f"video{i}") for i in range(VIDEOS)]
        self.splits = {"train": SimpleNamespace(records=records, caption_video=torch.arange(VIDEOS))}

    def training_marks(self) -> torch.Tensor:
        return torch.arange(VIDEOS)

    def precompute_features(self, video: Any, text: Any, device: torch.device) -> None:
        assert video.module.freeze
        assert text.module.freeze

    def train_dataloader(self) -> Any:
        sampler = SeededSampler(VIDEOS, self.seed, BATCH, start=(self.start[0], self.start[1] * BATCH))
        own = torch.Generator()  # a loader must not draw from the generator that dropout draws from
        return DataLoader(self.pairs, BATCH, sampler=sampler, collate_fn=collate_pairs, drop_last=True, generator=own)

    def evaluation_loaders(self, split: Any) -> Any:
        texts = [self.pairs.text[i : i + 5] for i in range(0, VIDEOS, 5)]
        return texts, [*(self.pairs.video[i : i + 7] for i in range(0, VIDEOS, 7)), None]


class Shared(Data):
    """Every rank's part of batches of 8, and of the passes that look at every item."""

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        world = self.trainer.world_size
        sampler = SeededSampler(VIDEOS, 0, 8 // world, self.trainer.global_rank, world)
        return DataLoader(self.pairs, 8 // world, sampler=sampler, collate_fn=collate_pairs, drop_last=True)

    def evaluation_loaders(self, split: Any) -> Any:
        assert self.trainer is not None
        rows = torch.arange(self.trainer.global_rank, VIDEOS, self.trainer.world_size)
        return [self.pairs.text[rows]], [self.pairs.video[rows]]


def train_on(devices: int, file: Path) -> None:
    # eps: Adam takes the sign of gradients that are zero but for rounding
    model = build(optimizer=Optimizer(eps=1e-3)).double()
    trainer = Trainer(
        accelerator="cpu", devices=devices, max_epochs=4, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(model, Shared())
    if trainer.is_global_zero:
        torch.save(model.state_dict(), file)


if __name__ == "__main__":
    train_on(int(sys.argv[1]), Path(sys.argv[2]))
