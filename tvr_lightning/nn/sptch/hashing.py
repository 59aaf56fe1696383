"""What makes hash codes: hash functions of one modality, and the graph network that sees both (SPTCH)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.nn.draws import RowDropout
from tvr_lightning.nn.masked import masked_mean, masked_softmax
from tvr_lightning.nn.temporal import FramePositions

Aggregation = Literal["joint", "concatenation", "none"]


def binary(relaxed: Tensor) -> Tensor:
    """Signs as -1, +1 in the dtype of the argument; zero counts as +1, and no gradient passes."""
    return torch.where(relaxed.detach() >= 0, 1, -1).to(relaxed.dtype)


class HashLayer(nn.Module):
    """One relaxed code for a sequence: a linear layer at each place, then the mean over places (SPTCH, Sec. 3.1.2).

        z = mean_i (W h_i + b)

    Shapes: x (N, n, D); mask (N, n) bool; returns (N, K) without bounds. A row with nothing valid gives zeros.

    >>> HashLayer(width=8, code_length=16)(torch.randn(3, 5, 8), torch.ones(3, 5).bool()).shape
    torch.Size([3, 16])
    """

    def __init__(self, width: int, code_length: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, code_length)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Hashes sequences."""
        return masked_mean(self.project(x), mask)


class TransformerLayer(nn.Module):
    """A transformer layer in BERT's form: after the residual comes the norm, GELU inside.

        y = LN(x + attention(x)),   LN(y + W_2 GELU(W_1 y))

    Weights have the names and initial values of `torch.nn.TransformerEncoderLayer`; what differs is that dropout, that
    of the attention too, is drawn for the batch that all ranks hold together.
    Shapes: x (V, n, D); mask (V, n) bool, True = exists; returns (V, n, D).

    >>> TransformerLayer(width=8, heads=2, hidden=32)(torch.randn(3, 5, 8), torch.ones(3, 5).bool()).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)  # holds the weights
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = RowDropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Runs the layer."""
        x = self.norm1(x + self.dropout(self._attend(x, mask)))
        hidden = self.dropout(F.gelu(self.linear1(x)))
        out: Tensor = self.norm2(x + self.dropout(self.linear2(hidden)))
        return out

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        weights = self.self_attn
        qkv = F.linear(x, weights.in_proj_weight, weights.in_proj_bias)
        query, key, value = qkv.unflatten(-1, (3, weights.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (V, H, n, D / H)
        logits = query @ key.mT / math.sqrt(query.shape[-1])
        attention = self.dropout(masked_softmax(logits, mask[:, None, None]))  # (V, H, n, n)
        read: Tensor = weights.out_proj((attention.to(value.dtype) @ value).transpose(1, 2).flatten(2))
        return read


class VideoHash(nn.Module):
    """Hash function of videos: bidirectional transformer over frames, then `HashLayer` (SPTCH, Secs. 3.1.2, 4.1.3).

        z = HashLayer(T(LN(W v + P)))

    Shapes: frames (V, n, F); frame_mask (V, n) bool; returns (V, K), before tanh.
    Raises ValueError for more frames than positions.

    >>> VideoHash(features=12, code_length=16, width=8)(torch.randn(3, 5, 12), torch.ones(3, 5).bool()).shape
    torch.Size([3, 16])
    """

    def __init__(
        self,
        features: int,
        code_length: int,
        width: int = 256,
        num_layers: int = 4,
        heads: int = 1,
        max_frames: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.positions = FramePositions(max_frames, width, std=0.02)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, 4 * width, dropout) for _ in range(num_layers))
        self.hash = HashLayer(width, code_length)

    def forward(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """Hashes videos."""
        x = self.norm(self.embed(frames) + self.positions.of(frames.shape[1]))
        for layer in self.layers:
            x = layer(x, frame_mask)
        return self.hash(x, frame_mask)


class GraphCodes(NamedTuple):
    """What the graph network makes of B items.

    Attributes:
        video: H^v (B, K).
        text: H^t (B, K).
        relaxed: H (B, K), inside -1..1.
        video_features: the decoder's X^v (B, F).
        text_features: the decoder's X^t (B, F').

    >>> relaxed = torch.tensor([[0.3, -0.2]])
    >>> GraphCodes(relaxed, relaxed, relaxed, relaxed, relaxed).codes
    tensor([[ 1., -1.]])
    """

    video: Tensor
    text: Tensor
    relaxed: Tensor
    video_features: Tensor
    text_features: Tensor

    @property
    def codes(self) -> Tensor:
        """B (B, K), -1 or +1, without gradient."""
        return binary(self.relaxed)


class GraphNetwork(nn.Module):
    """Network G: the codes that both modalities should agree on (SPTCH, Sec. 3.2).

        H^v = FC[V^gv ; V^j]    H^t = FC[V^gt ; V^j]    H^j = FC(V^j)    H = tanh FC[H^v ; H^j ; H^t]

    V^gv, V^gt and V^j are graph convolutions of the encoded videos, of the texts, and of both in one graph. Without the
    joint one, each modality is aggregated by itself: H^v = FC(V^gv), H^t = FC(V^gt), H = tanh FC[H^v ; H^t].

    Args:
        video_width: F of the videos' mean features.
        text_width: F' of the texts'.
        code_length: K.
        width: of the latent features and of the decoders.
        aggregation: `joint` is the paper's; `concatenation` has no joint graph convolution (variant B1); `none` has no
            graph convolution at all (variant B2).

    >>> network, similarity = GraphNetwork(video_width=12, text_width=6, code_length=16), torch.eye(4)
    >>> network(torch.randn(4, 12), torch.randn(4, 6), similarity).codes.shape
    torch.Size([4, 16])
    """

    def __init__(
        self, video_width: int, text_width: int, code_length: int, width: int = 512, aggregation: Aggregation = "joint"
    ) -> None:
        super().__init__()
        self.aggregation = aggregation
        self.encode_video, self.encode_text = Encoder(video_width, width), Encoder(text_width, width)
        if aggregation != "none":
            self.convolve_video, self.convolve_text = GraphConvolution(width), GraphConvolution(width)
        if aggregation == "joint":
            self.convolve_joint = GraphConvolution(width)
        seen = width if aggregation == "concatenation" else 2 * width
        self.to_video, self.to_text = _projection(seen, code_length), _projection(seen, code_length)
        if aggregation == "concatenation":
            self.to_code = _projection(2 * code_length, code_length)
        else:
            self.to_joint = _projection(width, code_length)
            self.to_code = _projection(3 * code_length, code_length)
        self.decode_video, self.decode_text = (
            nn.Sequential(nn.Linear(code_length, width), nn.ReLU(), nn.Linear(width, features))
            for features in (video_width, text_width)
        )

    def forward(self, video_features: Tensor, text_features: Tensor, similarity: Tensor) -> GraphCodes:
        """Codes of B items from X^v (B, F), X^t (B, F') and their block of S (B, B)."""
        video, text = self.encode_video(video_features), self.encode_text(text_features)
        joint = None
        if self.aggregation == "none":
            joint = video + text
        else:
            weights = propagation(similarity)
            convolved = self.convolve_video(video, weights), self.convolve_text(text, weights)  # Eq. 3
            if self.aggregation == "joint":
                joint = self._convolve_both(video, text, similarity)
            video, text = convolved
        if joint is not None:
            video, text = torch.cat([video, joint], 1), torch.cat([text, joint], 1)
        of_video, of_text = self.to_video(video), self.to_text(text)
        parts = [of_video, of_text] if joint is None else [of_video, self.to_joint(joint), of_text]
        relaxed = self.to_code(torch.cat(parts, 1)).tanh()
        return GraphCodes(of_video, of_text, relaxed, self.decode_video(of_video), self.decode_text(of_text))

    @torch.no_grad()
    def settled_codes(self, video_features: Tensor, text_features: Tensor, similarity: Tensor) -> Tensor:
        """B (B, K) of the network as it stands, in evaluation mode; nothing in it changes."""
        training = self.training
        self.eval()
        codes: Tensor = self(video_features, text_features, similarity).codes
        self.train(training)
        return codes

    def _convolve_both(self, video: Tensor, text: Tensor, similarity: Tensor) -> Tensor:
        """V^j (B, D): the joint graph's convolution of videos and texts, an item's two rows added."""
        count = len(similarity)
        same = torch.eye(count, dtype=similarity.dtype, device=similarity.device)
        both = torch.cat([torch.cat([similarity, same], 1), torch.cat([same, similarity], 1)])  # Eq. 5, (2B, 2B)
        joint: Tensor = self.convolve_joint(torch.cat([video, text]), propagation(both))  # Eq. 4
        return joint[:count] + joint[count:]


class Encoder(nn.Module):
    """Linear, batch norm, ReLU, unit length: (B, F) -> (B, D).

    >>> Encoder(features=12, width=8)(torch.randn(4, 12)).shape
    torch.Size([4, 8])
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Encodes mean features."""
        return F.normalize(self.layers(x), dim=1)


class GraphConvolution(nn.Module):
    """ReLU(BN(P x W)) with the propagation matrix P: x (B, D), weights (B, B) -> (B, D).

    Args:
        width: D.
        out_width: of what comes out, where that is not D.
        norm: without it ReLU(P x W), which a single item has too.

    >>> GraphConvolution(8)(torch.randn(4, 8), propagation(torch.eye(4))).shape
    torch.Size([4, 8])
    """

    def __init__(self, width: int, out_width: int | None = None, norm: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out_width or width, bias=False)
        self.norm = nn.BatchNorm1d(out_width or width) if norm else nn.Identity()

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Takes in the neighbours."""
        taken: Tensor = self.norm(weights @ self.linear(x))
        return taken.relu()  # Eq. 3, Eq. 4


def propagation(similarity: Tensor) -> Tensor:
    """D^-1/2 S D^-1/2, (B, B); an item without any neighbour gets zeros.

    D holds the row sums of |S|: those of S, which the paper prints, can be zero or negative.
    """
    degree = similarity.abs().sum(1)
    scale = torch.where(degree > 0, degree, torch.inf).rsqrt()
    return scale[:, None] * similarity * scale[None, :]  # the propagation of Eq. 3, Eq. 4


def _projection(width: int, code_length: int) -> nn.Sequential:
    """BN(Linear); the norm has the bias."""
    return nn.Sequential(nn.Linear(width, code_length, bias=False), nn.BatchNorm1d(code_length))
