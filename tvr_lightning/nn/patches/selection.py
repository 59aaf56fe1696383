"""Token selection (TS2-Net): the most informative patches of a frame, chosen so that the choice can be learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.draws import RowNoise, row_noise

BLOCK = 1 << 24  # drawn numbers that are held at a time


class PatchScores(nn.Module):
    """How much a patch tells, from itself and its frame's class token; both share norm and first layer.

    s = tanh(c . GELU(B [GELU(A LN(patch)); GELU(A LN(class))])), A (D / 2, D), B (D / 2, 2 (D / 2)), none with a bias.

    Shapes: frames (V, n, D), patches (V, n, p, D); returns (V, n, p).

    >>> PatchScores(8)(torch.randn(2, 3, 8), torch.randn(2, 3, 4, 8)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.norm, self.reduce = nn.LayerNorm(width), nn.Linear(width, half, bias=False)
        self.mix, self.rate = nn.Linear(2 * half, half, bias=False), nn.Linear(half, 1, bias=False)
        self.gelu = nn.GELU()

    def forward(self, frames: Tensor, patches: Tensor) -> Tensor:
        """Scores patches."""
        own, whole = (self.gelu(self.reduce(self.norm(x))) for x in (patches, frames[:, :, None]))
        both = torch.cat([own, whole.expand_as(own)], dim=-1)
        return self.rate(self.gelu(self.mix(both)))[..., 0].tanh()


class TokenSelection(nn.Module):
    """A frame's class token and its K best patches, in the order of their places.

    In training mode the choice is the perturbed top-K of Cordonnier et al. (2021), which has a gradient; else it is
    plain. Every video has its own noise: see `nn.draws.row_noise`. Scores and noise are float32 at least.

    Args:
        width: D.
        keep: K.
        num_samples: draws of a training step.
        sigma: of the noise on scores between -1 and 1.

    Shapes: frames (V, n, D), patches (V, n, p, D); returns (V, n, 1 + K, D).
    Raises ValueError for fewer than K patches.

    >>> TokenSelection(8, keep=2)(torch.randn(3, 5, 8), torch.randn(3, 5, 4, 8)).shape
    torch.Size([3, 5, 3, 8])
    """

    def __init__(self, width: int, keep: int = 3, num_samples: int = 500, sigma: float = 0.05) -> None:
        super().__init__()
        for name, value in {"selected_patches": keep, "num_samples": num_samples, "sigma": sigma}.items():
            if not value > 0:
                raise ConfigError(f"model.{name} is {value}; it must be above 0")
        self.scores = PatchScores(width)
        self.keep, self.num_samples, self.sigma = keep, num_samples, sigma

    def forward(self, frames: Tensor, patches: Tensor) -> Tensor:
        """Selects."""
        if patches.shape[2] < self.keep:
            raise ValueError(f"{self.keep} patches of {patches.shape[2]} cannot be kept: lower selected_patches")
        with torch.autocast(frames.device.type, enabled=False):
            wide = torch.promote_types(frames.dtype, torch.float32)
            scores = self.scores(frames.to(wide), patches.to(wide))  # (V, n, p)
        if self.training:
            noise = row_noise(len(scores))
            share = perturbed_top_k(scores, self.keep, noise, self.num_samples, self.sigma)  # (V, n, K, p)
            chosen = share.to(patches.dtype) @ patches
        else:
            index = scores.topk(self.keep).indices.sort(-1).values  # (V, n, K)
            chosen = patches.gather(2, index[..., None].expand(-1, -1, -1, patches.shape[-1]))
        return torch.cat([frames[:, :, None], chosen], dim=2)


def perturbed_top_k(scores: Tensor, keep: int, noise: RowNoise, num_samples: int = 500, sigma: float = 0.05) -> Tensor:
    """How often each place is the first, second, ... of the K largest when noise is added, counted from the left.

    Y_kj = mean over samples of [place j is the k-th, by place, of the K largest of s + sigma Z], Z ~ N(0, 1);
    its derivative is d Y_kj / d s_i = E[Y_kj Z_i] / sigma, estimated from the same samples (Berthet et al. 2020).

    Shapes: scores (V, n, p); returns (V, n, K, p), rows that sum to 1. Memory: choices are kept, noise is drawn again.

    >>> perturbed_top_k(torch.tensor([[[0.0, 9.0, 0.0, 9.0]]]), 2, RowNoise([0])).tolist()
    [[[[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]]
    """
    shares: Tensor = _PerturbedTopK.apply(scores, keep, noise, num_samples, sigma)  # type: ignore[no-untyped-call]
    return shares


class _PerturbedTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep: int, noise: RowNoise, num_samples: int, sigma: float) -> Tensor:
        videos, frames, places = scores.shape
        draws = (frames, num_samples, places)
        step = max(1, BLOCK // (frames * num_samples * places))
        shares, choices = [], []
        for start in range(0, videos, step):
            part = scores[start : start + step]
            perturbed = part[:, :, None] + sigma * noise.of(start, start + len(part), draws, scores)
            index = perturbed.topk(keep).indices.sort(-1).values.mT  # (v, n, K, samples)
            # whole numbers: the same sum in any order
            counts = torch.zeros(*index.shape[:3], places, dtype=torch.int32, device=index.device)
            counts.scatter_add_(-1, index, torch.ones_like(index, dtype=torch.int32))
            shares.append(counts.to(scores.dtype) / num_samples)
            choices.append(index.to(torch.int32))
        ctx.save_for_backward(*choices)
        ctx.noise, ctx.draws, ctx.step, ctx.sigma = noise, draws, step, sigma
        return torch.cat(shares)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        parts = []
        for i, choices in enumerate(ctx.saved_tensors):
            start = i * ctx.step
            part = gradient[start : start + len(choices)]
            weights = part.gather(-1, choices.long()).sum(2)  # (v, n, samples)
            noise = ctx.noise.of(start, start + len(choices), ctx.draws, gradient)
            parts.append(torch.einsum("vns,vnsp->vnp", weights, noise) / (ctx.draws[1] * ctx.sigma))
        return torch.cat(parts), None, None, None, None
