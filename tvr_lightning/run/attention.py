"""What a method looks at in a caption and a video: attention over frames (TC-MGC, Fig. 11)."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tvr_lightning.types import TextFeatures, TextInput, VideoFeatures, VideoInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tvr_lightning.data.datamodule import VideoTextDataModule
    from tvr_lightning.methods.base import RetrievalModule


@runtime_checkable
class HasFrameAttention(Protocol):
    """A method whose attention and contrasts can be drawn."""

    contrasts: tuple[str, ...]
    conditioned: frozenset[str]

    def attention_weights(self, texts: TextFeatures, videos: VideoFeatures) -> Tensor:
        """(T, V, m + 1, n), row 0 is the sentence."""

    def contrast_scores(self, texts: TextFeatures, videos: VideoFeatures) -> Tensor:
        """(T, V, number of contrasts) scaled scores."""


@dataclass(frozen=True)
class Pair:
    """A caption and a video as a method sees them.

    Attributes:
        caption: the text.
        words: its tokens as text, start and end left out.
        video_id: the video.
        frames: (n, 3, H, W) uint8, the frames that exist.
        weights: (len(words) + 1, n), attention of the sentence and of each word over the frames.
        scores: each contrast's scaled score.
        total: the score that ranks.
    """

    caption: str
    words: tuple[str, ...]
    video_id: str
    frames: Tensor
    weights: Tensor
    scores: dict[str, float]
    total: float


@torch.no_grad()
def inspect_pair(
    model: RetrievalModule[Any, Any], data: VideoTextDataModule, caption: TextInput, clip: VideoInput, video_id: str
) -> Pair:
    """What a method sees in one caption and one decoded clip."""
    assert isinstance(model, HasFrameAttention)
    texts, videos = model.encode_text(caption.to(model.device)), model.encode_video(clip.to(model.device))
    words = data.tokenizer.words(caption.tokens[0])
    exists = clip.frame_mask[0]
    weights = model.attention_weights(texts, videos)[0, 0].cpu()
    rows = torch.tensor([0, *range(2, 2 + len(words))])  # row 1 is the start token
    scores = model.contrast_scores(texts, videos)[0, 0].tolist()
    return Pair(
        " ".join(words),
        words,
        video_id,
        clip.frames[0][exists],
        weights[rows][:, exists],
        dict(zip(model.contrasts, scores, strict=True)),
        float(model.score(texts, videos)),
    )


def draw_attention(pair: Pair) -> Figure:
    """Frames in order above a row of weights for the sentence and for each word."""
    from matplotlib.figure import Figure

    count, rows = len(pair.frames), len(pair.words) + 1
    figure = Figure(figsize=(max(6.0, 1.15 * count + 2.2), 1.9 + 0.27 * rows), dpi=110, layout="constrained")
    top, table = figure.subplots(2, 1, height_ratios=[1.25, 0.27 * rows])
    strip = pair.frames.permute(2, 0, 3, 1).flatten(1, 2)  # frames side by side, (H, n W, 3)
    width = strip.shape[1] // count
    top.imshow(strip.numpy())
    top.set_xticks([width * (i + 0.5) for i in range(count)], [str(i + 1) for i in range(count)])
    top.set_yticks([])
    for i in range(1, count):
        top.axvline(i * width - 0.5, color="white", linewidth=2)
    top.set_aspect("auto")  # each frame stands above its column of weights
    caption = textwrap.fill(pair.caption, 90)
    top.set_title(f"{pair.video_id}, score {pair.total:.2f}\n{caption}", fontsize=10, loc="left")
    image = table.imshow(pair.weights.numpy(), aspect="auto", cmap="magma", vmin=0)
    table.set_yticks(range(rows), ["sentence", *pair.words])
    table.get_yticklabels()[0].set_fontweight("bold")
    table.set_xticks(range(count), [str(i + 1) for i in range(count)])
    table.set_xlabel("frame")
    figure.colorbar(image, ax=[top, table], label="attention", pad=0.01)
    return figure
