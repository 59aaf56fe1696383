"""What checkpoints keep besides weights, and what they must agree with to be loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from tvr_lightning.data.augment_text import lacks_synonyms
from tvr_lightning.data.sanity import marks_in
from tvr_lightning.encoders.base import Encoder, encoders_in
from tvr_lightning.encoders.kept import OWN_EXPERIMENT, check_encoders, keep_encoders
from tvr_lightning.encoders.weights import differences
from tvr_lightning.errors import CheckpointError, few

if TYPE_CHECKING:
    from tvr_lightning.data.datamodule import VideoTextDataModule


class Provenance(LightningModule):
    """A method that knows how its weights came about.

    Attributes:
        trained: how the loaded weights came about, as `on_save_checkpoint` notes it; None before any are loaded.
        seen: (N,) int64, which videos the loaded weights were trained on (`data.sanity.marks`); None where unknown.
        started_from: the same of the weights that the run began with (`--weights`); None where it began with none.
        vocabulary: what the tokeniser of the loaded weights had learnt; None where it learns nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trained: Mapping[str, Any] | None = None
        self.started_from: Mapping[str, Any] | None = None
        self.vocabulary: Mapping[str, Any] | None = None
        self.seen: Tensor | None = None

    @property
    def encoders(self) -> Sequence[Encoder]:
        """The encoders that the method holds, in their order; their weights train at `optimizer.encoder_lr`."""
        return [encoder for _, _, encoder in encoders_in(self)]

    @property
    def encoders_from(self) -> dict[str, Mapping[str, Any]]:
        """By their places, what is known of the runs that encoders were taken from; also after loading a checkpoint."""
        if self.trained is not None:
            return dict(self.trained.get("encoders_from") or {})
        places = {id(part): name for name, part in self.named_modules()}
        return {places[id(e)]: e.origin.said for e in self.encoders if e.origin is not None}

    @property
    def datamodule(self) -> VideoTextDataModule:
        """The data module of the running trainer."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def on_test_start(self) -> None:
        """Refuses weights that learned other tokens."""
        self._check_tokens()

    def on_validation_start(self) -> None:
        """Refuses weights that learned other tokens."""
        self._check_tokens()

    def on_predict_start(self) -> None:
        """Refuses weights that learned other tokens."""
        self._check_tokens()

    def _check_tokens(self) -> None:
        self.datamodule.check_tokens((self.trained or {}).get("tokenizer"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes which method the weights belong to, what its encoders compute, and how they came about."""
        checkpoint["method"] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint["encoders"] = keep_encoders(self)
        checkpoint["vocabulary"] = self.datamodule.tokenizer.learned()
        checkpoint["trained"] = self.said_of_training()
        before = [] if self.seen is None else [self.seen]
        checkpoint["seen"] = torch.cat([self.datamodule.training_marks(), *before]).unique()

    def said_of_training(self) -> dict[str, Any]:
        """How the weights come about, as checkpoints and results keep it."""
        data, trainer = self.datamodule, self.trainer
        return {
            "selection": data.selection,
            "seed": data.seed,
            "subset": data.subset,
            "epochs": trainer.current_epoch + 1,
            "steps": trainer.global_step,
            "limits": {"train": trainer.limit_train_batches, "val": trainer.limit_val_batches},
            "tokenizer": data.tokenizer.fingerprint(),
            "dataset": data.dataset,
            "protocol": data.annotations.protocol,
            "vocabulary": data.tokenizer.vocabulary_fingerprint(),
            "weights": self.started_from,
            "encoders_from": self.encoders_from,
            "without_synonyms": data.augment is not None and lacks_synonyms(data.augment.text),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses weights of another method or size, or whose encoders compute something else.

        Raises:
            CheckpointError: says what differs.
        """
        trained = checkpoint.get("trained")
        self.trained = trained if isinstance(trained, dict) else None
        self.started_from = (self.trained or {}).get("weights")
        self.vocabulary = checkpoint.get("vocabulary")
        self.seen = marks_in(checkpoint)
        own = f"{type(self).__module__}.{type(self).__qualname__}"
        saved = checkpoint.get("method")
        if saved != own:
            holds = saved or "no method of this suite"
            raise CheckpointError(f"the checkpoint holds {holds}, the experiment builds {own}. {OWN_EXPERIMENT}")
        check_encoders(self, checkpoint.get("encoders"))
        if wrong := differences(self.state_dict(), checkpoint["state_dict"]):
            raise CheckpointError(f"the checkpoint is of another size: {few(wrong, separator='; ')}. {OWN_EXPERIMENT}")
