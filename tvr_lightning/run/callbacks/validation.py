"""When a run validates."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningModule, Trainer

from tvr_lightning.errors import ConfigError


class ValidateFrom(Callback):
    """Validates from an epoch on, as a recipe may ask for; from then on as `trainer.check_val_every_n_epoch` says.

    Args:
        epoch: the first epoch after which the run validates, counted from 1.

    Raises:
        ConfigError: the epoch is below 1, or the run ends before it; one that does not validate may.
    """

    def __init__(self, epoch: int) -> None:
        if epoch < 1:
            raise ConfigError(f"ValidateFrom: epoch is {epoch}; epochs are counted from 1")
        self.epoch = epoch
        self._every: int | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts validation off until the epoch is reached."""
        if self._every is None:
            chooses = bool(trainer.limit_val_batches) and not getattr(trainer, "fast_dev_run", False)
            if trainer.max_epochs is not None and 0 < trainer.max_epochs < self.epoch and chooses:
                raise ConfigError(
                    f"ValidateFrom: validation begins with epoch {self.epoch}, but trainer.max_epochs is "
                    f"{trainer.max_epochs}: nothing could choose a checkpoint. Lower the former or raise the latter."
                )
            self._every = trainer.check_val_every_n_epoch
        early = trainer.current_epoch + 1 < self.epoch
        trainer.check_val_every_n_epoch = self.epoch if early else self._every
