"""Properties that every method has, over random features of random encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from inspect import isabstract, isclass
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NamedTuple

import pytest
import torch

from tvr_lightning import methods
from tvr_lightning.evaluation import score_all
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.methods.clip4clip import CLIP4Clip
from tvr_lightning.methods.ghan import GHAN
from tvr_lightning.methods.lean import LEAN
from tvr_lightning.methods.mean_pool import MeanPool
from tvr_lightning.methods.sptch import SPTCH
from tvr_lightning.methods.tc_mgc import TCMGC
from tvr_lightning.metrics import ranking_metrics
from tvr_lightning.types import TensorRows, TextInput, VideoInput, VideoTextBatch

ROOT = Path(__file__).parents[2]
WORDS, FRAMES, SIZE = 7, 5, 32


class Encoders(NamedTuple):
    """What builds the small encoders that a method may need."""

    clip: Callable[..., Any]
    vgg: Callable[..., Any]
    bert: Callable[..., Any]


def lean(e: Encoders, **settings: Any) -> LEAN:
    return LEAN(e.vgg(freeze=False), e.bert(), max_text_nodes=5, **settings)


def sptch(e: Encoders, **settings: Any) -> SPTCH:
    return SPTCH(
        e.vgg(), e.bert(freeze=True), e.bert(), code_length=32, width=16, num_layers=1, dropout=0.0, graph_width=16,
        **settings,
    )  # fmt: skip


# every method and variant: name -> builder from encoders
METHODS: dict[str, Callable[[Encoders], RetrievalModule[Any, Any]]] = {
    "clip4clip-meanP": lambda e: CLIP4Clip(e.clip(), "meanP"),
    "clip4clip-seqLSTM": lambda e: CLIP4Clip(e.clip(), "seqLSTM"),
    "clip4clip-seqTransf": lambda e: CLIP4Clip(e.clip(), "seqTransf", num_layers=2),
    "clip4clip-tightTransf": lambda e: CLIP4Clip(e.clip(), "tightTransf", num_layers=2),
    "ghan-paper": lambda e: GHAN(e.clip(), 3, 4, 64, 2, 16),
    "ghan-identity": lambda e: GHAN(e.clip(), 3, 4, 64, 2, 16, readout="identity"),
    "ghan-baseline": lambda e: GHAN(e.clip(), layers="baseline"),
    "ghan-no_intra": lambda e: GHAN(e.clip(), 3, 4, 64, 2, 16, readout="identity", layers="no_intra"),
    "ghan-ho_1graph": lambda e: GHAN(e.clip(), 3, 4, 64, 2, 16, 0.0, graph="ho_1graph"),
    "ghan-he_2graph": lambda e: GHAN(e.clip(), 3, 4, 64, 2, 16, readout="identity", graph="he_2graph"),
    "lean-paper": lambda e: lean(e, width=128),
    "lean-gcn": lambda e: lean(e, width=128, hypergraph="gcn", variational=False),
    "mean_pool-vgg_bert": lambda e: MeanPool(e.vgg(freeze=False), e.bert(), width=64),
    "sptch-full": lambda e: sptch(e),
    "sptch-bin": lambda e: sptch(e, variant="bin"),
    "tc_mgc-paper": lambda e: TCMGC(e.clip(), keep_rate=0.5, num_layers=2),
    "tc_mgc-unconditioned": lambda e: TCMGC(e.clip(), conditioned=[], keep_rate=0.5, num_layers=1, max_frames=8),
    "tc_mgc-dropout": lambda e: TCMGC(e.clip(), keep_rate=0.5, temporal="none", heads=2, dropout=0.1),
}


def test_every_method_has_properties_and_experiments() -> None:
    modules = [import_module(f"{methods.__name__}.{m.name}") for m in iter_modules(methods.__path__)]
    found = [c for m in modules for c in vars(m).values() if isclass(c) and issubclass(c, RetrievalModule)]
    files = {c.__module__.rpartition(".")[2] for c in found if not isabstract(c)}
    assert files == {name.partition("-")[0] for name in METHODS}
    assert files == {p.stem for p in (ROOT / "experiments" / "method").glob("*.yaml")}
    for name in files:
        assert list((ROOT / "experiments").glob(f"{name}_msrvtt*.yaml"))


@pytest.fixture(params=sorted(METHODS))
def method(
    request: pytest.FixtureRequest,
    small_encoder: Callable[..., Any],
    small_vgg: Callable[..., Any],
    small_bert: Callable[..., Any],
) -> RetrievalModule[Any, Any]:
    torch.manual_seed(0)
    bert = partial(small_bert, context_length=WORDS)
    model = METHODS[request.param](Encoders(partial(small_encoder, context_length=WORDS), small_vgg, bert))
    # away from the special points of initialisation
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model.eval()


def random_text(count: int, seed: int = 1, words: int = WORDS) -> TextInput:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 400, (count, words), generator=generator)
    lengths = torch.randint(3, WORDS + 1, (count,), generator=generator)
    mask = torch.arange(words) < lengths[:, None]
    tokens[torch.arange(count), lengths - 1] = 49407
    index = torch.arange(count)
    # every token between start and end is a word of its own
    place = torch.arange(words)
    word = torch.where((place > 0) & (place < lengths[:, None] - 1), place - 1, -1)
    return TextInput(tokens.masked_fill(~mask, 0), mask, index, index, word)


def random_video(count: int, seed: int = 2) -> VideoInput:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 192, (count, FRAMES, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    # each video has its colour: the mean of mere noise is the same everywhere
    frames = noise + torch.randint(0, 64, (count, 1, 3, 1, 1), generator=generator, dtype=torch.uint8)
    mask = torch.arange(FRAMES) < torch.randint(1, FRAMES + 1, (count, 1), generator=generator)
    return VideoInput(frames * mask[..., None, None, None], mask, torch.arange(count))


def features(method: RetrievalModule[Any, Any], texts: int, videos: int) -> tuple[TensorRows, TensorRows]:
    with torch.no_grad():
        return method.encode_text(random_text(texts)), method.encode_video(random_video(videos))


@torch.no_grad()
def test_number_of_texts_and_videos_may_differ(method: RetrievalModule[Any, Any]) -> None:
    for counts in ((3, 8), (8, 3), (1, 4), (4, 1)):
        scores = method.score(*features(method, *counts))
        assert scores.shape == counts
        assert torch.isfinite(scores).all()


@torch.no_grad()
def test_a_pair_depends_on_itself_alone(method: RetrievalModule[Any, Any]) -> None:
    texts, videos = features(method, 6, 5)
    whole = method.score(texts, videos)
    for t, v in ((0, 0), (3, 1), (5, 4)):
        alone = method.score(texts[t : t + 1], videos[v : v + 1])
        torch.testing.assert_close(alone[0, 0], whole[t, v], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_permuting_videos_permutes_columns(method: RetrievalModule[Any, Any]) -> None:
    texts, videos = features(method, 4, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        method.score(texts, videos[order]), method.score(texts, videos)[:, order], rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_what_padded_places_hold_changes_nothing(method: RetrievalModule[Any, Any]) -> None:
    text, video = random_text(4), random_video(4)
    noise = torch.randint(0, 256, video.frames.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    noisy = replace(video, frames=torch.where(video.frame_mask[..., None, None, None], video.frames, noise))
    plain = method.score(method.encode_text(text), method.encode_video(video))
    torch.testing.assert_close(
        method.score(method.encode_text(text), method.encode_video(noisy)), plain, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_more_padding_changes_nothing(method: RetrievalModule[Any, Any]) -> None:
    text, video = random_text(4), random_video(4)
    plain = method.score(method.encode_text(text), method.encode_video(video))
    longer = VideoInput(
        torch.cat([video.frames, video.frames[:, :2]], dim=1),
        torch.cat([video.frame_mask, torch.zeros(4, 2, dtype=torch.bool)], dim=1),
        video.index,
    )
    short = int(text.token_mask.sum(1).max())
    shorter = TextInput(
        text.tokens[:, :short], text.token_mask[:, :short], text.index, text.video_index, text.word[:, :short]
    )
    torch.testing.assert_close(
        method.score(method.encode_text(shorter), method.encode_video(longer)), plain, rtol=1e-4, atol=1e-5
    )


def test_chunked_scoring_equals_the_whole(method: RetrievalModule[Any, Any]) -> None:
    texts, videos = features(method, 7, 5)
    with torch.no_grad():
        whole = method.score(texts, videos)
    for chunk in (1, 2, 3, 100):
        torch.testing.assert_close(score_all(method, texts, videos, chunk_size=chunk), whole, rtol=1e-4, atol=1e-5)


def losses_of(method: RetrievalModule[Any, Any], text: TextInput, video: VideoInput) -> torch.Tensor:
    second = VideoTextBatch(text, video)  # for methods that compare two views
    terms = method.compute_losses(*method.encode(VideoTextBatch(text, video, second)), video.index)
    return torch.stack(list(terms.values())).sum()


def test_every_parameter_receives_a_finite_gradient(method: RetrievalModule[Any, Any]) -> None:
    method.train()
    losses_of(method, random_text(6), random_video(6)).backward()
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_one_batch_can_be_learned(method: RetrievalModule[Any, Any]) -> None:
    method.train()
    # LEAN falls towards one score for all above it; codes of 32 bits tie easily
    rate = {LEAN: 1e-3, SPTCH: 5e-3}.get(type(method), 2e-3)
    text, video = random_text(8), random_video(8)
    optimizer = torch.optim.AdamW(method.parameters(), lr=rate)
    for _ in range(80):
        optimizer.zero_grad()
        losses_of(method, text, video).backward()
        optimizer.step()
    method.eval()
    with torch.no_grad():
        scores = method.score(method.encode_text(text), method.encode_video(video))
    assert ranking_metrics(scores, torch.arange(8))["SumR"] == pytest.approx(600.0)


def test_untrained_scores_of_noise_are_chance(method: RetrievalModule[Any, Any]) -> None:
    count, texts, videos = 120, *features(method, 120, 120)
    recall = ranking_metrics(score_all(method, texts, videos), torch.arange(count))["t2v/R@10"]
    chance = 1000 / count
    assert recall == pytest.approx(chance, abs=4 * (chance * (100 - chance) / count) ** 0.5)


def test_evaluation_mode_is_deterministic(method: RetrievalModule[Any, Any]) -> None:
    a, b = (score_all(method, *features(method, 3, 3)) for _ in range(2))
    assert torch.equal(a, b)


FREEZABLE: dict[str, Callable[[Encoders], RetrievalModule[Any, Any]]] = {
    "clip4clip": lambda e: CLIP4Clip(e.clip(freeze_image=True), "seqTransf", num_layers=1),
    "ghan": lambda e: GHAN(e.clip(freeze_image=True), 3, 4, 64, 2, 16),
    "lean": lambda e: LEAN(e.vgg(freeze=True), e.bert(), max_text_nodes=5, width=128),
    "mean_pool": lambda e: MeanPool(e.vgg(freeze=True), e.bert(), width=64),
    "sptch": sptch,
    "tc_mgc": lambda e: TCMGC(e.clip(freeze_image=True), keep_rate=0.5, num_layers=1),
}


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(FREEZABLE))
def test_kept_features_of_frozen_frames_replace_the_frames(
    name: str, small_encoder: Callable[..., Any], small_vgg: Callable[..., Any], small_bert: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    bert = partial(small_bert, context_length=WORDS)
    model = FREEZABLE[name](Encoders(partial(small_encoder, context_length=WORDS), small_vgg, bert)).eval()
    frozen = model.frozen_video()
    assert frozen is not None
    texts, video = model.encode_text(random_text(4)), random_video(3)
    kept = VideoInput(video.frames[..., :0, :0], video.frame_mask, video.index, frozen.encode(video))
    torch.testing.assert_close(
        model.score(texts, model.encode_video(kept)), model.score(texts, model.encode_video(video))
    )
