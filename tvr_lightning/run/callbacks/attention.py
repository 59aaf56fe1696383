"""Logs what a method looks at, for a few test queries, in the tracker."""

from __future__ import annotations

import io
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.run.attention import HasFrameAttention, draw_attention, inspect_pair

QUERIES = 4


class AttentionFigures(Callback):
    """After a test, pictures of the attention over frames for a few captions and their own videos."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws and logs them; methods without such attention and trackers without pictures are passed over."""
        loggers = [x for x in trainer.loggers if isinstance(x, WandbLogger | TensorBoardLogger)]
        if not (trainer.is_global_zero and loggers and isinstance(pl_module, RetrievalModule)):
            return
        if not isinstance(pl_module, HasFrameAttention) or not pl_module.conditioned:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        split = data.split_of("test")
        generator = torch.Generator().manual_seed(data.seed)
        pictures = []
        for caption in torch.randperm(len(split.captions), generator=generator)[:QUERIES].tolist():
            text = split.captions.rows(torch.tensor([caption]))
            clip = split.reader.read(int(text.video_index))
            if clip is not None:
                pair = inspect_pair(pl_module, data, text, clip, split.records[int(text.video_index)].video_id)
                pictures.append((pair, _image(draw_attention(pair))))
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                # a key each: pictures of one key must be of one size
                logged = {
                    f"attention/{i}": wandb.Image(image, caption=f"{pair.video_id}: {pair.caption}")
                    for i, (pair, image) in enumerate(pictures)
                }
                logger.experiment.log(logged)
            else:
                import numpy as np

                for i, (_, image) in enumerate(pictures):
                    logger.experiment.add_image(f"attention/{i}", np.asarray(image), dataformats="HWC")


def _image(figure: Any) -> Any:
    from PIL import Image

    content = io.BytesIO()
    figure.savefig(content, format="png")
    return Image.open(content).convert("RGB")
