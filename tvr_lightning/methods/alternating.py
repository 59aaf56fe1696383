"""Hashing without labels by two networks that train in turn (CIRH, SPTCH).

A graph network G learns codes of the training set from frozen features and a graph over them; hash functions F learn
G's codes from the items themselves, and are what is left at the end. Here are the turns, the two optimisers and the
training set's graph; a method gives the networks and what each of them minimises.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from tvr_lightning.distributed import gather, gather_counts, ranks
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.hashing import CodesT, TrainingSetHashing
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import ItemIndex, VideoTextBatch

GraphT = TypeVar("GraphT")


class AlternatingPasses(TrainingSetHashing[CodesT], Generic[CodesT, GraphT]):
    """A hashing method whose G and F train in turn.

    An epoch of such a paper is two of the trainer: a pass over the training set that updates G, then one that updates
    F. `trainer.max_epochs` is even, and a variant without G trains in every second epoch only, so that F sees as much
    data in all of them.

    Args:
        optimizer: rates of F, decay, schedule.
        evaluation: how scores become numbers.
        graph_lr: learning rate of G; the other settings are the optimiser's.
        clip_norm: largest norm of a step's gradients, null for no limit; `trainer.gradient_clip_val` knows one
            optimiser only.

    Attributes:
        graph: of the training set, from the start of training on.
    """

    in_float32: ClassVar = (*RetrievalModule.in_float32, "graph_losses", "hash_losses")

    def __init__(
        self, optimizer: Optimizer, evaluation: Evaluation, graph_lr: float, clip_norm: float | None = None
    ) -> None:
        super().__init__(optimizer, evaluation)
        self.automatic_optimization = False
        self.graph_lr, self.clip_norm = graph_lr, clip_norm
        self.graph: GraphT | None = None
        self._row = torch.empty(0, dtype=torch.int64)  # item of the graph that each training video is, -1 for none

    @abstractmethod
    def networks(self) -> tuple[nn.Module | None, nn.Module]:
        """G, None where there is none, and F."""

    @abstractmethod
    def graph_of(self, video_features: Tensor, text_features: Tensor) -> GraphT:
        """The graph over N items, X^v (N, F) and X^t (N, F')."""

    @abstractmethod
    def graph_losses(self, graph: GraphT, rows: Tensor) -> Mapping[str, Tensor]:
        """What G minimises over items of the graph, rows (B,) int64; nothing where there is no G."""

    @abstractmethod
    def hash_losses(
        self, graph: GraphT, rows: Tensor, texts: CodesT, videos: CodesT, video_index: Tensor
    ) -> Mapping[str, Tensor]:
        """What F minimises over B pairs.

        Args:
            graph: of the training set.
            rows: (B,) int64, which item of it each pair is.
            texts: codes of the captions.
            videos: codes of their videos.
            video_index: (B,) int64, which video of the split each pair is of.
        """

    def compute_losses(self, texts: CodesT, videos: CodesT, video_index: Tensor) -> Mapping[str, Tensor]:
        """The terms of both passes; the gradient of each reaches its own network only.

        A training step computes those of its pass. Without a training set's graph, in tests and notebooks, the batch is
        taken for the whole set.
        """
        if self.graph is None:
            graph, rows = self.graph_of(videos.source, texts.source), torch.arange(len(texts), device=self.device)
        else:
            graph, rows = self.graph, self._row[video_index]
        return {**self.graph_losses(graph, rows), **self.hash_losses(graph, rows, texts, videos, video_index)}

    def learn_from(self, video_features: Tensor, text_features: Tensor, row: Tensor | None = None) -> None:
        """Takes the training set's graph from its frozen features; arguments as in the base."""
        weight = next(self.networks()[1].parameters())  # in the precision of the weights: loaders give float32
        self.graph = self.graph_of(video_features.to(weight), text_features.to(weight))
        self._row = (torch.arange(len(video_features)) if row is None else row).to(self.device)

    def setup(self, stage: str) -> None:
        """Keeps what the frozen encoders make of the splits.

        Raises:
            ConfigError: an odd number of epochs, which would leave a pass of G without one of F; see also the base.
        """
        epochs = self.trainer.max_epochs
        if stage == "fit" and epochs is not None and epochs > 0 and epochs % 2 and not self._is_trial_run:
            raise ConfigError(
                f"trainer.max_epochs is {epochs}: epochs train the graph network and the hash functions in turn, two "
                "for one of the paper's; set an even number"
            )
        super().setup(stage)

    @property
    def _is_trial_run(self) -> bool:
        return bool(getattr(self.trainer, "fast_dev_run", False))

    def training_step(self, batch: VideoTextBatch, batch_idx: int) -> Tensor | None:  # type: ignore[override]
        """One step of G (even epochs) or of F (odd epochs); in a trial run of a few batches they take turns."""
        counts = gather_counts(len(batch))
        if sum(counts) < 2:
            return None  # neither batch norm nor a contrast can be computed of one item
        assert self.graph is not None
        video_index = gather(ItemIndex(batch.text.video_index), counts).index
        rows = self._row[video_index]
        train_graph = (self.current_epoch + (batch_idx if self._is_trial_run else 0)) % 2 == 0
        if train_graph:
            with self.drawn_alike(batch_idx):
                losses = self.graph_losses(self.graph, rows)
        else:
            texts, videos = self.encode_joined(batch, counts, batch_idx)
            with self.drawn_alike(batch_idx):
                losses = self.hash_losses(self.graph, rows, texts, videos, video_index)
        if not losses:
            return None
        total = torch.stack(list(losses.values())).sum()
        self._step(total, 0 if train_graph else -1)
        self.log_losses(losses, total, sum(counts), "graph_loss" if train_graph else "loss")
        return total.detach()

    def _step(self, loss: Tensor, number: int) -> None:
        """Steps an optimiser of `configure_optimizers`, and its schedule."""
        optimizers, schedules = self.optimizers(), self.lr_schedulers()
        optimizer = optimizers[number] if isinstance(optimizers, list) else optimizers
        schedule = schedules[number] if isinstance(schedules, list) else schedules
        if ranks()[1] > 1:  # DDP waits for a gradient of every parameter: zero for the network that rests
            loss = loss + 0.0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        schedule.step()  # type: ignore[union-attr]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips the gradients, whose scale in fp16 is off here and not yet right after the backward pass."""
        if self.clip_norm is not None:
            self.clip_gradients(optimizer, self.clip_norm, "norm")

    def configure_optimizers(self) -> Any:
        """An optimiser for each network, and its schedule over the steps of its passes."""
        options = self.optimizer_options
        rates = (replace(options, lr=self.graph_lr), options)
        return [
            self.optimizer_for(network, own, share=0.5)
            for network, own in zip(self.networks(), rates, strict=True)
            if network is not None
        ]
