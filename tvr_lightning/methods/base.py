"""What every method shares: the training step, gathering across ranks, evaluation, optimiser.

A method gives the maths (`encode_video`, `encode_text`, `score`, `compute_losses`); the loop is here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from tvr_lightning.data.banks import caption_bank, video_bank
from tvr_lightning.distributed import all_reduce_any, gather, gather_counts, ranks
from tvr_lightning.encoders.base import FrameEncoder, TextEncoder, frozen_frames
from tvr_lightning.encoders.compiling import compile_towers, uncompiled
from tvr_lightning.errors import ConfigError, DataError, few
from tvr_lightning.evaluation import (
    Bank,
    EncodedSplit,
    Evaluation,
    EvaluationResult,
    TrainingItems,
    encode_split,
    encode_texts,
    evaluate,
)
from tvr_lightning.evaluation.codes import has_codes
from tvr_lightning.evaluation.encoding import encode_batch, encode_items, feature_type, join_batches
from tvr_lightning.methods.chunks import dummy_row, in_chunks
from tvr_lightning.methods.precision import full_precision, is_full_precision
from tvr_lightning.methods.provenance import Provenance
from tvr_lightning.methods.released import ReleasedNames
from tvr_lightning.methods.vectors import pooled
from tvr_lightning.methods.views import View
from tvr_lightning.names import LEAKY
from tvr_lightning.nn.draws import drawing, joined_rows
from tvr_lightning.nn.similarity import LogitScale
from tvr_lightning.optim import Optimizer, build_optimizer, build_schedule, scales_losses
from tvr_lightning.types import CodeFeatures, ItemIndex, Padding, TensorRows, TextInput, VideoInput, VideoTextBatch

if TYPE_CHECKING:
    from tvr_lightning.data.frozen import Frozen
    from tvr_lightning.data.video.sampling import Resize

TextT = TypeVar("TextT", bound=TensorRows)
VideoT = TypeVar("VideoT", bound=TensorRows)
RowsT = TypeVar("RowsT", bound=TensorRows)
InputT = TypeVar("InputT", bound=TensorRows)
Stage = Literal["validate", "test", "predict"]


class RetrievalModule(Provenance, ABC, Generic[TextT, VideoT]):
    """A retrieval method.

    Args:
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Attributes:
        tested_with: constructor arguments of the property tests: sizes that they can afford, and that suit a handful of
            words and frames.
        tested_besides: by `argument=value`, what a variant of the property tests takes besides.
        shared_space: whether vectors of a text and of its video lie near each other, so that an index may propose by
            them; else it asks `score` about every video.
        keeps_neighbours: whether it learns what is alike in frozen features and nothing else, so that items whose
            features are alike cannot be told apart; its tests then give it features that differ.
        runs_apart_by: the setting by which runs of one experiment lie apart, under the experiment's name and the
            value: `sptch_msrvtt_32`; None for one name.
        in_float32: methods that run without autocast and take features in float32 at least: scores and losses.
        parts: names of the scores whose mean `score` is, for a method that has `part_scores`, (T, V, parts): Sinkhorn
            gives each of them its own biases.
        result: what the last evaluation found; None before the first.
        padding: whether scores leave out what does not exist; set by methods that can be told otherwise.
    """

    tested_with: ClassVar[Mapping[str, object]] = {}
    tested_besides: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    keeps_neighbours: ClassVar[bool] = False
    runs_apart_by: ClassVar[str | None] = None
    shared_space: ClassVar[bool] = True
    parts: ClassVar[Sequence[str]] = ()
    in_float32: ClassVar[tuple[str, ...]] = ("score", "compute_losses")
    padding: Padding = "masked"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Lets a method's functions of `in_float32`, its parents' and mixins' too, run in full precision."""
        super().__init_subclass__(**kwargs)
        for name in {name for parent in cls.__mro__ for name in parent.__dict__.get("in_float32", ())}:
            found = getattr(cls, name, None)
            if found and not getattr(found, "__isabstractmethod__", False) and not is_full_precision(found):
                setattr(cls, name, full_precision(found))

    def __init__(self, optimizer: Optimizer, evaluation: Evaluation) -> None:
        super().__init__()
        if optimizer.loss_chunk is not None and optimizer.loss_chunk < 1:
            raise ConfigError(f"model.optimizer.loss_chunk is {optimizer.loss_chunk}; at least 1, or null")
        self.optimizer_options = optimizer
        self.evaluation = evaluation
        self.result: EvaluationResult | None = None
        self._texts: list[tuple[TextT, ItemIndex]] = []
        self._videos: list[tuple[VideoT, ItemIndex]] = []

    @property
    def image_size(self) -> int:
        """Height and width of the frames that the method takes.

        Raises:
            ConfigError: it holds no encoder of frames, or several that differ; such a method says itself.
        """
        return self._of_frames("image_size", "frame size")

    @property
    def resize(self) -> Resize:
        """How frames come to that size.

        Raises:
            ConfigError: it holds no encoder of frames, or several that differ; such a method says itself.
        """
        return self._of_frames("resize", "way to resize frames")

    def _of_frames(self, name: str, what: str) -> Any:
        found = {getattr(encoder, name) for encoder in self._frame_encoders}
        if len(found) != 1:
            names = ", ".join(map(str, sorted(found))) or "no encoder of frames"
            raise ConfigError(
                f"{type(self).__name__} has no single {what} (found: {names}): choose encoders that share it"
            )
        return found.pop()

    @property
    def _frame_encoders(self) -> Sequence[FrameEncoder]:
        """Those that take frames; a dual encoder beside another is there for its texts."""
        found = [encoder for encoder in self.encoders if isinstance(encoder, FrameEncoder)]
        return [encoder for encoder in found if not isinstance(encoder, TextEncoder)] or found

    @abstractmethod
    def encode_video(self, video: VideoInput) -> VideoT:
        """Videos to features; the leading dimension stays."""

    @abstractmethod
    def encode_text(self, text: TextInput) -> TextT:
        """Texts to features; the leading dimension stays."""

    @abstractmethod
    def score(self, texts: TextT, videos: VideoT) -> Tensor:
        """(T, V) scaled scores of all pairs; each depends on its pair alone."""

    @abstractmethod
    def compute_losses(self, texts: TextT, videos: VideoT, video_index: Tensor) -> Mapping[str, Tensor]:
        """Named loss terms, already weighted, over the global batch; their sum is minimised.

        Args:
            texts: features of B captions.
            videos: features of their B videos, row by row.
            video_index: (B,) int64, which video of the split each row is: captions of one video can meet in a batch.
        """

    @property
    def monitor(self) -> str:
        """The validation metric whose largest value chooses the best checkpoint."""
        return f"val/{LEAKY}SumR" if self.reads_ground_truth else "val/SumR"

    @property
    def reads_ground_truth(self) -> bool:
        """Whether scores are told which items belong together; then all figures are named `leaky/...`."""
        return False

    def match(self, texts: TextT, videos: VideoT, caption_video: Tensor) -> tuple[TextT, VideoT]:
        """Tells features their ground truth before `score`, where the method reads it.

        Args:
            texts: features of T captions.
            videos: features of V videos.
            caption_video: (T,) int64, the row of each caption's video.
        """
        return texts, videos

    def vectors(self, features: TextT | VideoT) -> Tensor:
        """One vector a text or video, by whose inner products an index proposes what `score` then ranks.

        Returns:
            (N, K) int8 codes of -1 and +1, or (N, D) float32 unit vectors; texts and videos in one space.
        """
        return pooled(features)

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """What the method shows of one caption and one video, for pictures; nothing unless it says so."""
        return ()

    def released_names(self) -> ReleasedNames | None:
        """What its tensors are called in checkpoints of its released code, which `--weights` then takes."""
        return None

    def frozen_video(self) -> Frozen[VideoInput] | None:
        """What of `encode_video` nothing trains: its outputs then come as `VideoInput.features`, computed once.

        The frames of the one encoder that takes any, where it is frozen.
        """
        found = self._frame_encoders
        return frozen_frames(found[0]) if len(found) == 1 else None

    def frozen_text(self) -> Frozen[TextInput] | None:
        """What of `encode_text` nothing trains: its outputs then come as `TextInput.features`, computed once."""
        return None

    def setup(self, stage: str) -> None:
        """Keeps what frozen encoders make of the splits.

        Raises:
            ConfigError: the tokeniser is another than a text encoder's, or has more tokens than it knows, the batch is
                larger than the training split, or the cache cannot take the features.
        """
        for encoder in self.encoders:
            if isinstance(encoder, TextEncoder):
                encoder.check_tokenizer(self.datamodule.tokenizer)
        searched = stage == "test" and self.evaluation.codes.database == "train"
        if searched and issubclass(feature_type(self, self.datamodule.split_of("test")), CodeFeatures):
            self.datamodule.database_split()  # what is missing of it is said first
        video, text = self.frozen_video(), self.frozen_text()
        if stage == "fit" and (video is not None or text is not None):
            self.datamodule.train_dataloader()  # a batch that cannot be filled is said before hours of encoding
        self.datamodule.precompute_features(video, text, self.trainer.strategy.root_device)
        if stage == "fit" and self.optimizer_options.compile_encoders:
            compile_towers(self.encoders)

    def encode(self, batch: VideoTextBatch) -> tuple[TextT, VideoT]:
        """Features of a training batch, with gradients; `optimizer.loss_chunk` pairs at a time where it is set.

        A chunk's activations are dropped once its features are known, and computed again (with the same random
        numbers) when the gradient of these features arrives: the gradient cache of Gao et al. 2021, written as one
        graph, so that clipping, accumulation, mixed precision and DDP see an ordinary backward pass.
        """
        return self._in_chunks(self.encode_text, batch.text), self._in_chunks(self.encode_video, batch.video)

    def _in_chunks(self, encode: Callable[[InputT], RowsT], rows: InputT) -> RowsT:
        return in_chunks(encode, rows, self.optimizer_options.loss_chunk)

    def encode_joined(self, batch: VideoTextBatch, counts: Sequence[int], batch_idx: int) -> tuple[TextT, VideoT]:
        """Features of the batch that all ranks hold together, in rank order, from this rank's share of it.

        Args:
            batch: the share.
            counts: of `gather_counts`.
            batch_idx: as `training_step` has it.
        """
        rank, step = ranks()[0], self._step_key(batch_idx)
        # what is foreign, BERT's dropout, draws for this rank; what is ours, for the rows of the joined batch
        with drawing(self.device, *step, 1, rank), joined_rows(sum(counts[:rank]), sum(counts), *step, 2):
            texts, videos = self.encode(batch)
        return gather(texts, counts), gather(videos, counts)

    def drawn_alike(self, batch_idx: int) -> AbstractContextManager[None]:
        """Inside, torch draws the same on all ranks: for what is computed of the joined batch."""
        return drawing(self.device, *self._step_key(batch_idx), 0)

    def _step_key(self, batch_idx: int) -> tuple[int, int, int]:
        return self.datamodule.seed, self.current_epoch, batch_idx

    def training_step(self, batch: VideoTextBatch, batch_idx: int) -> Tensor:
        """Loss of the batch that all ranks hold together."""
        counts = gather_counts(len(batch))
        nothing = not any(counts)
        if nothing:  # on no rank anything was decoded: a step with zero gradients keeps the ranks together
            batch, counts = VideoTextBatch(dummy_row(batch.text), dummy_row(batch.video)), [1] * len(counts)
        texts, videos = self.encode_joined(batch, counts, batch_idx)
        video_index = gather(ItemIndex(batch.text.video_index), counts).index
        with self.drawn_alike(batch_idx):
            losses = self.compute_losses(texts, videos, video_index)
        total = torch.stack(list(losses.values())).sum() * (not nothing)
        self.log_losses(losses, total, sum(counts))
        return total

    def log_losses(self, losses: Mapping[str, Tensor], total: Tensor, size: int, name: str = "loss") -> None:
        """Logs what a training step of `size` pairs minimised; `name` is the total's."""
        terms = {f"train/{term}": value.detach() for term, value in losses.items()} if len(losses) > 1 else {}
        for module in self.modules():
            if isinstance(module, LogitScale):
                self.log("logit_scale", module.log.detach().exp(), prog_bar=True, batch_size=size)
        self.log_dict(terms, batch_size=size)
        self.log(f"train/{name}", total.detach(), prog_bar=True, batch_size=size)

    @property
    def rates(self) -> Mapping[str, float]:
        """Learning rates of parts that have their own, by the parts' names; the others train at the optimiser's."""
        return {}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keeps logit scales at their limit at most."""
        for module in self.modules():
            if isinstance(module, LogitScale):
                module.clamp_()

    def configure_optimizers(self) -> Any:
        """AdamW over the parameter groups, with the schedule stepped after each optimiser step."""
        return self.optimizer_for(self, self.optimizer_options)

    def optimizer_for(self, network: nn.Module, options: Optimizer, share: float = 1.0) -> Any:
        """An optimiser of a network, and its schedule over the `share` of training's steps that it takes.

        Raises:
            ConfigError: training has no end.
        """
        optimizer = build_optimizer(
            network, self.encoders, options, not scales_losses(self.trainer), self.rates if network is self else None
        )
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ConfigError(
                "the learning rate follows the number of steps: set trainer.max_epochs or trainer.max_steps"
            )
        schedule = build_schedule(optimizer, math.ceil(share * steps), options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _collect(self, batch: TextInput | VideoInput | None) -> None:
        with uncompiled() if self.optimizer_options.compile_encoders else nullcontext():
            if isinstance(batch, TextInput):
                self._texts.append(encode_batch(self.encode_text, batch))
            elif batch is not None:
                self._videos.append(encode_batch(self.encode_video, batch))

    def validation_step(self, batch: TextInput | VideoInput | None, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Encodes a batch of captions or of videos."""
        self._collect(batch)

    def test_step(self, batch: TextInput | VideoInput | None, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Encodes a batch of captions or of videos."""
        self._collect(batch)

    def predict_step(self, batch: TextInput | VideoInput | None, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Encodes a batch of captions or of videos."""
        self._collect(batch)

    def on_validation_epoch_end(self) -> None:
        """Scores the validation split."""
        if self.trainer.sanity_checking:
            self._texts, self._videos = [], []
        else:
            self._finish("validate", "val")

    def on_test_epoch_end(self) -> None:
        """Scores the test split."""
        self._finish("test", "test")

    def on_predict_epoch_end(self) -> None:
        """Scores the test split without logging."""
        self._finish("predict", None)

    def _finish(self, stage: Stage, prefix: str | None) -> None:
        split = self.datamodule.split_of(stage)
        for each in self.datamodule.splits.values():
            all_reduce_any(each.reader.failed)
        what = f"{self.datamodule.dataset} {split.name}"
        texts = join_batches(self._texts, f"{what} captions", shared=True)
        self._texts = []
        videos = join_batches(self._videos, f"{what} videos", shared=True)
        self._videos = []
        encoded, final = EncodedSplit.of(split, texts, videos), stage == "test"
        training_items = self._training_items(encoded) if final else None
        self.result = evaluate(
            self, encoded, self.evaluation, training_items, seed=self.datamodule.seed, final=final, shared=True
        )
        if split.undecodable and not self.datamodule.allow_missing:
            raise DataError(
                f"{self.datamodule.dataset} {split.name}: {len(split.undecodable)} videos cannot be decoded "
                f"({few(split.undecodable)}). A smaller gallery makes retrieval easier: replace the "
                "files, or set --data.allow_missing=true; every result then says how many were left out."
            )
        if stage == "validate" and self.monitor not in {f"val/{name}" for name in self.result.metrics}:
            raise DataError(
                f"{self.datamodule.dataset} {split.name} has no {self.monitor}, which chooses the checkpoint (its "
                "videos have no class labels, or share none). Set --data.selection=last to keep the last weights."
            )
        if prefix is not None:
            self.log_dict({f"{prefix}/{k}": float(v) for k, v in self.result.metrics.items()}, rank_zero_only=False)

    def _training_items(self, encoded: EncodedSplit[TextT, VideoT]) -> TrainingItems:
        bank, database, options = Bank(), None, self.evaluation
        if options.wants_bank:
            texts, videos = encode_texts(self, caption_bank(self.datamodule, options.qb_bank)), None
            if options.qb_videos:
                loader = video_bank(self.datamodule, options.qb_videos)
                videos = encode_items(self, self.encode_video, loader, "videos of the bank", shared=True)[0]
            bank = Bank(texts, videos)
        if has_codes(encoded) and options.codes.database == "train":
            split = self.datamodule.database_split()
            database = encode_split(self, split, self.datamodule.evaluation_loaders(split), shared=True)
            all_reduce_any(split.reader.failed)
        return TrainingItems(bank, database)
