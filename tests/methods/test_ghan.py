"""GHAN: scores against graphs pair by pair, its variants, and the leak of matched pairing."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning import device
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.evaluation import Evaluation, score_all
from tvr_lightning.methods.ghan import GHAN
from tvr_lightning.metrics import ranking_metrics
from tvr_lightning.nn.ghan import alignment
from tvr_lightning.nn.ghan.alignment import DenseAlignment, GraphAlignment, Hierarchy
from tvr_lightning.nn.ghan.graphs import complete_edges
from tvr_lightning.nn.ghan.mpaa import MPAA
from tvr_lightning.types import TextInput, VideoInput

from ..kinds import first_fast

WORDS, FRAMES = 7, 5
GRAPHS = ("ho_2graph", "ho_1graph", "he_1graph", "he_2graph")


def build(small_encoder: Any, **settings: Any) -> GHAN:
    torch.manual_seed(0)
    sizes = {"num_phrases": 3, "num_clips": 4, "hidden_width": 24, "heads": 2, "head_width": 6, "max_frames": 6}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of matched pairing; a test of its own looks at it
        model = GHAN(small_encoder(context_length=WORDS), **{**sizes, **settings})
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.double().eval()


def hierarchies(texts: int, videos: int, masked: bool = False, width: int = 32) -> tuple[Hierarchy, Hierarchy]:
    generator = torch.Generator().manual_seed(3)

    def draw(count: int, parts: int) -> Hierarchy:
        whole = torch.randn(count, width, generator=generator, dtype=torch.double)
        x = torch.randn(count, parts, width, generator=generator, dtype=torch.double)
        lengths = torch.randint(1, parts + 1, (count, 1), generator=generator) if masked else parts
        return Hierarchy(whole, x, torch.arange(parts).expand(count, -1) < lengths)

    return draw(texts, 3), draw(videos, 4)


def text_input(count: int, seed: int = 1) -> TextInput:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 400, (count, WORDS), generator=generator)
    mask = torch.arange(WORDS) < torch.randint(3, WORDS + 1, (count, 1), generator=generator)
    tokens[torch.arange(count), mask.sum(1) - 1] = 49407
    return TextInput(tokens * mask, mask, torch.arange(count), torch.arange(count))


def video_input(count: int, seed: int = 2) -> VideoInput:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, FRAMES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    mask = torch.arange(FRAMES) < torch.randint(1, FRAMES + 1, (count, 1), generator=generator)
    return VideoInput(frames * mask[..., None, None, None], mask, torch.arange(count))


def one_pair(model: GHAN, text: Hierarchy, video: Hierarchy) -> Tensor:
    """The cosine of one pair from graphs that hold what exists and nothing else."""
    align = model.align
    clips, phrases = video.parts[video.mask], text.parts[text.mask]

    def read(network: Any, groups: list[Tensor], roots: int) -> Tensor:
        nodes = torch.cat(groups)
        edges = complete_edges(torch.ones(1, len(nodes), dtype=torch.bool))
        at = torch.arange(roots)
        if isinstance(network, MPAA):
            return network(nodes, edges, at)
        kinds = torch.cat([torch.full((len(g),), k) for k, g in enumerate(groups)])
        return network(nodes, edges, kinds, at)

    if isinstance(align, DenseAlignment) or align.kind == "he_2graph":
        a = read(align.text_clips, [text.whole, clips], 1)[0]
        b = read(align.video_phrases, [video.whole, phrases], 1)[0]
    else:
        a, b = read(align.network, [text.whole, video.whole, clips, phrases], 2)
    return F.cosine_similarity(a, b, dim=0)


FORMS = [
    *({"graph": graph, "readout": readout} for graph in GRAPHS for readout in ("softmax", "identity")),
    *({"graph": graph, "readout": "identity", "steps": 2} for graph in GRAPHS),
    *({"graph": graph, "readout": "identity", "share_graphs": True} for graph in ("ho_2graph", "he_2graph")),
    {"readout": "softmax", "steps": 3, "share_graphs": True, "refine_over": "phrases"},
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("settings", first_fast(FORMS, 5), ids=str)
def test_scores_are_those_of_each_pair_s_graphs(settings, masked, small_encoder, monkeypatch):
    model = build(small_encoder, **settings)
    texts, videos = hierarchies(5, 3, masked)
    expected = torch.stack(
        [torch.stack([one_pair(model, texts[t : t + 1], videos[v : v + 1]) for v in range(3)]) for t in range(5)]
    )
    expected = expected * model.logit_scale.log.exp()
    torch.testing.assert_close(model.score(texts, videos), expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(model.score(texts, videos), expected, rtol=1e-10, atol=1e-10)
        for pairs in (1, 2, 7):  # blocks that do not divide the batch
            monkeypatch.setattr(device, "CPU", replace(device.CPU, ghan_numbers=1))
            monkeypatch.setattr(alignment, "BLOCK_PAIRS", pairs)
            torch.testing.assert_close(model.score(texts, videos), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_gradients_of_scores_are_those_of_each_pair_s_graphs(settings, small_encoder):
    model = build(small_encoder, **settings)
    texts, videos = hierarchies(3, 2, masked=True)
    inputs = [x.requires_grad_() for side in (texts, videos) for x in (side.whole, side.parts)]
    inputs += model.align.parameters()
    pairs = [[one_pair(model, texts[t : t + 1], videos[v : v + 1]) for v in range(2)] for t in range(3)]
    expected, found = torch.stack([torch.stack(row) for row in pairs]), model.align.learn(texts, videos)
    weight = torch.randn_like(expected)
    slow, fast = (torch.autograd.grad((x * weight).sum(), inputs) for x in (expected, found))
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", FORMS, ids=str)
def test_single_precision_is_that_of_each_pair_s_graphs(settings, small_encoder):
    model = build(small_encoder, **settings).float()
    texts, videos = (side.map(lambda x: x.float() if x.is_floating_point() else x) for side in hierarchies(3, 2, True))
    pairs = [[one_pair(model, texts[t : t + 1], videos[v : v + 1]) for v in range(2)] for t in range(3)]
    torch.testing.assert_close(
        model.align.cosines(texts, videos), torch.stack([torch.stack(row) for row in pairs]), rtol=1e-5, atol=1e-5
    )


def test_one_network_serves_both_graphs(small_encoder):
    for graph in ("ho_2graph", "he_2graph"):
        own, shared = (build(small_encoder, graph=graph, share_graphs=share).align for share in (False, True))
        assert shared.text_clips is shared.video_phrases
        assert own.text_clips is not own.video_phrases
        assert 2 * sum(p.numel() for p in shared.parameters()) == sum(p.numel() for p in own.parameters())


def test_shared_networks_are_saved_and_loaded(small_encoder):
    model = build(small_encoder, share_graphs=True)
    other = build(small_encoder, share_graphs=True)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(model.state_dict())
    sides = hierarchies(3, 2)
    assert torch.equal(other.score(*sides), model.score(*sides))


@pytest.mark.parametrize("readout", ["softmax", "identity"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_cosines_are_float32_under_autocast(graph, readout, small_encoder):
    """All that follows the features, of `matched` too; alone, a network's readouts and their cosines."""
    fair, leaky = (build(small_encoder, graph=graph, readout=readout, pairing=p).float() for p in ("all", "matched"))
    texts, videos = (side.map(lambda x: x.float() if x.is_floating_point() else x) for side in hierarchies(4, 4))
    rounded = [side.map(lambda x: x.bfloat16() if x.is_floating_point() else x) for side in (texts, videos)]
    wide = [side.map(lambda x: x.float() if x.is_floating_point() else x) for side in rounded]
    index = torch.arange(4)
    with torch.no_grad():
        matched = leaky.match(*wide, index)
        expected = fair.score(*wide), leaky.score(*matched), matched[0].whole
        with torch.autocast("cpu", torch.bfloat16):
            matched = leaky.match(*rounded, index)
            found = fair.score(*rounded), leaky.score(*matched), matched[0].whole
            alone = fair.align.cosines(texts, videos), fair.align.rows(texts, videos)[0]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
    assert [x.dtype for x in alone] == [torch.float32] * 2


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("settings", [*({"graph": g} for g in GRAPHS), {"steps": 2}, {"share_graphs": True}], ids=str)
def test_blocks_computed_again_give_the_same_gradients(settings, dropout, small_encoder, monkeypatch):
    model = build(small_encoder, dropout=dropout, **settings).train()
    texts, videos = hierarchies(4, 5)
    monkeypatch.setattr(device, "CPU", replace(device.CPU, ghan_numbers=1))
    monkeypatch.setattr(alignment, "BLOCK_PAIRS", 3)
    found = []
    for limit in (1 << 40, 0):
        monkeypatch.setattr(device, "CPU", replace(device.CPU, ghan_kept_numbers=limit))
        model.zero_grad()
        torch.manual_seed(5)
        model.score(texts, videos).logsumexp(1).sum().backward()
        found.append({n: p.grad.clone() for n, p in model.align.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_computing_again_keeps_less_for_the_backward_pass(small_encoder, monkeypatch):
    model = build(small_encoder)
    texts, videos = hierarchies(8, 8)
    kept = []
    for limit in (1 << 40, 0):
        monkeypatch.setattr(device, "CPU", replace(device.CPU, ghan_kept_numbers=limit))
        counts: list[int] = []

        def note(x: Tensor, counts: list[int] = counts) -> Tensor:
            counts.append(x.untyped_storage().nbytes())
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            model.score(texts, videos)
        kept.append(sum(counts))
    assert kept[1] < kept[0] / 2


def test_parts_and_whole_are_those_of_the_layers(small_encoder):
    text, video = text_input(4), video_input(4)
    model = build(small_encoder)
    words, frames = model.encoder.encode_text(text.tokens, text.token_mask)[1], video.frame_mask
    phrases = model.encode_text(text)
    torch.testing.assert_close(phrases.parts, model.phrases(words, text.token_mask))
    torch.testing.assert_close(phrases.whole, phrases.parts.mean(1))
    clips = model.encode_video(video)
    placed = model.encoder.encode_frames(video.frames, frames) + model.positions.weight[:FRAMES]
    torch.testing.assert_close(clips.parts, model.clips(placed, frames))
    assert (phrases.parts.shape[1], clips.parts.shape[1]) == (3, 4)

    bare = build(small_encoder, layers="no_intra")
    tokens = bare.encode_text(text)
    assert torch.equal(tokens.mask, text.token_mask)
    torch.testing.assert_close(tokens.whole[1], tokens.parts[1][text.token_mask[1]].mean(0))

    alone = build(small_encoder, layers="no_inter")
    assert alone.encode_video(video).parts.shape[1] == 0
    torch.testing.assert_close(
        alone.score(alone.encode_text(text), alone.encode_video(video)),
        F.cosine_similarity(alone.encode_text(text).whole[:, None], alone.encode_video(video).whole[None], dim=-1)
        * alone.logit_scale.log.exp(),
    )

    base = build(small_encoder, layers="baseline")
    assert {n.partition(".")[0] for n, _ in base.named_parameters()} == {"encoder", "logit_scale"}
    mean = base.encoder.encode_frames(video.frames, frames)[2][frames[2]].mean(0)
    torch.testing.assert_close(base.encode_video(video).whole[2], mean)


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": "baseline"}, {"layers": "no_inter"}, {"layers": "no_intra"}, {"graph": "ho_1graph"},
        {"graph": "he_1graph"}, {"graph": "he_2graph"}, {"layers": "no_intra", "graph": "he_2graph"},
        {"pairing": "matched"}, {"refine_over": "phrases"}, {"share_graphs": True}, {"steps": 2},
        {"steps": 2, "graph": "he_1graph"}, {"steps": 3, "layers": "no_intra", "share_graphs": True},
        {"pairing": "matched", "steps": 2, "share_graphs": True},
    ],
)  # fmt: skip
def test_variants_learn_with_every_parameter_and_ignore_padding(settings, small_encoder):
    model = build(small_encoder, dropout=0.1, **settings)
    text, video = text_input(5), video_input(5)
    noise = torch.randint(0, 256, video.frames.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    noisy = VideoInput(torch.where(video.frame_mask[..., None, None, None], video.frames, noise), video.frame_mask,
                       video.index)  # fmt: skip

    def scores(video: VideoInput) -> Tensor:
        texts, videos = model.encode_text(text), model.encode_video(video)
        return model.score(*(model.match(texts, videos, torch.arange(5)) if model.reads_ground_truth else
                             (texts, videos)))  # fmt: skip

    with torch.no_grad():
        torch.testing.assert_close(scores(noisy), scores(video))
    model.train()
    losses = model.compute_losses(model.encode_text(text), model.encode_video(video), torch.arange(5))
    losses["contrastive"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_loss_by_hand(small_encoder):
    model = build(small_encoder)
    texts, videos = hierarchies(3, 3)
    scores = model.score(texts, videos)
    expected = (F.cross_entropy(scores, torch.arange(3)) + F.cross_entropy(scores.T, torch.arange(3))) / 2
    torch.testing.assert_close(model.compute_losses(texts, videos, torch.arange(3))["contrastive"], expected)
    twice = scores.masked_fill(torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool(), -torch.inf)
    expected = (F.cross_entropy(twice, torch.arange(3)) + F.cross_entropy(twice.T, torch.arange(3))) / 2
    torch.testing.assert_close(model.compute_losses(texts, videos, torch.tensor([7, 7, 8]))["contrastive"], expected)


@pytest.mark.parametrize("graph", GRAPHS)
def test_match_makes_vectors_from_ground_truth(graph, small_encoder, monkeypatch):
    monkeypatch.setattr("tvr_lightning.methods.ghan.MATCHED_ROWS", 2)
    model = build(small_encoder, pairing="matched", graph=graph)
    assert model.reads_ground_truth
    texts, videos = hierarchies(5, 3)
    caption_video = torch.tensor([2, 0, 2, 1, 0])
    of_texts, of_videos = model.match(texts, videos, caption_video)
    expected = model.align.rows(texts, videos[caption_video])[0]
    torch.testing.assert_close(of_texts.whole, expected)
    first = torch.tensor([1, 3, 0])  # each video's first caption
    torch.testing.assert_close(of_videos.whole, model.align.rows(texts[first], videos)[1])
    cosines = F.cosine_similarity(of_texts.whole[:, None], of_videos.whole[None], dim=-1)
    torch.testing.assert_close(model.score(of_texts, of_videos), cosines * model.logit_scale.log.exp())
    torch.testing.assert_close(score_all(model, of_texts, of_videos, chunk_size=2), model.score(of_texts, of_videos),
                               check_dtype=False)  # fmt: skip
    # in training, row i is pair i
    pairs = hierarchies(3, 3)
    scores = model.score(*model.match(*pairs, torch.arange(3)))
    expected = (F.cross_entropy(scores, torch.arange(3)) + F.cross_entropy(scores.T, torch.arange(3))) / 2
    torch.testing.assert_close(model.compute_losses(*pairs, torch.arange(3))["contrastive"], expected)


def test_matched_says_what_it_is(small_encoder):
    with pytest.warns(UserWarning, match="contain the answer"):
        GHAN(small_encoder(context_length=WORDS), heads=1, head_width=2, pairing="matched")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fair = GHAN(small_encoder(context_length=WORDS), heads=1, head_width=2)
    assert not fair.reads_ground_truth
    with pytest.raises(ConfigError, match="belongs to pairing 'matched'"):
        fair.match(*hierarchies(2, 2), torch.arange(2))
    model = build(small_encoder, pairing="matched")
    with pytest.raises(ValueError, match="call it first"):
        model.score(*hierarchies(2, 2))
    with pytest.raises(DataError, match=r"1 videos have none \(first: video 1\)"):
        model.match(*hierarchies(2, 3), torch.tensor([0, 2]))


@pytest.mark.slow
def test_matched_retrieves_noise_and_all_pairs_do_not(small_encoder):
    """Text and video features that have nothing to do with each other: only the answer itself can be learned."""

    def recall(pairing: str) -> tuple[float, float]:
        model = build(small_encoder, pairing=pairing, dropout=0.0, readout="identity", heads=2, head_width=32).float()
        generator = torch.Generator().manual_seed(1)

        def noise(count: int) -> tuple[Hierarchy, Hierarchy]:
            drawn = []
            for parts in (3, 4):
                x = torch.randn(count, parts, 32, generator=generator)
                drawn.append(Hierarchy(x.mean(1), x, torch.ones(count, parts, dtype=torch.bool)))
            return drawn[0], drawn[1]

        def measure() -> float:
            texts, videos = unseen
            if model.reads_ground_truth:
                texts, videos = model.match(texts, videos, torch.arange(100))
            return ranking_metrics(score_all(model, texts, videos), torch.arange(100))["t2v/R@1"]

        unseen = noise(100)
        with torch.no_grad():
            before = measure()
        optimizer = torch.optim.Adam(model.align.parameters(), lr=2e-3)
        for _ in range(150):
            optimizer.zero_grad()
            model.compute_losses(*noise(32), torch.arange(32))["contrastive"].backward()
            optimizer.step()
        with torch.no_grad():
            return before, measure()

    before, after = recall("matched")
    assert before < 20
    assert after > 90
    assert recall("all")[1] < 6  # chance is 1, four standard errors 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_phrases": 0}, "num_phrases is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"share_graphs": True, "graph": "ho_1graph"}, "graph=ho_1graph has one: set it to false"),
        ({"share_graphs": True, "graph": "he_1graph"}, "to ho_2graph or he_2graph"),
        ({"share_graphs": True, "layers": "no_inter"}, "layers=no_inter has none"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout"),
        ({"pairing": "matched", "layers": "baseline"}, "needs graphs"),
        ({"pairing": "matched", "layers": "no_inter"}, "needs graphs"),
        ({"pairing": "matched", "evaluation": Evaluation(qb_norm=0.2)}, "qb_norm=null"),
        ({"pairing": "matched", "evaluation": Evaluation(sinkhorn=1.0)}, "sinkhorn=null"),
    ],
)
def test_settings_that_do_not_fit(settings, message, small_encoder):
    with pytest.raises(ConfigError, match=message):
        build(small_encoder, **settings)


def test_more_frames_than_positions(small_encoder):
    model = build(small_encoder, max_frames=4)
    with pytest.raises(ValueError, match="max_frames"):
        model.encode_video(video_input(2))
    assert build(small_encoder, max_frames=4, layers="baseline").encode_video(video_input(2)).whole.shape == (2, 32)


def test_graph_alignment_of_one_text_and_one_video_with_one_part() -> None:
    torch.manual_seed(0)
    align = GraphAlignment("he_2graph", 8, 2, 4, 0.0, "identity")
    side = Hierarchy(torch.randn(1, 8), torch.randn(1, 1, 8), torch.ones(1, 1, dtype=torch.bool))
    assert align.cosines(side, side).shape == (1, 1)
