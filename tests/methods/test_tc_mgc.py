"""TC-MGC against its equations written out pair by pair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tvr_lightning import device
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.data.stores.hub import without_fetching
from tvr_lightning.errors import ConfigError
from tvr_lightning.methods.tc_mgc import CONTRASTS, TCMGC
from tvr_lightning.run.build import build_cli
from tvr_lightning.types import StillFeatures, TextFeatures, VideoFeatures, VideoInput

WORDS, FRAMES = 12, 5


def build(small_encoder: Any, trained: bool = True, **kwargs: Any) -> TCMGC:
    torch.manual_seed(0)
    model = TCMGC(small_encoder(context_length=WORDS), keep_rate=kwargs.pop("keep_rate", 0.3), num_frames=6, **kwargs)
    if trained:
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder"):
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model.double().eval()


def features(model: TCMGC, texts: int, videos: int) -> tuple[TextFeatures, VideoFeatures]:
    width = model.encoder.embed_dim
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.double)

    lengths = torch.randint(2, WORDS + 1, (texts, 1), generator=generator)
    word_mask = torch.arange(WORDS) < lengths
    counts = torch.randint(1, FRAMES + 1, (videos, 1), generator=generator)
    frame_mask = torch.arange(FRAMES) < counts
    text = TextFeatures(draw(texts, width), draw(texts, WORDS, width) * word_mask[..., None], word_mask)
    frames, still = (draw(videos, FRAMES, width) * frame_mask[..., None] for _ in range(2))
    if len(model.conditioned) == len(model.contrasts):
        return text, VideoFeatures(frames, frame_mask)
    return text, StillFeatures(frames, frame_mask, still)


def obvious_contrasts(model: TCMGC, texts: TextFeatures, videos: VideoFeatures, t: int, v: int) -> Tensor:
    """The scaled scores of one pair's contrasts, without masks: only what exists is there."""
    words = texts.words[t][texts.word_mask[t]]
    frames = videos.frames[v][videos.frame_mask[v]]
    alone = torch.ones(1, len(frames), dtype=torch.bool)

    def attend(queries: Tensor) -> Tensor:
        return model.attention.attend(queries, frames[None], alone)[0]

    def cos(a: Tensor, b: Tensor) -> Tensor:
        return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT

    def cut(s: Tensor, length: int, kind: str) -> Tensor:
        if kind == "none":
            return s
        k = max(1, int(model.keep_rate * length + 1e-9))
        s = s.sort(descending=True).values
        if kind == "removal" or len(s) <= k:
            return s[:k]
        rest = s[k:]
        return torch.cat([s[:k], (rest.softmax(0) * rest).sum()[None]])

    def isa(module: Any, s: Tensor) -> Tensor:
        weights = (module.scale * s).softmax(0)
        if module.interact is not None:
            matrix = module.interact.weight[: len(s), : len(s)]
            weights = (module.scale * (matrix @ weights)).softmax(0)
        return (weights * s).sum()

    scores = []
    for contrast in model.contrasts:
        conditioned = contrast in model.conditioned
        mean = F.normalize(frames, dim=-1).mean(0, keepdim=True)
        coarse = attend(texts.sentence[t][None]) if conditioned else mean
        fine = attend(words) if conditioned else getattr(videos, "still")[v][videos.frame_mask[v]]  # noqa: B009
        length = WORDS if conditioned else model.num_frames
        if contrast == "video_sentence":
            scores.append(cos(coarse, texts.sentence[t][None])[0, 0])
        elif contrast == "video_word":
            scores.append(isa(model.weigh[contrast], cut(cos(coarse, words)[0], WORDS, model.kinds[contrast])))
        elif contrast == "sentence_frame":
            s = cos(fine, texts.sentence[t][None])[:, 0]
            scores.append(isa(model.weigh[contrast], cut(s, length, model.kinds[contrast])))
        else:
            matrix = torch.stack([cut(row, WORDS, model.kinds["words"]) for row in cos(fine, words)])
            matrix = torch.stack([cut(column, length, model.kinds["frames"]) for column in matrix.T]).T
            bi = model.weigh[contrast]
            by_word = torch.stack([isa(bi.over_frames, column) for column in matrix.T])
            by_frame = torch.stack([isa(bi.over_words, row) for row in matrix])
            scores.append((isa(bi.then_words, by_word) + isa(bi.then_frames, by_frame)) / 2)
    return torch.stack(scores) * model.logit_scale.log.exp()


VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "at the start": {"trained": False},
    "one contrast": {"contrasts": ["frame_word"]},
    "two contrasts": {"contrasts": ["video_sentence", "sentence_frame"]},
    "without conditioning": {"conditioned": [], "weighting": "softmax", "video_word": "none",
                             "sentence_frame": "none", "frame_word_words": "none", "frame_word_frames": "none"},
    "some conditioned": {"conditioned": ["video_word", "frame_word"]},
    "others reorganised": {"video_word": "none", "sentence_frame": "removal", "frame_word_words": "removal",
                           "frame_word_frames": "none"},
    "heads": {"heads": 4, "residual": False, "projections": False, "softmax_scale": 10.0},
    "keep all": {"keep_rate": 1.0, "aggregation": "softmax"},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_scores_are_those_of_the_equations(variant, small_encoder):
    model = build(small_encoder, **VARIANTS[variant])
    texts, videos = features(model, 5, 4)
    expected = torch.stack(
        [torch.stack([obvious_contrasts(model, texts, videos, t, v) for v in range(4)]) for t in range(5)]
    )
    torch.testing.assert_close(model.contrast_scores(texts, videos), expected, rtol=1e-9, atol=1e-9)
    weights = {"lsa": lambda s: model.aggregate.interact(s).softmax(-1), "softmax": lambda s: s.softmax(-1)}
    total = (weights[model.aggregate.kind](expected) * expected).sum(-1)
    torch.testing.assert_close(model.score(texts, videos), total, rtol=1e-9, atol=1e-9)
    single = model.float()
    near = single.score(texts.map(as_float), videos.map(as_float))
    torch.testing.assert_close(near.double(), total, rtol=1e-4, atol=1e-3)


def as_float(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def test_blocks_of_texts_change_nothing(small_encoder, monkeypatch):
    model = build(small_encoder)
    texts, videos = features(model, 7, 3)
    whole = model.score(texts, videos)
    monkeypatch.setattr(device, "CPU", replace(device.CPU, similarities=2 * 3 * (WORDS + 1) ** 2))
    with torch.no_grad():
        torch.testing.assert_close(model.score(texts, videos), whole, rtol=1e-12, atol=1e-12)


def test_losses_by_hand(small_encoder):
    model = build(small_encoder, sdr_weight=0.25)
    texts, videos = features(model, 3, 3)
    losses = model.compute_losses(texts, videos, torch.arange(3))
    scores = model.contrast_scores(texts, videos)
    total = model.aggregate(scores)
    cross = (F.cross_entropy(total, torch.arange(3)) + F.cross_entropy(total.T, torch.arange(3))) / 2
    torch.testing.assert_close(losses["contrast"], cross)
    variances = [((scores[i, i] - scores[i, i].mean()) ** 2).sum() / 3 for i in range(3)]
    torch.testing.assert_close(losses["decorrelation"], 0.25 * sum(variances) / 3)
    assert set(build(small_encoder, sdr_weight=0.0).compute_losses(texts, videos, torch.arange(3))) == {"contrast"}


def test_dropout_trains_through_the_literal_form_with_the_same_mean_path(small_encoder):
    model = build(small_encoder, dropout=0.3)
    texts, videos = features(model, 3, 2)
    plain = model.contrast_scores(texts, videos)
    model.train()
    drawn = model.contrast_scores(texts, videos)
    assert not torch.allclose(plain, drawn)
    model.attention.dropout.p = 1e-12  # active, yet it drops nothing
    torch.testing.assert_close(model.contrast_scores(texts, videos), plain, rtol=1e-9, atol=1e-9)


def test_attention_weights_belong_to_sentence_then_words(small_encoder):
    model = build(small_encoder)
    texts, videos = features(model, 2, 3)
    weights = model.attention_weights(texts, videos)
    assert weights.shape == (2, 3, WORDS + 1, FRAMES)
    alone = model.attention.weights(texts.sentence[1:], videos.frames[2:], videos.frame_mask[2:])
    torch.testing.assert_close(weights[1, 2, 0], alone[0, 0, :, 0])


def test_weights_of_the_aggregation(small_encoder):
    scores = torch.tensor([[3.0, 1.0, 0.5, 0.0]], dtype=torch.double)
    for kind, weights in (("softmax", scores.softmax(-1)), ("mean", torch.full_like(scores, 0.25))):
        aggregate = build(small_encoder, aggregation=kind).aggregate
        torch.testing.assert_close(aggregate.weights(scores), weights)
        torch.testing.assert_close(aggregate(scores), (weights * scores).sum(-1))
    aggregate = build(small_encoder).aggregate
    assert not torch.allclose(aggregate.weights(scores), scores.softmax(-1))
    torch.testing.assert_close(aggregate(scores), (aggregate.weights(scores) * scores).sum(-1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contrasts": []}, "name each contrast once"),
        ({"contrasts": ["frame_word", "frame_word"]}, "name each contrast once"),
        ({"contrasts": ["frame_words"]}, "frame_word"),
        ({"conditioned": ["sentence"]}, "no contrast 'sentence'"),
        ({"keep_rate": 0.0}, "keep_rate"),
        ({"keep_rate": 1.2}, "keep_rate"),
        ({"heads": 5}, "heads"),
        ({"logit_scale": 0.0}, "logit_scale is 0.0"),
        ({"max_logit_scale": -1.0}, "max_logit_scale is -1.0"),
    ],
)
def test_settings_that_do_not_fit(settings, message, small_encoder):
    with pytest.raises(ConfigError, match=message):
        build(small_encoder, **settings)


def test_more_frames_than_the_plain_contrasts_have_room_for(small_encoder):
    model = build(small_encoder, conditioned=[])
    texts, videos = features(model, 1, 1)
    more = StillFeatures(*(x.repeat(1, 2, *[1] * (x.ndim - 2)) for x in videos.tensors().values()))
    with pytest.raises(ValueError, match=r"built for 6: data.num_frames"):
        model.score(texts, more)


def test_without_conditioning_frames_are_those_before_the_temporal_encoder(small_encoder):
    """X-CLIP's; a conditioned contrast alone needs no second copy of them."""
    model = build(small_encoder, contrasts=["sentence_frame", "video_sentence"], conditioned=["video_sentence"])
    video = VideoInput(
        torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8), torch.ones(2, 3).bool(), torch.arange(2)
    )
    encoded = model.encode_video(video)
    assert isinstance(encoded, StillFeatures)
    torch.testing.assert_close(encoded.still, model.encoder.encode_frames(video.frames, video.frame_mask))
    assert not torch.allclose(encoded.still, encoded.frames)
    assert type(build(small_encoder).encode_video(video)) is VideoFeatures


@pytest.mark.parametrize(("frames", "size"), [(12, 2), (64, 7)])
def test_the_frames_that_are_kept_follow_the_data(frames, size):
    """A tenth, fused with the rest: not of 77 positions."""
    words = ["--data.annotations.root=x", f"--data.num_frames={frames}", "--model.conditioned=[]"]
    tiny = ["--model.encoder.from_pretrained=null", "--model.encoder.model=tiny", "--model.num_layers=1"]
    with without_fetching():
        cli = build_cli(read_arguments(["--config", "experiments/tc_mgc_msrvtt.yaml", *words, *tiny])[0])
    assert cli.model.weigh["sentence_frame"].interact.weight.shape == (size, size)


@pytest.mark.parametrize("pairs", ["positive", "negative", "all"])
def test_decorrelation_takes_the_pairs_it_is_told(pairs, small_encoder):
    model = build(small_encoder, sdr_pairs=pairs)
    texts, videos = features(model, 4, 4)
    index = torch.tensor([0, 1, 0, 2])  # the first and the third caption describe one video
    variances = model.contrast_scores(texts, videos).var(-1)
    chosen = {
        "positive": torch.eye(4).bool(),
        "negative": index[:, None] != index,
        "all": torch.ones(4, 4).bool(),
    }[pairs]
    loss = model.compute_losses(texts, videos, index)["decorrelation"]
    torch.testing.assert_close(loss, 0.5 * variances[chosen].mean())


def test_the_logit_scale_ends_where_it_is_told(small_encoder):
    model = build(small_encoder, trained=False, logit_scale=1000.0, max_logit_scale=1000.0)
    assert float(model.logit_scale.log.detach().exp()) == pytest.approx(1000)
    model.logit_scale.log.data += 1
    model.logit_scale.clamp_()
    assert float(model.logit_scale.log.detach().exp()) == pytest.approx(1000)
    assert float(
        build(small_encoder, trained=False, logit_scale=1000.0).logit_scale.log.detach().exp()
    ) == pytest.approx(100)


def test_contrasts_in_any_order_are_the_same_model(small_encoder):
    one, other = (build(small_encoder, contrasts=list(order)) for order in (CONTRASTS, CONTRASTS[::-1]))
    texts, videos = features(one, 2, 2)
    torch.testing.assert_close(one.score(texts, videos), other.score(texts, videos))
