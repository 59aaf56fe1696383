from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from tvr_lightning.errors import ConfigError
from tvr_lightning.run.callbacks.validation import ValidateFrom


class Counting(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.validated: list[int] = []

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.current_epoch + 1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def validated(tmp_path: Path, epoch: int, epochs: int, every: int = 1) -> list[int]:
    model = Counting()
    loader = DataLoader(torch.ones(1, 1))
    trainer = Trainer(
        max_epochs=epochs, check_val_every_n_epoch=every, callbacks=[ValidateFrom(epoch)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        accelerator="cpu", default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, loader, loader)
    return model.validated


@pytest.mark.parametrize(
    ("epoch", "every", "expected"), [(4, 1, [4, 5, 6, 7]), (1, 1, [1, 2, 3, 4, 5, 6, 7]), (3, 2, [4, 6])]
)
def test_first_epochs_are_not_validated(tmp_path: Path, epoch: int, every: int, expected: list[int]) -> None:
    assert validated(tmp_path, epoch, 7, every) == expected


def test_an_epoch_that_never_comes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epochs are counted from 1"):
        ValidateFrom(0)
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs is 2"):
        validated(tmp_path, 3, 2)
