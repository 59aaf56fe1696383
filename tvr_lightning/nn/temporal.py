"""What looks at the order of frames: transformer layers and an LSTM, both added to the frames they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tvr_lightning.errors import ConfigError

CLIP_POSITIONS = 77  # of its text tower, and so of what the CLIP4Clip family trained


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation, x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def transformer_layers(width: int, heads: int, num_layers: int) -> nn.ModuleList:
    """Pre-norm transformer layers in CLIP's form."""
    return nn.ModuleList(
        nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation=quick_gelu, batch_first=True, norm_first=True
        )
        for _ in range(num_layers)
    )


@torch.no_grad()
def copy_clip_layers(layers: nn.ModuleList, positions: nn.Embedding, blocks: Sequence[nn.Module], table: Tensor) -> int:
    """Starts layers and positions as copies of the first ones of CLIP's text tower, where widths agree.

    Args:
        layers: from `transformer_layers`.
        positions: learned positions (N, D).
        blocks: the tower's residual attention blocks.
        table: the tower's position table (context, D).

    Returns:
        How many layers were copied; 0 when the widths differ, then nothing is touched.
    """
    if table.shape[1] != positions.embedding_dim:
        return 0
    rows = min(len(table), len(positions.weight))
    positions.weight[:rows] = table[:rows]
    names = {"ln_1": "norm1", "ln_2": "norm2", "attn": "self_attn", "mlp.c_fc": "linear1", "mlp.c_proj": "linear2"}
    for layer, block in zip(layers, blocks, strict=False):
        for source, target in names.items():
            layer.get_submodule(target).load_state_dict(block.get_submodule(source).state_dict())
        layer.activation = block.get_submodule("mlp.gelu")  # OpenAI's weights know another GELU than others'
    return min(len(layers), len(blocks))


class FramePositions(nn.Embedding):
    """A table of learned frame positions, drawn from N(0, std).

    Args:
        max_frames: frames that it has positions for; `check_frames` holds a run's number against it.
        width: D.
        std: of the values that it starts with.
        before: further positions in front of those of frames.
        tokens: that each frame has, one after the other, with a position each.
        at_least: rows of the table, where fewer are needed: CLIP's has 77.

    Raises ValueError for more frames than positions.

    >>> FramePositions(4, 8, std=0.3).of(3).shape
    torch.Size([3, 8])
    """

    def __init__(
        self, max_frames: int, width: int, std: float, before: int = 0, tokens: int = 1, at_least: int = 1
    ) -> None:
        if max_frames < 1:
            raise ConfigError(f"max_frames is {max_frames}; it must be at least 1")
        super().__init__(max(max_frames * tokens + before, at_least), width)
        nn.init.normal_(self.weight, std=std)
        self.max_frames, self.before, self.tokens = max_frames, before, tokens

    def of(self, count: int) -> Tensor:
        """The rows (before + count * tokens, D) of so many frames."""
        if count > self.max_frames:
            raise ValueError(f"{count} frames, but positions for {self.max_frames}: raise max_frames")
        return self.weight[: self.before + count * self.tokens]


def check_frames(model: nn.Module, num_frames: int) -> None:
    """Refuses more frames than a model has positions for, before any is decoded.

    Args:
        model: any of its parts may be `FramePositions`.
        num_frames: of the data.

    Raises:
        ConfigError: says which setting gives it more.

    >>> check_frames(TemporalTransformer(width=8, heads=2, num_layers=1, max_frames=4), 5)
    Traceback (most recent call last):
    ...
    tvr_lightning.errors.ConfigError: data.num_frames is 5, but TemporalTransformer has positions for 4 frames: ...
    """
    most = min((part.max_frames for part in model.modules() if isinstance(part, FramePositions)), default=num_frames)
    if num_frames > most:
        raise ConfigError(
            f"data.num_frames is {num_frames}, but {type(model).__name__} has positions for {most} frames: set "
            f"--model.max_frames={num_frames} for more (weights that were trained with fewer do not fit then), or "
            "fewer frames"
        )


class TextTower(Protocol):
    """What of a CLIP temporal layers can begin as: `encoders.DualEncoder` has it."""

    embed_dim: int

    @property
    def pretrained(self) -> bool:
        """Whether its weights are worth a copy."""

    @property
    def text_blocks(self) -> Sequence[nn.Module]:
        """Residual attention blocks."""

    @property
    def text_positions(self) -> Tensor:
        """(context, D)."""


class TemporalTransformer(nn.Module):
    """Frames with learned positions through transformer layers, plus the frames themselves: T(v + P) + v.

    CLIP4Clip's seqTransf (Luo et al. 2022, Sec. 3.3). The residual keeps a pretrained alignment at step 0. Positions
    that are not copied start at a third of the scale of CLIP's frame features (about 1 a channel before training): at
    the 0.01 of CLIP's own positions, made for tokens of scale 0.02, frames at different times would look alike.
    Shapes: frames (V, n, D); frame_mask (V, n) bool, True = exists; returns (V, n, D), padded frames zero. With several
    `tokens` a frame, n counts tokens, those of a frame one after the other. `at_least`: see `FramePositions`.
    Raises ValueError for more frames than positions.

    >>> encode = TemporalTransformer(width=8, heads=2, num_layers=1, max_frames=4)
    >>> encode(torch.randn(3, 4, 8), torch.ones(3, 4).bool()).shape
    torch.Size([3, 4, 8])
    """

    def __init__(
        self, width: int, heads: int, num_layers: int, max_frames: int, tokens: int = 1, at_least: int = 1
    ) -> None:
        super().__init__()
        self.positions = FramePositions(max_frames, width, std=0.3, tokens=tokens, at_least=at_least)
        self.layers = transformer_layers(width, heads, num_layers)

    @classmethod
    def beside(
        cls, encoder: TextTower, num_layers: int, max_frames: int, tokens: int = 1, at_least: int = 1
    ) -> TemporalTransformer:
        """As wide as a CLIP, a head for 64 channels, begun as its text tower where that is pretrained."""
        width = encoder.embed_dim
        made = cls(width, max(1, width // 64), num_layers, max_frames, tokens, at_least)
        if encoder.pretrained:
            copy_clip_layers(made.layers, made.positions, encoder.text_blocks, encoder.text_positions)
        return made

    def forward(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Encodes frames."""
        return self.attended(frames, frame_mask) * frame_mask.unsqueeze(-1)

    def attended(self, frames: Tensor, seen: Tensor) -> Tensor:
        """The same without zeros: a place that nobody sees, where `seen` (V, n) is False, sees the others."""
        x = frames + self.positions.of(frames.shape[1] // self.positions.tokens)  # TC-MGC Eq. 1, to the last layer
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~seen)
        return x + frames


class TemporalLSTM(nn.Module):
    """Frames through a one-layer LSTM, plus the frames themselves (CLIP4Clip's seqLSTM): LSTM(v) + v.

    Shapes as `TemporalTransformer`. Valid frames must come first, as `read_frames` gives them.

    >>> TemporalLSTM(8)(torch.randn(3, 4, 8), torch.ones(3, 4).bool()).shape
    torch.Size([3, 4, 8])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Encodes frames."""
        lengths = frame_mask.sum(1).clamp(min=1).cpu()  # the packed form wants lengths on the host
        packed = pack_padded_sequence(frames, lengths, batch_first=True, enforce_sorted=False)
        x, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=frames.shape[1])
        return (x + frames) * frame_mask.unsqueeze(-1)
