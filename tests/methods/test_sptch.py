"""SPTCH: its codes, its terms, its variants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tvr_lightning.encoders import BERTEncoder, VGGEncoder
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.sptch import SPTCH, HashFeatures, Variant
from tvr_lightning.metrics import ranking_metrics
from tvr_lightning.nn.sptch.collaborative_graph import CollaborativeGraph
from tvr_lightning.types import CodeFeatures, VideoInput, VideoTextBatch

from .sptch_cases import (
    BERT,
    BITS,
    VARIANTS,
    VGG,
    batch_of,
    build,
    terms,
    texts_of,
    videos_of,
)


@torch.no_grad()
def test_codes_are_signs_and_scores_their_inner_products() -> None:
    model = build().eval()
    texts, videos = model.encode_text(texts_of(6)), model.encode_video(videos_of(4))
    for features, width in ((texts, BERT.width), (videos, VGG.embed_dim)):
        assert isinstance(features, CodeFeatures)
        assert features.codes.dtype == torch.int8
        assert features.codes.shape == (len(features), BITS)
        assert set(features.codes.unique().tolist()) == {-1, 1}
        torch.testing.assert_close(features.real, features.logits.tanh())
        assert features.source.shape == (len(features), width)
    scores = model.score(texts, videos)
    assert scores.shape == (6, 4)
    distance = (texts.codes[:, None] != videos.codes[None]).sum(-1)
    assert torch.equal(scores, BITS - 2.0 * distance)


def test_zero_counts_as_plus_one() -> None:
    zero = torch.zeros(1, BITS)
    assert HashFeatures(zero, zero, zero, zero).codes.tolist() == [[1] * BITS]


@torch.no_grad()
def test_an_item_has_one_code_whatever_the_batch() -> None:
    model = build().double().eval()
    text, video = texts_of(9), videos_of(9)
    whole = model.encode_text(text), model.encode_video(video)
    for rows in (slice(2, 3), slice(0, 5), torch.tensor([8, 2, 2, 0])):
        for part, features in ((model.encode_text(text[rows]), whole[0]), (model.encode_video(video[rows]), whole[1])):
            torch.testing.assert_close(part.real, features[rows].real)
            assert torch.equal(part.codes, features[rows].codes)
    again = model.encode_text(text), model.encode_video(video)
    assert all(torch.equal(a.codes, b.codes) for a, b in zip(whole, again, strict=True))


@torch.no_grad()
def test_kept_features_give_the_codes_of_pixels() -> None:
    model = build().eval()
    text, video = texts_of(5), videos_of(5)
    kept = VideoInput(video.frames[..., :0, :0], video.frame_mask, video.index, model.frozen_video().encode(video))
    for x, y in zip(
        model.encode_video(kept).tensors().values(), model.encode_video(video).tensors().values(), strict=True
    ):
        torch.testing.assert_close(x, y)
    row = model.frozen_text().encode(text)
    assert row.shape == (5, 1, BERT.width)
    torch.testing.assert_close(model.encode_text(replace(text, features=row)).source, model.encode_text(text).source)
    lengths = text.token_mask.sum(1)
    tokens = model.text_encoder.encode_tokens(text.tokens, text.token_mask)
    torch.testing.assert_close(row[:, 0], torch.stack([t[:n].mean(0) for t, n in zip(tokens, lengths, strict=True)]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_its_terms_and_no_others(variant: Variant) -> None:
    model = build(variant).train()
    graph = {"reconstruction", "neighbourhood", "quantisation"}
    hashing = {"inter_modal", "intra_modal", "code", "similarity"}
    without = {"cont": {"inter_modal", "intra_modal"}, "sim": {"similarity"}, "bin": graph | {"code"}}
    found = terms(model, batch_of(6))
    assert set(found) == (graph | hashing) - without.get(variant, set())
    torch.stack(list(found.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("video_encoder" not in name and not name.startswith("text_encoder")), name
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_each_pass_has_gradients_in_its_network_only() -> None:
    model, batch = build(), batch_of(6)
    found = terms(model, batch)
    own = {id(p) for p in model.graph_network.parameters()}  # type: ignore[union-attr]
    for name, loss in found.items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        touched = [p for p in model.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        in_graph = name in ("reconstruction", "neighbourhood", "quantisation")
        assert touched, name
        assert all((id(p) in own) == in_graph for p in touched), name


def test_terms_carry_the_papers_weights() -> None:
    batch = batch_of(6)
    weights = {
        "neighbourhood": "neighbour_weight", "quantisation": "quantisation_weight", "code": "code_weight",
        "similarity": "similarity_weight",
    }  # fmt: skip
    paper = terms(build(), batch)
    plain = terms(build(neighbour_weight=1.0, quantisation_weight=1.0, code_weight=1.0, similarity_weight=1.0), batch)
    for name, factor in {"neighbourhood": 0.2, "quantisation": 0.2, "code": 1.0, "similarity": 1.0}.items():
        torch.testing.assert_close(paper[name], factor * plain[name])
    nothing = terms(build(**dict.fromkeys(weights.values(), 0.0)), batch)
    assert all(float(nothing[name].detach()) == 0 for name in weights)


def test_the_codes_that_f_learns_leave_g_as_it_is() -> None:
    model, batch = build().train(), batch_of(6)
    before = {k: v.clone() for k, v in model.graph_network.state_dict().items()}  # type: ignore[union-attr]
    texts, videos = model.encode(batch)
    graph = CollaborativeGraph(videos.source, texts.source)
    losses = model.hash_losses(graph, torch.arange(6), texts, videos, torch.arange(6))
    again = model.hash_losses(graph, torch.arange(6), texts, videos, torch.arange(6))
    assert all(torch.equal(losses[k], again[k]) for k in losses)
    assert all(torch.equal(before[k], v) for k, v in model.graph_network.state_dict().items())  # type: ignore[union-attr]
    assert model.graph_network.training  # type: ignore[union-attr]


def test_s1_takes_the_plain_graph() -> None:
    model, batch = build("s1"), batch_of(6)
    texts, videos = model.encode(batch)
    graph = model.graph_of(videos.source, texts.source)
    torch.testing.assert_close(graph.block(torch.arange(6)).diagonal(), torch.ones(6))


@pytest.mark.slow
def test_one_batch_can_be_learned() -> None:
    model, batch = build(code_length=32).train(), batch_of(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        torch.stack(list(terms(model, batch).values())).sum().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        scores = model.score(model.encode_text(batch.text), model.encode_video(batch.video))
    assert ranking_metrics(scores, torch.arange(8))["SumR"] == pytest.approx(600.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"code_length": 0}, "code_length is 0"),
        ({"variant": "b3"}, "variant is 'b3'"),
        ({"dropped": 10}, "dropped is 10; it must be between 0 and 1"),
        ({"video_share": -0.5}, r"video_share is -0\.5"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"heads": 3}, "heads is 3; it must divide model.width, 16"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_encoders_are_frozen_and_the_text_transformer_is_not() -> None:
    frozen, trained = (BERTEncoder(size=BERT, freeze=freeze, context_length=16) for freeze in (True, False))
    with pytest.raises(ConfigError, match=r"video_encoder.freeze is False.*set it to true"):
        SPTCH(VGGEncoder(size=VGG, freeze=False), frozen, trained)
    with pytest.raises(ConfigError, match=r"text_encoder.freeze is False"):
        SPTCH(VGGEncoder(size=VGG), trained, trained)
    with pytest.raises(ConfigError, match=r"text_hash_encoder.freeze is True.*set it to false"):
        SPTCH(VGGEncoder(size=VGG), frozen, frozen)


def test_a_batch_without_a_second_view() -> None:
    model, batch = build(), replace(batch_of(4), augmented=None)
    with pytest.raises(ConfigError, match=r"no second, augmented view.*set data\.augment"):
        model.encode(batch)
    plain = model.encode_text(batch.text), model.encode_video(batch.video)
    with pytest.raises(ConfigError, match=r"set data\.augment"):
        model.compute_losses(*plain, batch.text.video_index)
    terms(build("cont"), batch)
    nothing = VideoTextBatch(batch.text[:0], batch.video[:0])
    assert all(len(x) == 0 for x in model.encode(nothing))
