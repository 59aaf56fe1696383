"""GHAN: graph-based hierarchical aggregation (Yu, Hu, Li 2022).

encoding     CLIP's tokens and frames, positions       -> GHAN                            1 2
refining     words to phrases, frames to clips         -> nn.ghan.refining.TokenRefining  3 4 5
interaction  text with clips, video with phrases       -> nn.ghan.mpaa.MPAA               6 7 8 9
matching     symmetric cross-entropy of cosines        -> losses.contrastive              10 11 12
What trains and scores is `nn.ghan.alignment.DenseAlignment` with `MPAA.read_pairs`: all pairs, dense. What reads like
the paper is `MPAA.forward` on any graph, with PyG's GATConv. Both use the same parameters, and
tests/nn/ghan/test_mpaa.py ties them, values and gradients.
The pair is the unit: a text's vector depends on the video that it is compared with and a video's on the text, so
scores are computed for all pairs, in training and in evaluation. The paper's d(e_i^t, e_j^v) can also be read as one
vector for each item, its graph holding the parts of its own ground-truth counterpart; `pairing: matched` computes that,
so that the paper's figures can be studied. It tells the text which video is the right one: its scores are not results.
Departures, where the paper does not say or this differs from its print:
encoding     positions are learned, one a frame; words are all of CLIP's tokens, start and end among them, after its
             last norm and projection; padded words and frames get weight 0 everywhere
refining     the softmax of Eq. 5 runs over tokens, where its bias is without effect and left out (the other reading is
             `refine_over: phrases`, with the bias); m is two linear layers with one ReLU between them
graphs       self-loops are edges; W_a and W_c of Eqs. 6 and 8 have a block for each head (printed without k, but eight
             heads of 256 need it); two networks, one for each graph (Sec. 3.3: "the same MPAA", Sec. 4.2: "two same
             MPAAs"; `share_graphs` is one); one step of message passing (`steps` is the paper's t); LeakyReLU's slope
             is GAT's; Eq. 9's attention is computed from W_r1 h as Eq. 7's is from W_a h; dropout acts on the graphs'
             nodes and on both attentions
readout      softmax over the width as printed (`readout: identity` leaves it out); it and the cosine are computed in
             float32 whatever the precision
matching     cosines times CLIP's scale, which Sec. 4.2 names and Eqs. 10 and 11 do not print; it keeps learning;
             captions of one video in a batch are not negatives of that video, where Eqs. 10 and 11 count them
Table 4      baseline: means of CLIP's tokens and frames, without positions; no_inter: the cosine of the parts' means;
             no_intra: graphs over words and frames, whose roots are their means
Table 5      `he` graphs: R-GCN with a weight for each pair of kinds, hidden width of one head, read at the roots
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tvr_lightning.encoders.base import DualEncoder, frame_features
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.evaluation import Evaluation
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.views import Label, Maps, View, Weights, frames_of, words_of
from tvr_lightning.nn.ghan.alignment import Alignment, DenseAlignment, GraphAlignment, Hierarchy
from tvr_lightning.nn.ghan.mpaa import Readout
from tvr_lightning.nn.ghan.refining import RefineOver, TokenRefining
from tvr_lightning.nn.masked import masked_mean
from tvr_lightning.nn.similarity import LogitScale, cosine_matrix
from tvr_lightning.nn.temporal import FramePositions
from tvr_lightning.optim import Optimizer
from tvr_lightning.types import TextInput, VideoInput

Layers = Literal["full", "baseline", "no_inter", "no_intra"]
Graph = Literal["ho_2graph", "ho_1graph", "he_1graph", "he_2graph"]
WITH_GRAPHS: tuple[Layers, ...] = ("full", "no_intra")
TWO_GRAPHS: tuple[Graph, ...] = ("ho_2graph", "he_2graph")
MATCHED_ROWS = 256  # pairs of `match` that are computed at a time


class GHAN(RetrievalModule[Hierarchy, Hierarchy]):
    """GHAN.

    Args:
        encoder: CLIP.
        num_phrases: N_p.
        num_clips: N_c.
        hidden_width: of refining's m.
        heads: of MPAA.
        head_width: of each head; the hidden width of typed graphs.
        dropout: on the graphs' nodes and attention.
        readout: `softmax` over the width as Eq. 9 prints it, or `identity`; a cosine of two probability vectors has
            little range.
        refine_over: what Eq. 5's softmax runs over: the `tokens`, or the `phrases` (and clips), then with its bias.
        share_graphs: one MPAA for both graphs of a pair, instead of two with their own weights.
        steps: of message passing in the graphs, the paper's t; from the second on nodes have `heads` x `head_width`.
        layers: `full`; Table 4's `baseline` (mean-pooled words and frames), `no_inter` (refining alone), `no_intra`
            (graphs over words and frames).
        graph: `ho_2graph`, or another structure of Table 5: one graph instead of two, typed (`he`) edges.
        pairing: `all` pairs, or `matched`: each item sees its own ground truth (see above), never a fair result.
        max_frames: positions of frames.
        logit_scale: where the learned scale starts; the encoder's own when null.
        optimizer: rates, decay, schedule.
        evaluation: how scores become numbers.

    Raises:
        ConfigError: a size below 1, a dropout outside [0, 1), `share_graphs` without two graphs, `matched` without
            graphs or with QB-Norm.
    """

    tested_with: ClassVar = {
        "num_phrases": 3, "num_clips": 4, "hidden_width": 64, "heads": 2, "head_width": 16, "readout": "identity",
    }  # fmt: skip
    in_float32: ClassVar = (*RetrievalModule.in_float32, "match")

    def __init__(
        self,
        encoder: DualEncoder,
        num_phrases: int = 6,
        num_clips: int = 6,
        hidden_width: int = 1024,
        heads: int = 8,
        head_width: int = 256,
        dropout: float = 0.2,
        readout: Readout = "softmax",
        refine_over: RefineOver = "tokens",
        share_graphs: bool = False,
        steps: int = 1,
        layers: Layers = "full",
        graph: Graph = "ho_2graph",
        pairing: Literal["all", "matched"] = "all",
        max_frames: int = 32,
        logit_scale: float | None = None,
        optimizer: Optimizer = Optimizer(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__(optimizer, evaluation)
        sizes = {"num_phrases": num_phrases, "num_clips": num_clips, "hidden_width": hidden_width, "heads": heads,
                 "head_width": head_width, "steps": steps, "max_frames": max_frames}  # fmt: skip
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"model.{name} is {size}; it must be at least 1")
        if not 0 <= dropout < 1:
            raise ConfigError(f"model.dropout is {dropout}; the share that is dropped must be at least 0 and below 1")
        if share_graphs and (layers not in WITH_GRAPHS or graph not in TWO_GRAPHS):
            where = f"model.graph={graph} has one" if layers in WITH_GRAPHS else f"model.layers={layers} has none"
            raise ConfigError(
                f"model.share_graphs is one network for a pair's two graphs, and {where}: set it to false, or "
                f"model.graph to {' or '.join(TWO_GRAPHS)} and model.layers to {' or '.join(WITH_GRAPHS)}"
            )
        if pairing == "matched":
            _check_matched(layers, evaluation)
        self.encoder = encoder
        self.layers, self.pairing = layers, pairing
        width = encoder.embed_dim
        self.logit_scale = LogitScale(encoder.logit_scale_init if logit_scale is None else logit_scale)
        self.positions = self.phrases = self.clips = None
        self.align: Alignment | None = None
        if layers != "baseline":
            self.positions = FramePositions(max_frames, width, std=0.1)
        if layers in ("full", "no_inter"):
            self.phrases = TokenRefining(width, num_phrases, hidden_width, refine_over)
            self.clips = TokenRefining(width, num_clips, hidden_width, refine_over)
        if layers in WITH_GRAPHS:
            settings = width, heads, head_width, dropout, readout, steps, share_graphs
            self.align = DenseAlignment(*settings) if graph == "ho_2graph" else GraphAlignment(graph, *settings)

    @property
    def reads_ground_truth(self) -> bool:
        """Whether an item's vector is made with its ground-truth counterpart: features must go through `match`."""
        return self.pairing == "matched"

    def encode_video(self, video: VideoInput) -> Hierarchy:
        """Clips, or frames without refining, and their mean."""
        return self._hierarchy(self._frames(video), video.frame_mask, self.clips)

    def encode_text(self, text: TextInput) -> Hierarchy:
        """Phrases, or words without refining, and their mean."""
        return self._hierarchy(self._words(text), text.token_mask, self.phrases)

    def score(self, texts: Hierarchy, videos: Hierarchy) -> Tensor:
        """(T, V) scaled cosines: of every pair's own two vectors, or of `match`'s where the ground truth is read.

        Raises:
            ValueError: the ground truth is to be read and the features did not pass `match`.
        """
        if self.align is None:
            return self.logit_scale(cosine_matrix(texts.whole, videos.whole))
        if self.reads_ground_truth:
            if texts.parts.shape[1] or videos.parts.shape[1]:
                raise ValueError("pairing 'matched' scores the vectors that `match` returns; call it first")
            return self.logit_scale(cosine_matrix(texts.whole, videos.whole))
        return self.logit_scale(self.align.cosines(texts, videos))

    def compute_losses(self, texts: Hierarchy, videos: Hierarchy, video_index: Tensor) -> Mapping[str, Tensor]:
        """Symmetric cross-entropy."""
        if self.align is not None and self.reads_ground_truth:
            of_text, of_video = self.align.rows(texts, videos)
            texts, videos = _without_parts(of_text), _without_parts(of_video)
        if self.align is not None and not self.reads_ground_truth:
            scores = self.logit_scale(self.align.learn(texts, videos))
        else:
            scores = self.score(texts, videos)
        return {"contrastive": symmetric_cross_entropy(scores, video_index)}

    def explain(self, text: TextInput, video: VideoInput) -> Sequence[View]:
        """The weights of Fig. 5: of words in phrases, of frames in clips, and of each of MPAA's heads at both roots."""
        words: tuple[Label, ...] = ("start", *words_of(text), "end")
        frames: tuple[Label, ...] = frames_of(video)
        panels = []
        if self.clips is not None:
            weights = self.clips.weights(self._frames(video), video.frame_mask)[0][:, video.frame_mask[0]]
            clips = _numbered("clip", len(weights))
            panels.append(_refined("frame-clip weights", self.clips, clips, frames, weights))
            frames = clips
        if self.phrases is not None:
            weights = self.phrases.weights(self._words(text), text.token_mask)[0][:, text.token_mask[0]]
            phrases = _numbered("phrase", len(weights))
            panels.append(_refined("word-phrase weights", self.phrases, phrases, words, weights))
            words = phrases
        found = self.align and self.align.weights(self.encode_text(text), self.encode_video(video))
        if found:
            of_text, of_video = (weights[0][:, weights[0].any(0)] for weights in found)
            heads = _numbered("head", len(of_text))
            parts = ("clip", "phrase") if self.clips is not None else ("frame", "word")
            panels.append(Weights(f"text-{parts[0]} weights", heads, ("text", *frames), of_text, "attention"))
            panels.append(Weights(f"video-{parts[1]} weights", heads, ("video", *words), of_video, "attention"))
        return (Maps("weights", tuple(panels)),) if panels else ()

    def match(self, texts: Hierarchy, videos: Hierarchy, caption_video: Tensor) -> tuple[Hierarchy, Hierarchy]:
        """One vector for each item, made with its ground truth: the leak of `pairing: matched`.

        A text sees the clips of its own video; a video sees the phrases of its own first caption.

        Args:
            texts: features of T captions, on any device.
            videos: features of V videos.
            caption_video: (T,) int64, the row of each caption's video.

        Returns:
            What `score` takes: both with `parts` of length 0, on the devices that they came from.

        Raises:
            ConfigError: the method does not read the ground truth.
            DataError: a video has no caption.
        """
        if self.align is None or not self.reads_ground_truth:
            raise ConfigError("`match` belongs to pairing 'matched': other scores need no ground truth")
        caption_video = caption_video.to(videos.whole.device)
        first = torch.full((len(videos),), len(texts), device=caption_video.device)
        order = torch.arange(len(texts), device=caption_video.device)
        first = first.scatter_reduce(0, caption_video, order, "amin")
        missing = (first == len(texts)).nonzero().flatten().tolist()
        if missing:
            raise DataError(
                f"pairing 'matched' makes a video's vector with its own caption, and {len(missing)} videos have none "
                f"(first: video {missing[0]}). Use model.pairing=all."
            )
        of_texts, of_videos = [], []
        for i in range(0, len(texts), MATCHED_ROWS):
            rows = slice(i, i + MATCHED_ROWS)
            of_texts.append(self._rows(texts[rows], videos[caption_video[rows]])[0].to(texts.whole.device))
        for i in range(0, len(videos), MATCHED_ROWS):
            rows = slice(i, i + MATCHED_ROWS)
            of_videos.append(self._rows(texts[first[rows]], videos[rows])[1].to(videos.whole.device))
        return _without_parts(torch.cat(of_texts)), _without_parts(torch.cat(of_videos))

    def _rows(self, texts: Hierarchy, videos: Hierarchy) -> tuple[Tensor, Tensor]:
        assert self.align is not None
        of_text, of_video = self.align.rows(texts.to(self.device), videos.to(self.device))
        return of_text, of_video

    def _frames(self, video: VideoInput) -> Tensor:
        """(V, n, D), with positions, zeros where the mask is False."""
        frames = frame_features(self.encoder, video)  # Eq. 2
        if self.positions is not None:
            frames = (frames + self.positions.of(frames.shape[1])) * video.frame_mask[..., None]
        return frames

    def _words(self, text: TextInput) -> Tensor:
        words: Tensor = self.encoder.encode_text(text.tokens, text.token_mask)[1]  # Eq. 1
        return words

    def _hierarchy(self, items: Tensor, mask: Tensor, refine: TokenRefining | None) -> Hierarchy:
        """(N, n, D), (N, n) -> the parts that the graphs take, and their mean (Sec. 3.3)."""
        if refine is not None:
            items = refine(items, mask)
            mask = mask.new_ones(items.shape[:2])
        whole = masked_mean(items, mask)
        return Hierarchy(whole, items, mask) if self.align is not None else _without_parts(whole)


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name} {i + 1}" for i in range(count))


def _without_parts(whole: Tensor) -> Hierarchy:
    return Hierarchy(whole, whole[:, None][:, :0], whole.new_ones(len(whole), 0, dtype=torch.bool))


def _check_matched(layers: Layers, evaluation: Evaluation) -> None:
    if layers not in WITH_GRAPHS:
        raise ConfigError(f"model.pairing=matched needs graphs, and model.layers={layers} has none")
    if evaluation.wants_bank:
        raise ConfigError(
            "model.pairing=matched reads each caption's ground truth, which items of a bank do not have in the "
            "gallery: set model.evaluation.qb_norm=null and model.evaluation.sinkhorn=null"
        )
    warnings.warn(
        "GHAN with pairing 'matched': each text is encoded with its ground-truth video and each video with its "
        "ground-truth text. The scores contain the answer: they are for studying a leak and are not retrieval results.",
        stacklevel=3,
    )


def _refined(
    title: str, network: TokenRefining, parts: tuple[Label, ...], tokens: tuple[Label, ...], weights: Tensor
) -> Weights:
    """What tokens give to parts, (parts, tokens); rows are what the softmax runs over for, so that each sums to 1."""
    if network.over == "phrases":
        return Weights(title, tokens, parts, weights.mT)
    return Weights(title, parts, tokens, weights)
