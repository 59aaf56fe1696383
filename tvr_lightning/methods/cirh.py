"""CIRH: correlation-identity reconstruction hashing (Zhu, Wu, Li, Zhang, Guan, Shen, IEEE TKDE 2023).

graph S over the training set         -> nn.hashing.correlation_graph.CorrelationGraph
graph network G                       -> nn.sptch.hashing.GraphNetwork: SPTCH's, which is its descendant
inputs mixed with two neighbours      -> nn.hashing.correlation_graph.mixed_with_neighbours
losses of G   10 (reconstructions) + MSE(cos H^v, S) + MSE(cos H^t, S) + MSE(cos H, S) + MSE(H, sign H)
hash functions F: one hidden layer, of width 4096 for videos, of the features' own for texts -> CIRH
losses of F   MSE(h_v, B) + MSE(h_t, B) + MSE(h_v, h_t) + 0.01 (MSE of the three code cosines with S)
G and F train in turn each epoch      -> methods.alternating
Departures: the k entries of a row that become 0 are a share of it (3,000 of some 5,000 items; 0.6); degrees of |S|, the
order of joint convolution and norm, and the decoders (of H^v and H^t; the released code's see H + tanh H^v and end in a
norm) are those of SPTCH's G, which the two share here. Features are centred (as DJSRH's here) and get unit length, for
G's encoders too. While F trains, G is in evaluation mode, its codes B those of the batch at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from tvr_lightning.encoders.base import FrameEncoder, TextEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.hashing import (
    code_regression,
    neighbourhood_preservation,
    neighbourhood_reconstruction,
    quantisation,
    semantic_reconstruction,
)
from tvr_lightning.methods.alternating import AlternatingPasses
from tvr_lightning.methods.hashing import MeanFeatureCodes, check_shares
from tvr_lightning.nn.hashing.correlation_graph import CorrelationGraph, mixed_with_neighbours
from tvr_lightning.nn.hashing.functions import FeatureHash
from tvr_lightning.nn.sptch.hashing import GraphNetwork
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import CodeFeatures


class CIRH(MeanFeatureCodes, AlternatingPasses[CodeFeatures, CorrelationGraph]):
    """CIRH.

    Args:
        video_encoder: frozen; the mean of its frames is X^v.
        text_encoder: frozen; the mean of its tokens is X^t.
        code_length: K, bits of a code.
        video_share: a_1, the videos' share in S_1.
        mixture: a_2, the share of S_1 in S.
        dropped: share of each row of S_1 that is set to 0.
        mixing: shares of an item and of its two nearest neighbours in what G sees.
        reconstruction_weight: of the features that G's decoders rebuild.
        similarity_weight: of what codes of F are to repeat of S.
        hidden_width: of the video's hash function.
        dropout: of both hash functions.
        graph_width: of G's latent features and decoders.
        graph_lr: learning rate of G; the other settings are the optimiser's.
        clip_norm: largest norm of a step's gradients, null for no limit.
        centred: whether the training set's means are taken from X^v and X^t.
        optimizer: rates of F, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: a number outside of its range, or an encoder that trains.
    """

    tested_with: ClassVar = {"code_length": 32, "hidden_width": 32, "dropout": 0.0, "graph_width": 16}

    def __init__(
        self,
        video_encoder: FrameEncoder,
        text_encoder: TextEncoder,
        code_length: int = 64,
        video_share: float = 0.6,
        mixture: float = 0.6,
        dropped: float = 0.6,
        mixing: tuple[float, float, float] = (0.7, 0.2, 0.1),
        reconstruction_weight: float = 10.0,
        similarity_weight: float = 0.01,
        hidden_width: int = 4096,
        dropout: float = 0.3,
        graph_width: int = 512,
        graph_lr: float = 1e-3,
        clip_norm: float | None = None,
        centred: bool = True,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation, graph_lr, clip_norm)
        check_shares(video_share=video_share, mixture=mixture, dropped=dropped, dropout=dropout)
        if len(mixing) != 3:
            raise ConfigError(f"model.mixing is {mixing}; three shares: of an item and its two nearest neighbours")
        self.take_encoders(video_encoder, text_encoder, code_length)
        if centred:
            self.centre(video_encoder.embed_dim, text_encoder.embed_dim)
        self.video_share, self.mixture, self.dropped, self.mixing = video_share, mixture, dropped, mixing
        self.reconstruction_weight, self.similarity_weight = reconstruction_weight, similarity_weight
        widths = video_encoder.embed_dim, text_encoder.embed_dim
        self.graph_network = GraphNetwork(*widths, code_length, graph_width)
        self.hash_video = FeatureHash(widths[0], code_length, hidden_width, dropout, unit=True)
        self.hash_text = FeatureHash(widths[1], code_length, widths[1], dropout, unit=True)

    def networks(self) -> tuple[GraphNetwork, nn.Module]:
        """G and F."""
        return self.graph_network, nn.ModuleDict({n: m for n, m in self.named_children() if n.startswith("hash_")})

    def graph_of(self, video_features: Tensor, text_features: Tensor) -> CorrelationGraph:
        """S over the items, whose features get unit length."""
        video, text = F.normalize(video_features, dim=1), F.normalize(text_features, dim=1)
        return CorrelationGraph(video, text, self.video_share, self.dropped, self.mixture)

    def _mixed(self, graph: CorrelationGraph, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What G sees of items of the graph, rows (B,) int64: (B, F), (B, F'), and S (B, B)."""
        similarity = graph.block(rows)
        video = mixed_with_neighbours(graph.video_features[rows], similarity, self.mixing)
        return video, mixed_with_neighbours(graph.text_features[rows], similarity, self.mixing), similarity

    def graph_losses(self, graph: CorrelationGraph, rows: Tensor) -> Mapping[str, Tensor]:
        """Losses of G over items of the graph, rows (B,) int64."""
        video, text, similarity = self._mixed(graph, rows)
        h = self.graph_network(video, text, similarity)
        rebuilt = semantic_reconstruction((h.video_features, h.text_features), (video, text))
        return {
            "reconstruction": self.reconstruction_weight * rebuilt,
            "neighbourhood": neighbourhood_reconstruction(similarity, h.video, h.text, h.relaxed),
            "quantisation": quantisation(h.codes, h.relaxed),
        }

    def hash_losses(
        self, graph: CorrelationGraph, rows: Tensor, texts: CodeFeatures, videos: CodeFeatures, video_index: Tensor
    ) -> Mapping[str, Tensor]:
        """Losses of F."""
        video, text = videos.real.tanh(), texts.real.tanh()
        similarity = graph.block(rows)
        codes = self.graph_network.settled_codes(*self._mixed(graph, rows))
        return {
            "code": code_regression(codes, video, text),
            "inter_modal": F.mse_loss(video, text),
            "similarity": self.similarity_weight * neighbourhood_preservation(similarity, video, text),
        }
