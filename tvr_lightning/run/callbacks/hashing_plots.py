"""Keeps the codes of a test, keeps and logs their precision-recall curves."""

from __future__ import annotations

import io
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from tvr_lightning.data.stores.files import atomic_write, write_json
from tvr_lightning.evaluation.code_files import CODES, save_codes
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.run.encode import name_codes
from tvr_lightning.run.hashing_curves import PR_CURVE, PR_FIGURE, curve_points, draw_precision_recall


class HashingPlots(Callback):
    """After a test of a method with codes, writes `codes.npz`, `pr_curve.json` and `.png` and logs the picture.

    Args:
        path: the run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the curves; a test without hashing metrics has none."""
        if not trainer.is_global_zero or not isinstance(pl_module, RetrievalModule):
            return
        result = pl_module.result
        if result is None or result.hashing is None:
            return
        hashing = result.hashing
        points, facts = curve_points(hashing.curves), hashing.facts
        write_json(self.path / PR_CURVE, points)
        split = trainer.datamodule.split_of("test")  # type: ignore[attr-defined]
        captions, videos = result.caption_ids.tolist(), result.video_ids.tolist()
        save_codes(self.path / CODES, name_codes(hashing.codes, split, captions, videos))
        figure = draw_precision_recall(points, f"{facts['bits']} bits, database {facts['database']}")
        content = io.BytesIO()
        figure.savefig(content, format="png")
        with atomic_write(self.path / PR_FIGURE) as temporary:
            temporary.write_bytes(content.getvalue())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger | TensorBoardLogger):
                from PIL import Image

                image = Image.open(content).convert("RGB")
                if isinstance(logger, WandbLogger):
                    import wandb

                    logger.experiment.log({"hashing/pr_curve": wandb.Image(image)})
                else:
                    import numpy as np

                    logger.experiment.add_image("hashing/pr_curve", np.asarray(image), dataformats="HWC")
