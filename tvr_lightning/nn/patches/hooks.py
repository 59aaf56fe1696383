"""What a method does to the tokens of an image tower while they pass its blocks.

Tokens are (V, n, 1 + p, W): of each of n frames the class token, then its p patches. Blocks are counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.nn.patches.clustering import Algorithm, cluster_centres


@dataclass(frozen=True)
class TokenHook:
    """Lets the tokens be; a subclass changes them. Equal hooks do the same: their text names what they do.

    >>> str(TokenHook())
    'TokenHook()'
    """

    def before_block(self, block: int, num_blocks: int, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (V, n', 1 + p', W) and the mask (V, n') of their frames that this block and the later ones see."""
        return tokens, mask

    def before_attention(self, block: int, num_blocks: int, tokens: Tensor, mask: Tensor) -> Tensor | None:
        """Tokens that the block's attention reads in place of its own, of the same shape; None for its own."""
        return None


UNCHANGED = TokenHook()


@dataclass(frozen=True)
class TokenShift(TokenHook):
    """TS2-Net's token shift: the attention of the last blocks reads some patches of the frames before and after.

    Of the 1 + p tokens of a frame every s-th from the second on is the frame before's, every s-th from the fifth on the
    frame after's; s = (1 + p) // 7, at least 4. A frame without a neighbour keeps its own.

    Args:
        blocks: how many of the last blocks.

    >>> tokens = torch.arange(3.0).view(1, 3, 1, 1).expand(1, 3, 9, 1)
    >>> TokenShift().before_attention(11, 12, tokens, torch.tensor([[True, True, False]]))[0, ..., 0].int().tolist()
    [[0, 0, 0, 0, 1, 0, 0, 0, 1], [1, 0, 1, 1, 1, 0, 1, 1, 1], [2, 2, 2, 2, 2, 2, 2, 2, 2]]
    """

    blocks: int = 2

    def __post_init__(self) -> None:
        if self.blocks < 0:
            raise ConfigError(f"model.shifted_blocks is {self.blocks}; it counts blocks: 0 or more")

    def before_attention(self, block: int, num_blocks: int, tokens: Tensor, mask: Tensor) -> Tensor | None:
        """Shifts in the last blocks."""
        return self._shifted(tokens, mask) if block >= num_blocks - self.blocks else None

    def _shifted(self, tokens: Tensor, mask: Tensor) -> Tensor:
        count, length = mask.shape[1], tokens.shape[2]
        place = torch.arange(length, device=tokens.device)
        step = max(4, length // 7)  # released: length // 7, which is 0 or lets both directions meet on small grids
        from_before, from_after = (place % step) == 1, (place >= 4) & (place % step == 4 % step)
        before, after = F.pad(tokens, (0, 0, 0, 0, 1, 0))[:, :count], F.pad(tokens, (0, 0, 0, 0, 0, 1))[:, 1:]
        has_before, has_after = F.pad(mask, (1, 0))[:, :count] & mask, F.pad(mask, (0, 1))[:, 1:] & mask
        # (V, n, 1) and (1 + p) -> (V, n, 1 + p, 1)
        shifted = torch.where((has_before[..., None] & from_before)[..., None], before, tokens)
        return torch.where((has_after[..., None] & from_after)[..., None], after, shifted)


@dataclass(frozen=True)
class SegmentCentres(TokenHook):
    """CenterCLIP's token clustering: later blocks see segments, each of the centres of its frames' patches.

    A segment's class token is the mean of its frames'; its patches are K of theirs, in the order of frames and places.
    Frames that do not exist take part in nothing.

    Args:
        frames: of a segment; the last may have fewer.
        keep_rate: K as a share of a frame's patches, rounded, at least 1.
        depth: the share of the tower's blocks, rounded down, that see frames.
        algorithm: see `cluster_centres`.
        iterations: see `cluster_centres`.

    >>> tokens, mask = torch.randn(2, 5, 17, 8), torch.ones(2, 5).bool()
    >>> segments, mask = SegmentCentres(frames=2).before_block(6, 12, tokens, mask)
    >>> segments.shape, mask.shape
    (torch.Size([2, 3, 17, 8]), torch.Size([2, 3]))
    """

    frames: int = 2
    keep_rate: float = 1.0
    depth: float = 0.5
    algorithm: Algorithm = "k_medoids"
    iterations: int = 20

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"model.segment_frames is {self.frames}; it counts frames: 1 or more")
        if not 0 < self.keep_rate <= 1:
            raise ConfigError(f"model.keep_rate is {self.keep_rate}; it is a share of a frame's patches: above 0, to 1")
        if not 0 <= self.depth < 1:
            raise ConfigError(
                f"model.depth is {self.depth}; it is a share of the image tower's blocks: from 0, below 1"
            )

    def before_block(self, block: int, num_blocks: int, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Clusters once."""
        return self._segments(tokens, mask) if block == int(self.depth * num_blocks) else (tokens, mask)

    def _segments(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        missing = -mask.shape[1] % self.frames
        tokens, mask = F.pad(tokens, (0, 0, 0, 0, 0, missing)), F.pad(mask, (0, missing))
        # (V, n, 1 + p, W) -> (V, n', d, 1 + p, W)
        tokens, mask = tokens.unflatten(1, (-1, self.frames)), mask.unflatten(1, (-1, self.frames))
        videos, patches = len(tokens), tokens.shape[3] - 1
        classes = masked_mean(tokens[..., 0, :], mask)  # (V, n', W)
        points = tokens[..., 1:, :].flatten(2, 3).flatten(0, 1)  # (V n', d p, W)
        exists = mask.repeat_interleave(patches, dim=2).flatten(0, 1)  # (V n', d p)
        count = max(1, round(self.keep_rate * patches))
        centres = cluster_centres(points, exists, count, self.algorithm, self.iterations)  # (V n', K)
        kept = points.gather(1, centres[..., None].expand(-1, -1, points.shape[-1])).unflatten(0, (videos, -1))
        return torch.cat([classes[:, :, None], kept], dim=2), mask.any(-1)
