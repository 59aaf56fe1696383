"""CLIP's image tower token by token: the patches of frames, and what a method does to them on the way."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tvr_lightning.errors import ConfigError
from tvr_lightning.nn.patches.hooks import TokenHook


class PatchTower(nn.Module):
    """An image tower of open_clip whose tokens a hook sees, block by block; the tower's weights stay the tower's own.

    Args:
        visual: a vision transformer with a class token.
        name: the model's, for messages.
        at_least: patches that a frame must have.

    Raises:
        ConfigError: a tower without blocks, class token or patches, one that drops patches or has too few.
    """

    def __init__(self, visual: nn.Module, name: str, at_least: int = 1) -> None:
        super().__init__()
        why = _what_it_lacks(visual)
        if why:
            raise ConfigError(
                f"the image tower of {name} {why}, so patches of its frames are not what this method compares: use a "
                "ViT-B-32 or ViT-B-16, or another model whose frame is the class token"
            )
        count = len(cast(Any, visual).positional_embedding) - 1
        if count < at_least:
            raise ConfigError(
                f"{name} has {count} patches a frame, but {at_least} of them are to be kept: lower "
                "model.selected_patches, or take a model with smaller patches"
            )
        self._visual: tuple[Any] = (visual,)  # in a tuple: its weights are saved once, under the encoder's own names

    def forward(self, pixels: Tensor, frame_mask: Tensor, hook: TokenHook) -> tuple[Tensor, Tensor]:
        """Normalised pixels (V, n, 3, S, S) to projected tokens (V, n', 1 + p', D) and the mask (V, n') of frames."""
        (visual,) = self._visual
        transformer = visual.transformer
        tokens = visual._embeds(pixels.flatten(0, 1)).unflatten(0, frame_mask.shape)  # (V, n, 1 + p, W)
        mask, count = frame_mask, len(transformer.resblocks)
        for i, block in enumerate(transformer.resblocks):
            tokens, mask = hook.before_block(i, count, tokens, mask)
            compute = partial(_through, block, i, count, hook)
            if transformer.grad_checkpointing:
                tokens = checkpoint(compute, tokens, mask, use_reentrant=False)
            else:
                tokens = compute(tokens, mask)
        return visual.ln_post(tokens) @ visual.proj, mask


def _through(block: Any, number: int, count: int, hook: TokenHook, tokens: Tensor, mask: Tensor) -> Tensor:
    """One block over all frames."""
    seen = hook.before_attention(number, count, tokens, mask)
    x = tokens.flatten(0, 1)  # (V n, 1 + p, W)
    if seen is None:
        x = block(x)
    else:  # the residual keeps the tokens
        read = block.ln_1(seen.flatten(0, 1))
        attended = block.attention(read) if hasattr(block, "attention") else block.ln_attn(block.attn(read))
        x = x + block.ls_1(attended)
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return cast(Tensor, x.unflatten(0, mask.shape))


def _what_it_lacks(visual: Any) -> str:
    from open_clip.transformer import VisionTransformer

    if not isinstance(visual, VisionTransformer):
        return "is none of open_clip's own vision transformers"
    if visual.attn_pool is not None or visual.pool_type != "tok":
        return "pools its patches and has no class token"
    if not isinstance(visual.patch_dropout, nn.Identity):
        return "drops patches while it trains"
    return "" if visual.proj is not None else "does not project its tokens"
