"""What replaces LEAN's network in its ablation, for all pairs of texts and videos at once.

What `ReplacementNetwork` gives on each pair's hypergraph. The clique expansion of a pair has few kinds of neighbours:
words among each other, visual nodes among each other, and both; wherever one group's nodes are all neighbours, a graph
or hypergraph convolution gives them all the same, and one row stands for them. Shapes as in `hypergraph_pairs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning.nn.lean.graph_networks import ReplacementNetwork, UncertainGCNConv
from tvr_lightning.nn.lean.hypergraph import SLOPE, Kind
from tvr_lightning.nn.lean.hypergraph_pairs import PairNodes, neighbourhoods, node_sum
from tvr_lightning.nn.lean.variational import standard_normal
from tvr_lightning.nn.masked import masked_softmax


def replaced_pairs(network: ReplacementNetwork, x: PairNodes, kinds: Sequence[Kind]) -> PairNodes:
    """New nodes; those of the uncertain GCN are drawn while training, means otherwise.

    Args:
        network: its weights.
        x: nodes.
        kinds: which hyperedges there are.
    """
    adjacency = _adjacency(x, kinds)
    if network.kind == "uncertain_gcn":
        return _uncertain(network, x, adjacency)
    layers: list[Any] = list(network.layers)
    for layer in layers:
        if network.kind == "hgnn":
            x = _hypergraph_conv(layer, x, kinds)
        elif network.kind == "gcn":
            words, visual = _spread(adjacency, _mapped(layer.lin, x))
            x = x._replace(words=words + layer.bias, visual=visual + layer.bias)
        else:
            x = _graph_attention(layer, x, kinds)
        x = x._replace(words=F.leaky_relu(x.words, SLOPE), visual=F.leaky_relu(x.visual, SLOPE))
    return x


def _mapped(function: Any, x: PairNodes) -> PairNodes:
    return x._replace(words=function(x.words), visual=function(x.visual))


def _hypergraph_conv(layer: Any, x: PairNodes, kinds: Sequence[Kind]) -> PairNodes:
    """D_v^-1 H D_e^-1 H^T X W + b."""
    num_words, num_visual = x.counts()
    words, visual_sum = layer.lin(x.words), layer.lin(node_sum(x.visual, x.visual_mask))
    word_sum = node_sum(words, x.word_mask)
    to_words = to_visual = visual_sum.new_zeros(())
    if "global" in kinds:
        shared = (word_sum + visual_sum) / (num_words + num_visual)
        to_words, to_visual = to_words + shared, to_visual + shared
    if "text" in kinds:
        to_words = to_words + word_sum / num_words.clamp(min=1)
    if "visual" in kinds:
        to_visual = to_visual + visual_sum / num_visual
    size = *torch.broadcast_shapes(word_sum.shape[:2], visual_sum.shape[:2]), visual_sum.shape[-1]
    of_words = to_words.expand(size)[:, :, None]
    word_degree, visual_degree = len({"global", "text"} & set(kinds)), len({"global", "visual"} & set(kinds))
    if "cross" in kinds:
        of_words = of_words + (words + visual_sum[..., None, :]) / (num_visual + 1)[..., None]
        to_visual = to_visual + (word_sum + num_words * visual_sum) / (num_visual + 1)
    word_degree += "cross" in kinds
    degree = (visual_degree + num_words * ("cross" in kinds)).clamp(min=1)
    new_visual = to_visual.expand(size) / degree
    return x._replace(words=of_words / max(word_degree, 1) + layer.bias, visual=new_visual[:, :, None] + layer.bias)


class _Adjacency(NamedTuple):
    """Entries of D^-1/2 (A + I) D^-1/2 over the clique expansion, (t, v, 1) or less, and who has all as neighbours.

    Attributes:
        word, visual: of a node with itself.
        words, visuals: with another of its group.
        across: of a word with a visual node.
        words_alike, visuals_alike: whether a group's nodes all are neighbours, whatever the masks.
    """

    word: Tensor
    visual: Tensor
    words: Tensor
    visuals: Tensor
    across: Tensor
    words_alike: bool
    visuals_alike: bool

    def squared(self) -> _Adjacency:
        """Entries squared."""
        return self._replace(
            word=self.word.square(),
            visual=self.visual.square(),
            words=self.words.square(),
            visuals=self.visuals.square(),
            across=self.across.square(),
        )


def _adjacency(x: PairNodes, kinds: Sequence[Kind]) -> _Adjacency:
    num_words, num_visual = x.counts()
    among_words, across, among_visual = neighbourhoods(kinds, num_words)
    word_degree = (1 + among_words * (num_words - 1) + across * num_visual).clamp(min=1)
    visual_degree = 1 + among_visual * (num_visual - 1) + across * num_words
    return _Adjacency(
        word=1 / word_degree,
        visual=1 / visual_degree,
        words=among_words / word_degree,
        visuals=among_visual / visual_degree,
        across=across * (word_degree * visual_degree).rsqrt(),
        words_alike=among_words,
        visuals_alike=bool({"global", "visual"} & set(kinds)),
    )


def _spread(a: _Adjacency, x: PairNodes) -> tuple[Tensor, Tensor]:
    """The adjacency times nodes, words and visual ones."""
    word_sum, visual_sum = node_sum(x.words, x.word_mask), node_sum(x.visual, x.visual_mask)
    words = (a.words * word_sum + a.across * visual_sum)[..., None, :]
    visual = (a.visuals * visual_sum + a.across * word_sum)[..., None, :]
    if not a.words_alike:
        words = words + (a.word - a.words)[..., None] * x.words
    if not a.visuals_alike:
        visual = visual + (a.visual - a.visuals)[..., None] * x.visual
    return words, visual


def _uncertain(network: ReplacementNetwork, x: PairNodes, a: _Adjacency) -> PairNodes:
    """`UncertainGCNConv` on Gaussian nodes."""
    start = network.start
    mean = _mapped(lambda h: F.leaky_relu(start[0](h), SLOPE), x)
    variance = _mapped(lambda h: F.relu(start[1](h)), x)
    for layer in network.layers:
        assert isinstance(layer, UncertainGCNConv)
        of_words, of_visual = torch.exp(-variance.words), torch.exp(-variance.visual)
        means = mean._replace(words=layer.mean(mean.words * of_words), visual=layer.mean(mean.visual * of_visual))
        words, visual = _spread(a, means)
        mean = x._replace(words=F.leaky_relu(words, SLOPE), visual=F.leaky_relu(visual, SLOPE))
        variances = variance._replace(
            words=layer.variance(variance.words * of_words.square()),
            visual=layer.variance(variance.visual * of_visual.square()),
        )
        words, visual = _spread(a.squared(), variances)
        variance = x._replace(words=F.relu(words), visual=F.relu(visual))
    if not network.training:
        return mean
    lengths = [x.word_mask.shape[-1], x.visual_mask.shape[-1]]
    size = torch.broadcast_shapes(mean.words.shape[:2], mean.visual.shape[:2])
    noise = standard_normal(mean.words, *size, sum(lengths), mean.words.shape[-1]).split(lengths, dim=2)
    return x._replace(
        words=mean.words + noise[0] * (variance.words + 1e-8).sqrt(),
        visual=mean.visual + noise[1] * (variance.visual + 1e-8).sqrt(),
    )


def _graph_attention(layer: Any, x: PairNodes, kinds: Sequence[Kind]) -> PairNodes:
    """sum_j softmax_j(LeakyReLU(a . W x_j + b . W x_i)) W x_j over i and its neighbours, + bias."""
    x = _mapped(layer.lin, x)
    size = torch.broadcast_shapes(x.words.shape[:2], x.visual.shape[:2])
    h = torch.cat([x.words.expand(*size, -1, -1), x.visual.expand(*size, -1, -1)], dim=2)  # (t, v, N, D)
    source, target = ((h * a[0]).sum(-1) for a in (layer.att_src, layer.att_dst))
    logits = F.leaky_relu(target[..., None] + source[..., None, :], layer.negative_slope)  # (t, v, N, N)

    among_words, across, among_visual = neighbourhoods(kinds, x.counts()[0])
    lengths = [x.word_mask.shape[-1], x.visual_mask.shape[-1]]
    is_word = torch.arange(sum(lengths), device=h.device) < lengths[0]
    both, none = is_word[:, None] & is_word, ~is_word[:, None] & ~is_word
    joined = (both & among_words) | ((is_word[:, None] ^ is_word) & across) | (none & (among_visual[..., None] > 0))
    joined = joined | torch.eye(sum(lengths), dtype=torch.bool, device=h.device)
    here = torch.cat([x.word_mask.expand(*size, -1), x.visual_mask.expand(*size, -1)], dim=2)
    words, visual = (masked_softmax(logits, joined & here[:, :, None]).to(h.dtype) @ h + layer.bias).split(
        lengths, dim=2
    )
    return x._replace(words=words, visual=visual)
