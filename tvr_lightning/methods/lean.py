"""LEAN: multi-modal hypergraph networks with variational inference (Li et al. 2024).

nodes       key frames, their mean; words of triples   -> LEAN                         2 3
hyperedges  incidence; global, textual, visual, cross  -> nn.lean.hypergraph           1 4 5 6 7
network     encoder, hyperedges, attention, refresh    -> nn.lean.hypergraph.LEANConv  8 9 10 11 12 13
states      variational inference on the Laplacian     -> nn.lean.variational          14 15 19
score       readout                                    -> nn.lean.variational.Readout  16
all pairs   all of it, dense                           -> nn.lean.hypergraph_pairs     4 5 6 7 8 9 10 11 12 13 14 15 16
loss        both directions; weighted sum              -> losses.contrastive, LEAN     17 18 20
What trains and scores is `nn.lean.hypergraph_pairs`: all pairs at once, dense. What reads like the paper is
`nn.lean.hypergraph.LEANConv`: one iteration on any hypergraph, in PyG's form. Both use the same parameters, and
tests/nn/lean/test_hypergraph_pairs.py ties them, values and gradients.
Departures: the paper never says how 4096 and 768 dimensions meet, here two linear layers do; captions of one video in
a batch are no negatives of each other; what the layers decide where the paper is open stands with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tvr_lightning.data.frozen import Frozen
from tvr_lightning.encoders.base import FrameEncoder, TextEncoder, frame_features
from tvr_lightning.encoders.bert import pool_words
from tvr_lightning.errors import ConfigError, nearest
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import directional_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.views import Label, Maps, View, Weights, frames_of, nodes_of
from tvr_lightning.nn.lean.hypergraph import KINDS, Kind
from tvr_lightning.nn.lean.pair_scorer import NETWORKS, HypergraphScorer, Network
from tvr_lightning.nn.lean.pair_weights import pair_weights
from tvr_lightning.nn.masked import filled_length
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import TensorRows, TextInput, VideoFeatures, VideoInput


@dataclass(frozen=True)
class WordFeatures(TensorRows):
    """Textual nodes of captions.

    Attributes:
        words: (T, W, D), zeros where the mask is False.
        word_mask: (T, W) bool.
    """

    words: Tensor
    word_mask: Tensor


class LEAN(RetrievalModule[WordFeatures, VideoFeatures]):
    """LEAN.

    Args:
        video_encoder: VGG-16.
        text_encoder: BERT.
        width: d, of nodes and hyperedges.
        max_text_nodes: W, textual nodes of a caption at most; the tokeniser chooses which words they are.
        iterations: L, of the network.
        hypergraph: the network over a pair's nodes; all but `lean` are the replacements of Table 2.
        hyperedges: which kinds there are, in any combination (Table 2).
        variational: whether node states are distributions; without, there is no divergence (Table 2).
        text_weight: lambda_t2v, weight of the cross-entropy of texts over videos (Fig. 5).
        video_weight: lambda_v2t, of videos over texts.
        kl_weight: lambda_v, of the divergence from the prior.
        pair_chunk: pairs computed at a time, which sets the peak memory; see `HypergraphScorer`.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: unknown or no hyperedges, or a number that does not fit.
    """

    tested_with: ClassVar = {"width": 64, "max_text_nodes": 5}

    def __init__(
        self,
        video_encoder: FrameEncoder,
        text_encoder: TextEncoder,
        width: int = 512,
        max_text_nodes: int = 12,
        iterations: int = 2,
        hypergraph: Network = "lean",
        hyperedges: Sequence[Kind] = KINDS,
        variational: bool = True,
        text_weight: float = 0.5,
        video_weight: float = 0.5,
        kl_weight: float = 0.6,
        pair_chunk: int | None = None,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        for name, value in {"width": width, "max_text_nodes": max_text_nodes, "iterations": iterations,
                            "pair_chunk": 1 if pair_chunk is None else pair_chunk}.items():  # fmt: skip
            if value < 1:
                raise ConfigError(f"model.{name} is {value}; it must be at least 1")
        if hypergraph not in NETWORKS:
            raise ConfigError(f"model.hypergraph: no network '{hypergraph}'; {nearest(hypergraph, NETWORKS)}")
        weights = {"text_weight": text_weight, "video_weight": video_weight, "kl_weight": kl_weight}
        for name, weight in weights.items():
            if weight < 0:
                raise ConfigError(f"model.{name} is {weight}; a loss term is left out at 0, it cannot be negative")
        if not text_weight and not video_weight:
            raise ConfigError("model.text_weight and model.video_weight are both 0: nothing would be learned")
        self.video_encoder, self.text_encoder = video_encoder, text_encoder
        self.max_text_nodes, self.pair_chunk = max_text_nodes, pair_chunk
        self.text_weight, self.video_weight, self.kl_weight = text_weight, video_weight, kl_weight
        self.visual = nn.Linear(video_encoder.embed_dim, width)
        self.textual = nn.Linear(text_encoder.embed_dim, width)
        try:
            self.scorer = HypergraphScorer(width, iterations, hypergraph, hyperedges, variational)
        except ValueError as error:
            raise ConfigError(f"model.hyperedges: {error}") from None

    def frozen_text(self) -> Frozen[TextInput] | None:
        """BERT's words, when it is frozen."""
        if not self.text_encoder.freeze:
            return None
        return Frozen(self.text_encoder, lambda text: self._words(text)[0],
                      f"{self.text_encoder.fingerprint()} {self.max_text_nodes} words")  # fmt: skip

    def encode_video(self, video: VideoInput) -> VideoFeatures:
        """Nodes of the key frames; the video's own is their mean, so it needs no place here."""
        frames = frame_features(self.video_encoder, video)  # Eq. 2
        return VideoFeatures(self.visual(frames).masked_fill(~video.frame_mask[..., None], 0), video.frame_mask)

    def encode_text(self, text: TextInput) -> WordFeatures:
        """Nodes of the words that the tokeniser chose."""
        if text.has_features:
            words, mask = text.features, _word_mask(text.word, text.features.shape[1])
        else:
            words, mask = self._words(text)
        return WordFeatures(self.textual(words).masked_fill(~mask[..., None], 0), mask)

    def score(self, texts: WordFeatures, videos: VideoFeatures) -> Tensor:
        """(T, V) scores of all pairs, from the means of their nodes' distributions unless in training mode."""
        texts = _without_common_padding(texts)
        return self.scorer(texts.words, texts.word_mask, videos.frames, videos.frame_mask, chunk=self.pair_chunk).scores

    def compute_losses(self, texts: WordFeatures, videos: VideoFeatures, video_index: Tensor) -> Mapping[str, Tensor]:
        """Cross-entropy of both directions over the batch, and the divergence of all its B x B hypergraphs."""
        texts = _without_common_padding(texts)
        scores, divergence = self.scorer.learn(
            texts.words, texts.word_mask, videos.frames, videos.frame_mask, self.kl_weight > 0, self.pair_chunk
        )
        by_text, by_video = directional_cross_entropy(scores, video_index)
        losses: dict[str, Tensor] = {}
        if self.text_weight:
            losses["text_to_video"] = self.text_weight * by_text  # Eq. 20
        if self.video_weight:
            losses["video_to_text"] = self.video_weight * by_video  # Eq. 20
        if divergence is not None:
            losses["divergence"] = self.kl_weight * divergence.mean()  # Eq. 20
        return losses

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """What each node takes from each hyperedge (Eq. 11) and what it counts in the readout (Eq. 16)."""
        texts, videos = self.encode_text(text), self.encode_video(video)
        exists = texts.word_mask[0]
        found = pair_weights(self.scorer, texts.words[0, exists], videos.frames[0, video.frame_mask[0]])
        words = nodes_of(text, int(exists.sum()))
        nodes: tuple[Label, ...] = (*words, "video", *frames_of(video))
        cross = (replace(word, prefix="cross ") for word in words)
        edges: tuple[Label, ...] = tuple(next(cross) if kind == "cross" else kind for kind in found.kinds)
        panels = []
        for number, weights in enumerate(found.attention):
            title = f"nodes over hyperedges, iteration {number + 1}"
            panels.append(Weights(title, nodes, edges, weights, "attention"))
        columns = nodes + edges if len(found.readout) > len(nodes) else nodes
        panels.append(Weights("readout over nodes", ("weight",), columns, found.readout[None]))
        return (Maps("weights", tuple(panels)),)

    def _words(self, text: TextInput) -> tuple[Tensor, Tensor]:
        tokens = self.text_encoder.encode_tokens(text.tokens, text.token_mask)
        return pool_words(tokens, text.word, self.max_text_nodes)  # Eq. 3


def _word_mask(word: Tensor, count: int) -> Tensor:
    """Which textual nodes have a token: (T, m) -> (T, count)."""
    return (word[:, None] == torch.arange(count, device=word.device)[:, None]).any(-1)


def _without_common_padding(texts: WordFeatures) -> WordFeatures:
    """Cuts nodes that no caption has: they take part in nothing, but cost like words."""
    longest = filled_length(texts.word_mask)
    return WordFeatures(texts.words[:, :longest], texts.word_mask[:, :longest])
