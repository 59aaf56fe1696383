"""SPTCH: similarity-preserving transformer cross-modal hashing, without labels (ACM MM 2024).

hash functions F, Sec. 3.1.2  -> nn.sptch.hashing: VideoHash, and HashLayer on SPTCH.text_hash_encoder
collaborative graph           -> nn.sptch.collaborative_graph.CollaborativeGraph  1 2
graph network G               -> nn.sptch.hashing.GraphNetwork                    3 4 5
losses of G                   -> losses.hashing, SPTCH                            6 7 8 9
losses of F                   -> losses.hashing, SPTCH                            11 12 13 14 15 16
not computed: 10 (SimCLR's loss, quoted; 11 and 12 are its terms here)
Algorithm 1                          -> SPTCH.training_step: even epochs of the trainer train G, odd ones F
Departures, where the paper does not say or this differs from its print:
hash functions  a linear layer to the transformer's width, learned positions and a norm before it; layers in BERT's form
                with one head; dropout 0.1. The text transformer is a BERT of its own, trained as the text's hash
                function (weights of four layers of width 256 exist, with four heads), and not the frozen one that X^t
                comes from; X^v and X^t are means over frames and word pieces
graph           theta_2 of 0.1 is a share, the smallest tenth of a row ("theta_2 %" could be 0.1 %); behind tanh, S is
                made symmetric, (S + S^T) / 2: an entry that one of its rows drops and the other keeps becomes their
                mean; a batch takes its block
graph network   degrees of |S|, since Eqs. 3 and 4 are undefined for row sums of zero or less; one convolution each; the
                two halves of Eq. 5's result are added to V^j; encoders, H and their parts have a batch norm each; while
                F trains, G is in evaluation mode: an item's code then depends on the batch's graph alone, not on the
                batch's statistics too, and nothing in G changes
losses          means for the squared norms of Eqs. 6, 7, 8, 14 and 15, so that weights hold for every batch size;
                contrasts of unit vectors (Eqs. 11 and 12 print a bare dot product), whose positive is in the
                denominator, as in Eq. 10; captions of one video in a batch are not negatives; Eq. 14 takes Z after tanh
Table 1         `sim` leaves out L_sf alone, L_sc stays; `bin` has no G, so no L_bf either; `s1` has no threshold and no
                tanh; `b1` has no joint convolution: H^v and H^t see their own modality, H = tanh FC[H^v ; H^t]; `b2`
                puts encoded features in place of convolved ones, their sum in that of V^j
training        no label chooses weights: experiments keep the last ones; a checkpoint chosen by mAP would be supervised
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from tvr_lightning.encoders.base import FrameEncoder, TextEncoder
from tvr_lightning.errors import ConfigError, nearest
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.hashing import (
    code_regression,
    inter_modal_contrast,
    intra_modal_contrast,
    neighbourhood_preservation,
    neighbourhood_reconstruction,
    quantisation,
    semantic_reconstruction,
)
from tvr_lightning.methods.alternating import AlternatingPasses
from tvr_lightning.methods.hashing import MeanFeatures, check_freeze, check_shares
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.nn.sptch.collaborative_graph import CollaborativeGraph
from tvr_lightning.nn.sptch.hashing import Aggregation, GraphNetwork, HashLayer, VideoHash
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import CodeFeatures, TextInput, VideoInput, VideoTextBatch

Variant = Literal["full", "cont", "sim", "bin", "s1", "b1", "b2"]
AGGREGATION: Mapping[Variant, Aggregation] = {"b1": "concatenation", "b2": "none"}


@dataclass(frozen=True)
class HashFeatures(CodeFeatures):
    """Codes with what training needs of them.

    Attributes:
        logits: (N, K), z: `real` before tanh.
        augmented: (N, K), z of the second view; (N, 0) where there is none.
    """

    logits: Tensor
    augmented: Tensor


class SPTCH(MeanFeatures, AlternatingPasses[HashFeatures, CollaborativeGraph]):
    """SPTCH.

    Args:
        video_encoder: frozen; its frames are what videos are hashed from, their mean is X^v.
        text_encoder: frozen; the mean of its tokens is X^t.
        text_hash_encoder: the text transformer, trained.
        code_length: K, bits of a code.
        variant: `full`, or one of Table 1's: `cont` without contrast, `sim` without similarity preservation, `bin`
            without G, `s1` with the plain S, `b1` without the joint graph convolution, `b2` without any.
        video_share: theta_1 of the graph.
        dropped: theta_2 of the graph, a share.
        neighbour_weight: alpha_1, of L_sc.
        quantisation_weight: alpha_2, of L_bc.
        code_weight: beta_1, of L_bf.
        similarity_weight: beta_2, of L_sf.
        temperature: tau of the contrasts.
        width: of the video transformer.
        num_layers: of the video transformer.
        heads: of the video transformer.
        dropout: of the video transformer.
        max_frames: n at most.
        graph_width: of G's latent features and decoders.
        graph_lr: learning rate of G; the other settings are the optimiser's.
        clip_norm: largest norm of a step's gradients, null for no limit; `trainer.gradient_clip_val` knows one
            optimiser only.
        optimizer: rates of F, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: a number outside of its range, an unknown variant, a frozen part that trains or the other way
            round.
    """

    tested_with: ClassVar = {"code_length": 32, "width": 16, "num_layers": 1, "dropout": 0.0, "graph_width": 16}

    def __init__(
        self,
        video_encoder: FrameEncoder,
        text_encoder: TextEncoder,
        text_hash_encoder: TextEncoder,
        code_length: int = 64,
        variant: Variant = "full",
        video_share: float = 0.6,
        dropped: float = 0.1,
        neighbour_weight: float = 0.2,
        quantisation_weight: float = 0.2,
        code_weight: float = 1.0,
        similarity_weight: float = 1.0,
        temperature: float = 0.2,
        width: int = 256,
        num_layers: int = 4,
        heads: int = 1,
        dropout: float = 0.1,
        max_frames: int = 64,
        graph_width: int = 512,
        graph_lr: float = 1e-3,
        clip_norm: float | None = None,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation, graph_lr, clip_norm)
        if variant not in get_args(Variant):
            raise ConfigError(f"model.variant is '{variant}'; {nearest(variant, get_args(Variant))}")
        if width % max(1, heads) or heads < 1:
            raise ConfigError(f"model.heads is {heads}; it must divide model.width, {width}")
        check_shares(video_share=video_share, dropped=dropped)
        if temperature <= 0:
            raise ConfigError(f"model.temperature is {temperature}; contrasts are divided by it: above 0")
        self.take_encoders(video_encoder, text_encoder, code_length)
        check_freeze("text_hash_encoder", text_hash_encoder, False)
        self.text_hash_encoder, self.variant = text_hash_encoder, variant
        self.video_share, self.dropped = video_share, dropped
        self.neighbour_weight, self.quantisation_weight = neighbour_weight, quantisation_weight
        self.code_weight, self.similarity_weight, self.temperature = code_weight, similarity_weight, temperature
        self.video_hash = VideoHash(video_encoder.embed_dim, code_length, width, num_layers, heads, max_frames, dropout)
        self.text_hash = HashLayer(text_hash_encoder.embed_dim, code_length)
        self.graph_network: GraphNetwork | None = None
        if variant != "bin":
            self.graph_network = GraphNetwork(
                video_encoder.embed_dim, text_encoder.embed_dim, code_length, graph_width,
                AGGREGATION.get(variant, "joint"),
            )  # fmt: skip

    def encode_video(self, video: VideoInput) -> HashFeatures:
        """Codes of videos, and X^v."""
        frames = self.frames_of(video)
        return _features(self.video_hash(frames, video.frame_mask), masked_mean(frames, video.frame_mask))

    def encode_text(self, text: TextInput) -> HashFeatures:
        """Codes of texts, and X^t."""
        return replace(self._text_codes(text), source=self.text_source(text))

    def _text_codes(self, text: TextInput) -> HashFeatures:
        """Without X^t, for which the frozen encoder would have to read the second view too."""
        tokens = self.text_hash_encoder.encode_tokens(text.tokens, text.token_mask)
        logits = self.text_hash(tokens, text.token_mask)
        return _features(logits, logits.new_empty(len(logits), 0))

    def encode(self, batch: VideoTextBatch) -> tuple[HashFeatures, HashFeatures]:
        """Codes of a training batch, those of its second view with them.

        Raises:
            ConfigError: the batch has no second view, and the variant contrasts views.
        """
        texts, videos = super().encode(batch)
        if self.variant == "cont":
            return texts, videos
        other = batch.augmented
        if other is None:
            if len(batch):
                raise ConfigError(_NO_SECOND_VIEW)
            other = batch  # a rank without any row: shapes alone count
        return (
            replace(texts, augmented=self._in_chunks(self._text_codes, other.text).logits),
            replace(videos, augmented=self._in_chunks(self.encode_video, other.video).logits),
        )

    def networks(self) -> tuple[GraphNetwork | None, nn.Module]:
        """G and F; the variant `bin` has no G."""
        return self.graph_network, nn.ModuleList([self.video_hash, self.text_hash, self.text_hash_encoder])

    def graph_of(self, video_features: Tensor, text_features: Tensor) -> CollaborativeGraph:
        """S over the items."""
        return CollaborativeGraph(
            video_features, text_features, self.video_share, self.dropped, processed=self.variant != "s1"
        )

    def graph_losses(self, graph: CollaborativeGraph, rows: Tensor) -> Mapping[str, Tensor]:
        """L_c of items of the graph, rows (B,) int64; nothing for the variant without G."""
        if self.graph_network is None:
            return {}
        video, text, similarity = graph.video_features[rows], graph.text_features[rows], graph.block(rows)
        h = self.graph_network(video, text, similarity)
        neighbours = neighbourhood_reconstruction(similarity, h.video, h.text, h.relaxed)
        return {
            "reconstruction": semantic_reconstruction((h.video_features, h.text_features), (video, text)),
            "neighbourhood": self.neighbour_weight * neighbours,  # Eq. 9
            "quantisation": self.quantisation_weight * quantisation(h.codes, h.relaxed),  # Eq. 9
        }

    def hash_losses(
        self, graph: CollaborativeGraph, rows: Tensor, texts: HashFeatures, videos: HashFeatures, video_index: Tensor
    ) -> Mapping[str, Tensor]:
        """L_f, as far as the variant has it.

        Raises:
            ConfigError: the features have no second view, and the variant contrasts views.
        """
        losses: dict[str, Tensor] = {}
        similarity = graph.block(rows)
        if self.variant != "cont":
            if not videos.augmented.shape[1] or not texts.augmented.shape[1]:
                raise ConfigError(_NO_SECOND_VIEW)
            views = (videos.logits, texts.logits, videos.augmented, texts.augmented)
            losses["inter_modal"] = inter_modal_contrast(*views, self.temperature, video_index)  # Eq. 13
            losses["intra_modal"] = intra_modal_contrast(*views, self.temperature, video_index)  # Eq. 13
        if self.graph_network is not None:
            codes = self.graph_network.settled_codes(graph.video_features[rows], graph.text_features[rows], similarity)
            losses["code"] = self.code_weight * code_regression(codes, videos.real, texts.real)  # Eq. 16
        if self.variant != "sim":
            preserved = neighbourhood_preservation(similarity, videos.logits, texts.logits)
            losses["similarity"] = self.similarity_weight * preserved  # Eq. 16
        return losses


_NO_SECOND_VIEW = (
    "a training batch has no second, augmented view, which the contrasts compare with: set data.augment.every=2; "
    "model.variant=cont does without"
)


def _features(logits: Tensor, source: Tensor) -> HashFeatures:
    return HashFeatures(logits.tanh(), source, logits, logits.new_empty(len(logits), 0))
