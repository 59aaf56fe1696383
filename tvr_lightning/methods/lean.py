"""LEAN: multi-modal hypergraph networks with variational inference (Li et al. 2024).

nodes       key frames, their mean; words of triples   -> LEAN                                       2 3
hyperedges  incidence; global, textual, visual, cross  -> nn.lean.hypergraph                         1 4 5 6 7
network     encoder, hyperedges, attention             -> nn.lean.hypergraph.LEANConv                8 9 10 11 12
refresh     hyperedges for the readout                 -> nn.lean.hypergraph.RefreshedHyperedges     13
states      variational inference on the Laplacian     -> nn.lean.variational, nn.lean.pair_scorer   14 15 19
score       readout                                    -> nn.lean.variational.Readout                16
all pairs   the network, dense                         -> nn.lean.hypergraph_pairs                   4 5 6 8 9 10 11 12
            states and readout, dense                  -> nn.lean.variational_pairs                  7 13 14 15 16
loss        both directions; weighted sum              -> losses.contrastive, LEAN                   17 18 20
What trains and scores are the dense forms, all pairs at once. What reads like the paper is
`nn.lean.hypergraph.LEANConv`: one iteration on any hypergraph, in PyG's form. Both use the same parameters, and
tests/nn/lean/test_hypergraph_pairs.py ties them, values and gradients.
Departures, where the paper is open or loose:
- nodes: key frames are the first frame and the largest changes of content; a textual node is a word of a triple at one
  place, the mean of its pieces in BERT's last layer, or any word where a caption has no triple; two linear layers bring
  4096 and 768 dimensions to `width`, 512;
- hyperedges: the visual one has all frames, as Eq. 6 and not as the sentence below it;
- network: neighbours share a hyperedge, a node's factor is 1 / |N|; every delta is LeakyReLU(0.2); Eq. 9 takes a mean
  for the concatenation; Eq. 10 is a softmax scaled by sqrt(width), then LayerNorm; the MLP of Eq. 11 sees node and
  hyperedge, not two nodes; one softmax is both normalisations, of Eq. 11 and of Eq. 12; Eq. 13 is a mean, its gamma is
  learned and starts at 0, its exponent is kept in [-10, 10];
- states: D_e^-1 for the printed D_e^-1/2; one learned weight for each kind of hyperedge; log sigma in [-10, 10], zero
  at the start; evaluation scores the means. Sec. 3.2 puts nodes through them, the introduction hyperedges, too:
  `readout` is either; Eq. 13 makes hyperedges of whatever nodes the network leaves, so that Table 2's networks are read
  alike. Nothing reaches the readout but states;
- readout: attention and score have a vector each; tanh for the printed sigma (`activation`);
- losses: rows and columns of the batch's scores, captions of one video in a batch are not negatives of each other; of
  Eq. 19 the opposite sign and half of it, and its mean over states and dimensions where it prints a sum
  (`kl_reduction`): under the mean lambda_v = 0.6 is not the paper's quantity, the sum is some ten thousand times
  larger, and at 0.6 it leaves nothing but the prior: eight pairs are not learned;
- Table 2: "w/o Uncertain Loss" is `kl_weight: 0`, and in Sec. 4.5's words `variational: false`; what the uncertain GCN
  is stands in `nn.lean.graph_networks`;
- recipe, inherited: no decay of biases, norms and embeddings, bf16 on GPUs, clipped gradients, a constant rate; frozen
  VGG-16, its features after their ReLU; Glorot's weights in the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, get_args

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
from tvr_lightning.nn.lean.pair_scorer import NETWORKS, HypergraphScorer, Network, Read, Reduction
from tvr_lightning.nn.lean.pair_weights import pair_weights
from tvr_lightning.nn.lean.variational import Activation
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
        iterations: L, of the network.
        hypergraph: the network over a pair's nodes; all but `lean` are the replacements of Table 2.
        hyperedges: which kinds there are, in any combination (Table 2).
        variational: whether states are distributions; without, there is no divergence (Table 2).
        readout: whose states are read: nodes' (Sec. 3.2), or refreshed hyperedges', too (the introduction).
        activation: of the readout; `sigmoid` is the letter of Eq. 16.
        text_weight: lambda_t2v, weight of the cross-entropy of texts over videos (Fig. 5).
        video_weight: lambda_v2t, of videos over texts.
        kl_weight: lambda_v, of the divergence from the prior; at 0, states are still drawn.
        kl_reduction: of the divergence over a pair's states and dimensions; `sum` is the letter of Eq. 19. Of the pairs
            of a batch it is the mean.
        pair_chunk: pairs computed at a time, which sets the peak memory; see `HypergraphScorer`.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: unknown or no hyperedges, or a number that does not fit.
    """

    tested_with: ClassVar = {"width": 64}
    shared_space = False  # VGG's frames and BERT's words meet in the hypergraph only
    tested_besides: ClassVar = {"kl_reduction=sum": {"kl_weight": 1e-3}}  # 0.6 of the sum leaves nothing but the prior

    def __init__(
        self,
        video_encoder: FrameEncoder,
        text_encoder: TextEncoder,
        width: int = 512,
        iterations: int = 2,
        hypergraph: Network = "lean",
        hyperedges: Sequence[Kind] = KINDS,
        variational: bool = True,
        readout: Read = "nodes",
        activation: Activation = "tanh",
        text_weight: float = 0.5,
        video_weight: float = 0.5,
        kl_weight: float = 0.6,
        kl_reduction: Reduction = "mean",
        pair_chunk: int | None = None,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        counts = {"width": width, "iterations": iterations, "pair_chunk": 1 if pair_chunk is None else pair_chunk}
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"model.{name} is {value}; it must be at least 1")
        for name, chosen, known in (
            ("hypergraph", hypergraph, NETWORKS),
            ("readout", readout, get_args(Read)),
            ("activation", activation, get_args(Activation)),
            ("kl_reduction", kl_reduction, get_args(Reduction)),
        ):
            if chosen not in known:
                raise ConfigError(f"model.{name}: no '{chosen}'; {nearest(chosen, known)}")
        weights = {"text_weight": text_weight, "video_weight": video_weight, "kl_weight": kl_weight}
        for name, weight in weights.items():
            if weight < 0:
                raise ConfigError(f"model.{name} is {weight}; 0 leaves the loss term out, and it cannot be negative")
        if not text_weight and not video_weight:
            raise ConfigError("model.text_weight and model.video_weight are both 0: nothing would be learned")
        self.video_encoder, self.text_encoder = video_encoder, text_encoder
        self.pair_chunk = pair_chunk
        self.text_weight, self.video_weight, self.kl_weight = text_weight, video_weight, kl_weight
        self.visual = nn.Linear(video_encoder.embed_dim, width)
        self.textual = nn.Linear(text_encoder.embed_dim, width)
        try:
            self.scorer = HypergraphScorer(
                width, iterations, hypergraph, hyperedges, variational, readout, activation, kl_reduction
            )
        except ValueError as error:
            raise ConfigError(f"model.hyperedges: {error}") from None

    def frozen_text(self) -> Frozen[TextInput] | None:
        """BERT's words, when it is frozen."""
        if not self.text_encoder.freeze:
            return None
        return Frozen(self.text_encoder, lambda text: self._words(text)[0], f"{self.text_encoder.fingerprint()} words")

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
        return pool_words(tokens, text.word, text.word.shape[1])  # Eq. 3, as many nodes as tokens at most


def _word_mask(word: Tensor, count: int) -> Tensor:
    """Which textual nodes have a token: (T, m) -> (T, count)."""
    return (word[:, None] == torch.arange(count, device=word.device)[:, None]).any(-1)


def _without_common_padding(texts: WordFeatures) -> WordFeatures:
    """Cuts nodes that no caption has: they take part in nothing, but cost like words."""
    longest = filled_length(texts.word_mask)
    return WordFeatures(texts.words[:, :longest], texts.word_mask[:, :longest])
