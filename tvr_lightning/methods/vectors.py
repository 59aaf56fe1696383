"""One vector an item, by which an index finds what a method then scores."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.types import CodeFeatures, TensorRows


def pooled(features: TensorRows) -> Tensor:
    """One vector a row: codes of methods that have them, else the features' first vector, else their mean part.

    A sequence (N, n, D) is averaged where the mask that follows it is True, each part as a unit vector.

    Returns:
        (N, K) int8 of -1 and +1, or (N, D) float32 unit vectors.

    Raises:
        ConfigError: the features hold neither vectors nor a sequence with its mask.

    >>> from tvr_lightning.types import VideoFeatures
    >>> frames = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [9.0, 9.0]]])
    >>> pooled(VideoFeatures(frames, torch.tensor([[True, True, False]])))
    tensor([[0.7071, 0.7071]])
    """
    if isinstance(features, CodeFeatures):
        return features.codes
    fields = list(features.tensors().values())
    vectors = [x for x in fields if x.ndim == 2 and x.is_floating_point()]
    if vectors:
        return F.normalize(vectors[0].float(), dim=-1)
    for sequence, mask in pairwise(fields):
        if sequence.ndim == 3 and mask.dtype == torch.bool and mask.shape == sequence.shape[:2]:
            return F.normalize(masked_mean(F.normalize(sequence.float(), dim=-1), mask), dim=-1)
    raise ConfigError(
        f"{type(features).__name__} holds neither a vector a row nor a sequence with its mask: override the method's "
        "`vectors`"
    )
