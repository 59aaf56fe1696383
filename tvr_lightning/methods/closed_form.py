"""Hashing methods that solve for their hash functions: nothing is learned step by step.

The solution is computed once, from the frozen features of the whole training set, when training starts; it lies in the
method's parameters and buffers, so that checkpoints, resuming and tests are those of every method. The trainer's steps
move nothing: their gradients are zero. One epoch is enough, and further ones change nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from tvr_lightning.distributed import take_from_first
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.methods.hashing import MeanFeatureCodes
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import CodeFeatures, VideoTextBatch


class ClosedForm(MeanFeatureCodes):
    """A hashing method with a solution.

    Args:
        optimizer: nothing of it counts but what concerns memory: there are no steps to be taken.
        evaluation: how scores become numbers.
    """

    in_float32: ClassVar = (*MeanFeatureCodes.in_float32, "hash_video", "hash_text")

    def __init__(self, optimizer: Optimizer, evaluation: Evaluation) -> None:
        super().__init__(optimizer, evaluation)
        self._reached: Mapping[str, Tensor] = {}

    @abstractmethod
    def solution(self, video_features: Tensor, text_features: Tensor) -> Mapping[str, Tensor]:
        """Values of parameters, by their names.

        Args:
            video_features: X^v (N, F) of the training set, float64.
            text_features: X^t (N, F') likewise.
        """

    @abstractmethod
    def objective(self, video_features: Tensor, text_features: Tensor) -> Mapping[str, Tensor]:
        """What the solution minimises, as named and weighted terms over N items, for the parameters as they are.

        What belongs to the items themselves, their latent factors, is found first, and gets no gradient.
        """

    def compute_losses(self, texts: CodeFeatures, videos: CodeFeatures, video_index: Tensor) -> Mapping[str, Tensor]:
        """The objective over a batch. Training does not step along its gradient; tests and notebooks may."""
        return self.objective(videos.source, texts.source)

    @torch.no_grad()
    def learn_from(self, video_features: Tensor, text_features: Tensor, row: Tensor | None = None) -> None:
        """Puts the solution in its place, on every rank the first one's; arguments as in the base."""
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        video, text = (x.to(self.device, torch.float64) for x in (video_features, text_features))
        for name, value in self.solution(video, text).items():
            own[name].copy_(value)
        take_from_first(own[name].data for name in own)
        take_from_first(buffer for name, buffer in self.named_buffers())
        weight = next(iter(own.values()))
        self._reached = self.objective(video.to(weight), text.to(weight))

    def training_step(self, batch: VideoTextBatch, batch_idx: int) -> Tensor:
        """A step that stays where it is."""
        if self._reached:
            total = torch.stack(list(self._reached.values())).sum()
            self.log_losses(self._reached, total, max(1, len(batch)))
        return 0.0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()

    def configure_optimizers(self) -> Any:
        """One whose step along a gradient of zero moves nothing; the trainer counts its steps."""
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1.0)
