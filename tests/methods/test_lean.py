"""LEAN as a method: what it reads, how it weighs its losses, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from tvr_lightning.encoders.bert import BERTEncoder, BERTSize
from tvr_lightning.encoders.vgg import VGGEncoder, VGGSize
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation import score_all
from tvr_lightning.losses.contrastive import symmetric_cross_entropy
from tvr_lightning.methods.lean import LEAN
from tvr_lightning.metrics import ranking_metrics
from tvr_lightning.nn.lean.hypergraph import pair_hypergraphs, visual_nodes
from tvr_lightning.nn.lean.pair_scorer import Network
from tvr_lightning.nn.lean.variational import gaussian_divergence
from tvr_lightning.types import TextInput, VideoInput

from ..kinds import first_fast

TOKENS, NODES, FRAMES, SIZE = 8, 5, 4, 16


def build(seed: int = 0, freeze: bool = False, **settings: Any) -> LEAN:
    torch.manual_seed(seed)
    vgg = VGGEncoder(size=VGGSize(SIZE, ((8,), (16,)), 2, 32, 24), freeze=freeze)
    bert = BERTEncoder(size=BERTSize(32, 1, 2, 64, 100, 16, 0.0), context_length=TOKENS, freeze=freeze)
    return LEAN(vgg, bert, **{"width": 32, **settings})


def texts(count: int, seed: int = 1) -> TextInput:
    """Captions of 1 to 5 nodes; a node has one or two pieces, some tokens belong to none."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, 100, (count, TOKENS), generator=generator)
    length = torch.randint(3, TOKENS + 1, (count, 1), generator=generator)
    place = torch.arange(TOKENS)
    mask = place < length
    word = torch.where((place > 0) & (place < length - 1), (place - 1) // (1 + torch.arange(count)[:, None] % 2), -1)
    word[::3, 2] = -1
    index = torch.arange(count)
    return TextInput(tokens.masked_fill(~mask, 0), mask, index, index, torch.where(word < NODES, word, -1))


def videos(count: int, seed: int = 2) -> VideoInput:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, FRAMES, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    mask = torch.arange(FRAMES) < torch.randint(1, FRAMES + 1, (count, 1), generator=generator)
    return VideoInput(frames * mask[..., None, None, None], mask, torch.arange(count))


VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "one iteration": {"iterations": 1},
    "none": {"hypergraph": "none"},
    "hgnn": {"hypergraph": "hgnn"},
    "uncertain_gcn": {"hypergraph": "uncertain_gcn"},
    "gcn": {"hypergraph": "gcn"},
    "gat": {"hypergraph": "gat"},
    "no divergence": {"variational": False},
    "no global": {"hyperedges": ["text", "visual", "cross"]},
    "no text": {"hyperedges": ["cross", "visual", "global"]},
    "no visual": {"hyperedges": ["global", "text", "cross"]},
    "no cross": {"hyperedges": ["global", "text", "visual"]},
    "sigmoid": {"activation": "sigmoid"},
    "sum": {"kl_reduction": "sum"},
}
VARIANTS |= {
    f"{name}, hyperedges": {"hypergraph": name, "readout": "nodes_and_hyperedges"} for name in get_args(Network)
}


@pytest.fixture(params=list(VARIANTS))
def model(request: pytest.FixtureRequest) -> LEAN:
    return build(**VARIANTS[request.param]).eval()


@torch.no_grad()
def test_scores_are_those_of_each_pair_alone_in_index_form(model: LEAN) -> None:
    model.double()
    words, clips = model.encode_text(texts(4)), model.encode_video(videos(3))
    scores = model.score(words, clips)
    assert scores.shape == (4, 3)
    visual = visual_nodes(clips.frames, clips.frame_mask)
    for t in range(4):
        for v in range(3):
            graph, _ = pair_hypergraphs(
                words.words[t : t + 1], words.word_mask[t : t + 1], visual[0][v : v + 1], visual[1][v : v + 1],
                model.scorer.kinds,
            )  # fmt: skip
            torch.testing.assert_close(model.scorer.score_graphs(graph)[0][0], scores[t, v], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_permuted_chunked_and_padded_inputs(model: LEAN) -> None:
    text, video = texts(5), videos(6)
    words, clips = model.encode_text(text), model.encode_video(video)
    scores = model.score(words, clips)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(model.score(words, clips[order]), scores[:, order], rtol=1e-4, atol=1e-5)
    model.pair_chunk = 4
    torch.testing.assert_close(score_all(model, words, clips, chunk_size=3), scores, rtol=1e-4, atol=1e-5)

    noise = torch.randint(0, 256, video.frames.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    noisy = replace(video, frames=torch.where(video.frame_mask[..., None, None, None], video.frames, noise))
    longer = VideoInput(
        torch.cat([noisy.frames, noise[:, :2]], 1), torch.cat([video.frame_mask, torch.zeros(6, 2) > 0], 1), video.index
    )
    drawn = torch.randint(4, 100, text.tokens.shape, generator=torch.Generator().manual_seed(8))
    other = replace(text, tokens=torch.where(text.token_mask, text.tokens, drawn))
    torch.testing.assert_close(
        model.score(model.encode_text(other), model.encode_video(longer)), scores, rtol=1e-4, atol=1e-5
    )


def test_every_parameter_receives_a_finite_gradient(model: LEAN) -> None:
    model.train()
    losses = model.compute_losses(model.encode_text(texts(6)), model.encode_video(videos(6)), torch.arange(6))
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    first_fast(
        [
            {"width": 96},
            {"width": 96, "readout": "nodes_and_hyperedges"},
            {"width": 64, "variational": False},
            {"width": 64, "hypergraph": "gcn", "variational": False},
        ]
    ),
)
def test_one_batch_is_learned(settings: dict[str, Any]) -> None:
    model = build(**settings).train()
    text, video = texts(8), videos(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(80):
        optimizer.zero_grad()
        losses = model.compute_losses(model.encode_text(text), model.encode_video(video), video.index)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        scores = score_all(model, model.encode_text(text), model.encode_video(video))
    assert ranking_metrics(scores, torch.arange(8))["SumR"] == pytest.approx(600.0)


def test_losses_by_hand() -> None:
    model = build(kl_weight=0.25).double().eval()
    words, clips = model.encode_text(texts(4)), model.encode_video(videos(4))
    losses = model.compute_losses(words, clips, torch.tensor([0, 1, 0, 3]))
    scores = model.score(words, clips)
    torch.testing.assert_close(
        losses["text_to_video"] + losses["video_to_text"],
        symmetric_cross_entropy(scores, torch.tensor([0, 1, 0, 3])),
    )
    rows = [
        scores[i, i] - scores[i, [j for j in range(4) if (i, j) not in ((0, 2), (2, 0))]].logsumexp(0) for i in range(4)
    ]
    torch.testing.assert_close(losses["text_to_video"], -sum(rows) / 8)
    graphs, _ = pair_hypergraphs(words.words, words.word_mask, *visual_nodes(clips.frames, clips.frame_mask))
    each = model.scorer.score_graphs(graphs)[1]
    torch.testing.assert_close(losses["divergence"], 0.25 * each.mean())


def test_weights_choose_the_terms() -> None:
    words, clips = texts(3), videos(3)

    def terms(**settings: Any) -> set[str]:
        model = build(**settings)
        return set(model.compute_losses(model.encode_text(words), model.encode_video(clips), torch.arange(3)))

    assert terms() == {"text_to_video", "video_to_text", "divergence"}
    assert terms(kl_weight=0.0) == {"text_to_video", "video_to_text"}
    assert terms(variational=False) == {"text_to_video", "video_to_text"}
    assert terms(video_weight=0.0) == {"text_to_video", "divergence"}
    assert terms(text_weight=0.0) == {"video_to_text", "divergence"}


@pytest.mark.parametrize("kl_weight", [0.6, 0.0])
def test_training_draws_states_and_evaluation_does_not(kl_weight: float) -> None:
    model = build(kl_weight=kl_weight)
    words, clips = model.encode_text(texts(3)), model.encode_video(videos(3))
    assert not torch.equal(model.score(words, clips), model.score(words, clips))
    still = build(variational=False)
    torch.testing.assert_close(still.score(words, clips), still.score(words, clips), rtol=0, atol=0)
    model.eval()
    assert torch.equal(model.score(words, clips), model.score(words, clips))


@torch.no_grad()
def test_frozen_features_replace_frames_and_words() -> None:
    model = build(freeze=True).eval()
    text, video = texts(4), videos(3)
    for_video, for_text = model.frozen_video(), model.frozen_text()
    assert for_video is not None
    assert for_text is not None
    kept_video = VideoInput(torch.zeros(3, FRAMES, 3, 0, 0, dtype=torch.uint8), video.frame_mask, video.index,
                            for_video.encode(video))  # fmt: skip
    kept_text = replace(text, features=for_text.encode(text))
    torch.testing.assert_close(
        model.score(model.encode_text(kept_text), model.encode_video(kept_video)),
        model.score(model.encode_text(text), model.encode_video(video)),
    )
    assert for_text.encode(text).shape[:2] == text.word.shape  # the tokeniser's bound is the only one
    other = build(seed=1, freeze=True).frozen_text()
    assert other is not None
    assert for_text.fingerprint != other.fingerprint
    trained = build()
    assert trained.frozen_video() is None
    assert trained.frozen_text() is None


def test_a_caption_without_nodes_stays_finite() -> None:
    model = build()
    text = texts(3)
    text = replace(text, word=torch.full_like(text.word, -1))
    losses = model.compute_losses(model.encode_text(text), model.encode_video(videos(3)), torch.arange(3))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_mixed_precision_stays_near() -> None:
    model = build(width=64).eval()
    text, video = texts(4), videos(4)
    plain = model.score(model.encode_text(text), model.encode_video(video))
    with torch.autocast("cpu", torch.bfloat16):
        words, clips = model.encode_text(text), model.encode_video(video)
        torch.testing.assert_close(model.score(words, clips).float(), plain, rtol=0.1, atol=0.05)
        losses = model.train().compute_losses(words, clips, video.index)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.dtype == torch.float32
    assert torch.isfinite(total)


def test_divergence_of_the_prior_is_nothing() -> None:
    assert gaussian_divergence(torch.zeros(3, 4), torch.zeros(3, 4)).tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hyperedges": []}, "at least one"),
        ({"hyperedges": ["global", "global"]}, "each once"),
        ({"hyperedges": ["words"]}, "out of global, text, visual, cross"),
        ({"iterations": 0}, "model.iterations is 0"),
        ({"pair_chunk": 0}, "model.pair_chunk"),
        ({"kl_weight": -1.0}, "cannot be negative"),
        ({"text_weight": 0.0, "video_weight": 0.0}, "nothing would be learned"),
        ({"hypergraph": "gnn"}, "model.hypergraph"),
        ({"readout": "node"}, "model.readout: no 'node'; did you mean nodes"),
        ({"activation": "relu"}, "model.activation: no 'relu'"),
        ({"kl_reduction": "total"}, "model.kl_reduction: no 'total'"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**settings)
