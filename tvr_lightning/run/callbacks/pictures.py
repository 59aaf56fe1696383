"""Logs what a method shows of a few test queries, in the tracker."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_warn

from tvr_lightning.errors import DecodeError
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.run.fonts import missing_letters, render
from tvr_lightning.run.pictures import draw_maps, maps_of, own_query, see

QUERIES = 4


class Pictures(Callback):
    """After a test, the pictures of a few captions with their own videos; see `RetrievalModule.explain`."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws and logs them; methods that show nothing and trackers without pictures are skipped."""
        loggers = [x for x in trainer.loggers if isinstance(x, WandbLogger | TensorBoardLogger)]
        if not (trainer.is_global_zero and loggers and isinstance(pl_module, RetrievalModule)):
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        split = data.split_of("test")
        order = torch.randperm(len(split.captions), generator=torch.Generator().manual_seed(data.seed))
        pictures: dict[str, tuple[bytes, str]] = {}  # a key each: pictures of one key must be of one size
        missing: dict[str, None] = {}
        for i, caption in enumerate(order[:QUERIES].tolist()):
            try:
                pair = see(pl_module, data, split, own_query(split, caption))
            except DecodeError:  # the test has counted and said it
                continue
            for maps in maps_of(pair.views):
                picture, lacking = render(partial(draw_maps, pair, maps), pair.text)
                pictures[f"{maps.name}/{i}"] = picture, f"{pair.video_id}: {pair.caption}"
                missing |= dict.fromkeys(lacking)
        if missing:
            rank_zero_warn(missing_letters("".join(missing)))
        for logger in loggers if pictures else ():
            _log(logger, pictures)


def _log(logger: WandbLogger | TensorBoardLogger, pictures: Mapping[str, tuple[bytes, str]]) -> None:
    from PIL import Image

    images = {key: Image.open(io.BytesIO(content)).convert("RGB") for key, (content, _) in pictures.items()}
    if isinstance(logger, WandbLogger):
        import wandb

        logger.experiment.log({key: wandb.Image(image, caption=pictures[key][1]) for key, image in images.items()})
    else:
        import numpy as np

        for key, image in images.items():
            logger.experiment.add_image(key, np.asarray(image), dataformats="HWC")
